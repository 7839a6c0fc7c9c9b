"""Evaluating one module on one split of a task, through the store."""

from dataclasses import replace
from pathlib import Path

from headstart.backbones import BackboneInput, BackboneLike, TextFormat, backbone_loaders
from headstart.errors import SettingError
from headstart.evaluating.answering import check_decoding
from headstart.evaluating.calibration import Calibration, calibrate, check_calibration
from headstart.evaluating.choice import CalibrationChoice
from headstart.evaluating.evaluation import Evaluation
from headstart.evaluating.reading import task_as_tuned, usual_split
from headstart.evaluating.unit import EvaluateUnit
from headstart.events import Listener, Note
from headstart.kinds import ModuleLike, as_module, backbone_for
from headstart.tasks import METRICS, TaskLike
from headstart.units import AnyStore, Content, Store, run

__all__ = ["evaluate"]

ON_TRAIN = (
    "The task has no dev rows, so the calibration with the best score on train rows is taken. A module that was tuned "
    "on these answers them better than others; a dev split chooses better."
)
WHOLE = (
    "All rows of {source} are scored, because the module was tuned on '{own}'; if that is the same table, score the "
    'test split alone (split="test", --split test).'
)
ON_SCORED = (
    "The calibration was chosen on rows that are scored too, which flatters it; score the test split, or name one: "
    "none, length or batch."
)


def evaluate(
    module: ModuleLike | None,
    task: TaskLike | object,
    backbone: BackboneLike | None = None,
    *,
    split: str | None = None,
    metric: str | None = None,
    decoding: str = "auto",
    calibration: str | None = None,
    text_format: TextFormat | None = None,
    bare: bool = False,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Evaluation:
    """Evaluate a module on a split of a task.

    Args:
        module: a module, a result that holds one, its folder, or `None` for the bare backbone.
        task: with the split to evaluate on, whose targets are known. The path of a file, or rows in memory (a pandas
            DataFrame, a list of dicts and whatever else `Task.from_rows` takes), are read as the module's own task was,
            if they have those columns and no settings beside them.
        backbone: the frozen model; `None` is the one that the module says it is for.
        split: "test", "dev", "train", or "all" for every row. `None` is "test", or "all" for rows in memory and for the
            path of a file that is not called as the module's own task: these are taken for new ones.
        metric: a name in `METRICS`; `None` is the task's.
        decoding: "options" takes the likeliest of each row's options, "generate" decodes greedily, "auto" is "options"
            if every row lists some. On an encoder, the module answers through its task head.
        calibration: "none", "length", "batch", or "auto" for the one with the best dev score, or train score without a
            dev split; `None` is the one on the module's card, else none. "batch" and "auto" read inputs of dev and
            train.
        text_format: text layout and cut lengths; `None` is that on the module's card, else the standard.
        bare: evaluate the bare backbone in place of the module, on the rows and in the layout that the module gets, and
            calibrated in the same way, but anew.
        store: where the result is kept; `None` is the user's store, `False` keeps nothing.
        engine: where it is computed: "serial", or "processes=N".
        progress: hears how far it is.

    Raises:
        ModuleError: the module's folder is broken, or the module does not fit the backbone.
        SettingError: unknown metric, decoding or calibration, or an encoder without a module to answer.
        TaskError: the split is missing or empty.

    Examples:
        >>> found = hs.evaluate("my-hub/ada", task, backbone)
        >>> found
        Evaluation(ACC ...; loss ... nats a row; 6 test rows, options)
        >>> list(found.per_class().columns)
        ['class', 'precision', 'recall', 'F1', 'support']
    """
    check_calibration(calibration or "none")
    loaded = None if module is None else as_module(module).load()
    card = None if loaded is None else loaded.card
    source, task = task, task_as_tuned(task, card)
    if split is None:
        split = usual_split(source, task, card)
        if split == "all" and progress and isinstance(source, str | Path):
            progress(Note(WHOLE.format(source=source, own=card.task if card else "")))
    backbone = backbone_for(loaded, backbone)
    check_decoding(decoding, backbone)
    measure = METRICS[metric or task.card.metric].name
    layout = text_format or (card and card.text_format) or TextFormat()
    if bare:
        if calibration is None and card is not None and card.calibration is not None:
            calibration = card.calibration.method
        loaded = card = None
    if loaded is None and backbone.is_encoder:
        remedy = "leave out bare=True" if bare else "give a tuned module"
        raise SettingError(f"{backbone.name} is an encoder, which answers through a task head; {remedy}").with_options(
            {"bare=True": "--bare"}
        )
    if loaded is not None:
        loaded.check(backbone)
    rows = Content(task.rows(split), task.fingerprint(split))
    unit = EvaluateUnit(
        BackboneInput.of(backbone, layout), loaded, rows, measure, decoding, layout,
        name=f"{card.name if card else backbone.name} on {task.name}, {split}",
    )  # fmt: skip
    choice = CalibrationChoice.plan(unit, task, backbone, method=calibration or "none")
    if choice.method == "auto" and progress:
        for said in [ON_TRAIN] * (choice.chosen_on == "train") + [ON_SCORED] * (split in (choice.chosen_on, "all")):
            progress(Note(said))
    with Store.opened(store) as kept:
        found = run(
            [unit, *choice.units], store=kept, engine=engine, loaders=backbone_loaders(backbone), listener=progress
        )
    chosen = ((card and card.calibration) or Calibration()) if calibration is None else choice.made(found)
    answered = calibrate(unit.evaluation(found.of(unit)), chosen)
    return replace(answered, split="" if split == "all" else split)
