"""`headstart export`."""

from pathlib import Path
from typing import Annotated

import typer

from headstart.atomic import refuse_existing
from headstart.cli.options import AsJson, DeviceOption, OutputOption, command, load_backbone
from headstart.cli.output import print_json, print_line

__all__ = ["export"]


@command
def export(
    module: Annotated[Path, typer.Argument(help="Folder of the module.")],
    output: OutputOption,
    merged: Annotated[
        bool, typer.Option("--merged", help="Write the whole backbone with the module merged into its weights.")
    ] = False,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", "-b", help="Folder or hub id of the frozen model; default: the module's own."),
    ] = None,
    device: DeviceOption = "cpu",
    dtype: Annotated[
        str, typer.Option(help="In which merged weights are written: float32, bfloat16 (which rounds more) or float16.")
    ] = "float32",
    as_json: AsJson = False,
) -> None:
    """Write MODULE for other programs: a PEFT folder that finds its backbone, or the backbone with it merged in.

    LoRA, IA3 and BitFit can be merged. The result is a model like any other, for transformers, vLLM and the like.
    """
    refuse_existing(output)
    from headstart.formats import read_module

    stored = read_module(module.expanduser())  # before torch, so that a mistake is told at once
    from headstart.backbones.locating import place_of
    from headstart.kinds import load_module, own_backbone, save_module
    from headstart.kinds.exporting import save_merged
    from headstart.kinds.saving import based_on

    loaded = load_module(stored)
    place = place_of(backbone or own_backbone(loaded))
    if not merged:
        save_module(based_on(loaded, place), output)
        if as_json:
            print_json({"folder": str(output), "backbone": place})
            return
        print_line(f"Saved {output}, a module for the backbone {place}.")
        return
    made = save_merged(loaded, output, load_backbone(place, device, dtype))
    if as_json:
        print_json({"folder": str(output), "backbone": place, "rounding": made.rounding})
        return
    if loaded.card.calibration is not None and loaded.card.calibration.method != "none":
        print_line(
            "The calibration of its answers is not in the weights: what the merged model writes is worse than what "
            "`headstart predict` says. The code in its README.md chooses among few labels as that does.", error=True,
        )  # fmt: skip
    print_line(
        f"Saved {output}: {place} with {loaded.name} merged into {len(made.tensors)} of its tensors; rounded by "
        f"{made.rounding:.2g} of the change's norm."
    )
