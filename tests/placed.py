"""What the launchers' tests run as a job in place of a measurement, and a script that swaps SLURM for this host."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from harness.machine import placement
from harness.processes.interrupt import Interrupts


def record(composed: DictConfig) -> int:
    """Write down where this ran and when; seed 2 ends without a word, 9 waits to be ended, 8 to be told twice."""
    if composed.seed in (8, 9):
        with Interrupts() as interrupts, interrupts.patient() if composed.seed == 8 else nullcontext():
            Path(composed.cache, "begun").write_text(str(os.getpid()))
            time.sleep(120)
    began = time.time()
    time.sleep(0.5)
    seen = {"began": began, "ended": time.time(), **placement.facts(None, ""), "neighbours": placement.neighbours()}
    Path(composed.cache, f"{composed.seed}.json").write_text(json.dumps(seen))
    if composed.seed == 2:
        os._exit(9)
    return int(composed.seed)


def main() -> int:
    """The command line of the harness, with submitit's local executor behind hydra/launcher=slurm."""
    import submitit

    from harness.__main__ import main as harness

    class Local(submitit.AutoExecutor):  # type: ignore[misc]
        def __init__(self, folder: str, cluster: str, **rest: Any) -> None:
            assert cluster == "slurm"
            super().__init__(folder, cluster="local", **rest)

    submitit.AutoExecutor = Local
    return harness()


if __name__ == "__main__":
    sys.exit(main())
