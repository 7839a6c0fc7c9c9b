"""A task's settings: what a caller asks for, and the `task.json` beside the data."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.atomic import write_text
from headstart.errors import SettingError, TaskError
from headstart.records import TaskCard, Template
from headstart.tasks.metrics import METRICS
from headstart.tasks.options import OPTIONS
from headstart.tasks.sources import Located, settings_path
from headstart.tasks.sources.rows import LONGEST_LINE

__all__ = ["NO_LABELS", "Settled", "Wishes", "settle", "write_settings"]

NO_LABELS = "none"
"""What is given as labels where targets are open, however few they are."""

TEMPLATE = tuple(Template.model_fields)
FOR_PEOPLE = ("dataset_license", "description", "remarks", "rows")
"""Keys of a `task.json` that say something to its readers; a licence of the data goes onto the card."""
KEYS = (*TaskCard.model_fields, *TEMPLATE, *FOR_PEOPLE)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a caller of `Task.load` or `Task.from_rows` sets; `None` leaves it to `task.json`, else to the defaults."""

    name: str | None = None
    metric: str | None = None
    labels: Sequence[str] | None = None
    family: str | None = None
    options: str | None = None
    input: str | None = None
    target: str | None = None
    separator: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Settled:
    """The card as far as it is known before any row is read.

    `stated`: which of the card's fields, and of the template's, somebody stated, here or in `task.json`; `in_file`:
    those that hold because `task.json` states them; `unused`: the file's keys that mean nothing here.
    """

    card: TaskCard
    stated: frozenset[str]
    in_file: frozenset[str]
    unused: tuple[str, ...] = ()


def settle(located: Located, wishes: Wishes) -> Settled:
    """Complete the card: wishes go before `task.json`, and that before the defaults.

    Raises `TaskError`, `CardError` or `SettingError` for what is malformed, unknown or contradictory.
    """
    fields, unused = ({}, ()) if located.settings is None else _read(located.settings)
    wished = {name: value for name, value in vars(wishes).items() if value is not None}
    in_file = frozenset(fields.keys() - wished.keys())
    fields |= wished
    stated = frozenset(fields)
    if wishes.labels is not None:
        fields["labels"] = _listed(wishes.labels)
    if fields.get("labels") == NO_LABELS:
        del fields["labels"]
    if "labels" in fields:
        fields.setdefault("metric", "ACC")
    fields = {"name": located.name, "source": located.source} | fields
    fields["template"] = {name: fields.pop(name) for name in TEMPLATE if name in fields}
    card = TaskCard.from_json(json.dumps(fields), source=str(located.settings or located.source))
    labels = card.labels
    if labels is not None and (len(set(labels)) < max(2, len(labels)) or not all(label.strip() for label in labels)):
        raise TaskError(
            f"task '{card.name}': labels {list(labels)} must be two or more different texts, none of them empty; "
            "correct them, or leave them out for open answers"
        )
    if card.options is not None:
        OPTIONS[card.options]
    return Settled(card.model_copy(update={"metric": METRICS[card.metric].name}), stated, in_file, unused)


def write_settings(card: TaskCard, source: str | Path) -> Path:
    """Write what a card states beside its source, so that the source is understood without any argument.

    Returns the file: `task.json` in a folder, `tickets.task.json` for `tickets.csv`. Raises `TaskError` if it exists
    with another content, or if the source is no file or folder.
    """
    path = settings_path(source)
    if path is None:
        raise TaskError(f"{source} is no file or folder that settings could be written beside; give them each time")
    stated = card.model_dump(mode="json", exclude={"schema_version", "source", "template"}, exclude_defaults=True)
    # Null for open answers: otherwise, few distinct ones would be taken for labels, and labels for options.
    stated = (
        {"name": card.name, "metric": card.metric, "labels": None}
        | ({"options": None} if card.labels is not None else {})
        | stated
        | card.template.model_dump(mode="json", exclude_none=True)
    )
    text = json.dumps(stated, indent=1, ensure_ascii=False) + "\n"
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return path
        raise TaskError(f"{path} exists and says something else; remove it first, or correct it by hand")
    write_text(path, text)
    return path


def _listed(labels: Sequence[str]) -> Sequence[str]:
    if labels == NO_LABELS:
        return labels
    if isinstance(labels, str):
        raise SettingError(f'labels={labels!r} is one text; give a list of labels, or "{NO_LABELS}" for open answers')
    return [str(label) for label in labels]


def _read(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a `task.json` states, with the template's fields beside the others; and the keys that mean nothing here.

    Published data often has more keys than these; one that may be a known key misspelt is refused.
    """
    data = _parse(path)
    template = data.pop("template", None)
    if template is not None and not isinstance(template, dict):
        raise TaskError(f'{path}: "template" is not a JSON object; write it as {{"input": …, "target": …}}')
    unused = tuple(key for key in data if key not in KEYS)
    for key in unused:
        if near := _nearest(key, KEYS):
            raise TaskError(
                f'{path}: the key "{key}" is not known; did you mean "{near}"? '
                'What is for readers only goes under "remarks"'
            )
    for key in template or {}:
        if key not in TEMPLATE:
            near = _nearest(key, TEMPLATE)
            remedy = f'did you mean "{near}"?' if near else f"the keys are {', '.join(TEMPLATE)}"
            raise TaskError(f'{path}: the key "{key}" of "template" is not known; {remedy}')
    twice = next((key for key in template or {} if key in data), None)
    if twice is not None:
        raise TaskError(f'{path} states "{twice}" twice; remove it from "template" or from beside it')
    data |= template or {}
    # A card writes null for open answers without classes.
    closed = {key: data[key] or NO_LABELS for key in ("options", "labels") if key in data and data[key] != []}
    stated = {key: value for key, value in data.items() if value is not None and key not in (*FOR_PEOPLE, *unused)}
    fields = stated | closed
    if data.get("dataset_license") is not None:
        fields["license"] = data["dataset_license"]
    if not isinstance(fields.get("source", ""), str):
        del fields["source"]
    return fields, unused


def _parse(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST_LINE:
            raise TaskError(f"{path} is longer than {LONGEST_LINE:,} bytes; shorten it, or remove it")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"cannot read {path}: {error}; write it as a JSON object, or remove it") from error
    if not isinstance(data, dict):
        raise TaskError(f'{path} is not a JSON object; write it as {{"name": …}}, or remove it')
    return data


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """The known key that was probably meant."""
    base = key.removesuffix("_template").removesuffix("_column").lower()
    return next(iter(difflib.get_close_matches(base, known, n=1, cutoff=0.7)), None)
