"""Units that do next to nothing, for tests of the store and the engines; worker processes import them from here."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from headstart.errors import SettingError
from headstart.events import Progress
from headstart.units import Context, Result, Unit
from headstart.units.unit import Found


@dataclass(frozen=True, eq=False)
class Square(Unit):
    """n², and a line in a log for each time that it is computed."""

    type: ClassVar[str] = "square"
    uncounted: ClassVar[frozenset[str]] = frozenset({"name", "log", "wait"})
    number: float
    power: int = 2
    name: str = ""
    log: Path | None = None
    wait: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.name or self.number} squared"

    def compute(self, context: Context) -> Result:
        if self.log:
            with self.log.open("a") as stream:
                stream.write(f"{self.number} {os.getpid()}\n")
        if context.listener:
            context.listener(Progress(self.label, 1, 1))
        time.sleep(self.wait)
        value = self.number**self.power
        return Result({"value": value}, [{"n": self.number, "value": value}], {"x": np.full(3, value, np.float32)})


@dataclass(frozen=True, eq=False)
class Total(Unit):
    """The sum of squares."""

    type: ClassVar[str] = "total"
    parts: tuple[Square, ...]

    def compute(self, context: Context) -> Result:
        return Result({"value": sum(context.result(part).facts["value"] for part in self.parts)})


@dataclass(frozen=True, eq=False)
class Together(Unit):
    """A unit that is computed with others; it tells with how many."""

    type: ClassVar[str] = "together"
    together: ClassVar[int] = 4
    uncounted: ClassVar[frozenset[str]] = frozenset({"fails"})
    number: int
    fails: bool = False

    def batch_key(self) -> str:
        return "all"

    def compute(self, context: Context) -> Result:
        raise AssertionError("these are computed together")

    @classmethod
    def compute_many(cls, units: Sequence[Self], context: Context) -> Iterator[Found]:
        for unit in units:
            if unit.fails:
                raise ValueError("no luck")
            yield unit, Result({"with": len(units)})


@dataclass(frozen=True, eq=False)
class Bad(Unit):
    """A unit that fails in the way that it is told to."""

    type: ClassVar[str] = "bad"
    how: str
    log: Path
    uncounted: ClassVar[frozenset[str]] = frozenset({"log"})

    @property
    def label(self) -> str:
        return "the bad one"

    def compute(self, context: Context) -> Result:
        with self.log.open("a") as stream:
            stream.write(f"{self.how}\n")
        if self.how == "dies":
            os.kill(os.getpid(), 9)
        if self.how == "mistake":
            raise SettingError("a setting is wrong; mend it")
        raise ZeroDivisionError("by nought")


@dataclass(frozen=True, eq=False)
class Steps(Unit):
    """Counts steps with a checkpoint, and is killed on the way as often as it is told to."""

    type: ClassVar[str] = "steps"
    count: int
    kills: int
    log: Path
    uncounted: ClassVar[frozenset[str]] = frozenset({"kills", "log"})

    def compute(self, context: Context) -> Result:
        checkpoint = context.work(self) / "step"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        while step < self.count:
            step += 1
            checkpoint.write_text(str(step))
            with self.log.open("a") as stream:
                stream.write(f"{step}\n")
            if step <= self.kills:
                os.kill(os.getpid(), 9)
        return Result({"steps": step})


@dataclass(frozen=True, eq=False)
class Saved(Unit):
    """Saves a module, with the help of something that is loaded once."""

    type: ClassVar[str] = "saved"
    name: str

    def compute(self, context: Context) -> Result:
        folder = context.work(self) / "module"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "weights").write_bytes(context.resource("backbone") * 4)
        return Result(module=folder, device="cpu")


def weights() -> bytes:
    """What `Saved` asks for."""
    return b"abc"
