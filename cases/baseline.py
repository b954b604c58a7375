"""Baseline: Hugging Face Transformers, `generate`, nothing optimised."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, ClassVar

from harness.contract import Capabilities, Case, Footprint, Plan, SetUp, Stats

if TYPE_CHECKING:
    import torch

STOP = -1
"""A token id that no model gives: tells the generating thread's end."""


class Stepper:
    """Runs `generate` in a thread, one token at a time: after each token it waits until the next is wanted.

    It is the `streamer` that `generate` puts tokens into.
    """

    def __init__(self, generate: Callable[[Stepper], object]) -> None:
        self._tokens: SimpleQueue[int | BaseException] = SimpleQueue()
        self._wanted = Semaphore(0)
        self._stopped = False
        self._prompt_seen = False
        self._thread = Thread(target=self._run, args=(generate,), name="generate", daemon=True)
        self._thread.start()

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: first with the prompt, then with each token in host memory."""
        if not self._prompt_seen:
            self._prompt_seen = True
            self._await_want()
            return
        self._tokens.put(int(value.item()))
        self._await_want()

    def end(self) -> None:
        """Called by `generate` behind the last token."""

    def next(self) -> int:
        """Let `generate` go on for one token and return it."""
        self._wanted.release()
        token = self._tokens.get()
        if isinstance(token, BaseException):
            raise token
        return token

    def stop(self) -> None:
        """End the thread at its next token."""
        self._stopped = True
        self._wanted.release()
        self._thread.join()

    def _await_want(self) -> None:
        self._wanted.acquire()
        if self._stopped:
            raise InterruptedError

    def _run(self, generate: Callable[[Stepper], object]) -> None:
        try:
            generate(self)
        except InterruptedError:
            return
        except Exception as error:  # noqa: BLE001  handed to the caller's thread, which raises it
            self._tokens.put(error)
            return
        self._tokens.put(StopIteration("generate gave all the tokens that it was asked for"))


class Baseline(Case):
    """Transformers as a user meets it: `from_pretrained`, `generate`, the default attention and cache."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        samplers=frozenset({"greedy", "sample"}), pacing="pull", gpu_time=True, logits=True
    )

    def __init__(self) -> None:
        self._model: Any = None
        self._stepper: Stepper | None = None
        self._gpu_ns = 0
        self._pending: tuple[Any, Any] | None = None

    def prepare(self, plan: Plan) -> SetUp:
        """See harness.contract.Case."""
        import torch
        import transformers

        from cases.runtime.lean import check_device

        check_device(plan)
        started = time.perf_counter()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            plan.checkpoint, dtype=getattr(torch, plan.dtype), local_files_only=True, use_safetensors=True
        )
        self._model.to(plan.device).eval()
        if plan.device == "cuda":
            torch.cuda.synchronize()
        self._plan = plan
        self._arguments = self._sampling_arguments()
        name = type(self._model).__name__
        attention = self._model.config._attn_implementation
        engine = f"transformers {transformers.__version__} {name}.generate, torch {torch.__version__}, {attention}"
        return SetUp(engine, load_s=time.perf_counter() - started)

    def _sampling_arguments(self) -> dict[str, Any]:
        sampling = self._plan.sampling
        common = {"use_cache": True, "eos_token_id": None, "pad_token_id": 0}
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
        """See harness.contract.Case. A single new token needs no thread: `generate` is called and returns it."""
        self._drop_sequence()
        if new_tokens > 1:
            self._stepper = Stepper(lambda streamer: self._generate(prompt, new_tokens, streamer=streamer))
            return self._timed(self._stepper.next)
        return self._timed(lambda: int(self._generate(prompt, 1)[0, -1].item()))

    def decode(self) -> int:
        """See harness.contract.Case."""
        if self._stepper is None:
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
        self._drop_sequence()
        self._model = None

    def _drop_sequence(self) -> None:
        if self._stepper is not None:
            self._stepper.stop()
            self._stepper = None


def force(tokens: Sequence[int], start: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A logits processor under which step n of a prompt of `start` tokens chooses `tokens[n]`, then anything."""

    def choose(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = ids.shape[1] - start
        if step < len(tokens):
            scores = scores.new_full(scores.shape, float("-inf"))
            scores[:, tokens[step]] = 0.0
        return scores

    return choose
