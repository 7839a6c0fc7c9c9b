"""Tuning one module on one task."""

from pathlib import Path

from headstart.backbones import BackboneInput, BackboneLike, backbone_loaders
from headstart.evaluating.choice import CalibrationChoice
from headstart.evaluating.unit import EvaluateUnit
from headstart.events import Listener
from headstart.kinds import ModuleLike, as_module, backbone_for
from headstart.tasks import TaskLike, as_task
from headstart.tuning.lane import CurvePoint, Lane, Tuned
from headstart.tuning.lanes import tune_lanes
from headstart.tuning.recipes import Recipe, as_recipe
from headstart.tuning.run import text_format_of
from headstart.tuning.unit import TuneUnit
from headstart.units import AnyStore, Content, Store, run

__all__ = ["CurvePoint", "Lane", "Tuned", "text_format_of", "tune", "tune_lanes"]


def tune(
    task: TaskLike,
    backbone: BackboneLike | None = None,
    *,
    start: ModuleLike | None = None,
    recipe: Recipe | str = "few-shot",
    seed: int = 0,
    name: str | None = None,
    license: str = "",  # noqa: A002 - the field's own word, as on model cards
    calibration: str = "auto",
    checkpoint: Path | None = None,
    tracker: str | None = None,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Tuned:
    """Tune a module on `task.train` and keep the state with the best score on `task.dev`.

    The result is kept in the store: what was tuned before is not tuned again, whatever it is called, and a killed run
    continues from its last checkpoint.

    Args:
        task: with train and dev splits.
        backbone: stays frozen; it may compute in bfloat16, the module's parameters are float32. `None` is the one that
            the start names.
        start: where to begin, such as what `ensemble` returns or a module's folder; `None` is a fresh module of the
            recipe's kind and shape. On an encoder, its task head is kept if it was tuned on this very task; otherwise
            a fresh head is tuned with it.
        recipe: a `Recipe` or the name of one.
        seed: of the fresh module, the order of the rows, and dropout.
        name: of the tuned module; `None` is the task's name.
        license: of the tuned module, for its card.
        calibration: how likelihoods of options are compared when the module is used: "none", "length", "batch", or
            "auto" for the one with the best dev score. It stands on the card; the tuning itself knows nothing of it.
        checkpoint: a file that a killed run continues from, in place of the one in the store. It is written at every
            evaluation and once a minute. You remove it yourself.
        tracker: an accelerate tracker ("tensorboard", "wandb") that gets losses and scores of what is computed.
        store: where the result is kept; `None` is the user's store, `False` keeps nothing.
        engine: where it is computed: "serial", or "processes=N".
        progress: gets a `Progress` after every step.

    Raises:
        SettingError: unknown recipe, calibration or tracker, a calibration that is not possible for the task's
            answers, or a checkpoint of another run.
        ModuleError: the start does not fit the backbone, or is a variant that only PEFT can tune.
        TaskError: a split is missing or empty, or the backbone is an encoder and no head can answer the task.

    Examples:
        >>> tuned = hs.tune(task, backbone, start="my-hub/ada", recipe="quick", name="mine")
        >>> tuned
        Tuned(mine, lora of rank 2, 448 parameters, tuned on reviews; dev score ... at step ...)
        >>> tuned.curve[0].step
        0
    """
    task, chosen = as_task(task), as_recipe(recipe)
    begin = None if start is None else as_module(start, parameter="start").load()
    backbone = backbone_for(begin, backbone)
    if begin is not None and not backbone.encoder.whole:
        chosen = chosen.laid_out_as(begin.card.text_format)
    layout = text_format_of(chosen)
    identity = BackboneInput.of(backbone, layout)
    unit = TuneUnit.of(
        task, identity, start=begin, recipe=chosen, seed=seed, name=name, license=license,
        tracker=tracker, checkpoint=checkpoint,
    )  # fmt: skip
    answering = EvaluateUnit(
        identity, unit, Content(task.dev, task.fingerprint("dev")), task.card.metric, "auto", layout, name=unit.name
    )
    choice = CalibrationChoice.plan(answering, task, backbone, method=calibration)
    with Store.opened(store) as kept:
        results = run(
            [unit, *choice.units], store=kept, engine=engine, loaders=backbone_loaders(backbone), raising=False,
            listener=progress,
        ).or_raise()  # fmt: skip
        tuned = unit.tuned(results.of(unit))
        return tuned.made_for(choice.made(results), backbone.place, score=choice.dev_score(results))
