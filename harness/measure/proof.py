"""What a case must show of itself: under a target answers what its code says, seen and not only said."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from harness.contract import Identity, Kernel
from harness.job import CaseJob

OURS = frozenset({
    "_attend_one", "_attend_rows", "_gemv", "_pull", "_greedy", "_accept", "_read", "_rms_norm", "_write_cache",
    "_silu_times", "linear", "matvec",
})  # fmt: skip
"""The kernels of this repository as a profiler names them: Triton's by their functions, and those on tensor cores."""
VECTOR = frozenset({"_gemv", "matvec"})
"""What multiplies a matrix by a vector: Triton's, or the one on tensor cores."""
STEP = frozenset({"_attend_one"})
"""What no decode step of ours can do without, besides one of those."""
CHOICE = frozenset({"_greedy", "_accept"})
"""What ends each step of a sampler of Triton, the likeliest id or a drawn one."""
PRODUCT = re.compile("gemm|gemv|cutlass|nvjet|xmma|splitk|cublas", re.IGNORECASE)
"""Names of matrix products in other libraries' kernels."""
INDUCTOR = "triton_"


class Claim(NamedTuple):
    """What a target says of itself: software that must be loaded; whether a GPU's kernels are ours, and whether CUDA
    graphs answer; None where either may be. `kernels`: how the name of some kernel begins."""

    module: str
    ours: bool | None = None
    graphs: bool | None = None
    kernels: str = ""


CLAIMS = {
    "cases.baseline.Baseline": Claim("transformers", ours=False, graphs=False),
    "cases.stand_in.StandIn": Claim("transformers", ours=False, graphs=False),
    "cases.transformers_compile.TransformersCompile": Claim("transformers", ours=False, kernels=INDUCTOR),
    "cases.eager.Eager": Claim("torch", ours=False, graphs=False),
    "cases.jit.Jit": Claim("torch", ours=True, graphs=False),
    "cases.cuda_graph.CudaGraph": Claim("torch", ours=False, graphs=True),
    "cases.jit_cuda_graph.JitCudaGraph": Claim("torch", ours=True, graphs=True),
    "cases.vllm.Vllm": Claim("vllm", ours=False),
    "cases.tensorrt_llm.TensorRtLlm": Claim("tensorrt_llm"),
}


class Replayed(NamedTuple):
    """Of the samples of a block: how many a graph answered, how many a case with graphs ran without one, and all."""

    graphs: int = 0
    ungraphed: int = 0
    samples: int = 0


class WrongIdentity(RuntimeError):
    """Something else answered than the case's code says; one sentence on what gave it away."""


def claim_of(entry: CaseJob) -> Claim:
    """What a case says of itself, by its code and its options; nothing for code unknown here."""
    claim = CLAIMS.get(entry.target, Claim(""))
    backend = entry.options.get("jit", {}).get("backend", "auto")
    if claim.ours and (backend == "torchscript" or entry.options.get("model_code", "lean") != "lean"):
        return claim._replace(ours=False)
    return claim


def prove(entry: CaseJob, found: Identity, counted: Replayed) -> dict[str, object]:
    """The part of a verdict that says who answered.

    Raises:
        WrongIdentity: what was seen contradicts what the case's code says.
    """
    claim = claim_of(entry)
    fault = module_fault(claim, found) or count_fault(claim, counted)
    if found.activity == "cuda":
        fault = fault or launch_fault(claim, found, entry) or kernel_fault(claim, found)
        fault = fault or (step_fault(claim, found) if entry.options.get("decode", "kv_cache") == "kv_cache" else "")
    unproven = found.unproven or why_unproven(claim, found) or no_graph(claim, counted)
    if fault:
        raise WrongIdentity(fault)
    return {
        "identity": f"not proven: {unproven}" if unproven else f"proven: {shown(found)}",
        "modules": "; ".join(f"{name} {version}" for name, version in found.modules.items()),
        "sampler": found.sampler,
        "kernels": len({kernel.name for kernel in found.kernels}) if found.activity == "cuda" else None,
        "graph_launches": found.launches if found.activity == "cuda" else None,
        "replayed": None if uncounted(found) else f"{counted.graphs} of {counted.samples}",
    }


def why_unproven(claim: Claim, found: Identity) -> str:
    """Why what was seen proves nothing, empty where it does."""
    if found.activity != "cuda":
        names = {kernel.name for kernel in found.kernels}
        return (
            f"{len(names)} different operations on the CPU, which has no kernels and no CUDA graphs to tell engines by"
        )
    if not claim.module:
        return f"nothing is known of this code that could be held against it; {shown(found)}"
    return hidden(claim, found)


def no_graph(claim: Claim, counted: Replayed) -> str:
    """Why a case in the name of graphs is not proven, empty where a graph answered a sample: all went without one."""
    if not claim.graphs or counted.graphs or not counted.samples:
        return ""
    return f"none of {counted.samples} samples was answered by a CUDA graph"


