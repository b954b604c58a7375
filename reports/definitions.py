"""Each number of a report in a sentence, so that its tables can be read without the code."""

from __future__ import annotations

from reports.run import STEPPED, Run

DEFINITIONS = {
    "TTFT": "time to first token: from the prompt's token ids in host memory to the first new token id in host memory, "
    "by the client's clock, at batch size 1; tables show the median of the warm requests.",
    "Cold TTFT": "the very first request of a fresh process, one sample a block, never among the warm samples.",
    "Decode": "time of one further token, host to host; its context is the number of tokens before it.",
    "P99": "the 99th percentile by rank over the requests of all blocks pooled; given only where the exact two-sided "
    "95 % interval has both ends, which takes 368 samples, and the maximum is shown otherwise. The interval takes the "
    "samples for independent and alike in every block; the medians block by block show how far that holds. Where its "
    "own width ended the requests (p99_iterations=auto), its 95 % are nominal.",
    "Median interval": "the exact, distribution-free 95 % interval between two order statistics, of this run's "
    "requests as they came; it says nothing of what another process would measure.",
    "Interval over blocks": "95 % interval of averages, means, decode percentiles and speed-ups, with whole blocks as "
    "units: Student's t on the scatter of the blocks' logarithms, for means and decode percentiles by way of a "
    "bootstrap that draws whole blocks; none from fewer than three blocks. Of decode the 95 % are nominal: its "
    "table says how often they hold.",
    "Winner": "the case below every other one that may win, each by Student's t over paired blocks (the table of "
    "tests says how), at 5 % after Holm's correction over the pairs of the row (the average, the whole range of decode "
    "and the summary: over all pairs and metrics); otherwise those that the lowest does not beat are named as a tie.",
    "Against, p after Holm": "the case that the row's is held against, and the probability of a difference like this "
    "one or a larger if there were none, corrected for all tests of the table (Holm 1979).",
    "Bandwidth used": "the weights' bytes, read once, over the median time and the measured read bandwidth.",
    "Launch gap": "the client's time less the GPU's, median over requests of the difference.",
    "Clocks": "the client's clock covers the whole request; the server's, where there is one, leaves the socket out; "
    "GPU time lies between two CUDA events around the engine's work. Differences are taken request by request.",
    "Floor": "the longer of reading every weight once at the measured read bandwidth and of the arithmetic of the "
    "prompt at the measured matmul rate; nothing on this card can be faster.",
    "Ratio to the floor": "median over floor: 1 is the limit of the hardware.",
    "Equivalence": "under teacher forcing each case's logits stay within the tolerance of the baseline's, relative in "
    "the 2-norm, and its likeliest token is the baseline's or a near-tie; a case that fails keeps its row, marked.",
    "Identity": "behind everything timed a profiler records the kernels of one prefill and two decode steps and the "
    "CUDA graphs launched; they must be those that the case's code says, and every timed sample of a case with graphs "
    "must count a replay. What an engine hides is called not proven.",
    "SM clock; steady; hottest; power, median": "the card's state by the reading nearest to each sample: lowest and "
    "highest clock, whether that stays within 5 % where nothing slows it, the highest temperature, the median power.",
    "Samples slowed down, samples beside other processes": "those with a reason of the driver to lower the clock, and "
    "those during which somebody else computed on the GPU; they are counted and kept.",
    "Host's loop, slow host": "a fixed loop of Python timed right behind each sample by the thread that asked for it, "
    "median, and the share of samples at which it took more than 1.3 times the quickest tenth of the run: a processor "
    "shared with a busy neighbour takes nearly twice as long, and so does a case that waits for it.",
    "Sampler, modules": "how the case chooses an id, by its own word, which its kernels must bear out; and the "
    "software loaded where it computes.",
    "Different kernels, graphs launched in the pass, samples by a graph": "what the profiler saw in that prefill and "
    "those steps; and of all timed samples of a block, how many a CUDA graph answered.",
    "JIT factor, graphs factor, interaction": "what compiled kernels, and graphs, multiply a latency by, the geometric "
    "mean of without and with the other; and how far both together are from the product of the two.",
    "Energy": "joules of the whole card by NVML's counter over requests of one length back to back, over their number; "
    "the counter is too slow for one request, and nothing is subtracted.",
    "Speed-up": "latency of the other case over that of this one: geometric mean over prompt lengths, or the ratio of "
    "medians over the whole range for decode.",
    "Avg TTFT, Avg P99": "the mean over prompt tokens (the lengths) of the medians, or of each length's P99; an "
    "average is given only where every length has its value.",
    "Context before the step": "the tokens in the cache when a decode step starts; a row takes the steps within its "
    "range, both ends included.",
    "Block": "one process that loads a case, measures the whole plan and ends; its column holds its own medians by "
    "metric, and largest over smallest is how far the blocks of a case lie apart. Standard deviation: of the blocks' "
    "medians. Share of variance: of all requests' variance, the part that lies between blocks.",
    "Client − server, client − GPU": "what the socket and its messages, and the host's work, add to a request.",
    "Set-up": "load, compile and capture together, in seconds before the first request; the median over blocks.",
    "Peak memory": "the most device memory that the case's process held, weights included; the largest of its blocks.",
    "Graphs": "CUDA graphs that the case held at the end of a block.",
    "Largest relative logit error": "over the compared steps, the largest norm of the difference of two logit vectors "
    "over the norm of the baseline's.",
    "Teacher-forced tokens equal, timed tokens equal": "how many of the likeliest tokens are the baseline's: of those "
    "compared under teacher forcing, and of the first tokens of the timed requests.",
    "Timed ids judged, near-ties, wrong": "behind all blocks the baseline is given the very text that a case wrote. Of "
    "each timed id, of requests and of decode steps, it says whether that is its likeliest there, a near-tie (so close "
    "that an error within the tolerance may swap the two), or wrong: then the case has not passed.",
    "Teacher-forced: first step with another id, timed: first request with another id, decode: context at the first "
    "other id": "where the likeliest token is first not the baseline's: by step behind the prompt, by timed request of "
    "a length, by the length of a decode step's context.",
    "Timed requests not compared": "requests of blocks that the baseline does not have.",
    "State, reason, engine": "how a block ended and why, and what answered, as the engine itself says.",
}

