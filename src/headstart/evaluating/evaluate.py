"""Evaluating one module on one split of a task, through the store."""

from headstart.backbones import BackboneInput, BackboneLike, TextFormat, as_backbone, backbone_loaders
from headstart.errors import SettingError
from headstart.evaluating.answering import check_decoding
from headstart.evaluating.calibration import Calibration, calibrate, check_calibration, fit_calibration
from headstart.evaluating.evaluation import Evaluation
from headstart.evaluating.unit import EvaluateUnit
from headstart.events import Listener
from headstart.kinds import ModuleLike, as_module
from headstart.tasks import METRICS, Task, TaskLike, as_task
from headstart.units import AnyStore, Content, Results, Store, run

__all__ = ["MOST_INPUTS", "calibration_units", "chosen_calibration", "evaluate"]

MOST_INPUTS = 256
"""At most this many rows of dev and of train, each, are read to choose a calibration."""


def evaluate(
    module: ModuleLike | None,
    task: TaskLike,
    backbone: BackboneLike,
    *,
    split: str = "test",
    metric: str | None = None,
    decoding: str = "auto",
    calibration: str | None = None,
    text_format: TextFormat | None = None,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Evaluation:
    """Evaluate a module on a split of a task.

    Args:
        module: a module, a result that holds one, its folder, or `None` for the bare backbone.
        task: with the split to evaluate on, whose targets are known.
        backbone: the frozen model.
        split: "test", "dev" or "train".
        metric: a name in `METRICS`; `None` is the task's.
        decoding: "options" takes the likeliest of each row's options, "generate" decodes greedily, "auto" is "options"
            if every row lists some. On an encoder, the module answers through its task head.
        calibration: "none", "length", "batch", or "auto" for the one with the best dev score; `None` is the one on the
            module's card, else none. "batch" and "auto" read inputs of dev and train.
        text_format: text layout and cut lengths; `None` is that on the module's card, else the standard.
        store: where the result is kept; `None` is the user's store, `False` keeps nothing.
        engine: where it is computed: "serial", or "processes=N".
        progress: hears how far it is.

    Raises:
        ModuleError: the module's folder is broken, or the module does not fit the backbone.
        SettingError: unknown metric, decoding or calibration, or an encoder without a module to answer.
        TaskError: the split is missing or empty.
    """
    check_calibration(calibration or "none")
    loaded = None if module is None else as_module(module).load()
    task, backbone = as_task(task), as_backbone(backbone)
    check_decoding(decoding, backbone)
    measure = METRICS[metric or task.card.metric].name
    if loaded is None and backbone.is_encoder:
        raise SettingError(f"{backbone.name} is an encoder, which answers through a task head; give a tuned module")
    if loaded is not None:
        loaded.check(backbone)
    card = None if loaded is None else loaded.card
    layout = text_format or (card and card.text_format) or TextFormat()
    rows = Content(task.rows(split), task.fingerprint(split))
    unit = EvaluateUnit(
        BackboneInput.of(backbone), loaded, rows, measure, decoding, layout,
        name=f"{card.name if card else backbone.name} on {task.name}, {split}",
    )  # fmt: skip
    further = calibration_units(unit, task) if calibration in ("auto", "batch") else []
    with Store.opened(store) as kept:
        found = run([unit, *further], store=kept, engine=engine, loaders=backbone_loaders(backbone), listener=progress)
    if calibration is None:
        chosen = (card and card.calibration) or Calibration()
    else:
        chosen = chosen_calibration(further or [unit], found, method=calibration)
    return calibrate(unit.evaluation(found.of(unit)), chosen)


def calibration_units(unit: EvaluateUnit, task: Task) -> list[EvaluateUnit]:
    """The evaluations of the same module by which its calibration is chosen: on rows of dev, and of train if any."""
    found = []
    for split in ("dev", "train"):
        if split == "dev" or split in task.splits:
            some = task.take(split, MOST_INPUTS)
            rows = Content(some.rows(split), some.fingerprint(split))
            found.append(EvaluateUnit(
                unit.backbone, unit.module, rows, unit.metric, unit.decoding, unit.text_format,
                name=f"{unit.name}, calibration on {split}",
            ))  # fmt: skip
    return found


def chosen_calibration(units: list[EvaluateUnit], found: Results, *, method: str) -> Calibration:
    """The calibration of a module from the results of its `calibration_units`."""
    dev, *others = (unit.evaluation(found.of(unit)) for unit in units)
    return fit_calibration(dev, *others, method=method)
