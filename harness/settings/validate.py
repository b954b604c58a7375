"""The checks of a configuration that need no GPU. Every mistake is a ValueError with one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.loader import load, load_case
from harness.machine import lock
from harness.schema import STUDIES
from harness.settings import conditions, plan
from harness.settings.check_p99 import check_auto, check_p99
from harness.settings.config import (
    CaseConfig,
    InterferenceConfig,
    ModelConfig,
    ProtocolConfig,
    RunConfig,
    SamplingConfig,
    StreamConfig,
    SweepConfig,
)
from harness.settings.identity import FIXED, check_names
from harness.settings.sentences import nearest

DTYPES = ("float16", "bfloat16", "float32")
LONGEST_PAUSE_MS = 10_000
MOST_BLOCKS = 1000
MOST_REQUESTS = 100_000
"""Of a length in a block, and sequences of decode: more would take a day, and memory for their prompts."""
MOST_OF_A_STREAM = 10_000_000
MOST_SEED = 2**63 - 1
PROCEDURE = {
    "model_code": ("lean", "transformers"),
    "decode": ("kv_cache", "recompute"),
    "logits": ("last", "all"),
    "capture_set": ("policy", "published"),
    "clock": ("client", "server"),
    "warmup": ("apart", "none"),
    "prompt": ("random", "sentence"),
    "pinning": ("quickest", "none"),
}
SHAPE_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
)  # fmt: skip


def check(config: RunConfig) -> None:
    """Refuse what could not be measured, before any worker starts."""
    check_run(config)
    check_sweep(config.sweep)
    check_procedure(config.protocol, "protocol")
    check_followed(config)
    check_model(config)
    check_names(config)
    conditions.check(config)
    for name in config.run:
        check_case(name, config.cases[name])
        check_auto(name, config.cases[name], config.sweep)


def check_run(config: RunConfig) -> None:
    """The list of cases, the device and the plain numbers."""
    known = list(config.cases)
    if not config.run:
        raise ValueError(f"run is empty: name at least one case of {', '.join(known)}")
    for name in config.run:
        if name not in config.cases:
            raise ValueError(f"run names the unknown case '{name}'; allowed: {', '.join(known)}{nearest(name, known)}")
    _no_repeats("run", config.run)
    _one_of("device", config.device, ("cuda", "cpu"))
    _one_of("lock", config.lock, lock.HOW)
    if config.resume is not None:
        raise ValueError("resume stands on a command line, with no case or setting beside it: resume=results/NAME")
    _at_least("gpu", 0 if config.gpu is None else config.gpu, 0)
    _at_least("seed", config.seed, 0)
    _at_most("seed", config.seed, MOST_SEED)
    if config.study is not None:
        _one_of("study", config.study, STUDIES)
    _above_zero("prepare_timeout_s", config.prepare_timeout_s)
    if not config.cache:
        raise ValueError("cache is empty: set cache=FOLDER, or LATENCY_CACHE to a folder or not at all")
    if config.output == "":
        raise ValueError("output is empty: set output=FOLDER, or output=null for results/<time>-<model>-<protocol>")


def check_sweep(sweep: SweepConfig) -> None:
    """Lengths, counts and ranges, as far as they do not depend on the model."""
    if not sweep.prompt_lengths:
        raise ValueError("sweep.prompt_lengths is empty: give at least one length, as in [10,100]")
    for length in sweep.prompt_lengths:
        _at_least("sweep.prompt_lengths", length, 1)
    _no_repeats("sweep.prompt_lengths", sweep.prompt_lengths)
    for key, least in (("ttft_iterations", 1), ("warmup_iterations", 0), ("blocks", 1)):
        _at_least(f"sweep.{key}", getattr(sweep, key), least)
        _at_most(f"sweep.{key}", getattr(sweep, key), MOST_BLOCKS if key == "blocks" else MOST_REQUESTS)
    check_p99(sweep)
    if isinstance(sweep.p99_iterations, int):
        _at_most("sweep.p99_iterations", sweep.p99_iterations, MOST_REQUESTS)
    if not 0 <= sweep.pause_ms <= LONGEST_PAUSE_MS:
        raise ValueError(f"sweep.pause_ms={sweep.pause_ms} must lie between 0 and {LONGEST_PAUSE_MS} milliseconds")
    _at_least("sweep.decode.prompt_length", sweep.decode.prompt_length, 1)
    _at_least("sweep.decode.sequences", sweep.decode.sequences, 0)
    _at_most("sweep.decode.sequences", sweep.decode.sequences, MOST_REQUESTS)
    if sweep.decode.context <= sweep.decode.prompt_length:
        raise ValueError(
            f"sweep.decode.context={sweep.decode.context} must be greater than "
            f"sweep.decode.prompt_length={sweep.decode.prompt_length}"
        )
    _at_least("sweep.equivalence.forced_tokens", sweep.equivalence.forced_tokens, 0)
    _above_zero("sweep.equivalence.tolerance", sweep.equivalence.tolerance)
    for bounds in sweep.context_ranges:
        _check_range(bounds, sweep)
    _one_of("sweep.workload", sweep.workload, ("latency", "stream", "interference"))
    _check_stream(sweep.stream)
    _check_interference(sweep.interference)


def _check_stream(stream: StreamConfig) -> None:
    """Requests, lengths and readings of a stream."""
    _at_least("sweep.stream.requests", stream.requests, 1)
    _at_most("sweep.stream.requests", stream.requests, MOST_OF_A_STREAM)
    _at_least("sweep.stream.memory_every", stream.memory_every, 1)
    if len(stream.lengths) != 2 or not 1 <= stream.lengths[0] <= stream.lengths[1]:
        raise ValueError(f"sweep.stream.lengths: {list(stream.lengths)} is no range; write [shortest,longest]")


def _check_interference(beside: InterferenceConfig) -> None:
    """Requests and lengths of the two phases."""
    _at_least("sweep.interference.requests", beside.requests, 1)
    _at_most("sweep.interference.requests", beside.requests, MOST_OF_A_STREAM)
    for key, lengths in (("lengths", beside.lengths), ("missing", beside.missing)):
        if not lengths:
            raise ValueError(f"sweep.interference.{key} is empty: give at least one length, as in [10,100]")
        for length in lengths:
            _at_least(f"sweep.interference.{key}", length, 1)


def _check_range(bounds: Sequence[int], sweep: SweepConfig) -> None:
    """A range is [from, to] with both ends included, and must meet a context length that decode passes through."""
    if len(bounds) != 2 or bounds[0] < 1 or bounds[0] > bounds[1]:
        raise ValueError(f"sweep.context_ranges: {list(bounds)} is no range; write [from,to] with 1 <= from <= to")
    first, last = sweep.decode.prompt_length, sweep.decode.context
    if bounds[0] > last or bounds[1] < first:
        raise ValueError(
            f"sweep.context_ranges: {list(bounds)} lies outside the contexts that decode passes through, "
            f"{first} to {last}: set sweep.context_ranges=[[{first},{last}]] or change sweep.decode"
        )


def check_procedure(procedure: ProtocolConfig, key: str) -> None:
    """What a procedure may say; whether a case can follow it, its own options show."""
    for name, allowed in PROCEDURE.items():
        _one_of(f"{key}.{name}", getattr(procedure, name), allowed)
    check_sampling(procedure.sampling, f"{key}.sampling", ("greedy", "sample", "published"))


def check_followed(config: RunConfig) -> None:
    """Refuse a protocol that no case of the experiment follows: setting it would do nothing."""
    names = {*config.run, *config.cases.keys() - set(FIXED)}
    followed = [replace(config.cases[name].procedure, name=config.protocol.name) for name in names]
    if config.protocol not in followed:
        raise ValueError(
            "no case follows protocol.*, each has a procedure of its own here: set "
            f"cases.{config.run[0]}.procedure.KEY, and so for the others"
        )


def check_sampling(sampling: SamplingConfig, key: str, allowed: Sequence[str]) -> None:
    """The sampler's name and numbers."""
    _one_of(f"{key}.strategy", sampling.strategy, allowed)
    _above_zero(f"{key}.temperature", sampling.temperature)
    _above_zero(f"{key}.repetition_penalty", sampling.repetition_penalty)
    _at_least(f"{key}.top_k", sampling.top_k, 0)
    if not 0 < sampling.top_p <= 1:
        raise ValueError(f"{key}.top_p={sampling.top_p} must be above 0 and at most 1 (1 is off)")