AS_PUBLISHED = (
    "time to first token at batch size 1, in tables the median over the first requests of a length; cold starts and "
    "first captures are among them, as the protocol has it, so the published tables, which take means, differ."
)
BY_SERVER = (
    " A case with a server counts by the server's clock, which leaves the socket out, the others by the client's."
)
STEP_BY_STEP = {
    "TTFT": "time to first token at batch size 1: the mean over the first requests of a length, as published, by the "
    "clock that the step's procedure names; then the mean over lengths.",
    "Speed-up": "the ratio of two averages.",
    "Step, what was changed": "one confound of the published procedure that is taken away, beside those before it.",
    "Decode": "the mean time of a further token over the last contexts, by the clock of the step.",
    "The other": "the case that JIT+CUDA is held against.",
    "State, stage, reason, engine": "how a block ended, where and why, and what answered, as the engine itself says.",
    "Load, compile, capture": "seconds before the first request, by what they went into.",
    "Peak memory, graphs": "the most device memory that the process held, and its CUDA graphs at the end.",
}


CELLS = {
    "Pair, cells tested": "two cases, and how many metrics at a prompt length or context range have a test over "
    "blocks.",
    "Significant, p below 5 %, uncorrected": "how many of them differ at 5 %, after Holm's correction over the "
    "pair's cells and without it.",
    "Least ratio, greatest ratio": "of the later case's figure over the earlier's, in the cell that is lowest and "
    "in the one that is highest.",
}
OF_STUDY = {
    "aa": CELLS,
    "telemetry": CELLS,
    "ablation": {
        "Eager, JIT-Only, CUDA Graph, JIT+CUDA": "medians of the four cells of the experiment.",
    },
    "floor": {
        "Over the floor, P99 over P50": "ratios of the columns that they name, 1 being the limit.",
        "Above its neighbours' line": "how far a length's median lies above the straight line between those of the "
        "lengths beside it.",
        "Start to ready, of it weights, without weights": "from the start of a process to its first request: all of "
        "it, the reading of the weights, and the rest.",
    },
    "ipc": {
        "P50, P99": "of the case in the worker's process and of the same behind a socket, by the client's clock.",
        "Added to P50, added to P99": "the second less the first.",
    },
    "background_capture": {
        "Without a graph": "timed requests whose graph was missing.",
        "P99 over quiet P99": "of the requests beside which a graph is captured over those beside which none is.",
    },
    "capture_coverage": {
        "First failure, in tokens": "the longest prompt whose capture failed; lengths are captured from the largest "
        "down.",
        "All captures, median capture": "time that capturing the prompt lengths took, in sum and each.",
        "Returned by evicting all": "growth of the device's free memory when all graphs are given up, over what they "
        "held.",
    },
    "coverage_policies": {
        "Graph memory, captures": "device memory and time that the capture of all graphs took.",
        "Mean padding": "tokens by which a request is padded to the next length that has a graph.",
        "P50": "of TTFT over all lengths pooled.",
        "Published: graphs, published: memory, published: mean": "what the published texts state for that policy.",
    },
    "rolling": {
        "P50, P99": "of TTFT over all requests of the stream.",
        "Without a graph, failed": "requests that went on while their graph was captured, and captures that failed.",
        "Graph memory at the end, growth of device memory, growth of host memory": "what the graphs hold behind the "
        "last request, and how much more is in use than at request 1000.",
    },
}  # fmt: skip
"""What the tables of an experiment have besides, by its name."""


def definitions(run: Run) -> dict[str, str]:
    """The words as this run's procedures mean them."""
    if run.study in STEPPED:
        return STEP_BY_STEP
    procedures = [run.procedure(case) for case in run.cases]
    found = DEFINITIONS | OF_STUDY.get(run.study, {})
    if any(procedure.get("warmup") == "none" for procedure in procedures):
        found["TTFT"] = AS_PUBLISHED
        found["Cold TTFT"] = "none: the first request of a process is among the others."
    if any(procedure.get("clock") == "server" for procedure in procedures):
        found["TTFT"] += BY_SERVER
    if reason := run.manifest.get("no_energy"):
        found["Energy"] += f" Not measured in this run: {reason}."
    return found
