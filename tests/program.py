"""How a run of the program ended, and the words that most runs share."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from small_hub import SETTINGS, SHAPE

NAMES = ["ada", "bob", "cyd", "dan"]
FROM_START = ["--recipe", "quick", *(part for setting in SETTINGS for part in ("--set", setting))]
QUICK = [*FROM_START, *(part for setting in SHAPE for part in ("--set", setting))]


@dataclass(frozen=True)
class Ended:
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed, as strict JSON."""
        assert self.code in (0, 1), self.err
        return json.loads(self.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


Run = Callable[..., Ended]


def assert_mistake(ended: Ended, *parts: str) -> None:
    """Exit code 2 and one paragraph on standard error that says `parts`."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert (ended.code, len(lines)) == (2, 1), ended.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    for part in parts:
        assert part in lines[0]
