"""Names and columns of a run's files. Others read them: columns may be added at the right, never renamed or moved."""

from __future__ import annotations

from typing import Literal

State = Literal["ok", "unsupported", "unavailable", "failed", "timeout"]
Metric = Literal["ttft", "cold", "decode", "stream", "quiet", "busy"]
Spent = Literal["rest", "ttft", "decode"]
"""What joules were spent on: the card at rest, prefills, decode steps."""

REFERENCE = "baseline"
"""The case that all others are compared with."""
STUDIES = (
    "capture_coverage", "coverage_policies", "rolling", "background_capture", "ipc", "ablation", "floor", "attribution",
    "aa", "telemetry",
)  # fmt: skip
"""The experiments that have a section of a report."""
UNTHROTTLED = frozenset({"", "none", "idle"})
"""Throttle reasons that slow nothing down."""
STATUS = (
    "case", "block", "state", "reason", "engine", "load_s", "compile_s", "capture_s",
    "peak_memory_gib", "graph_pool_mib", "graphs", "exit_code",
    "stage", "wall_s", "replays", "ungraphed", "ready_s",
    "identity", "modules", "sampler", "kernels", "graph_launches", "replayed",
    "pinning",
)  # fmt: skip
STATUS_ALWAYS = STATUS[:16]
"""Columns that every status.csv has. Later came `ready_s`, seconds from a worker's start until its case was ready, and
what proves the engine: `identity` is `proven: ...` or `not proven: ...` with the reason, `modules` names those loaded
and their versions, `kernels` counts the different ones that the profiler saw, `graph_launches` the CUDA graphs that it
saw launched in a prefill and two decode steps, and `replayed` the samples that a graph answered, of all: empty where
graphs were launched and the case counts none, as an engine's own. `pinning`: among how many CPUs a request's threads
were kept on the quickest, and how often they moved, or why they were not."""
SAMPLES = (
    "case", "block", "metric", "prompt_length", "context_length", "iteration", "started_ns",
    "host_ms", "gpu_ms", "server_ms", "token_id", "captures", "sm_clock_mhz", "throttle",
    "ungraphed", "hits", "misses", "evictions", "failures", "capturing",
    "latency_ms", "coalesced",
    "replays", "temperature_c", "power_w", "co_tenants", "co_tenant_mib",
    "host_loop_us", "given_token_id",
    "engine_cpu",
)  # fmt: skip
SAMPLES_ALWAYS = SAMPLES[:14]
"""Columns that every samples.csv has; those behind them came later, and are 0 where a file lacks them, but for
`latency_ms`, which is then host_ms: the latency by the clock that the case's procedure names; and for those of
SAMPLES_UNKNOWN, which are then unknown. `given_token_id` is the id that a decode step was given, the one before its
own, so that the first of a sequence, which has no sample, is known too; it is empty for other metrics."""
SAMPLES_STATE = ("sm_clock_mhz", "throttle", "temperature_c", "power_w", "co_tenants", "co_tenant_mib")
"""The machine at a sample, by the nearest reading within a second; empty where nothing was read. `co_tenants` are the
processes that compute on the GPU and are not of this run, and `co_tenant_mib` what they hold."""
SAMPLES_UNKNOWN = (*SAMPLES_STATE, "host_loop_us", "given_token_id", "engine_cpu")
"""Columns of SAMPLES of which an older file does not say what stood there. `host_loop_us`: how long a fixed loop of
Python took right behind the sample, on the thread that asked for it, which in process launches the kernels too (not
TensorRT-LLM's, which have a process of their own). `engine_cpu`: the CPU on which the thread that launches ran, where
the case knows that thread, else that of the thread that asked."""
TTFT = (
    "case", "prompt_length", "n", "cold_ms", "mean_ms", "std_ms", "min_ms", "p50_ms", "p50_low_ms", "p50_high_ms",
    "gpu_p50_ms", "server_p50_ms", "floor_ms", "ratio_to_floor",
    "captures", "ungraphed", "throttled", "coalesced",
)  # fmt: skip
TTFT_ALWAYS = TTFT[:17]
"""Columns that every ttft.csv has; `coalesced` came later, as in decode.csv, and is 0 where a file lacks it."""
P99 = (
    "case", "prompt_length", "n", "p50_ms", "p90_ms", "p99_ms", "p99_low_ms", "p99_high_ms", "max_ms", "supported",
)  # fmt: skip
DECODE = (
    "case", "context_from", "context_to", "n", "mean_ms", "std_ms", "p50_ms", "p99_ms", "floor_ms", "ratio_to_floor",
    "gpu_p50_ms", "server_p50_ms",
    "captures", "ungraphed", "throttled", "coalesced",
)  # fmt: skip
DECODE_ALWAYS = DECODE[:15]
EQUIVALENCE_JUDGED = (
    "judged_tokens", "judged_near_ties", "judged_wrong", "decode_judged", "decode_near_ties", "decode_wrong",
)  # fmt: skip
EQUIVALENCE = (
    "case", "prompt_length", "tokens_compared", "tokens_equal", "max_relative_logit_error", "passed",
    "timed_tokens_compared", "timed_tokens_equal", "reason",
    "first_divergence", "timed_tokens_uncompared", "timed_first_divergence",
    "decode_tokens_compared", "decode_first_divergence",
    *EQUIVALENCE_JUDGED,
)  # fmt: skip
EQUIVALENCE_ALWAYS = EQUIVALENCE[:9]
"""Columns that every equivalence.csv has. Later came where ids first differ from the baseline's, empty where they never
do: `first_divergence` by teacher-forced step (0 is behind the prompt), `timed_first_divergence` by timed request of the
length, counted over blocks, and `decode_first_divergence` by the context length of a timed decode step, the same in
each row of a case. `timed_tokens_uncompared` are of blocks that the baseline does not have. The last six are from
referee.csv, and empty where there is none: those of timed requests by length, those of decode the same in each row of
a case."""
REFEREE = (
    "case", "metric", "prompt_length", "judged", "likeliest", "near_ties", "wrong", "first_wrong", "widest_gap",
)  # fmt: skip
"""What the baseline says of the ids that a case's timed requests (`ttft`) or decode steps (`decode`) gave, each in the
case's own text: how many are its likeliest, near-ties of that, or neither. An id that the baseline itself gave to the
same request is its likeliest. `first_wrong` is a request of the length, counted over blocks from 0, or the context of a
decode step, and empty where none is wrong. `widest_gap` is the largest gap to the likeliest id's logit, over the gap
that a near-tie may have."""
IDENTITY = ("case", "block", "phase", "kernel", "count")
"""What a profiler saw in a prefill and in two decode steps: kernels, or operations on the CPU, most often first."""
CONTRADICTED = "contradicted"
"""What `identity` in status.csv begins with where something else answered than the case says."""
ENERGY = (
    "case", "block", "metric", "prompt_length", "n", "tokens", "began_ns", "ended_ns",
    "joules", "joules_per_request", "joules_per_token", "idle_w", "method",
)  # fmt: skip
"""What the whole card took while `n` requests (`ttft`) or decode steps (`decode`) ran back to back, or nothing did
(`rest`), by NVML's counter from `began_ns` to `ended_ns`; nothing is subtracted. `joules_per_token` is by token of the
prompt in `ttft`, by new token in `decode`, and `idle_w` the mean power of the block's `rest`."""
CAPTURES = ("case", "block", "order", "bucket", "seconds", "grown_mib", "reason")
P99_STOPS = ("case", "block", "prompt_length", "n", "relative_width", "reason")
"""With p99_iterations=auto: timed requests of a length and block, the width of the pooled interval of P99 over its
value that they promise (inf: n is too small), and what ended them: `width`, `budget` or `most`."""
EVICTION = ("case", "block", "graphs", "held_mib", "free_before_mib", "free_after_mib")
MEMORY = (
    "case", "block", "request", "time_ns", "graphs", "graph_pool_mib", "host_rss_mib", "device_used_mib",
)  # fmt: skip
TELEMETRY = (
    "time_ns", "sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c", "throttle", "memory_used_mib",
    "energy_mj", "co_tenants", "co_tenant_mib",
)  # fmt: skip
"""One reading of the card. `energy_mj` is NVML's counter of the card's energy, in millijoules since the driver came."""
