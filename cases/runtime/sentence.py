"""The one English sentence that the published procedure has for a prompt, as token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT = "The quick brown fox jumps over the lazy dog."
IDS = (1, 450, 4996, 17354, 1701, 29916, 432, 17204, 975, 278, 17366, 11203, 29889)
"""The sentence in Llama-2's vocabulary, with what begins a text before it."""
END = 2
TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def sentence(folder: Path, vocab_size: int) -> dict[str, Any]:
    """`sentence`, its ids, and `end_id`, which pads it behind its end: by the folder's tokenizer where there is one.

    Without one they are Llama-2's, or, in a smaller vocabulary, those modulo its size.
    """
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return {"sentence": [token % vocab_size for token in IDS], "end_id": END % vocab_size}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = [int(token) for token in tokenizer(TEXT)["input_ids"]]
    end = tokenizer.eos_token_id
    return {"sentence": ids, "end_id": END if end is None else int(end)}