def module_fault(claim: Claim, found: Identity) -> str:
    """What is said when the software in the case's name is not loaded where the engine is."""
    if not claim.module or not found.modules or claim.module in found.modules:
        return ""
    return f"{claim.module} is not loaded where the engine runs, only {', '.join(found.modules)}"


def count_fault(claim: Claim, counted: Replayed) -> str:
    """What is said when the samples' own counters of graphs contradict the claim."""
    if claim.graphs is False and counted.graphs:
        return f"{counted.graphs} of {counted.samples} samples were answered by a CUDA graph, where none should be"
    missed = counted.samples - counted.graphs - counted.ungraphed
    if claim.graphs and missed:
        return f"{missed} of {counted.samples} samples were answered neither by a graph nor by a counted forward"
    return ""


def launch_fault(claim: Claim, found: Identity, entry: CaseJob) -> str:
    """What is said when the graphs that the profiler saw launched are not those that should be, or were counted."""
    if found.unproven:
        return ""
    if claim.graphs is False and found.launches:
        return f"the profiler saw {found.launches} CUDA graphs launched, where none should be"
    # Graphs with shared executables are launched by calls of the driver, which the profiler does not show.
    if claim.graphs and entry.options.get("graph", {}).get("executables") is None and found.launches != found.replays:
        return f"the profiler saw {found.launches} CUDA graphs launched, and the case counted {found.replays} replays"
    if claim.graphs and not found.replays + found.ungraphed:
        return "a prefill and two decode steps were answered neither by a graph nor by a counted forward"
    return ""


def kernel_fault(claim: Claim, found: Identity) -> str:
    """What is said when kernels were seen that should not be, or those are missing that must be."""
    names = {kernel.name for kernel in found.kernels}
    if claim.ours is False and names & OURS:
        return f"kernels of JIT answered: {listed(names & OURS)}"
    if hidden(claim, found):
        return ""
    if claim.kernels and not any(name.startswith(claim.kernels) for name in names):
        return f"no kernel named {claim.kernels}* was seen, so nothing compiled answered"
    if not claim.ours:
        return ""
    for phase in ("prefill", "decode"):
        if not OURS & {kernel.name for kernel in found.kernels if kernel.phase == phase}:
            return f"the {phase} showed no kernel of JIT"
    return ""


def step_fault(claim: Claim, found: Identity) -> str:
    """What is said when a decode step from the cache, which is all our own in JIT, ran something else."""
    if not claim.ours or hidden(claim, found):
        return ""
    step = {kernel.name for kernel in found.kernels if kernel.phase == "decode"}
    if lost := STEP - step:
        return f"the decode steps showed no {listed(lost)}, which JIT can't do without"
    if not VECTOR & step:
        return f"the decode steps showed no {' or '.join(sorted(VECTOR))}, one of which JIT can't do without"
    if "Triton" in found.sampler and not CHOICE & step:
        return f"the decode steps showed no {' or '.join(sorted(CHOICE))}, without which the sampler is no Triton's"
    if foreign := products(found.kernels, "decode"):
        return f"the decode steps ran matrix products of another library: {listed(foreign)}"
    return ""


def hidden(claim: Claim, found: Identity) -> str:
    """Why kernels prove nothing: graphs were launched, and decode steps showed no product of matrices."""
    step = {kernel.name for kernel in found.kernels if kernel.phase == "decode"}
    if claim.graphs is False or not found.launches or step & (STEP | VECTOR) or products(found.kernels, "decode"):
        return ""
    return (
        f"the profiler saw {found.launches} CUDA graphs launched and no matrix product in decode steps: it does not "
        "show the insides of graphs"
    )


def products(kernels: Sequence[Kernel], phase: str) -> set[str]:
    """The matrix products of other libraries in a phase."""
    return {one.name for one in kernels if one.phase == phase and one.name not in OURS and PRODUCT.search(one.name)}


def shown(found: Identity) -> str:
    """What was seen, in some words."""
    names = {kernel.name for kernel in found.kernels}
    counts = "none of which the case counts" if uncounted(found) else f"{found.replays} replays counted"
    graphs = f"{found.launches} CUDA graphs launched, {counts}"
    own = f", of them this repository's {listed(names & OURS)}" if names & OURS else ", none of them this repository's"
    return f"{len(names)} different kernels{own}; {graphs} in a prefill and two decode steps"


def uncounted(found: Identity) -> bool:
    """Whether graphs were launched by an engine that counts none: how many samples they answered is not known."""
    return found.launches > 0 and not found.replays + found.ungraphed


def listed(names: Collection[str], most: int = 8) -> str:
    """Names in order, the first `most` of them."""
    first = sorted(name[:60] for name in names)
    return ", ".join(first[:most]) + (f" and {len(first) - most} more" if len(first) > most else "")
