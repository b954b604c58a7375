"""The one English sentence that the published procedure has for a prompt, as token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases.runtime.serve.text import Text, has_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog."
IDS = (1, 450, 4996, 17354, 1701, 29916, 432, 17204, 975, 278, 17366, 11203, 29889)
"""The sentence in Llama-2's vocabulary, with what begins a text before it."""
END = 2


def sentence(folder: Path, vocab_size: int) -> dict[str, Any]:
    """`sentence`, its ids, `end_id`, which pads it behind its end, and in `sentence_source` whose ids they are.

    By the folder's tokenizer where there is one; else Llama-2's ids, in a smaller vocabulary modulo its size.
    """
    if has_tokenizer(folder):
        text = Text(folder)
        end = text.stop[0] if text.stop else END
        return {"sentence": text.ids(TEXT), "end_id": end, "sentence_source": "the checkpoint's tokenizer"}
    source = "Llama-2's ids" if max(IDS) < vocab_size else f"Llama-2's ids modulo {vocab_size}"
    ids = [token % vocab_size for token in IDS]
    return {"sentence": ids, "end_id": END % vocab_size, "sentence_source": source}