def check_model(config: RunConfig) -> None:
    """Type, weights, shape, and whether every length fits."""
    model = config.model
    _one_of("model.dtype", model.dtype, DTYPES)
    if config.device == "cpu" and model.dtype == "float16":
        raise ValueError("model.dtype=float16 is not for device=cpu: set model.dtype=float32, or device=cuda")
    folder = weights_folder(model)
    if folder is None and model.weights != "random" and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model.weights):
        raise ValueError(
            f"model.weights={model.weights!r} is neither random, nor a folder, nor a repository id such as "
            "meta-llama/Llama-2-7b-hf"
        )
    for key in SHAPE_KEYS:
        value = getattr(model, key)
        if value is None and model.weights == "random":
            raise ValueError(f"model.{key} is null, but random weights need it: give a number, or set model.weights")
        if value is not None:
            _at_least(f"model.{key}", value, 1)
    shape = known_shape(model)
    heads, groups = (shape.get(f"num_{kind}_heads") for kind in ("attention", "key_value"))
    if heads and groups and heads % groups:
        raise ValueError(
            f"model.num_attention_heads={heads} is not divisible by model.num_key_value_heads={groups}: each key head "
            "serves as many attention heads as every other"
        )
    positions = shape.get("max_position_embeddings")
    if positions is not None:
        check_positions(config.sweep, int(positions))


