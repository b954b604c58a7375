"""Text in and text out, for a model with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

UNFINISHED = "\ufffd"
"""What decoders put where bytes are no character, or not yet."""
LONGEST = 4
"""Tokens held back at most: a character has four bytes, and a token of bytes has one at least."""
FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds one."""
    return any((folder / name).is_file() for name in FILES)


class Text:
    """The tokenizer in a model's folder. It is loaded by the client; the server knows ids alone.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, folder: Path) -> None:
        if not has_tokenizer(folder):
            raise ValueError(f"the model in {folder} has no tokenizer: give --prompt-ids")
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._ids: list[int] = []
        self._shown = self._before = 0

    @property
    def stop(self) -> list[int]:
        """The id that ends an answer, if there is one."""
        end = self._tokenizer.eos_token_id
        return [] if end is None else [int(end)]

    def ids(self, prompt: str) -> list[int]:
        """The prompt's token ids, with what the model wants before them. Raises ValueError for none, or no text."""
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise ValueError("--prompt is no text in UTF-8: give text, or --prompt-ids") from None
        ids = [int(token) for token in self._tokenizer(prompt)["input_ids"]]
        if not ids:
            raise ValueError("--prompt is empty: give some text")
        return ids

    def more(self, token: int) -> str:
        """The text that this next token of the answer completes: never a part of a character.

        A token's text may depend on those before it, so it is what the last shown tokens and the new ones give
        together, less what the shown ones give alone.
        """
        self._ids.append(token)
        whole = self._decode(self._ids[self._before :])
        broken = whole.endswith(UNFINISHED)
        if broken and len(self._ids) - self._shown < LONGEST:
            return ""
        shown = self._show(whole)
        if broken:
            self._before = self._shown  # or else it would spoil what comes behind it
        return shown

    def rest(self) -> str:
        """What is still held back at the end of an answer."""
        return self._show(self._decode(self._ids[self._before :])) if self._shown < len(self._ids) else ""

    def _show(self, whole: str) -> str:
        known = self._decode(self._ids[self._before : self._shown])
        self._before, self._shown = self._shown, len(self._ids)
        return whole[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
