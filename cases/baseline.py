"""Baseline: Hugging Face Transformers, `generate`, nothing optimised."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from cases.runtime.stepper import Stepper
from harness.contract import Capabilities, Case, Footprint, Identity, Judged, Plan, SetUp, Stats

if TYPE_CHECKING:
    import torch


class Baseline(Case):
    """Transformers as a user meets it: `from_pretrained`, `generate`, the default attention and cache."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        samplers=frozenset({"greedy", "sample"}), pacing="pull", gpu_time=True, logits=True
    )

    def __init__(self) -> None:
        self._model: Any = None
        self._stepper = Stepper()
        self._in_sequence = False
        self._gpu_ns = 0
        self._pending: tuple[Any, Any] | None = None

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See harness.contract.Case."""
        if options:
            raise ValueError(f"baseline has no option {min(options)}: it has none, nothing in it is tuned")

    def prepare(self, plan: Plan) -> SetUp:
        """See harness.contract.Case."""
        import torch
        import transformers

        from cases.runtime.lean import check_device
        from cases.runtime.transformers_model import load_model

        check_device(plan)
        started = time.perf_counter()
        self._model = load_model(plan.checkpoint, plan.dtype, plan.device)
        if plan.device == "cuda":
            torch.cuda.synchronize()
        self._plan = plan
        self._arguments = self._sampling_arguments()
        attention = self._model.config._attn_implementation
        name = type(self._model).__name__
        engine = f"transformers {transformers.__version__} {name}.generate, torch {torch.__version__}, {attention}"
        return SetUp(engine, load_s=time.perf_counter() - started)

    def _sampling_arguments(self) -> dict[str, Any]:
        sampling = self._plan.sampling
        common = {
            "use_cache": True, "eos_token_id": None, "pad_token_id": 0,
            "repetition_penalty": None if sampling.repetition_penalty == 1.0 else sampling.repetition_penalty,
        }  # fmt: skip
        if sampling.strategy == "greedy":
            return {**common, "do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        return {
            **common,
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
        }

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """See harness.contract.Case. A single new token needs no stepper: `generate` is called and returns it."""
        if self._model is None:
            raise RuntimeError("prepare() comes before the first request")
        self._drop_sequence()
        if new_tokens == 1:
            return self._timed(lambda: int(self._generate(prompt, 1)[0, -1].item()))
        self._in_sequence = True
        return self._timed(
            lambda: self._stepper.start(lambda streamer: self._generate(prompt, new_tokens, streamer=streamer))
        )

    def decode(self) -> int:
        """See harness.contract.Case."""
        if not self._in_sequence:
            raise RuntimeError("prefill(prompt, new_tokens) with new_tokens above 1 comes before decode()")
        return self._timed(self._stepper.next)

    def _generate(self, prompt: Sequence[int], new_tokens: int, **more: Any) -> Any:
        import torch

        if self._plan.sampling.strategy == "sample":
            torch.manual_seed(self._plan.sampling.seed)
        ids = torch.tensor([list(prompt)], device=self._plan.device)
        return self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, **self._arguments, **more
        )

    def _timed(self, work: Callable[[], int]) -> int:
        """Put CUDA events around the work; they are read in `stats`, outside the interval."""
        if self._plan.device != "cuda":
            return work()
        import torch

        self.stats()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        token = work()
        end.record()
        self._pending = (start, end)
        return token

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        """See harness.contract.Case. `generate` itself runs; a logits processor makes it choose the forced ids."""
        from transformers import LogitsProcessorList

        self._drop_sequence()
        found = self._generate(
            prompt,
            len(forced) + 1,
            logits_processor=LogitsProcessorList([force(forced, len(prompt))]),
            output_logits=True,
            return_dict_in_generate=True,
        )
        return [array("f", row[0].float().cpu().numpy().tobytes()) for row in found.logits]

    def judge(self, prompt: Sequence[int], ids: Sequence[int]) -> list[Judged]:
        """See harness.contract.Case. The logits, float32 [ids, vocabulary], stay on the device: 52 MB for 407 ids."""
        import torch

        self._drop_sequence()
        if not ids:
            return []
        text = torch.tensor([[*prompt, *ids[:-1]]], device=self._plan.device)
        with torch.inference_mode():
            found = self._model(text, use_cache=False, logits_to_keep=len(ids)).logits[0].float()
            best, likeliest = found.max(dim=1)
            gap = best - found.gather(1, torch.tensor(list(ids), device=found.device)[:, None])[:, 0]
            rms = found.square().mean(dim=1).sqrt()
        return [Judged(*one) for one in zip(likeliest.tolist(), gap.tolist(), rms.tolist(), strict=True)]

    def identity(self, prompt: Sequence[int]) -> Identity:
        """See harness.contract.Case."""
        from cases.runtime.identity import identify

        sampler = f"{self._plan.sampling.strategy} by transformers' generate"
        return identify(self, prompt, self._plan.device, sampler)

    def stats(self) -> Stats:
        """See harness.contract.Case."""
        if self._pending is not None:
            start, end = self._pending
            end.synchronize()
            self._gpu_ns += round(start.elapsed_time(end) * 1e6)
            self._pending = None
        return Stats(gpu_ns=self._gpu_ns)

    def footprint(self) -> Footprint:
        """See harness.contract.Case."""
        import torch

        return Footprint(torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0)

    def close(self) -> None:
        """See harness.contract.Case."""
        self._stepper.abandon()
        self._model = None
        self._in_sequence = False

    def _drop_sequence(self) -> None:
        if self._in_sequence:
            self._stepper.abandon()
            self._in_sequence = False


def force(tokens: Sequence[int], start: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A logits processor under which step n of a prompt of `start` tokens chooses `tokens[n]`, then anything."""

    def choose(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = ids.shape[1] - start
        if step < len(tokens):
            scores = scores.new_full(scores.shape, float("-inf"))
            scores[:, tokens[step]] = 0.0
        return scores

    return choose