def check_positions(sweep: SweepConfig, positions: int) -> None:
    """Refuse lengths beyond the model's positions."""
    forced = sweep.equivalence.forced_tokens
    if sweep.workload != "latency":
        if plan.longest(sweep) > positions:
            raise ValueError(
                f"sweep.{sweep.workload}: {plan.longest(sweep)} is too long for the model's {positions} positions"
            )
        return
    for length in sweep.prompt_lengths:
        if length + forced + 1 > positions:
            raise ValueError(
                f"sweep.prompt_lengths: {length} is too long for the model's {positions} positions; with "
                f"{forced} forced tokens and a new one at most {positions - forced - 1} fit"
            )
    if sweep.decode.context > positions:
        raise ValueError(f"sweep.decode.context={sweep.decode.context} exceeds the model's {positions} positions")
    assert plan.kv_capacity(sweep, positions) >= plan.longest(sweep)  # noqa: S101  what the rule above promises


def weights_folder(model: ModelConfig) -> Path | None:
    """The local folder that `weights` names, or None. Raises ValueError for a folder without a checkpoint."""
    path = Path(model.weights).expanduser()
    if not (model.weights.startswith(("/", ".", "~")) or path.is_dir()):
        return None
    if not path.is_dir():
        raise ValueError(f"model.weights={model.weights}: there is no such folder")
    if not (path / "config.json").is_file():
        raise ValueError(
            f"model.weights={model.weights} holds no config.json: give a checkpoint as Hugging Face saves it"
        )
    return path.absolute()


def known_shape(model: ModelConfig) -> dict[str, Any]:
    """Shape keys known before anything is downloaded: the configuration's, else those of a local config.json."""
    shape = {key: getattr(model, key) for key in (*SHAPE_KEYS, "tie_word_embeddings")}
    folder = weights_folder(model)
    if folder is not None:
        stored = vars(load("cases.runtime.shape.read_shape")(folder))
        shape = {key: stored.get(key) if value is None else value for key, value in shape.items()}
    return {key: value for key, value in shape.items() if value is not None}


def check_case(name: str, case: CaseConfig) -> None:
    """The keys that every case has, then the case's own by its class."""
    if not case.title.strip():
        raise ValueError(f"cases.{name}.title is empty: tables need a name for the case")
    _one_of(f"cases.{name}.transport", case.transport, ("inproc", "unix"))
    check_procedure(case.procedure, f"cases.{name}.procedure")
    check_sampling(case.sampling, f"cases.{name}.sampling", ("greedy", "sample"))
    _above_zero(f"cases.{name}.timeout_s", case.timeout_s)
    if case.blocks is not None:
        _at_least(f"cases.{name}.blocks", case.blocks, 1)
        _at_most(f"cases.{name}.blocks", case.blocks, MOST_BLOCKS)
    for key, value in _rates(case):
        if value < 0:
            raise ValueError(f"cases.{name}.expected.{key}={value} must not be negative")
    try:
        load_case(case.target).check_options(case.options)
    except ValueError as error:
        raise ValueError(f"cases.{name}: {error}") from error


def _rates(case: CaseConfig) -> Iterator[tuple[str, float]]:
    yield from vars(case.expected).items()


def _one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{key}={value} is not allowed; choose {', '.join(allowed)}{nearest(value, allowed)}")


def _at_most(key: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(f"{key}: {value} is too large, it must be at most {most}")


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{key}: {value} is too small, it must be at least {least}")


def _above_zero(key: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{key}={value} must be a finite number above 0")


def _no_repeats(key: str, values: Sequence[Any]) -> None:
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise ValueError(f"{key} names {repeated[0]} twice: give each once")
