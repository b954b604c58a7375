"""Prompts as token ids: the same for every case, a different one for every request, from the seed alone."""

from __future__ import annotations

import hashlib
import random
from array import array

from harness.job import Job

SPECIAL_IDS = 3
"""Ids below this are special tokens in Llama's vocabulary and never drawn."""


def prompt(job: Job, purpose: str, length: int, index: int) -> list[int]:
    """`length` token ids; `purpose` and `index` name the request (`ttft`, 17)."""
    draw = random.Random(f"{job.seed}/{purpose}/{length}/{index}")
    return draw.choices(range(SPECIAL_IDS, job.vocab_size), k=length)


def timed_index(job: Job, block: int, iteration: int) -> int:
    """Index of a timed request over all blocks, so that no prompt is sent twice to one process or another."""
    return block * job.sweep.iterations + iteration


def digest(job: Job) -> str:
    """SHA-256 over all timed prompts, in the order of length, block, iteration, as little-endian int32."""
    total = hashlib.sha256()
    for length in job.sweep.prompt_lengths:
        for index in range(job.sweep.blocks * job.sweep.iterations):
            total.update(array("i", prompt(job, "ttft", length, index)).tobytes())
    return total.hexdigest()
