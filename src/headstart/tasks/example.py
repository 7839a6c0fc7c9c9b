"""One row of a task in text-to-text form, and the seeded order by which rows are drawn."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

__all__ = ["Example", "Text", "TextPair", "seeded_order"]


class TextPair(NamedTuple):
    """Two texts that encoders read as a pair, such as a premise and a hypothesis.

    `joined` is what language models read instead: the first text ends at `end`, the second begins at `start`.

    >>> pair = TextPair("It rains. [SEP] It is wet.", end=9, start=16)
    >>> pair.first, pair.second
    ('It rains.', 'It is wet.')
    """

    joined: str
    end: int
    start: int

    @property
    def first(self) -> str:
        """The first text."""
        return self.joined[: self.end]

    @property
    def second(self) -> str:
        """The second text."""
        return self.joined[self.start :]


Text = str | TextPair
"""An input as a backbone gets it: one text, or two texts that an encoder reads as a pair."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row: an input text, and the correct answers.

    Attributes:
        input: what the model reads; two texts are joined as language models read them.
        outputs: every acceptable answer, at least one; the first is the one to train on.
        options: the closed set of answers to choose from, or `None` when the answer is open.
        pair: where in `input` the first of two texts ends and the second begins; `None` for one text.
        group: what the row belongs to with others, such as its author or document; `None` for a row of its own. Rows of
            one group are never in different splits and are resampled together. No score of a row depends on it, so
            neither `to_json` nor the key of a unit counts it.
        where: where the row was read, for people: "tickets.csv, line 2"; "" if it was read nowhere. Rows that differ in
            it alone are equal.
        position: how many rows were read before it, in all tables of its task; what was said of `where` holds for it.

    >>> Example("Is water wet?", ("yes",), ("no", "yes")).target
    'yes'
    """

    uncounted: ClassVar[frozenset[str]] = frozenset({"group", "where", "position"})

    input: str
    outputs: tuple[str, ...]
    options: tuple[str, ...] | None = None
    pair: tuple[int, int] | None = None
    group: str | None = None
    where: str = field(default="", compare=False, repr=False)
    position: int = field(default=0, compare=False, repr=False)

    @property
    def text(self) -> Text:
        """The input as a backbone gets it."""
        return self.input if self.pair is None else TextPair(self.input, *self.pair)

    @property
    def target(self) -> str:
        """The answer to train on: the first acceptable one."""
        return self.outputs[0]

    def to_json(self) -> str:
        """The row as one line of ASCII JSON, the same on every platform; hashes are taken of it."""
        row = [self.input, self.outputs, self.options]
        # A row of one text keeps its old form, so that stored results for it are still found.
        return json.dumps(row if self.pair is None else [*row, self.pair], separators=(",", ":"))


def seeded_order(rows: Sequence[Example], *, purpose: str, seed: int) -> list[int]:
    """Indices of `rows` in an order that looks random and depends only on their content and `seed`.

    Rows are sorted by a hash of (purpose, seed, content, how often that content came before). So neither the order of
    the rows nor the platform matters, a longer draw contains every shorter one, and a row added to the data changes a
    draw by at most itself. Draws for different `purpose`s are independent of each other.
    """
    seen: Counter[str] = Counter()
    keys = []
    for row in rows:
        content = row.to_json()
        keys.append(hashlib.sha256(f"{purpose}\n{seed}\n{seen[content]}\n{content}".encode()).digest())
        seen[content] += 1
    return sorted(range(len(rows)), key=keys.__getitem__)
