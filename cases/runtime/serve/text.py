"""Text in and text out, for a model with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


class Text:
    """The tokenizer in a model's folder. It is loaded by the client; the server knows ids alone.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, folder: Path) -> None:
        if not any((folder / name).is_file() for name in FILES):
            raise ValueError(f"the model in {folder} has no tokenizer: give --prompt-ids")
        from tokenizers.decoders import DecodeStream
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not self._tokenizer.is_fast:
            raise ValueError(f"the tokenizer in {folder} can't decode token by token: give --prompt-ids")
        self._stream = DecodeStream(skip_special_tokens=True)

    @property
    def stop(self) -> list[int]:
        """The id that ends an answer, if there is one."""
        end = self._tokenizer.eos_token_id
        return [] if end is None else [int(end)]

    def ids(self, prompt: str) -> list[int]:
        """The prompt's token ids, with what the model wants before them. Raises ValueError for none."""
        ids = [int(token) for token in self._tokenizer(prompt)["input_ids"]]
        if not ids:
            raise ValueError("--prompt is empty: give some text")
        return ids

    def more(self, token: int) -> str:
        """The text that this next token of the answer completes: never a part of a character."""
        return self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
