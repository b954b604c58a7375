"""The frame of the lean cases: which kernels and which runner it is made of, a subclass says.

Nothing heavy is imported before `prepare`, so that the configuration can be checked without torch.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cases.runtime.decoding import decoding_of
from cases.runtime.shape import LlamaShape, read_shape
from harness.contract import (
    Capabilities,
    CaptureRecord,
    Case,
    Eviction,
    Footprint,
    Identity,
    Plan,
    Sampling,
    SetUp,
    Stats,
    Unavailable,
    Unsupported,
)

if TYPE_CHECKING:
    from cases.runtime.dynamic_ops import DynamicOps
    from cases.runtime.llama import Blocks, Model
    from cases.runtime.runner import Runner
    from cases.runtime.session import Session


class LeanCase(Case):
    """Our lean Llama with plain PyTorch and no graphs, unless a subclass says otherwise."""

    own_options: ClassVar[tuple[str, ...]] = ("decode", "model_code", "logits")
    capabilities: ClassVar[Capabilities] = Capabilities(
        samplers=frozenset({"greedy", "sample"}), pacing="pull", gpu_time=True, logits=True
    )

    def __init__(self) -> None:
        self._session: Session | None = None
        self._runner: Runner | None = None
        self._device = self._chooser = ""

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See harness.contract.Case."""
        super().check_options(options)
        check_keys(options, cls.option_names(), "")
        decoding_of(options)
        check_model_code(options)

    @classmethod
    def option_names(cls) -> list[str]:
        """The keys of its configuration: those that the case and each class it is made of names as its own."""
        return [name for kind in cls.__mro__ for name in vars(kind).get("own_options", ())]

    def make_blocks(self, plan: Plan, shape: LlamaShape) -> Blocks:
        """The kernels of the model."""
        from cases.runtime.plain import PlainBlocks

        return PlainBlocks(shape)

    def make_ops(self, plan: Plan, shape: LlamaShape) -> DynamicOps:
        """The dynamic operations around the model."""
        from cases.runtime.dynamic_ops import PlainOps

        return PlainOps(plan.sampling, plan.device, shape.vocab_size)

    def make_runner(self, plan: Plan, model: Model, ops: DynamicOps) -> Runner:
        """How a forward is run, the part of the ops before it that the device does alone included."""
        from cases.runtime.runner import DirectRunner

        return DirectRunner(model, ops.pull)

    def prepare(self, plan: Plan) -> SetUp:
        """See harness.contract.Case."""
        import torch

        from cases.runtime.session import Session

        check_device(plan)
        decoding = decoding_of(plan.options)
        started = time.perf_counter()
        model = self._load(plan)
        if plan.device == "cuda":
            torch.cuda.synchronize()
        loaded = time.perf_counter()
        self.report("compile")
        ops = self.make_ops(plan, model.shape)
        ops.compile()
        self._runner = self.make_runner(plan, model, ops)
        self._session = Session(model, self._runner, ops, plan.device, decoding)
        self._device, self._chooser = plan.device, f"{plan.sampling.strategy} by {ops.name}"
        warm_kernels(model, ops)
        compiled = time.perf_counter()
        if self._runner.graphs:
            self.report("capture")
        self._runner.capture()
        captured = time.perf_counter()
        engine = (
            f"{model.name}, torch {torch.__version__}; model: {model.kernels}; dynamic ops: {ops.name}; "
            f"{self._runner.name}"
        )
        if decoding == "recompute":
            engine += "; decode: the whole context recomputed each step"
        return SetUp(engine, loaded - started, compiled - loaded, captured - compiled)

    def _load(self, plan: Plan) -> Model:
        import torch

        from cases.runtime.llama import Llama, State
        from cases.runtime.weights import load_weights

        dtype = getattr(torch, plan.dtype)
        folder = Path(plan.checkpoint)
        shape = read_shape(folder)
        if plan.options.get("model_code", MODEL_CODES[0]) == "transformers":
            from cases.runtime.transformers_model import TransformersLlama, load_model

            state = State(shape, plan.context, dtype, plan.device)
            model = load_model(folder, plan.dtype, plan.device)
            return TransformersLlama(shape, model, state, all_positions=plan.options.get("logits") == "all")
        blocks = self.make_blocks(plan, shape)
        weights = load_weights(folder, shape, dtype, plan.device)
        return Llama(shape, weights, State(shape, plan.context, dtype, plan.device), blocks)

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """See harness.contract.Case."""
        return self._open().prefill(prompt, new_tokens, self.meanwhile)

    def decode(self) -> int:
        """See harness.contract.Case."""
        return self._open().decode(self.meanwhile)

    def stats(self) -> Stats:
        """See harness.contract.Case."""
        return self._session.stats() if self._session else Stats()

    def footprint(self) -> Footprint:
        """See harness.contract.Case."""
        import torch

        peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
        graphs, held = self._runner.held() if self._runner else (0, 0)
        return Footprint(peak, held, graphs)

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        """See harness.contract.Case."""
        return self._open().score(prompt, forced)

    def identity(self, prompt: Sequence[int]) -> Identity:
        """See harness.contract.Case."""
        from cases.runtime.identity import identify

        self._open()
        return identify(self, prompt, self._device, f"{self._chooser} operations")

    def use(self, sampling: Sampling) -> None:
        """See harness.contract.Case. Raises ValueError for values outside their ranges."""
        self._open().use(sampling)

    def captured(self) -> list[CaptureRecord]:
        """See harness.contract.Case."""
        return self._runner.captured() if self._runner else []

    def evict(self) -> Eviction:
        """See harness.contract.Case. Raises Unsupported for a case without graphs."""
        self._open()
        assert self._runner is not None  # noqa: S101  opened above
        return self._runner.evict()

    def rehearse(self) -> None:
        """See harness.contract.Case."""
        if self._session is not None:
            self._session.rehearse()

    def close(self) -> None:
        """See harness.contract.Case."""
        if self._runner is not None:
            self._runner.close()
        self._runner = self._session = None

    def _open(self) -> Session:
        if self._session is None:
            raise RuntimeError("prepare() comes before the first request")
        return self._session


