"""Prompts as token ids: the same for every case, a different one for every request, from the seed alone.

The published procedure sends one sentence instead, padded behind its end.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from itertools import product

from harness.job import Job

SPECIAL_IDS = 3
"""Ids below this are special tokens in Llama's vocabulary and never drawn."""


def prompt(job: Job, purpose: str, length: int, index: int) -> list[int]:
    """`length` token ids; `purpose` and `index` name the request (`ttft`, 17)."""
    draw = random.Random(f"{job.seed}/{purpose}/{length}/{index}")
    return draw.choices(range(SPECIAL_IDS, job.vocab_size), k=length)


def prompt_for(job: Job, case: str, purpose: str, length: int, index: int) -> list[int]:
    """The prompt of a case's request: random ids, or the run's sentence, cut or padded to `length`."""
    if job.cases[case].prompt == "random":
        return prompt(job, purpose, length, index)
    return [*job.sentence, *[job.end_id] * length][:length]


def timed_index(job: Job, warmup: str, block: int, iteration: int) -> int:
    """Index of a timed request over all blocks, so that no random prompt is sent twice to one process or another."""
    return block * job.sweep.most_iterations(warmup) + iteration


def digest(job: Job) -> str:
    """SHA-256 over all timed prompts, as little-endian int32: for each kind of prompt and of warm-up that cases have,
    sorted, in the order of length, block, iteration; of as many blocks as one of its cases has. With `auto` over those
    that every length is sure to get."""
    total = hashlib.sha256()
    kinds: dict[tuple[str, str], list[str]] = {}
    for case, entry in job.cases.items():
        kinds.setdefault((entry.prompt, entry.warmup), []).append(case)
    for (_, warmup), (case, *others) in sorted(kinds.items()):
        blocks = max(map(job.blocks_of, (case, *others)))
        for length in job.sweep.prompt_lengths:
            for block, iteration in product(range(blocks), range(job.sweep.iterations(warmup))):
                index = timed_index(job, warmup, block, iteration)
                total.update(array("i", prompt_for(job, case, "ttft", length, index)).tobytes())
    return total.hexdigest()
