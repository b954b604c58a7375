"""A name is a promise: under a name or title that conf/case ships answers what conf/case says, or nothing."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from harness.job import CaseJob
from harness.settings.compose import CONF
from harness.settings.config import CaseConfig, RunConfig

FIXED = (
    "baseline", "cuda_graph", "jit", "jit_cuda_graph", "tensorrt_llm", "eager", "transformers_compile", "vllm",
    "vllm_covering",
)  # fmt: skip
ENGINES = {
    "cases.baseline.Baseline": "transformers",
    "cases.stand_in.StandIn": "transformers",
    "cases.transformers_compile.TransformersCompile": "transformers",
    "cases.tensorrt_llm.TensorRtLlm": "tensorrt_llm",
    "cases.vllm.Vllm": "vllm",
}
"""By a case's code, under whatever name it runs: the software that must have answered, as the first word of a verdict's
`engine`. The cases of this repository's own runtime have none; what they launch proves them."""
STAND_IN = "cases.stand_in.StandIn"
IMPERSONATED = "Transformers (published as TensorRT-LLM)"
"""The one case that answers in another's place, and what it is called wherever it appears."""


def check_names(config: RunConfig) -> None:
    """Refuse a case that would stand in a table under the name or the title of another.

    Raises:
        ValueError: one sentence on the first case that does.
    """
    shipped = {name: shipped_entry(name) for name in FIXED}
    for name in config.run:
        case = config.cases[name]
        if case.target == STAND_IN or case.options.get("impersonate") is not None:
            check_impersonation(name, case)
            continue
        if name in shipped and case.target != shipped[name]["target"]:
            raise ValueError(
                f"cases.{name}.target={case.target}: the name {name} stands for {shipped[name]['target']} alone; give "
                "other code an entry of its own name and title in conf/case"
            )
        for other, entry in shipped.items():
            if _plain(case.title) == _plain(entry["title"]) and case.target != entry["target"]:
                raise ValueError(
                    f"cases.{name}.title={case.title} is what tables call the case {other}: choose another title"
                )


def check_impersonation(name: str, case: CaseConfig) -> None:
    """Another engine in TensorRT-LLM's place: on purpose, and labelled. Raises ValueError."""
    asked = case.options.get("impersonate")
    if asked is None:
        raise ValueError(f"cases.{name}.target={STAND_IN} needs impersonate=transformers in its case")
    if asked != "transformers":
        raise ValueError(f"cases.{name}.impersonate must be null or transformers, not {asked!r}")
    if case.procedure.engine_check:
        raise ValueError(
            "impersonate=transformers has Transformers answer in TensorRT-LLM's place: it needs "
            "protocol.engine_check=false"
        )
    if (case.target, case.title) != (STAND_IN, IMPERSONATED):
        raise ValueError(
            f"impersonate=transformers: the case's title must stay '{IMPERSONATED}' and its target {STAND_IN}"
        )


def shipped_entry(name: str) -> dict[str, Any]:
    """Title and target of conf/case/<name>.yaml as this repository ships it, whatever the run was composed from."""
    entry: Any = OmegaConf.load(CONF / "case" / f"{name}.yaml")
    return {key: entry[key] for key in ("title", "target")}


def wrong_engine(case: str, entry: CaseJob, engine: str) -> str:
    """One sentence when another engine answered than the case's code or its name stands for; empty when not."""
    shipped = shipped_entry(case)["target"] if case in FIXED else ""
    wanted = ENGINES.get(entry.target) or ENGINES.get(shipped)
    if wanted is None or engine.split(" ")[0] == wanted:
        return ""
    return f"the engine says it is '{engine[:80]}', and under the name {case} only {wanted} may answer"


def _plain(title: str) -> str:
    return "".join(letter for letter in title.casefold() if letter.isalnum())