MODEL_CODES, LOGITS = ("lean", "transformers"), ("last", "all")


def check_model_code(options: Mapping[str, Any]) -> None:
    """Refuse what a model's code can't do with one sentence (ValueError)."""
    code, logits = options.get("model_code", MODEL_CODES[0]), options.get("logits", LOGITS[0])
    for key, value, allowed in (("model_code", code, MODEL_CODES), ("logits", logits, LOGITS)):
        if value not in allowed:
            raise ValueError(f"{key} must be {' or '.join(allowed)}, not {value!r}")
    if code == "lean":
        if logits == "all":
            raise ValueError(
                "logits=all needs model_code=transformers and decode=recompute: the lean Llama computes the last "
                "position's alone (of all cases: protocol.model_code, protocol.decode)"
            )
        return
    if decoding_of(options) != "recompute":
        raise ValueError(
            "model_code=transformers keeps no KV cache here: set decode=recompute with it, or model_code=lean and "
            "logits=last with decode=kv_cache (of all cases: protocol.decode, protocol.model_code, protocol.logits)"
        )
    if options.get("graph", {}).get("beyond", "ungraphed") != "ungraphed":
        raise ValueError("model_code=transformers runs no prompt in chunks: set graph.beyond=ungraphed with it")


def check_keys(options: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Refuse keys that nothing reads. Raises ValueError with the allowed ones."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"there is no option {prefix}{unknown[0]}; allowed: {', '.join(sorted(known)) or 'none'}")


def check_device(plan: Plan) -> None:
    """Refuse a device that is not there, or a dtype that it does not compute."""
    import torch

    if plan.device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("torch sees no CUDA GPU: use device=cpu, or install a CUDA build of torch")
    if plan.device == "cpu" and plan.dtype == "float16":
        raise Unsupported("float16 on a CPU is not offered: use model.dtype=float32")


def warm_kernels(model: Model, ops: DynamicOps) -> None:
    """Run prefill, decode and a choice once, so that all that compiles has compiled; leave the state at position 0."""
    capacity = model.state.capacity
    for count in (min(64, capacity), 1):
        ops.load_prompt([1] * count, count, model.state)
        model.forward(count)
        ops.choose(model.state)
    model.state.words.zero_()
    ops.reseed()
