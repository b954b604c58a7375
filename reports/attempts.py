"""On which cards a run was measured: one that was stopped may have gone on on another card of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cards(manifest: Mapping[str, Any]) -> list[str]:
    """The UUIDs of the cards that a run's attempts were on, each once, in their order; none where the run says none."""
    placed = [manifest["gpu"], *(place.get("gpu") for place in manifest.get("placements", []))]
    found = [card.get("uuid") for card in placed if isinstance(card, Mapping)]
    found += [attempt.get("gpu_uuid") for attempt in manifest.get("attempts", [])]
    return list(dict.fromkeys(str(uuid) for uuid in found if uuid))


def card(manifest: Mapping[str, Any], letters: int | None = None) -> str:
    """The card, or all that the run was on, in words, each cut to so many letters; empty where the run says none."""
    return ", then ".join(uuid[:letters] for uuid in cards(manifest))


def moved(manifest: Mapping[str, Any]) -> str:
    """That blocks of one run were measured on several cards, in words; empty for one card or none."""
    uuids = cards(manifest)
    if len(uuids) < 2:
        return ""
    rates: dict[str, float] = {}
    for attempt in manifest.get("attempts", []):
        if attempt.get("read_bandwidth_tb_s"):
            rates.setdefault(str(attempt.get("gpu_uuid")), attempt["read_bandwidth_tb_s"])
    read = " and ".join(dict.fromkeys(f"{rate:.2f}" for rate in rates.values()))
    words = f", which read {read} TB/s" if " and " in read else ""
    return f"begun on one card and gone on on {'another' if len(uuids) == 2 else 'others'} of its kind{words}"
