"""`headstart evaluate`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.atomic import refuse_existing, write_text
from headstart.cli.options import AsJson, BackboneOptions, LayoutOptions, TaskOptions, WorkOptions, command
from headstart.cli.output import console, print_json, print_line
from headstart.cli.progress import UnitCount, listening
from headstart.errors import TaskError
from headstart.showing import plural

if TYPE_CHECKING:
    from headstart.evaluating.evaluation import Evaluation
    from headstart.kinds import Module
    from headstart.tasks import Task

__all__ = ["BARE", "ModuleArgument", "evaluate", "given_module"]

BARE = "none"
"""What stands for the bare backbone in place of a module's folder."""

ModuleArgument = Annotated[str, typer.Argument(help="Folder of the module, or none for the bare backbone.")]


@command
def evaluate(
    module: ModuleArgument,
    task: TaskOptions,
    backbone: BackboneOptions,
    layout: LayoutOptions,
    work: WorkOptions,
    split: Annotated[str, typer.Option(help="The rows to score on: test, dev, train or all.")] = "test",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="How likelihoods of options are compared: none, length, batch, or auto (best on dev); default: as the "
            "module's card says."
        ),
    ] = None,
    decoding: Annotated[str, typer.Option(help="auto, options (by likelihood) or generate (greedy).")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV file to write, one line per row; it must not exist.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score MODULE on the test rows of TASK: the metric, every class, and which answers are taken for which."""
    if output is not None:
        refuse_existing(output)
    given = given_module(module)
    data = _as_tuned(task, given).load()
    model = backbone.load()
    from headstart.evaluating.evaluate import evaluate as run

    with listening(f"evaluating on {data.name}") as listener:
        units = UnitCount(listener)
        found = run(
            given, data, model, split=split, decoding=decoding, calibration=calibration, store=work.store,
            text_format=layout.text_format(given.card.text_format if given else None), engine=work.engine,
            progress=units,
        )  # fmt: skip
    if output is not None:
        write_text(output, found.frame().to_csv(index=False))
    lines = _baselines(data, split, found.metric)
    if as_json:
        print_json(_facts(found, data, split) | {"baselines": lines, "units": units.to_json()})
        return
    _print(found, data, split, lines)
    others = len(data.rows("all")) - len(data.rows(split))
    if others and Path(task.task).is_file():
        print_line(f"The file's other {plural(others, 'row')} were not scored; --split all scores every row.")
    if output is not None:
        print_line(f"Wrote {output}.")
    units.say()


def _as_tuned(task: TaskOptions, module: "Module | None") -> TaskOptions:
    """The options; a file that says nothing itself is read as the module was tuned, if it has those columns."""
    from headstart.tasks.columns import source_columns
    from headstart.tasks.sources.locate import settings_path
    from headstart.tasks.template import FieldTemplate

    card, beside = module.card if module else None, settings_path(task.task)
    if card is None or card.template is None or any((task.input, task.target, task.labels)):
        return task
    if not Path(task.task).is_file() or (beside is not None and beside.exists()):
        return task
    there = {column.name for column in source_columns(task.task)}
    read, known = (set(FieldTemplate.parse(text).columns) for text in (card.template.input, card.template.target))
    if {"input", "output"} <= there or not read <= there:
        return task
    if not known <= there:
        raise TaskError(
            f"{task.task} has no column '{min(known - there)}', which held the answers when '{card.name}' was tuned; "
            "name another one with --target, or answer rows whose answers are not known with `headstart predict`"
        )
    labels = ",".join(card.labels or ())
    whole = bool(card.labels) and labels.count(",") == len(card.labels or ()) - 1
    print_line(
        f"{task.task} is read as '{card.name}' was tuned: {card.template.input} → {card.template.target}", error=True
    )
    return replace(
        task, input=card.template.input, target=card.template.target, labels=labels if whole else None,
        metric=task.metric or card.metric,
    )  # fmt: skip


def given_module(text: str) -> "Module | None":
    """The module in the folder that an argument names, `None` for the bare backbone."""
    if text == BARE:
        return None
    from headstart.kinds import load_module

    return load_module(text)


def _baselines(task: "Task", split: str, metric: str) -> dict[str, float]:
    """What guessing and the most frequent answer would score on these rows, where that is defined."""
    from headstart.tasks.baselines import chance, majority

    rows = task.rows(split)
    found = [chance(rows, metric)]
    if task.splits.get("train"):
        card = task.card.model_copy(update={"metric": metric})
        found.append(majority(replace(task, card=card, splits={**task.splits, "test": rows}), [task]))
    return {line["name"]: line["score"] for line in found if not math.isnan(line["score"])}


def _facts(found: "Evaluation", task: "Task", split: str) -> dict[str, Any]:
    classes = bool(found.classes)
    return {
        "task": task.name, "split": split, "rows": len(found.predictions), "metric": found.metric,
        "score": found.score, "uncalibrated": found.uncalibrated_score, "loss": found.loss, "decoding": found.decoding,
        "calibration": found.calibration.model_dump(mode="json"),
        "classes": found.per_class().to_dict("records") if classes else [],
        "confusion": found.confusion().to_dict("index") if classes else {},
    }  # fmt: skip


def _print(found: "Evaluation", task: "Task", split: str, baselines: dict[str, float]) -> None:
    from headstart.reports.console import print_table
    from headstart.tasks.head import REGRESSION

    how = {"options": "chosen among options", "generate": "written", "head": "given by a task head"}[found.decoding]
    unit = (
        "squared error a row" if task.card.metric in REGRESSION and found.decoding == "head" else "nats a target token"
    )
    print_line(
        f"{task.name}, {split}: {found.metric} {found.score:.4f} on {len(found.predictions)} rows, answers {how}; "
        f"loss {found.loss:.4f} {unit}."
    )
    if found.calibration.method != "none":
        print_line(f"Calibrated ({found.calibration.method}); without, {found.uncalibrated_score:.4f}.")
    if baselines:
        print_line("For comparison: " + ", ".join(f"{name} {score:.4f}" for name, score in baselines.items()) + ".")
    if found.classes:
        print_line("")
        print_table(found.per_class(), console(), title="Each class")
        print_line("")
        table = found.confusion().reset_index().rename(columns={"target": "target / prediction"})
        print_table(table, console(), title="Which answers are taken for which: a line per class, a column per answer")
