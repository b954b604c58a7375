"""What `make bench` runs on this machine: arguments on standard output, the reason on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness.machine.gpu import Gpu, list_gpus, visible

NEEDED_GIB = 20
SMOKE = ["experiment=smoke"]
OWN = ("experiment=", "device=", "-")
"""How arguments begin that say themselves where a run is to be, or ask for no run."""


def choose(gpus: list[Gpu], why_none: str) -> tuple[list[str], str]:
    """Overrides and one sentence on why: the first GPU with room for the default model, else the smoke run."""
    if not gpus:
        return SMOKE, f"no usable GPU ({why_none}): running the CPU smoke run, which measures nothing"
    for gpu in gpus:
        free = gpu.free_mib / 1024
        if free >= NEEDED_GIB:
            return [f"gpu={gpu.index}"], f"GPU {gpu.index} ({gpu.name}) has {free:.0f} GiB free: running the default"
    most = max(gpu.free_mib for gpu in gpus) / 1024
    reason = f"no GPU has {NEEDED_GIB} GiB free (at most {most:.0f}): running the CPU smoke run, which measures nothing"
    return SMOKE, reason


def main(arguments: Sequence[str]) -> None:
    """Print the choice for this machine, within CUDA_VISIBLE_DEVICES; nothing for a run that has its own."""
    if any(argument.startswith("resume=") for argument in arguments):
        print("a run goes on as it was configured", file=sys.stderr)
        return
    gpus, why = list_gpus()
    allowed = visible(gpus)
    chosen, reason = choose(allowed, why or "CUDA_VISIBLE_DEVICES hides all")
    if chosen == SMOKE and any(argument.startswith(OWN) for argument in arguments):
        return  # the user says what to run, which then is no smoke run
    print(reason, file=sys.stderr)
    print(" ".join(chosen))


if __name__ == "__main__":
    main(sys.argv[1:])
