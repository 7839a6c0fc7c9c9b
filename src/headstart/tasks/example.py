"""One row of a task in text-to-text form, and the seeded order by which rows are drawn."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Example", "seeded_order"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row: the text that goes in, and the texts that are right.

    Attributes:
        input: what the model reads.
        outputs: every acceptable answer, at least one; the first is the one to train on.
        options: the closed set of answers to choose from, or `None` when the answer is open.

    >>> Example("Is water wet?", ("yes",), ("no", "yes")).target
    'yes'
    """

    input: str
    outputs: tuple[str, ...]
    options: tuple[str, ...] | None = None

    @property
    def target(self) -> str:
        """The answer to train on: the first acceptable one."""
        return self.outputs[0]

    def to_json(self) -> str:
        """The row as one line of ASCII JSON, the same on every platform; what hashes are taken over."""
        return json.dumps([self.input, self.outputs, self.options], separators=(",", ":"))


def seeded_order(rows: Sequence[Example], *, purpose: str, seed: int) -> list[int]:
    """Indices of `rows` in an order that looks random and depends only on their content and `seed`.

    Rows are sorted by a hash of (purpose, seed, content, how often that content came before), so that neither the
    order of the rows nor the platform plays a part, a longer draw holds every shorter one, and a row added to the
    data changes a draw by at most itself. Draws for different `purpose`s are independent of each other.
    """
    seen: Counter[str] = Counter()
    keys = []
    for row in rows:
        content = row.to_json()
        keys.append(hashlib.sha256(f"{purpose}\n{seed}\n{seen[content]}\n{content}".encode()).digest())
        seen[content] += 1
    return sorted(range(len(rows)), key=keys.__getitem__)
