"""The model of Transformers: how every case loads it, and its forward behind the interface of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from cases.runtime.llama import State
from cases.runtime.shape import LlamaShape


def load_model(checkpoint: str | Path, dtype: str, device: str) -> Any:
    """`from_pretrained` of a local checkpoint, on the device, for inference.

    Raises:
        ValueError: a checkpoint that does not fill the model.
        RuntimeError: another package opened it.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        str(checkpoint),
        dtype=getattr(torch, dtype),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,  # not left out: then Transformers asks on the terminal
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, by name; the error it would raise names none
    )
    refuse_unlike(str(checkpoint), info, tied=model.config.tie_word_embeddings)
    package, name = type(model).__module__.partition(".")[0], type(model).__name__
    if package != "transformers":
        raise RuntimeError(f"Transformers was asked for, but the checkpoint was opened by {package} ({name})")
    return model.to(device).eval()


def refuse_unlike(checkpoint: str, info: Mapping[str, Any], tied: bool) -> None:
    """Refuse a checkpoint that does not fill the model: Transformers would make up what is missing and go on.

    `info` is what `from_pretrained` returns as its loading info. The constants of old exports and the stored head of a
    tied model are no fault. Raises ValueError naming the first tensors at fault.
    """
    harmless = {"lm_head.weight"} if tied else set()
    unexpected = {name for name in info["unexpected_keys"] if not name.endswith(".rotary_emb.inv_freq")} - harmless
    mismatched = {name for name, *_ in info["mismatched_keys"]}
    faults = (("lacks", set(info["missing_keys"]) - harmless), ("has unknown", unexpected), ("misshapes", mismatched))
    for word, names in faults:
        if names:
            first = ", ".join(sorted(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"checkpoint {checkpoint} {word} tensors: {first}{more}")


class TransformersLlama:
    """Transformers' forward over the first tokens of the state: no KV cache, so it always begins at position 0.

    `all_positions`: logits of every token are computed, as the published system does, and one row of them is used;
    else of the last real one alone.
    """

    def __init__(self, shape: LlamaShape, model: Any, state: State, *, all_positions: bool) -> None:
        self.shape, self.state = shape, state
        self._model, self._all = model, all_positions
        attention = model.config._attn_implementation
        self.name = f"Transformers {transformers.__version__}"
        logits = "all positions" if all_positions else "the last position"
        self.kernels = f"{type(model).__name__}, {attention}, logits of {logits}"

    @torch.no_grad()
    def forward(self, count: int, between: Callable[[], None] | None = None) -> None:
        """See cases.runtime.llama.Llama. `between` is called at both ends: there is no looking into the model."""
        state = self.state
        if between is not None:
            between()
        wanted = 0 if self._all else state.last
        ids = state.tokens[:count].unsqueeze(0)
        logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=wanted).logits[0]
        state.logits.copy_((logits.index_select(0, state.last) if self._all else logits)[0])
        if between is not None:
            between()
