"""The shape of a configuration, and a line of help for each key.

Values live in conf/ alone; nothing here has a default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def option(text: str) -> Any:
    """A required key with its line of help."""
    return field(metadata={"help": text})


@dataclass
class ModelConfig:
    name: str = option("how tables call the model")
    weights: str = option("random (seeded N(0, 0.02)), a Hugging Face repository id, or a local folder")
    dtype: str = option("float16, bfloat16 or float32")
    vocab_size: int | None = option("null in a shape key: taken from the checkpoint's config.json")
    hidden_size: int | None = option("width of the residual stream")
    intermediate_size: int | None = option("width of the MLP")
    num_hidden_layers: int | None = option("decoder layers")
    num_attention_heads: int | None = option("query heads")
    num_key_value_heads: int | None = option("key and value heads; fewer than query heads is grouped-query attention")
    head_dim: int | None = option("width of one head")
    max_position_embeddings: int | None = option("longest context the model allows, in tokens")
    rope_theta: float | None = option("base of the rotary embedding")
    rms_norm_eps: float | None = option("epsilon of RMSNorm")
    tie_word_embeddings: bool | None = option("whether the head reuses the embedding matrix")


@dataclass
class DecodeConfig:
    prompt_length: int = option("tokens in the prompt of a decode sequence")
    context: int = option("context length at which a decode sequence ends")
    sequences: int = option("decode sequences a block")


@dataclass
class EquivalenceConfig:
    forced_tokens: int = option("teacher-forced tokens after each prompt whose logits are compared with baseline's")
    tolerance: float = option("largest relative logit error that passes")


@dataclass
class StreamConfig:
    requests: int = option("requests of a stream, one after the other (workload: stream)")
    lengths: list[int] = option("shortest and longest prompt of a stream, drawn evenly")
    memory_every: int = option("requests between two readings of memory")


@dataclass
class InterferenceConfig:
    requests: int = option("timed requests without captures, and as many beside them (workload: interference)")
    lengths: list[int] = option("prompt lengths of the timed requests; their graphs stay")
    missing: list[int] = option("prompt lengths of the requests in between that want graphs that are not there")


@dataclass
class SweepConfig:
    workload: str = option("latency (TTFT and decode), stream (random lengths) or interference (beside captures)")
    prompt_lengths: list[int] = option("prompt lengths in tokens")
    ttft_iterations: int = option("timed requests a length and block")
    p99_iterations: int | str = option(
        "requests a length and block that P99 is taken over (the first N of one stream); auto: until it is known"
    )
    p99_width: float = option("auto: until the interval of P99 is narrower than this share of it")
    p99_budget_s: float = option("auto: seconds a block for requests beyond ttft_iterations, at most")
    warmup_iterations: int = option("untimed requests a length and block before the timed ones")
    pause_ms: float = option("idle time before each timed request, in ms; 0 is back to back, at the card's power cap")
    blocks: int = option("fresh processes a case without blocks of its own, in a seeded random order over all cases")
    decode: DecodeConfig = option("the decode measurement")
    context_ranges: list[list[int]] = option("ranges of context length, ends included, that decode.csv reports")
    equivalence: EquivalenceConfig = option("the comparison with baseline")
    stream: StreamConfig = option("the stream of random lengths")
    interference: InterferenceConfig = option("requests beside captures")
    evict: bool = option("give every graph back at the end of a block and measure what that returned")


@dataclass
class SamplingConfig:
    strategy: str = option("greedy or sample; in a protocol also published: each case as its published form has it")
    temperature: float = option("divides the logits before sampling")
    top_k: int = option("keep the k likeliest tokens; 0 is off")
    top_p: float = option("keep the likeliest tokens up to this probability mass; 1.0 is off")
    repetition_penalty: float = option("makes tokens that are there already less likely; 1.0 is off")


@dataclass
class ProtocolConfig:
    name: str = option("how tables call the protocol")
    sampling: SamplingConfig = option("how the next token is chosen")
    model_code: str = option("what runs the model in the lean cases: lean (ours) or transformers")
    decode: str = option("the next token from the cache (kv_cache) or the whole context again (recompute), lean cases")
    logits: str = option("logits of the last position or of all of them (with transformers), lean cases")
    capture_set: str = option("lengths with a graph: by a policy blind to the sweep (policy), or as published")
    clock: str = option("whose clock latencies count by: the client's, or the server's where a case has one")
    warmup: str = option(
        "apart: cold and first requests are no samples; none: they are, lengths ascending, as published"
    )
    prompt: str = option("random ids, another prompt for each request, or one English sentence, padded, as published")
    rehearse: bool = option(
        "who waits for a request or its token keeps the path warm: the loop in process, a polling server and its client"
    )
    pinning: str = option(
        "CPUs of a request's threads: quickest keeps them on those quick now, where CUDA is used; none: the scheduler's"
    )
    engine_check: bool = option(
        "every case answers by the engine in its name; false lets one be impersonated, labelled"
    )


@dataclass
class TelemetryConfig:
    hz: float = option("readings of the GPU's state a second, at most 100; 0 reads nothing, and samples have no state")
    paused_in: list[str] = option("cases during whose blocks nothing is read: for what the telemetry itself costs")


@dataclass
class EnergyConfig:
    seconds: float = option("back-to-back requests of a length that its energy is taken over, in s; 0 measures none")
    blocks: int = option("blocks of a case that measure energy, from the first on")


@dataclass
class ExpectedConfig:
    """Rough rates that only the plan's estimate uses; no measurement depends on them."""

    setup_s: float = option("estimate: seconds from a worker's start to its first request")
    prefill_ms: float = option("estimate: milliseconds of a request of one new token")
    decode_ms: float = option("estimate: milliseconds of a decode step")


