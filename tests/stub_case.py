"""The fake case with one key more: what the stub worker does in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.fakes import FakeCase


class StubCase(FakeCase):
    """`behaviour` is for tests/stub_worker.py; all else is the fake's."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        super().check_options({key: value for key, value in options.items() if key != "behaviour"})
