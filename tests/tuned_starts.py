"""A fixture that tells what was tuned."""

from collections.abc import Sequence
from typing import Any

import pytest

from headstart.tuning import unit as tuning
from headstart.tuning.tune import Lane, tune_lanes


@pytest.fixture
def tunes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digest of every start that was tuned, and "reference" for the reference module."""
    calls: list[str] = []

    def counted(lanes: Sequence[Lane], *args: Any, **settings: Any) -> Any:
        for lane in lanes:
            assert lane.start is not None
            calls.append("reference" if lane.name == "reference" else f"{lane.seed}/{lane.start.digest()}")
        return tune_lanes(lanes, *args, **settings)

    monkeypatch.setattr(tuning, "tune_lanes", counted)
    return calls
