"""Whether a source has the columns that a task's templates name, and what to write if it has not."""

import difflib
import json
from collections.abc import Sequence

from headstart.errors import TaskError, spelled
from headstart.tasks.columns import Column, guess
from headstart.tasks.pairs import InputTemplate
from headstart.tasks.settings import Settled
from headstart.tasks.sources import Located
from headstart.tasks.template import FieldTemplate

__all__ = ["check_columns"]

MOST_SHOWN = 40
"""The most columns that an error names."""


def check_columns(settled: Settled, columns: Sequence[Column], located: Located) -> None:
    """Raise `TaskError` if the templates or the group name a column that is not among `columns`.

    The error names those there are, and what to write instead: as arguments, as options, or in the `task.json`.
    """
    template, group = settled.card.template, settled.card.group
    stated = {"input": template.input, "target": template.target, "group": group or ""}
    reads = {
        "input": InputTemplate(template.input, template.separator).columns,
        "target": FieldTemplate.parse(template.target).columns,
        "group": () if group is None else (group,),
    }
    known = [column.name for column in columns]
    absent = {
        name: missing for name, read in reads.items() if (missing := [each for each in read if not _has(known, each)])
    }
    if not (columns and absent):
        return
    free = [column for column in columns if not any(column.name in reads[name] for name in reads.keys() - absent)]
    guessed = dict(zip(("input", "target"), guess(free), strict=True))
    write = {
        name: _better(stated[name], missing, known) or guessed.get(name) or "COLUMN" for name, missing in absent.items()
    }
    missing = list(dict.fromkeys(column for each in absent.values() for column in each))
    there = ", ".join(known[:MOST_SHOWN]) + (f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else "")
    names = f"no column{'s' * (len(missing) > 1)} {' and '.join(map(repr, missing))}"
    said = f"there is {names} in {located.source} (columns: {there})".replace("is no columns", "are no columns")
    if located.settings is not None and absent.keys() <= settled.in_file:
        keys = ", ".join(f"{json.dumps(name)}: {json.dumps(text, ensure_ascii=False)}" for name, text in write.items())
        raise TaskError(f"{said}; write {keys} in {located.settings}")
    python, options = spelled(**write)
    raise TaskError(f"{said}; write {python}").with_options({python: options})


def _has(known: Sequence[str], column: str) -> bool:
    """A name with brackets may be a column's own name."""
    return any(column in (name, name.partition("[")[0]) for name in known)


def _better(template: str, absent: Sequence[str], known: Sequence[str]) -> str | None:
    """The template with the nearest names, `None` if a name is near no other."""
    for column in absent:
        near = difflib.get_close_matches(column, known, n=1)
        if not near:
            return None
        template = template.replace(column, near[0])
    return template
