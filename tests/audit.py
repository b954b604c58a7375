"""`make audit`: known vulnerabilities of the versions in constraints.txt, by pip-audit.

0 when every version was looked up and each finding has its reason in tests/audit.toml, 1 for a finding without one or
a reason without a finding, 2 when a version was not looked up: pip-audit calls that "no known vulnerabilities" too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OPTIONS = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--requirement")
LIMIT_S = 600


def asked(tool: str, constraints: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each version. Raises ValueError with one sentence when it says nothing."""
    call = [tool, *OPTIONS, str(constraints)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ValueError(f"pip-audit gave no answer ({last[:200]}): the audit needs network to pypi.org") from error
    return list(found)


def judged(found: list[dict[str, Any]], kept: list[dict[str, str]]) -> tuple[int, list[str]]:
    """The exit code and what to say."""
    skipped = [one["name"] for one in found if "skip_reason" in one]
    holes = {(one["name"], hole["id"]) for one in found for hole in one.get("vulns", [])}
    reasons = {(entry["package"], entry["id"]): entry["reason"] for entry in kept}
    lines = [f"{name}: {key}: {reasons.get((name, key)) or 'NO REASON GIVEN'}" for name, key in sorted(holes)]
    stale = sorted(reasons.keys() - holes)
    if skipped or not found:
        lines.append(
            f"{len(skipped)} of {len(found)} versions were not looked up ({', '.join(skipped[:3])} and so on): "
            "the vulnerability service does not know them or can't be reached, so nothing is said of them"
        )
        return 2, lines
    lines += [
        f"{name}: {key} has a reason in tests/audit.toml and is found no more: take it away" for name, key in stale
    ]
    lines.append(f"{len(found)} versions looked up, {len(holes)} findings, {len(holes & reasons.keys())} with a reason")
    return int(bool(stale or holes - reasons.keys())), lines


def main(argv: list[str]) -> int:
    """Run the audit and print it with its date."""
    tool, constraints = argv
    kept = tomllib.loads((HERE / "audit.toml").read_text(encoding="utf-8")).get("kept", [])
    try:
        code, lines = judged(asked(tool, Path(constraints)), kept)
    except (ValueError, OSError, subprocess.TimeoutExpired) as error:
        code, lines = 2, [str(error)]
    print(f"{datetime.now(UTC):%Y-%m-%d}: {constraints}", *lines, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
