"""`headstart tune`."""

from pathlib import Path
from typing import Annotated

import typer

from headstart.atomic import refuse_existing
from headstart.cli.options import (
    AsJson,
    BackboneOption,
    DeviceOption,
    DtypeOption,
    MetricOption,
    OutputOption,
    RecipeOption,
    SeedOption,
    SetOption,
    ShotsOption,
    TaskArgument,
    console,
    load_backbone,
    load_recipe,
    load_task,
    print_json,
    print_line,
    progress_bar,
)

__all__ = ["tune"]


def tune(
    task: TaskArgument,
    backbone: BackboneOption,
    output: OutputOption,
    recipe: RecipeOption = "few-shot",
    settings: SetOption = None,
    start: Annotated[Path | None, typer.Option(help="PEFT folder to begin from instead of random values.")] = None,
    shots: ShotsOption = None,
    train_rows: Annotated[int | None, typer.Option(help="Tune on at most this many training rows.")] = None,
    name: Annotated[str | None, typer.Option(help="Name on the module's card; default: the folder's.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the tuned module, for its card.")] = "",  # noqa: A002
    family: Annotated[str | None, typer.Option(help="Family that replaces the task card's.")] = None,
    metric: MetricOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    tracker: Annotated[str | None, typer.Option(help="accelerate tracker: tensorboard, wandb …")] = None,
    as_json: AsJson = False,
) -> None:
    """Tune a module on TASK and save the best state as a PEFT folder. A killed run continues with the same command."""
    refuse_existing(output)
    chosen = load_recipe(recipe, settings)
    data = load_task(task, metric, seed=seed, family=family)
    if shots is not None:
        data = data.few_shot(k=shots, seed=seed)
    if train_rows is not None:
        data = data.take("train", train_rows, seed=seed)
    from headstart.kinds import load_module, save_module
    from headstart.tuning.tune import tune as run

    begin = load_module(start) if start else None
    model = load_backbone(backbone, device, dtype)
    checkpoint = output.with_name(f"{output.name}.partial")
    with progress_bar(f"tuning on {data.name}") as show:
        tuned = run(
            data,
            model,
            start=begin,
            recipe=chosen,
            seed=seed,
            name=name or output.name,
            license=license,
            checkpoint=checkpoint,
            tracker=tracker,
            progress=lambda p: show(p.step, p.max_steps, f"loss {p.train_loss:.3f}  best dev {p.best_score or 0:.3f}"),
        )
    saved = save_module(tuned.module, output)
    checkpoint.unlink(missing_ok=True)
    if as_json:
        curve = [vars(point) for point in tuned.curve]
        print_json({"module": saved.card.model_dump(mode="json"), "curve": curve, "notes": tuned.notes})
        return
    import pandas as pd

    from headstart.reports.console import table

    frame = pd.DataFrame([vars(point) for point in tuned.curve])
    console().print(table(frame, title=f"Tuning on {data.name}"))
    for note in tuned.notes:
        print_line(note)
    print_line(
        f"Saved {output}: dev {data.card.metric} {tuned.best.dev_score:.4f} (loss {tuned.best.dev_loss:.4f}) "
        f"at step {tuned.best.step}, {tuned.seconds:.0f} s on {model.device} in "
        f"{str(model.dtype).removeprefix('torch.')}."
    )
