"""From a source to a card and splits: locate the rows, complete the card, make text, find the options, split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import SettingError, TaskError
from headstart.records import TaskCard
from headstart.tasks.example import Example, seeded_order
from headstart.tasks.metrics import METRICS
from headstart.tasks.options import OPTIONS, TextRow, options_of
from headstart.tasks.pairs import InputTemplate
from headstart.tasks.sources import SPLIT_NAMES, Located, Rows, locate
from headstart.tasks.sources.rows import LONGEST_LINE
from headstart.tasks.template import FieldTemplate

__all__ = ["Wishes", "load_task"]

Splits = dict[str, tuple[Example, ...]]

_WANTED = ("schema_version", "name", "family", "metric", "labels", "options", "template", "license", "source")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a caller of `Task.load` sets; `None` leaves it to `task.json`, else to the defaults."""

    name: str | None = None
    metric: str | None = None
    labels: Sequence[str] | None = None
    family: str | None = None
    options: str | None = None
    input_template: str | None = None
    target_template: str | None = None
    separator: str | None = None


def load_task(source: str | Path, *, wishes: Wishes, seed: int) -> tuple[TaskCard, Splits]:
    """Read the card and the splits of `source`; see `Task.load` for what it may be and what is raised."""
    located = locate(source)
    card = _settle_card(located, wishes)
    tables = {
        split: _text_rows(rows, card, source=f"{source}" + (f", split '{split}'" if split else ""))
        for split, rows in located.tables.items()
    }
    chosen = card.options or _fitting_source(tables, card)
    card = card.model_copy(update={"options": None if chosen == "none" else chosen})
    examples = {
        split: tuple(Example(row.input, row.outputs, options_of(row, card, source=chosen), row.pair) for row in rows)
        for split, rows in tables.items()
    }
    if None in tables:
        return card, _split_whole(tables[None], examples[None], source=str(source), seed=seed)
    return card, {split: rows for split, rows in examples.items() if split is not None}


def _settle_card(located: Located, wishes: Wishes) -> TaskCard:
    fields: dict[str, Any] = {"name": located.name, "source": located.source}
    if located.settings is not None:
        fields |= _read_settings(located.settings)
    fields |= {
        key: value for key in ("name", "metric", "family", "options") if (value := getattr(wishes, key)) is not None
    }
    if wishes.labels is not None:
        if isinstance(wishes.labels, str):
            raise SettingError(f"labels={wishes.labels!r} is one text; give a list of labels")
        fields["labels"] = [str(label) for label in wishes.labels]
    fields.setdefault("metric", "ACC" if fields.get("labels") is not None else "EM")
    card = TaskCard.from_json(json.dumps(fields), source=str(located.settings or located.source))
    if card.labels is not None and (len(set(card.labels)) < 2 or len(set(card.labels)) < len(card.labels)):
        raise TaskError(
            f"task '{card.name}': labels {list(card.labels)} must be two or more different texts; "
            "correct them, or leave them out for open answers"
        )
    if card.options is not None:
        OPTIONS[card.options]
    given = {
        "input": wishes.input_template, "target": wishes.target_template, "separator": wishes.separator
    }  # fmt: skip
    template = card.template.model_copy(update={key: text for key, text in given.items() if text is not None})
    return card.model_copy(update={"metric": METRICS[card.metric].name, "template": template})


def _read_settings(path: Path) -> dict[str, Any]:
    data = _parse_settings(path)
    fields = {key: data[key] for key in _WANTED if data.get(key) is not None}
    if "options" in data:
        fields["options"] = data["options"] or "none"  # a card without options is written so
    if data.get("dataset_license") is not None:
        fields["license"] = data["dataset_license"]
    if not isinstance(fields.get("source", ""), str):
        del fields["source"]
    return fields


def _parse_settings(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST_LINE:
            raise TaskError(f"{path} is longer than {LONGEST_LINE:,} bytes; shorten it, or remove it")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"cannot read {path}: {error}; write it as a JSON object, or remove it") from error
    if not isinstance(data, dict):
        raise TaskError(f'{path} is not a JSON object; write it as {{"name": …}}, or remove it')
    return data


def _text_rows(rows: Rows, card: TaskCard, *, source: str) -> list[TextRow]:
    input_template = InputTemplate(card.template.input, card.template.separator)
    target_template = FieldTemplate(card.template.target)
    made = []
    for where, fields in rows:
        text, pair = input_template.text(fields, where=where)
        outputs = target_template.texts(fields, where=where)
        _check_text(text, outputs, card, where=where)
        made.append(TextRow(where, text, outputs, fields.get("options"), fields.get("split"), pair))
    if not made:
        raise TaskError(f"{source} has no rows; add some, or remove the file")
    return made


def _check_text(text: str, outputs: tuple[str, ...], card: TaskCard, *, where: str) -> None:
    if not text.strip():
        raise TaskError(f"{where}: the input is empty; fill it in or remove the row")
    if not outputs or not all(output.strip() for output in outputs):
        raise TaskError(f"{where}: the target is empty; fill it in or remove the row")
    try:
        "".join((text, *outputs)).encode()
    except UnicodeEncodeError as error:
        raise TaskError(f"{where}: the text has half a surrogate pair ({error}); correct the row") from error
    for output in outputs if card.labels is not None else ():
        if output not in (card.labels or ()):
            labels = ", ".join(card.labels or ())
            raise TaskError(f"{where}: the target {output!r} is not one of the labels ({labels}); correct one of them")


def _fitting_source(tables: Mapping[str | None, Sequence[TextRow]], card: TaskCard) -> str:
    if card.labels is not None:
        return "labels"
    for name in ("field", "inline"):
        source = OPTIONS[name]
        if all(set(row.outputs) <= set(source(row, card) or ()) for rows in tables.values() for row in rows):
            return name
    return "none"


def _split_whole(rows: Sequence[TextRow], examples: tuple[Example, ...], *, source: str, seed: int) -> Splits:
    if any(row.split is not None for row in rows):
        named: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
        for row, example in zip(rows, examples, strict=True):
            if str(row.split) not in SPLIT_NAMES:
                raise TaskError(f"{row.where}: split {row.split!r} is none of: {', '.join(SPLIT_NAMES)}; correct it")
            named[SPLIT_NAMES[str(row.split)]].append(example)
        return {split: tuple(part) for split, part in named.items() if part}
    if len(examples) < 3:
        raise TaskError(
            f"{source} has {len(examples)} rows, too few to split into train, dev and test; add rows, "
            "or give a folder with a file for each split"
        )
    fifth = max(1, len(examples) // 5)
    order = seeded_order(examples, purpose="split", seed=seed)
    parts = {"train": order[2 * fifth :], "dev": order[:fifth], "test": order[fifth : 2 * fifth]}
    return {split: tuple(examples[index] for index in sorted(part)) for split, part in parts.items()}
