"""How a case looks in every figure: colour, marker and place, fixed by its name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple


class Look(NamedTuple):
    """A colour of the Okabe-Ito set, told apart by people with any colour vision, and a marker for print."""

    colour: str
    marker: str


LOOKS = {
    "baseline": Look("#4d4d4d", "o"),
    "eager": Look("#e69f00", "v"),
    "jit": Look("#cc79a7", "^"),
    "cuda_graph": Look("#0072b2", "s"),
    "jit_cuda_graph": Look("#d55e00", "D"),
    "tensorrt_llm": Look("#009e73", "P"),
    "transformers_compile": Look("#56b4e9", "X"),
    "vllm": Look("#332288", "<"),
    "vllm_covering": Look("#8f63c9", "*"),
}
ORDER = (
    "baseline", "cuda_graph", "jit", "jit_cuda_graph", "tensorrt_llm", "vllm", "vllm_covering", "transformers_compile",
    "eager",
)  # fmt: skip
STUDIES = {  # the cases of an experiment are never drawn together with those above
    "shared_pool": Look("#d55e00", "D"),
    "few_instantiated": Look("#009e73", "P"),
    "unshared_pools": Look("#0072b2", "s"),
    "full": Look("#4d4d4d", "o"),
    "every_10th": Look("#0072b2", "s"),
    "pow2": Look("#009e73", "P"),
    "step_16": Look("#d55e00", "D"),
    "rolling_5": Look("#e69f00", "v"),
    "rolling_10": Look("#d55e00", "D"),
    "rolling_20": Look("#0072b2", "s"),
    "rolling_50": Look("#332288", "<"),
    "inproc": Look("#0072b2", "s"),
    "unix": Look("#d55e00", "D"),
}
SPARE = (Look("#999933", ">"), Look("#882255", "h"), Look("#6699cc", "p"))
SERIES = (  # of what has no look of its own, such as GPUs
    Look("#0072b2", "o"), Look("#d55e00", "s"), Look("#009e73", "^"), Look("#cc79a7", "D"), Look("#e69f00", "v"),
    Look("#332288", "P"), Look("#56b4e9", "X"), Look("#4d4d4d", "<"),
)  # fmt: skip
FLOOR = "#8c8c8c"
FAINT = "#6b6b6b"
PUBLISHED = "#5b2a86"
WHOLE = "#4d4d4d"  # of a waterfall: a ratio itself, what raised it, what lowered it
RAISED = "#d55e00"
LOWERED = "#0072b2"
UNTOLD = "#dedede"  # what no range tells from noise

RC: Any = {
    "font.family": "DejaVu Sans",  # matplotlib brings it: the same figure on every machine
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a dollar sign in a title is a dollar sign
}


def places(cases: Iterable[str]) -> list[str]:
    """Names in the fixed order of tables and figures; those unknown here follow as they came."""
    return sorted(cases, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def looks(cases: Iterable[str]) -> dict[str, Look]:
    """Looks by name, in the order given; a case unknown here gets a spare look that its name decides."""
    names = list(cases)
    known = {**LOOKS, **STUDIES}
    found = {name: look for name, look in known.items() if name in names}
    for name in sorted(set(names) - set(known)):
        start = zlib.crc32(name.encode())
        turn = [SPARE[(start + step) % len(SPARE)] for step in range(len(SPARE))]
        found[name] = next((look for look in turn if look not in found.values()), turn[0])
    return {name: found[name] for name in names}


def series(names: Iterable[str]) -> dict[str, Look]:
    """Looks by name for what has none of its own, in the order given; beyond the last they begin again."""
    return {name: SERIES[place % len(SERIES)] for place, name in enumerate(names)}
