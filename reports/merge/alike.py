"""What runs must share to stand in one table, and what else differs and is said.

The rules are those of the comparison of two runs, but for what a sweep varies: GPU, a machine's software, model, and
prompt lengths as long as some are shared.
"""

from __future__ import annotations

from collections.abc import Sequence

from reports.attempts import cards
from reports.compare.manifests import Difference, differences
from reports.merge.gather import Sweep, model_of, name_of
from reports.run import Run

OF_MACHINES = {"GPU", "driver", "torch", "CUDA", "Python", "Triton", "Transformers", "NumPy", "code"}
"""May differ from machine to machine: the table of machines says what each had."""
OF_MODELS = {"digest of the weights", "dtype", "digest of the prompts", "seed"}
"""May differ from model to model."""
LENGTHS, PROMPTS = "sweep.prompt_lengths", "digest of the prompts"
IN_PROMPTS = {LENGTHS, "blocks a case"}
"""Plans that differ in these have other prompts although their seed is one."""
SHOWN = 4
"""Differences that a refusal names before it counts the rest."""
MEND = "merge runs of one kind, and each kind by itself"


def check(sweep: Sweep) -> None:
    """Raises ValueError with one sentence on the first mixture that means nothing."""
    first = sweep.runs[0]
    for run in sweep.runs[1:]:
        check_kind(first, run)
    check_studies(sweep.runs)
    check_cells(sweep)
    for run in sweep.runs[1:]:
        refuse(forbidden(first, run), first, run)
    for model in sweep.models:
        of_one, *others = sweep.of_model(model)
        for run in others:
            check_weights(of_one, run)
            refuse(forbidden(of_one, run), of_one, run)
            for other in others[: others.index(run)]:  # two may share a plan, and so prompts, that the first has not
                refuse(forbidden(other, run), other, run)
    if not sweep.shared:
        raise ValueError(f"no prompt length is in every run: merge runs that share at least one of {lengths(sweep)}")


def check_kind(first: Run, run: Run) -> None:
    """Raises ValueError on a smoke run beside a measurement, and on runs of two protocols."""
    if first.smoke != run.smoke:
        smoke, real = (run, first) if run.smoke else (first, run)
        raise ValueError(
            f"{name_of(smoke)} is a smoke run, which measures nothing, and {name_of(real)} is a measurement: {MEND}"
        )
    ours, theirs = (str(one.manifest["protocol"]) for one in (first, run))
    if ours != theirs:
        raise ValueError(
            f"{name_of(first)} follows the protocol {ours} and {name_of(run)} the protocol {theirs}, so that their "
            f"latencies are different quantities: {MEND}"
        )


def check_studies(runs: Sequence[Run]) -> None:
    """Raises ValueError on an experiment whose cases do not answer a sweep of prompt lengths by one procedure."""
    for run in runs:
        if not run.compares:
            kind = f" but the experiment {run.study}" if run.study else ""
            raise ValueError(
                f"{name_of(run)} is no sweep over prompt lengths by one procedure{kind}: leave it out, its own report "
                "has its tables"
            )


def check_cells(sweep: Sweep) -> None:
    """Raises ValueError on two runs of one model on one GPU, also where they are said to come from two machines."""
    places: dict[tuple[str, str], Run] = {}
    owners: dict[tuple[str, str], Run] = {}
    for run in sweep.runs:
        for card in cards(run.manifest):
            other = owners.setdefault((model_of(run), card), run)
            if other is not run and other.gpu != run.gpu:
                raise ValueError(
                    f"{name_of(other)} and {name_of(run)} are both {model_of(run)} on the card {card}, so that they "
                    "come from one machine: leave one out and set them side by side with `python -m reports compare`"
                )
        other = places.setdefault((model_of(run), run.gpu), run)
        if other is not run:
            raise ValueError(
                f"{name_of(other)} and {name_of(run)} are both {model_of(run)} on {run.gpu}, so that two runs claim "
                "one cell: give --machines if they come from two machines, or leave one out and set them side by side "
                "with `python -m reports compare`"
            )


def check_weights(first: Run, run: Run) -> None:
    """Raises ValueError on one model's name with random weights here and those of a checkpoint there."""
    ours, theirs = (str(one.manifest["model"]["weights"]) for one in (first, run))
    if (ours == "random") != (theirs == "random"):
        words = [f"{'random weights' if kind == 'random' else 'those of a checkpoint'}" for kind in (ours, theirs)]
        raise ValueError(
            f"{model_of(run)} has {words[0]} in {name_of(first)} and {words[1]} in {name_of(run)}: "
            "give each kind of weights a model name of its own, or leave one out"
        )


def forbidden(first: Run, run: Run) -> list[Difference]:
    """In what these two differ though runs of a sweep must not."""
    found = differences(first, run)
    allowed = OF_MACHINES | {LENGTHS} | (OF_MODELS if model_of(first) != model_of(run) else set())
    if any(one.what in IN_PROMPTS for one in found) or set(first.cases) != set(run.cases):
        allowed = allowed | {PROMPTS}
    return [one for one in found if one.matters and one.what not in allowed]


def refuse(found: Sequence[Difference], first: Run, run: Run) -> None:
    """Raises ValueError unless nothing is forbidden."""
    if not found:
        return
    one, other = name_of(first), name_of(run)
    said = "; ".join(f"{each.what} is {each.a} in {one} and {each.b} in {other}" for each in found[:SHOWN])
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise ValueError(
        f"{said}{more}: runs in one table differ in GPU, software, model and prompt lengths alone, so {MEND}"
    )


def lengths(sweep: Sweep) -> str:
    """All prompt lengths of all runs, in words."""
    found = sorted({length for run in sweep.runs for length in run.sweep["prompt_lengths"]})
    return ", ".join(map(str, found[:12])) + (", …" if len(found) > 12 else "")


def said(sweep: Sweep, run: Run) -> list[str]:
    """What else sets a run apart from the first one of its model: options of cases, seed, number of blocks.

    The first one of another model is held against the first of all, by options of cases alone.
    """
    first = sweep.of_model(model_of(run))[0]
    found = [one for one in differences(first, run) if not one.matters and one.what not in OF_MACHINES]
    if run is first:
        first = sweep.runs[0]
        found = [one for one in differences(first, run) if not one.matters and one.what.startswith("cases.")]
    return [f"{one.what} is {one.b} here and {one.a} in {name_of(first)}" for one in found]


def software_differs(runs: Sequence[Run]) -> list[str]:
    """What of machines' software or of the harness's code is not the same in all runs."""
    found = [one.what for run in runs[1:] for one in differences(runs[0], run) if one.what in OF_MACHINES - {"GPU"}]
    return list(dict.fromkeys(found))
