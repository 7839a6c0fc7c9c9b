"""How pictures of docs pages are drawn: bars, a heat map, boxes with arrows, and a grid of marks, as SVG."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["DOCS", "Chart", "Flow", "Grid", "Heat", "Picture"]

DOCS = Path(__file__).parent
COLOURS = ("#0f766e", "#b45309", "#6d28d9", "#be123c")
"""Of the series; each is told apart from the background in light and in dark."""
STYLE = (
    ".bg{fill:#fff} text{fill:#1f2937} .soft{fill:#6b7280} .rail{stroke:#d1d5db} "
    "@media (prefers-color-scheme: dark){ .bg{fill:#111827} text{fill:#e5e7eb} .soft{fill:#9ca3af} "
    ".rail{stroke:#374151} }"
)
BOXES = (
    ".box{fill:#f3f4f6;stroke:#9ca3af} .arrow{stroke:#6b7280;fill:none;stroke-width:1.5} .head{fill:#6b7280} "
    "@media (prefers-color-scheme: dark){ .box{fill:#1f2937;stroke:#6b7280} }"
)
LETTERS = 'aria-labelledby="t" font-family="system-ui, sans-serif" font-size="13"'
WIDTH, LEFT, RIGHT, STEP, GAP, LONGEST = 760, 270, 24, 15, 9, 40
HEAT, HOT, COLD = 19, "#0f766e", "#be123c"
PAD, LINE, BETWEEN, ARROW = 9, 17, 12, 46
"""Of boxes: the space inside them, a line of text, and what is between two of a column and between two columns."""
NUMBER = re.compile(r"[−-]?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Picture(ABC):
    """A picture of `page`."""

    page: str
    name: str
    title: str

    @property
    def path(self) -> Path:
        """Where the picture is."""
        return DOCS / "images" / f"{self.name}.svg"

    @abstractmethod
    def svg(self) -> str:
        """The picture."""

    def _whole(self, height: int, parts: Sequence[str]) -> str:
        opening = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {LETTERS}>',
            f'<title id="t">{escape(self.title)}</title>',
            f"<style>{STYLE}</style>",
            f'<rect class="bg" width="{WIDTH}" height="{height}" rx="8"/>',
            f'<text x="20" y="26" font-weight="600">{escape(self.title)}</text>',
        ]
        return "\n".join([*opening, *parts, "</svg>", ""])


@dataclass(frozen=True)
class OfTable(Picture):
    """What is drawn from the table of its page whose header begins with `table`."""

    table: str

    def lines(self) -> Iterator[list[str]]:
        """The cells of the table, line by line, the header first, without markup."""
        text = (DOCS / self.page).read_text(encoding="utf-8")
        begin = text.index(f"\n{self.table}") + 1
        for number, line in enumerate(text[begin:].splitlines()):
            if not line.startswith("|"):
                return
            if number != 1:
                yield [re.sub(r"[*`]", "", cell).strip() for cell in line.strip("|").split("|")]


@dataclass(frozen=True)
class Heat(OfTable):
    """A cell for each number of a table: green above 0, red below, full at `most`; the last column is left out."""

    most: float

    def svg(self) -> str:
        """The picture."""
        header, *rows = self.lines()
        names = header[1:-1]
        wide = (WIDTH - LEFT - RIGHT) / len(names)
        deep = 2 if len(names) < 6 else 3  # lines of names, so that none runs into its neighbour
        top = 46 + 14 * deep
        parts = [
            f'<text class="soft" x="{LEFT + wide * (place + 0.5):.0f}" y="{50 + 14 * (place % deep)}" '
            f'text-anchor="middle" font-size="11">{escape(name)}</text>'
            for place, name in enumerate(names)
        ]
        for number, cells in enumerate(rows):
            y = top + HEAT * number
            size = 13 if len(cells[0]) <= 34 else 11
            label = f'<text x="{LEFT - 12}" y="{y + 13}" text-anchor="end" font-size="{size}">'
            parts.append(f"{label}{escape(cells[0])}</text>")
            for place, cell in enumerate(cells[1:-1]):
                for value in _numbers(cell):
                    x, colour = LEFT + wide * place, HOT if value > 0 else COLD
                    parts.append(
                        f'<rect x="{x:.1f}" y="{y}" width="{wide - 2:.1f}" height="{HEAT - 2}" rx="2" fill="{colour}" '
                        f'fill-opacity="{min(abs(value) / self.most, 1):.2f}"/>'
                    )
                    parts.append(
                        f'<text x="{x + wide / 2:.1f}" y="{y + 13}" text-anchor="middle" font-size="11">'
                        f"{escape(cell)}</text>"
                    )
        return self._whole(top + HEAT * len(rows) + 14, parts)


@dataclass(frozen=True)
class Chart(OfTable):
    """A row of marks for each line of a table, one for each series; with the ends of intervals, where they stand there.

    `series`: by name, the column that holds it and which of the numbers in
    a cell it is; "(a–b)" behind it, or "± a", is its interval. `low` and `high`: the ends of the axis; `mark`: a value
    that is marked on it.
    """

    series: dict[str, tuple[int, int]]
    low: float
    high: float
    mark: float | None = None

    def svg(self) -> str:
        """The picture."""
        rows = list(self.lines())[1:]
        block = STEP * len(self.series) + GAP
        height = 74 + block * len(rows) + 18
        parts = [*self._legend(), *self._axis(height)]
        for number, cells in enumerate(rows):
            top = 74 + block * number
            parts.append(
                f'<text x="{LEFT - 12}" y="{top + block / 2:.0f}" text-anchor="end">{escape(_label(cells[0]))}</text>'
            )
            for place, (column, which) in enumerate(self.series.values()):
                parts += self._mark(cells[column], which, y=top + STEP * place + 9, colour=COLOURS[place])
        return self._whole(height, parts)

    def _x(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def _legend(self) -> list[str]:
        parts, x = [], float(LEFT)
        for name, colour in zip(self.series, COLOURS, strict=False):
            parts.append(f'<circle cx="{x + 5:.0f}" cy="45" r="5" fill="{colour}"/>')
            parts.append(f'<text x="{x + 15:.0f}" y="49">{escape(name)}</text>')
            x += 34 + 7.2 * len(name)
        return parts

    def _axis(self, height: int) -> list[str]:
        parts = []
        marks = [self.low + (self.high - self.low) * part / 4 for part in range(5)]
        for value in marks:
            x = self._x(value)
            parts.append(f'<line class="rail" x1="{x:.0f}" x2="{x:.0f}" y1="62" y2="{height - 24}"/>')
            parts.append(f'<text class="soft" x="{x:.0f}" y="{height - 8}" text-anchor="middle">{value:g}</text>')
        if self.mark is not None:
            x = self._x(self.mark)
            parts.append(
                f'<line class="soft" stroke="#6b7280" x1="{x:.0f}" x2="{x:.0f}" y1="62" y2="{height - 24}" '
                'stroke-dasharray="4 3"/>'
            )
            parts.append(f'<text class="soft" x="{x:.0f}" y="58" text-anchor="middle">{self.mark:g}</text>')
        return parts

    def _mark(self, cell: str, which: int, *, y: int, colour: str) -> list[str]:
        numbers = _numbers(cell)
        if len(numbers) <= which:
            return []
        value, line = numbers[which], []
        if ends := _ends(cell, value):
            x, to = map(self._x, ends)
            drawn = f'stroke="{colour}" stroke-width="2" stroke-opacity="0.5"'
            line = [f'<line x1="{x:.1f}" x2="{to:.1f}" y1="{y}" y2="{y}" {drawn}/>']
        return [*line, f'<circle cx="{self._x(value):.1f}" cy="{y}" r="4.5" fill="{colour}"/>']


@dataclass(frozen=True)
class Flow(Picture):
    """Boxes in columns, and arrows between them.

    `columns`: of each, the texts of its boxes from top to bottom; the first line of a text is the box's name.
    `arrows`: from which box to which.
    """

    columns: Sequence[Sequence[str]]
    arrows: Sequence[tuple[str, str]]

    def svg(self) -> str:
        """The picture."""
        deep = LINE * max(text.count("\n") + 1 for column in self.columns for text in column) + 2 * PAD
        tall = max(len(column) for column in self.columns) * (deep + BETWEEN) - BETWEEN
        wide = (WIDTH - 40 - ARROW * (len(self.columns) - 1)) / len(self.columns)
        parts, places = [f"<style>{BOXES}</style>"], {}
        for number, column in enumerate(self.columns):
            x, height = 20 + number * (wide + ARROW), len(column) * (deep + BETWEEN) - BETWEEN
            for place, text in enumerate(column):
                y = 46 + (tall - height) / 2 + place * (deep + BETWEEN)
                name, *more = text.split("\n")
                places[name] = (x, y + deep / 2)
                parts.append(f'<rect class="box" x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{deep}" rx="6"/>')
                above = y + (deep - LINE * (len(more) + 1)) / 2
                for line, words in enumerate((name, *more)):
                    look = 'font-weight="600"' if not line else 'class="soft" font-size="12"'
                    at = f'x="{x + wide / 2:.0f}" y="{above + LINE * (line + 0.75):.0f}"'
                    parts.append(f'<text {at} text-anchor="middle" {look}>{escape(words)}</text>')
        for begin, end in self.arrows:
            (x, y), (to, there) = places[begin], places[end]
            x, half = x + wide, (to - x - wide) / 2
            parts.append(f'<path class="arrow" d="M{x:.0f} {y:.0f}h{half:.0f}V{there:.0f}H{to - 7:.0f}"/>')
            parts.append(f'<path class="head" d="M{to - 8:.0f} {there - 4:.0f}l8 4-8 4z"/>')
        return self._whole(round(46 + tall + 20), parts)


@dataclass(frozen=True)
class Grid(OfTable):
    """A square for every column of a table behind the first two, at the row of its second and the column of its first.

    A square is full where its cell begins with `full`, a frame where it begins with `frame`, and a dot elsewhere.
    """

    full: str
    frame: str

    def svg(self) -> str:
        """The picture."""
        header, *rows = self.lines()
        names, kinds = header[2:], list(dict.fromkeys(cells[0] for cells in rows))
        places = list(dict.fromkeys(cells[1] for cells in rows))
        left = LEFT - 130
        wide, top = (WIDTH - left - RIGHT) / len(kinds), 92
        middle = [left + wide * (place + 0.5) for place in range(len(kinds))]
        order = escape("from left to right: " + ", ".join(names))
        parts = [f'<text class="soft" x="20" y="48" font-size="12">{order}</text>']
        for start, text in zip((WIDTH - 230, WIDTH - 160, WIDTH - 75), (self.full, self.frame, "—"), strict=True):
            words = f'<text class="soft" x="{start + 18}" y="48" font-size="12">{escape(text)}</text>'
            parts += [self._square(start, 40, text), words]
        parts += [
            f'<text x="{x:.0f}" y="{top - 12}" text-anchor="middle" font-weight="600">{escape(kind)}</text>'
            for x, kind in zip(middle, kinds, strict=True)
        ]
        for number, place in enumerate(places):
            y = top + HEAT * number
            parts.append(f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{escape(place)}</text>')
        for kind, place, *cells in rows:
            x, y = middle[kinds.index(kind)] - 8 * len(names), top + HEAT * places.index(place)
            parts += [self._square(x + 16 * number, y, cell) for number, cell in enumerate(cells)]
        return self._whole(top + HEAT * len(places) + 14, parts)

    def _square(self, x: float, y: int, cell: str) -> str:
        at = f'x="{x:.1f}" y="{y:.0f}" width="12" height="12" rx="2"'
        if cell.startswith(self.full):
            return f'<rect {at} fill="{HOT}"/>'
        if cell.startswith(self.frame):
            return f'<rect {at} fill="none" stroke="{COLOURS[1]}" stroke-width="1.5"/>'
        return f'<circle class="soft" cx="{x + 6:.1f}" cy="{y + 6:.0f}" r="2"/>'


def _label(cell: str) -> str:
    """What fits beside the marks."""
    return cell if len(cell) <= LONGEST else cell.rpartition(": ")[2]


def _ends(cell: str, value: float) -> tuple[float, float] | None:
    """The ends of the interval that a cell states."""
    _, sign, half = cell.partition("±")
    if sign:
        return value - _numbers(half)[0], value + _numbers(half)[0]
    inside = _numbers(cell.partition("(")[2])
    return (inside[0], inside[1]) if len(inside) == 2 else None


def _numbers(cell: str) -> list[float]:
    return [float(each.replace("−", "-").replace(",", "")) for each in NUMBER.findall(cell.replace("–", " "))]
