"""How the stand-in streams and misbehaves, from a variable that tests set: read anew for every request."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

VARIABLE = "TENSORRT_LLM_STANDIN_BEHAVIOUR"


@dataclass
class Behaviour:
    """`chunks`: tokens a chunk, the rest one by one. `early`: chunks, by number, that lie there when asked for.

    `closing`: a last chunk without a token. `metrics_last`: metrics come with the last chunk alone; `no_metrics`:
    never. `reused`, `more_iterations`: what the engine says of blocks and iterations; `uncounted`: nothing of the
    latter. `stops_after`: tokens after which the stream ends. `orphan`: shutdown leaves the worker's process behind.
    `backend`, `block_reuse`: what the engine says it runs with.
    """

    chunks: list[int] = field(default_factory=list)
    early: list[int] = field(default_factory=list)
    closing: bool = False
    metrics_last: bool = False
    no_metrics: bool = False
    reused: int = 0
    more_iterations: int = 0
    uncounted: bool = False
    stops_after: int | None = None
    orphan: bool = False
    backend: str = "pytorch"
    block_reuse: bool = False


def behaviour() -> Behaviour:
    return Behaviour(**json.loads(os.environ.get(VARIABLE, "{}")))
