"""From a source to a card and splits: locate the rows, complete the card, make text, find the options, split."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, islice
from typing import NamedTuple

from headstart.errors import TaskError
from headstart.records import TaskCard
from headstart.tasks.classes import alike, found_labels
from headstart.tasks.columns import describe
from headstart.tasks.example import Example
from headstart.tasks.fitting import check_columns
from headstart.tasks.head import REGRESSION
from headstart.tasks.metrics import METRICS
from headstart.tasks.options import OPTIONS, TextRow, options_of, require_whole
from headstart.tasks.pairs import InputTemplate
from headstart.tasks.settings import Settled, Wishes, settle
from headstart.tasks.sources import Located, Rows
from headstart.tasks.splitting import Splits, check_groups, draw_splits, named_splits
from headstart.tasks.template import FieldTemplate

__all__ = ["Loaded", "load_task"]

SAMPLE = 1000
"""How many rows are looked at to say which columns there are."""

FEWEST_IDS = 20
"""From how many rows on answers that look like ids are suspected to be ids."""

CLASS_METRICS = ("ACC", "Classification-F1", "Matthew-Correlation")
"""Metrics that do not keep few distinct targets from being taken for labels."""


class Loaded(NamedTuple):
    """What a source became: the fields of a `Task`."""

    card: TaskCard
    splits: Splits
    notes: tuple[str, ...]


def load_task(located: Located, *, wishes: Wishes, seed: int) -> Loaded:
    """Read the card and the splits of a source; see `Task.load` for what it may be and what is raised."""
    settled = settle(located, wishes)
    sampled = {split: _sampled(rows) for split, rows in located.tables.items()}
    check_columns(settled, describe(next((sample for sample, _ in sampled.values()), ())), located)
    tables = _whole_numbers(
        {
            split: _text_rows(rows, settled.card, source=located.source + (f", split '{split}'" if split else ""))
            for split, (_, rows) in sampled.items()
        }
    )
    _check_labels(_all(tables), settled.card)
    card, chosen, notes = _answers(settled, tables)
    position = count()
    examples = {
        split: tuple(
            Example(
                row.input,
                row.outputs,
                options_of(row, card, source=chosen),
                row.pair,
                row.group,
                row.where,
                next(position),
            )
            for row in rows
        )
        for split, rows in tables.items()
    }
    splits = _splits(tables, examples, source=located.source, seed=seed, labels=card.labels)
    check_groups(splits, source=located.source)
    if settled.unused:
        notes = (*notes, f"{located.settings} has keys that mean nothing here: {', '.join(settled.unused)}.")
    return Loaded(card, splits, notes)


def _sampled(rows: Rows) -> tuple[list[Mapping[str, object]], Rows]:
    """The first rows, and all rows."""
    first = list(islice(rows, SAMPLE))
    return [fields for _, fields in first], chain(first, rows)


def _text_rows(rows: Rows, card: TaskCard, *, source: str) -> list[TextRow]:
    input_template = InputTemplate(card.template.input, card.template.separator)
    target_template = FieldTemplate.parse(card.template.target)
    made = []
    for where, fields in rows:
        text, pair = input_template.text(fields, where=where)
        outputs = target_template.texts(fields, where=where)
        _check_text(text, outputs, where=where)
        group = None if card.group is None else _group(fields.get(card.group))
        number = target_template.number(fields)
        made.append(TextRow(where, text, outputs, fields.get("options"), fields.get("split"), pair, group, number))
    if not made:
        raise TaskError(f"{source} has no rows; add some, or remove the file")
    return made


def _group(value: object) -> str | None:
    """A row without a value is a group of its own; NaN is what pandas writes for none.

    One gap makes pandas and Parquet write a column of whole numbers as fractions, while another split keeps them whole.
    """
    if value is None or value == "" or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _whole_numbers(tables: Mapping[str | None, list[TextRow]]) -> dict[str | None, list[TextRow]]:
    """The rows, with targets such as 1.0 as 1 if all are numbers like that.

    A column of whole numbers becomes one of fractions on its way through pandas if a row of it is empty.
    """
    numbers = [row.number for row in _all(tables)]
    if not all(number is not None and number.is_integer() for number in numbers):
        return dict(tables)
    return {
        split: [replace(row, outputs=(str(int(row.number)),)) for row in rows if row.number is not None]
        for split, rows in tables.items()
    }


def _check_text(text: str, outputs: tuple[str, ...], *, where: str) -> None:
    if not text.strip():
        raise TaskError(f"{where}: the input is empty; fill it in or remove the row")
    if not outputs or not all(output.strip() for output in outputs):
        raise TaskError(f"{where}: the target is empty; fill it in or remove the row")
    require_whole((text, *outputs), where=where)


def _check_labels(rows: Iterable[TextRow], card: TaskCard) -> None:
    known = None if card.labels is None else frozenset(card.labels)
    for row in rows if known is not None else ():
        unknown = next((output for output in row.outputs if output not in (known or ())), None)
        if unknown is not None:
            labels = ", ".join(card.labels or ())
            raise TaskError(
                f"{row.where}: the target {unknown!r} is not one of the labels ({labels}); correct one of them"
            )


def _answers(settled: Settled, tables: Mapping[str | None, Sequence[TextRow]]) -> tuple[TaskCard, str, tuple[str, ...]]:
    """The card with its labels and options, the source of options, and a note on what was inferred."""
    card = settled.card
    chosen = card.options or _fitting_source(tables, card)
    labels = found_labels(row.outputs for row in _all(tables)) if _may_infer(settled, chosen) else None
    if labels is None:
        doubted = (_swapped(tables) or _numbered(tables, card)) if chosen == "none" else ()
        notes = (*_ids_read(tables), *doubted)
        return card.model_copy(update={"options": None if chosen == "none" else chosen}), chosen, notes
    metric = card.metric if "metric" in settled.stated else METRICS["ACC"].name
    note = (
        f"{len(labels)} distinct targets are taken for labels: {', '.join(labels)}; the metric is {metric}. "
        'If answers are free text, write labels="none" (--labels none)'
    )
    doubts = tuple(
        f"The labels {', '.join(map(repr, same))} differ only in how they are written; if they are one class, "
        "write them alike in the data"
        for same in alike(labels)
    )
    notes = (*_ids_read(tables), note, *doubts)
    return card.model_copy(update={"labels": labels, "options": "labels", "metric": metric}), "labels", notes


def _swapped(tables: Mapping[str | None, Sequence[TextRow]]) -> tuple[str, ...]:
    """A note if the inputs look like classes and the answers do not, which is how a table read the wrong way looks."""
    rows = list(_all(tables))
    classes = found_labels((row.input,) for row in rows)
    if classes is None or len({row.outputs for row in rows}) <= len(rows) / 2:
        return ()
    few = ", ".join(classes[:3]) + ", …" * (len(classes) > 3)
    note = (
        f"There are only {len(classes)} distinct inputs ({few}), and hardly an answer is given twice; if the columns "
        "are the wrong way round, exchange input and target (--input, --target)"
    )
    return (note,)


def _numbered(tables: Mapping[str | None, Sequence[TextRow]], card: TaskCard) -> tuple[str, ...]:
    """A note if the answers look like a column of ids: one word each, and none twice."""
    rows = list(_all(tables))
    words = {row.outputs[0] for row in rows if len(row.outputs) == 1 and len(row.outputs[0].split()) == 1}
    decimals = any(row.number is not None and not row.number.is_integer() for row in rows)
    if len(rows) < FEWEST_IDS or len(words) < len(rows) or decimals or card.metric in REGRESSION:
        return ()
    seen = ", ".join(row.outputs[0] for row in rows[:2])
    note = (
        f"No answer is given twice, and each is one word ({seen}, …), like a column of ids; if another column holds "
        "the answers, name it as target (--target)"
    )
    return (note,)


def _ids_read(tables: Mapping[str | None, Sequence[TextRow]]) -> tuple[str, ...]:
    """A note if the inputs look like a column of ids: one word each, with a digit, and none twice."""
    seen = set[str]()
    for row in _all(tables):
        if row.input in seen or len(row.input.split()) != 1 or not any(map(str.isdigit, row.input)):
            return ()
        seen.add(row.input)
    if len(seen) < FEWEST_IDS:
        return ()
    first = ", ".join([row.input for row, _ in zip(_all(tables), range(2), strict=False)])
    note = (
        f"Every input is one word with a digit, and none is given twice ({first}, …), like a column of ids; if another "
        "column holds the text, name it as input (--input)"
    )
    return (note,)


def _may_infer(settled: Settled, chosen: str) -> bool:
    if chosen != "none" or settled.stated & {"labels", "options"}:
        return False
    return "metric" not in settled.stated or settled.card.metric in CLASS_METRICS


def _all(tables: Mapping[str | None, Sequence[TextRow]]) -> Iterator[TextRow]:
    return chain.from_iterable(tables.values())


def _fitting_source(tables: Mapping[str | None, Sequence[TextRow]], card: TaskCard) -> str:
    if card.labels is not None:
        return "labels"
    for name in ("field", "inline"):
        source = OPTIONS[name]
        if all(set(row.outputs) <= set(source(row, card) or ()) for row in _all(tables)):
            return name
    return "none"


def _splits(
    tables: Mapping[str | None, Sequence[TextRow]],
    examples: Mapping[str | None, tuple[Example, ...]],
    *,
    source: str,
    seed: int,
    labels: Sequence[str] | None,
) -> Splits:
    if None in tables:
        named = named_splits(tables[None], examples[None])
        return draw_splits(examples[None], source=source, seed=seed, labels=labels) if named is None else named
    if list(tables) == ["train"] and len(tables["train"]) >= 3:
        return draw_splits(examples["train"], source=source, seed=seed, labels=labels)
    return {split: rows for split, rows in examples.items() if split is not None}
