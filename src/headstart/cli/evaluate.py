"""`headstart evaluate`."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.atomic import refuse_existing, write_text
from headstart.cli.options import AsJson, BackboneOptions, LayoutOptions, TaskOptions, WorkOptions, command
from headstart.cli.output import console, print_json, print_line
from headstart.cli.progress import UnitCount, listening
from headstart.showing import plural

if TYPE_CHECKING:
    from headstart.evaluating.evaluation import Evaluation
    from headstart.formats import StoredModule
    from headstart.records import ModuleCard
    from headstart.tasks import Task

__all__ = ["BARE", "ModuleArgument", "evaluate", "given_module"]

BARE = "none"
"""What stands for the bare backbone in place of a module's folder."""

ModuleArgument = Annotated[str, typer.Argument(help="Folder of the module, or none for the bare backbone.")]


@dataclass(frozen=True)
class EvaluatedTask(TaskOptions):
    """The task that a module is scored on; a file that says nothing itself is read as the module was tuned."""

    def load_for(self, card: "ModuleCard | None") -> "tuple[Task, str]":
        """The task, with a few-shot draw if requested, and the split that is scored if none is named."""
        from headstart.evaluating.reading import settings_as_tuned, usual_split

        known = {} if any((self.input, self.target, self.labels)) else settings_as_tuned(self.task, card)
        if known and card is not None:
            print_line(
                f"{self.task} is read as '{card.name}' was tuned: {known['input']} → {known['target']}", error=True
            )
        read = self.drawn(self.read(self.task, known=known))
        return read, usual_split(self.task, read, card)


@command
def evaluate(
    module: ModuleArgument,
    task: EvaluatedTask,
    backbone: BackboneOptions,
    layout: LayoutOptions,
    work: WorkOptions,
    split: Annotated[
        str | None,
        typer.Option(
            help="The rows to score on: test, dev, train or all; default: test, or all of another file than the module "
            "was tuned on."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="How likelihoods of options are compared: none, length, batch, or auto (best on dev); default: as the "
            "module's card says."
        ),
    ] = None,
    decoding: Annotated[str, typer.Option(help="auto, options (by likelihood) or generate (greedy).")] = "auto",
    bare: Annotated[
        bool, typer.Option("--bare", help="Score the bare backbone in place of MODULE, on the rows that MODULE gets.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV file to write, one line per row; it must not exist.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score MODULE on the test rows of TASK: the metric, every class, and which answers are taken for which."""
    if output is not None:
        refuse_existing(output)
    given = given_module(module)
    data, usual = task.load_for(given.card if given else None)
    if split is None and usual == "all" and given is not None:
        from headstart.evaluating.evaluate import WHOLE

        print_line(WHOLE.format(source=task.task, own=given.card.task), error=True)
    split = split or usual
    model = backbone.load(given)
    from headstart.evaluating.evaluate import evaluate as run

    with listening(f"evaluating on {data.name}") as listener:
        units = UnitCount(listener)
        found = run(
            given, data, model, split=split, decoding=decoding, calibration=calibration, store=work.store,
            text_format=layout.text_format(given.card.text_format if given else None), bare=bare, engine=work.engine,
            progress=units,
        )  # fmt: skip
    if output is not None:
        write_text(output, found.frame().to_csv(index=False))
    lines = _baselines(data, split, found.metric)
    if as_json:
        print_json(_facts(found, data, split) | {"baselines": lines, "units": units.to_json()})
        return
    others = len(data.rows("all")) - len(data.rows(split)) if Path(task.task).expanduser().is_file() else 0
    bare = bare or given is None
    _print(found, data, split, lines, others=others, bare=bare, uncalibrated=given is None and calibration is None)
    if output is not None:
        print_line(f"Wrote {output}.")
    units.say()


def given_module(text: str) -> "StoredModule | None":
    """The module in the folder that an argument names, `None` for the bare backbone; torch is not needed yet."""
    if text == BARE:
        return None
    from headstart.formats import read_module

    return read_module(Path(text).expanduser())


def _baselines(task: "Task", split: str, metric: str) -> dict[str, float]:
    """What guessing and the most frequent answer would score on these rows, where that is defined."""
    from headstart.tasks.baselines import chance, majority

    rows = task.rows(split)
    found = [chance(rows, metric)]
    if task.splits.get("train"):
        card = task.card.model_copy(update={"metric": metric})
        found.append(majority(replace(task, card=card, splits={**task.splits, "test": rows}), [task]))
    return {line["name"]: line["score"] for line in found if not math.isnan(line["score"])}


CALIBRATIONS = {
    "length": "an option's log-likelihood is divided by its number of tokens",
    "batch": "what an option gets whatever the input says is taken off, without looking at labels",
}
"""What is done to likelihoods of options before they are compared."""


def _facts(found: "Evaluation", task: "Task", split: str) -> dict[str, Any]:
    classes = bool(found.classes)
    return {
        "task": task.name, "split": split, "rows": len(found.predictions), "metric": found.metric,
        "score": found.score, "uncalibrated": found.uncalibrated_score, "loss": found.loss,
        "interval": list(found.interval), "answer_loss": found.answer_loss,
        "decoding": found.decoding,
        "calibration": found.calibration.model_dump(mode="json"),
        "classes": found.per_class().to_dict("records") if classes else [],
        "confusion": found.confusion().to_dict("index") if classes else {},
    }  # fmt: skip


def _print(
    found: "Evaluation",
    task: "Task",
    split: str,
    baselines: dict[str, float],
    *,
    others: int,
    bare: bool,
    uncalibrated: bool,
) -> None:
    from headstart.reports.console import print_table

    how = {"options": "chosen among options", "generate": "written", "head": "given by a task head"}[found.decoding]
    low, high = found.interval
    known = "" if math.isnan(low) else f" (95 % interval over rows {low:.3f} to {high:.3f})"
    print_line(
        f"{task.name}, {split}: {found.metric} {found.score:.4f} on {len(found.predictions)} rows{known}, answers "
        f"{how}; loss {found.answer_loss:.4f} {found.loss_unit}."
    )
    if others:
        print_line(f"The file's other {plural(others, 'row')} were not scored; --split all scores every row.")
    if uncalibrated and found.decoding == "options":
        print_line("Likelihoods are compared as they are; --calibration auto calibrates them, as tuned modules are.")
    if found.calibration.method != "none":
        print_line(
            f"Calibrated ({found.calibration.method}: {CALIBRATIONS[found.calibration.method]}); without calibration, "
            f"{found.metric} {found.uncalibrated_score:.4f}."
        )
    beside = [", ".join(f"{name} {score:.4f}" for name, score in baselines.items())] if baselines else []
    if not bare and found.decoding != "head":
        beside.append("the bare backbone by the same command with --bare")
    if beside:
        print_line(f"For comparison: {'; '.join(beside)}.")
    if found.classes:
        print_line("")
        print_table(found.per_class(), console(), title="Each class")
        print_line("")
        table = found.confusion().reset_index().rename(columns={"target": "target / prediction"})
        print_table(table, console(), title="Which answers are taken for which: a line per class, a column per answer")
