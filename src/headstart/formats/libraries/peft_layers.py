"""Which layers the fields of a PEFT configuration name: lists of names and regular expressions, read within limits.

A pattern from an untrusted file may need any amount of memory to compile or time to match, so both are limited; this
also limits what PEFT itself would then do with it.
"""

import contextlib
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import regex  # type: ignore[import-untyped]

from headstart.errors import ModuleError

__all__ = ["Names", "PatternTable", "Targets", "ends_with", "well_formed"]

LONGEST_PATTERN = 10_000
"""The most characters in a regular expression, plus the counts of its repeats: compiling takes memory for each."""

LONGEST_PATTERNS = 100_000
"""The same for all regular expressions of one field."""

HIGHEST_REPEAT = 100
"""The highest count of a repeat such as `a{2,5}`."""

MOST_PATTERNS = 1_000
"""The most regular expressions in one field; names made of letters, digits, `_`, `-` and dots do not count."""

MOST_NAMES = 100_000
"""The most names in one field."""

SLOWEST = 1.0
"""Seconds for one match: real patterns take microseconds, but a hostile one can be made to take forever."""

MOST_SECONDS = 20.0
"""Seconds for all matches of one field."""

PLAIN = re.compile(r"[\w.-]+")
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|\(\?P<\w+>|\(\?[:=!]|\(\?<[=!]|.", re.DOTALL)
WIDE = (r"\w", r"\W", r"\s", r"\S", r"\D", r"\b", r"\B")


def ends_with(path: str, names: Iterable[str]) -> bool:
    """Whether the path is, or its last parts are, one of the names.

    >>> ends_with("layers.0.mlp.up", ["mlp.up"]), ends_with("layers.0.mlp.gate_up", ["up"])
    (True, False)
    """
    return any(path == name or path.endswith(f".{name}") for name in names)


@contextlib.contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Raise `ModuleError` if a field read in the block is malformed or exceeds a limit; `what` begins the message."""
    try:
        yield
    except (TypeError, ValueError, re.error) as error:
        raise ModuleError(f"{what} is malformed: {error}; correct it") from error


@dataclass(frozen=True)
class Names:
    """Layers named by a regular expression, which must match the whole path, or by a list of paths or path ends."""

    pattern: Any
    listed: frozenset[str]
    deadline: float

    @classmethod
    def of(cls, value: object) -> Self:
        """Read a text or a list of texts; anything else raises `TypeError`.

        Raises `ValueError` for a pattern beyond a limit and `re.error` for an invalid one; `in` raises `ValueError`
        if matching takes too long.
        """
        deadline = time.monotonic() + MOST_SECONDS
        if isinstance(value, str):
            return cls(_compile(value), frozenset(), deadline)
        return cls(None, frozenset(_strings(value)), deadline)

    def __contains__(self, layer: str) -> bool:
        if self.pattern is not None:
            return _match(self.pattern, layer, whole=True, deadline=self.deadline) is not None
        return any(ending in self.listed for ending in _endings(layer))


@dataclass(frozen=True)
class Targets:
    """The layers that PEFT adapts: `check_target_module_exists` of PEFT 0.21, on names alone.

    If `target_modules` is missing or "all-linear", PEFT asks the backbone; here the tensors' own names decide then.
    """

    excluded: Names | None
    named: Names | None
    numbers: Sequence[object] | None
    numbered: tuple[Any, ...]

    @classmethod
    def of(cls, config: Mapping[str, object]) -> Self:
        """Read the fields. Raises `TypeError`, `ValueError` or `re.error` if one is malformed or exceeds a limit."""
        excluded, targets = config.get("exclude_modules"), config.get("target_modules")
        wanted = config.get("layers_to_transform")
        numbers = wanted if isinstance(wanted, list) else [wanted]
        return cls(
            excluded=Names.of(excluded) if excluded else None,
            named=None if targets is None or targets == "all-linear" else Names.of(targets),
            numbers=None if isinstance(targets, str) or wanted is None or wanted == [] else numbers,
            numbered=_numbered(config.get("layers_pattern")) if wanted is not None else (),
        )

    def __contains__(self, layer: str) -> bool:
        if self.excluded is not None and layer in self.excluded:
            return False
        if self.named is None:
            return True
        if layer not in self.named:
            return False
        if self.numbers is None or layer in self.named.listed:
            return True
        matches = (_match(pattern, layer, deadline=self.named.deadline) for pattern in self.numbered)
        found = next((index for index in matches if index is not None), None)
        return bool(found) and int(found or 0) in self.numbers


@dataclass(frozen=True)
class PatternTable:
    """The keys of `rank_pattern` or `alpha_pattern`: each a regular expression over the last parts of a path.

    `plain` holds keys made only of names and dots, by length, by the positions of their dots, and by their text: they
    are looked up, because there may be one for every layer. Numbers are positions in `keys`.
    """

    keys: tuple[str, ...]
    plain: Mapping[int, Mapping[tuple[int, ...], Mapping[str, int]]]
    patterns: tuple[tuple[int, Any], ...]
    deadline: float

    @classmethod
    def of(cls, keys: Sequence[str]) -> Self:
        """Read the keys. Raises `ValueError` if there are too many, and what `Names.of` raises."""
        if len(keys) > MOST_NAMES:
            raise ValueError(f"{len(keys):,} keys are more than the {MOST_NAMES:,} that are read")
        plain: dict[int, dict[tuple[int, ...], dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        numbers = []
        for number, key in enumerate(keys):
            if PLAIN.fullmatch(key):
                dots = tuple(position for position, letter in enumerate(key) if letter == ".")
                plain[len(key)][dots].setdefault(key, number)
            else:
                numbers.append(number)
        patterns = _compile_all([rf"(.*\.)?({keys[number]})$" for number in numbers])
        return cls(tuple(keys), plain, tuple(zip(numbers, patterns, strict=True)), time.monotonic() + MOST_SECONDS)

    def key(self, layer: str) -> str | None:
        """The first key that matches the path's last parts, as PEFT's `get_pattern_key` picks it, or `None`."""
        if "\n" in layer:
            raise ValueError("a path with a line break in it")
        numbers = [number for ending in _endings(layer) for number in self._plain_matches(ending)]
        first = min(numbers, default=len(self.keys))
        for number, pattern in self.patterns:
            if number < first and _match(pattern, layer, deadline=self.deadline) is not None:
                first = number
        return self.keys[first] if first < len(self.keys) else None

    def _plain_matches(self, ending: str) -> Iterator[int]:
        """The numbers of the plain keys that match `ending`: a dot in a key stands for any character."""
        for dots, numbers in self.plain.get(len(ending), {}).items():
            letters = list(ending)
            for position in dots:
                letters[position] = "."
            number = numbers.get("".join(letters))
            if number is not None:
                yield number


def _match(compiled: Any, text: str, *, whole: bool = False, deadline: float = math.inf) -> str | None:
    left = min(SLOWEST, deadline - time.monotonic())
    try:
        match = compiled.fullmatch if whole else compiled.match
        found = match(text, timeout=max(left, 1e-9))
    except (TimeoutError, RecursionError) as error:
        raise ValueError(f"the pattern {compiled.pattern[:60]!r} takes too long to match") from error
    return None if found is None else found.groupdict().get("index") or ""


def _compile_all(patterns: Sequence[str]) -> tuple[Any, ...]:
    if len(patterns) > MOST_PATTERNS:
        raise ValueError(f"{len(patterns):,} regular expressions are more than the {MOST_PATTERNS:,} that are read")
    if sum(map(_size, patterns)) > LONGEST_PATTERNS:
        raise ValueError(f"the regular expressions are longer than {LONGEST_PATTERNS:,} characters together")
    return tuple(map(_compile, patterns))


def _counts(tokens: Sequence[str]) -> list[int]:
    """The counts of all repeats. Raises `ValueError` for one that is too high."""
    counts = [count for token in tokens if token[0] == "{" for count in re.findall("[0-9]+", token)]
    if any(len(count) > len(str(HIGHEST_REPEAT)) or int(count) > HIGHEST_REPEAT for count in counts):
        raise ValueError(f"the pattern {''.join(tokens)[:60]!r} repeats more than {HIGHEST_REPEAT} times")
    return list(map(int, counts))


def _size(pattern: str) -> int:
    """Characters of the pattern plus counts of its repeats. Raises `ValueError` if that is too much."""
    size = len(pattern)
    if size <= LONGEST_PATTERN:
        size += sum(_counts(TOKEN.findall(pattern)))
    if size > LONGEST_PATTERN:
        raise ValueError(f"the pattern {pattern[:60]!r} is longer than {LONGEST_PATTERN:,} characters, repeats counted")
    return size


def _compile(pattern: str) -> Any:
    """The compiled pattern. Raises `ValueError` for a pattern beyond the limits, `re.error` for an invalid one."""
    _size(pattern)
    try:
        re.compile(pattern)
        if _explodes(TOKEN.findall(pattern)):
            raise ValueError(f"the pattern {pattern[:60]!r} has a repeat inside a repeat, which can take forever")
        return regex.compile(pattern, cache_pattern=False)
    except (RecursionError, OverflowError, regex.error) as error:
        if isinstance(error, re.error):
            raise
        raise ValueError(f"the pattern {pattern[:60]!r} cannot be used ({error})") from None


def _explodes(tokens: Sequence[str]) -> bool:
    """Whether a repeat contains another repeat or a choice, or directly follows one: then Python's `re`, and PEFT with
    it, may have more ways to match than can ever be tried.
    """
    inner, repeated, before = [False], False, ""
    for token in tokens:
        if token.startswith("("):
            inner.append(False)
            continue
        if token == ")":
            held = inner.pop() if len(inner) > 1 else False
            inner[-1] |= held
            before = "group" if held else ""
        elif token in ("*", "+") or (token.startswith("{") and len(token) > 2):
            if before == "group" or repeated:
                return True
            inner[-1], repeated, before = True, True, ""
        elif token == "|":
            inner[-1], repeated, before = True, False, ""
        elif token != "?":
            # An item that matches almost anything does not separate the repeats on its two sides.
            repeated, before = (repeated and token[0] in ".^$[") or (repeated and token in WIDE), ""
    return False


def _numbered(patterns: object) -> tuple[Any, ...]:
    """Patterns that find the index of the first numbered segment, after one of `patterns` where given."""
    if not patterns:
        return _compile_all([r".*?\.[^.]*\.(?P<index>\d+)\."])
    listed = [patterns] if isinstance(patterns, str) else _strings(patterns)
    return _compile_all([rf"(?:^|.*?\.){name}\.(?P<index>\d+)\." for name in listed])


def _endings(layer: str) -> Iterator[str]:
    """The path, and what follows each of its dots."""
    yield layer
    for position, letter in enumerate(layer):
        if letter == ".":
            yield layer[position + 1 :]


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{str(value)[:200]} is not a list of names")
    if len(value) > MOST_NAMES:
        raise ValueError(f"{len(value):,} names are more than the {MOST_NAMES:,} that are read")
    return value