@dataclass
class CaseConfig:
    """What every case has; all other keys of its yaml are `options`, checked by the case itself."""

    title: str = option("how tables call the case")
    target: str = option("dotted name of the class")
    transport: str = option("inproc, or unix: behind a Unix-socket server in a process of its own")
    python: str | None = option("another interpreter for this case's worker; null is the harness's own")
    timeout_s: float = option("a worker that takes longer is ended and its row says timeout")
    blocks: int | None = option("fresh processes of this case; null is as many as sweep.blocks")
    expected: ExpectedConfig = option("rough rates for the estimate of dry_run")
    procedure: ProtocolConfig = option("the protocol as this case follows it")
    sampling: SamplingConfig = option("how this case chooses the next token")
    options: dict[str, Any] = option("the case's own keys")


@dataclass
class RunConfig:
    run: list[str] = option("the cases to run, in the order of the tables")
    cases: dict[str, Any] = option("one entry a case, each a file of conf/case")
    model: ModelConfig = option("the model; model=NAME picks a file of conf/model")
    sweep: SweepConfig = option("what is measured how often; sweep=NAME picks a file of conf/sweep")
    protocol: ProtocolConfig = option("the procedure; protocol=NAME picks a file of conf/protocol")
    telemetry: TelemetryConfig = option("the state of the GPU beside the samples")
    energy: EnergyConfig = option("joules a request, behind everything timed")
    device: str = option("cuda or cpu; every cpu run is stamped smoke")
    gpu: int | None = option("index as nvidia-smi counts; null: the first GPU that CUDA_VISIBLE_DEVICES leaves")
    study: str | None = option("the experiment that this run is; experiment=NAME sets it, the report shows its section")
    seed: int = option("seed of weights, prompts, order and sampling")
    resume: str | None = option("folder of a run to go on with, as it was configured; no other key is needed")
    lock: str = option("another run has the GPU: wait for its end, refuse to run, or off: look after that yourself")
    output: str | None = option("folder of the run; null is results/<time>-<model>-<protocol>, or one in the sweep's")
    cache: str = option("folder for generated checkpoints; LATENCY_CACHE sets it too")
    prepare_timeout_s: float = option("limit for making or downloading the checkpoint, and for the calibration")
    dry_run: bool = option("print the plan and run nothing")
