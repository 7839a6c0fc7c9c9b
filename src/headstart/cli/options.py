"""The options that several commands share, in groups: each is declared once, and a group loads what its options name.

A command takes groups as parameters; `command` turns each into its options on the command line.
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

import typer

from headstart.atomic import refuse_existing
from headstart.cli.forecast import DryRunOption
from headstart.cli.output import print_line
from headstart.cli.progress import listening
from headstart.errors import SettingError

if TYPE_CHECKING:
    from headstart.backbones import Backbone
    from headstart.hub import Hub
    from headstart.kinds import ModuleLike
    from headstart.records import TextFormat
    from headstart.tasks import Task
    from headstart.tuning.recipes import Recipe

__all__ = [
    "AsJson",
    "BackboneOption",
    "BackboneOptions",
    "CalibrationOption",
    "DeviceOption",
    "DtypeOption",
    "ExcludeOption",
    "HubOptions",
    "IncludeOption",
    "LayoutOptions",
    "Options",
    "OutputOption",
    "ReadingOptions",
    "RecipeOptions",
    "ResultOptions",
    "StoreOption",
    "TaskOptions",
    "WorkOptions",
    "backbone_of",
    "command",
    "load_backbone",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
CalibrationOption = Annotated[
    str,
    typer.Option(
        help="How likelihoods of options are compared: none, length (per token), batch (less each option's mean over "
        "the inputs), or auto, the one with the best dev score."
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone", "-b",
        help="Folder, .gguf file or hub id of the frozen model; default: the one that the modules say they are for.",
    ),
]  # fmt: skip
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must not exist.")]


StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", help="Folder that keeps finished work; default: $HEADSTART_STORE, else one in your cache folder."
    ),
]


IncludeOption = Annotated[
    list[str] | None,
    typer.Option("--include", help="Only modules whose name fits this pattern, such as 'glue-*'; repeatable."),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option("--exclude", help="No modules whose name fits this pattern; repeatable.")
]


class Options:
    """Base of the groups: frozen dataclasses whose fields are annotated as typer's options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """The fields as the parameters of a command."""
        hints = get_type_hints(cls, include_extras=True)
        return [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in fields(cls)
        ]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as typer reads it: every parameter that is an `Options` group becomes the options of the group."""
    signature = inspect.signature(function, eval_str=True)
    groups: dict[str, type[Options]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Options):
            groups[name] = parameter.annotation
            parameters += groups[name].parameters()
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def run(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**made, **given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    return run


@dataclass(frozen=True)
class ResultOptions(Options):
    """Where the result goes, or that there is to be none."""

    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write; it must not exist. Only --dry-run does without it."),
    ] = None
    dry_run: DryRunOption = False

    def folder(self) -> Path:
        """The folder to write, for a dry run without one any name. Raises `OutputError` if there is something."""
        if self.output is not None:
            refuse_existing(self.output)
        elif not self.dry_run:
            raise SettingError("no folder to write is named; add -o FOLDER, or --dry-run to see what would be computed")
        return self.output or Path("dry-run")


@dataclass(frozen=True)
class ReadingOptions(Options):
    """How a task is read, and how much of it is used."""

    input: Annotated[
        str | None, typer.Option(help="Column of the input, or a template with columns in braces; default: input.")
    ] = None
    target: Annotated[str | None, typer.Option(help="Column of the answer, or a template; default: output.")] = None
    labels: Annotated[
        str | None,
        typer.Option(help="Classes, as a,b,c; default: the answers if they are few; none for open answers."),
    ] = None
    group: Annotated[
        str | None, typer.Option(help="Column of what rows have in common, such as an author; splits never share one.")
    ] = None
    metric: Annotated[
        str | None, typer.Option(help="Metric to use instead of the task card's; see `headstart list metrics`.")
    ] = None
    shots: Annotated[
        int | None, typer.Option(help="Draw K rows per class (4K without classes) from train and dev.")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed for draws, fresh modules and the order of rows.")] = 0

    def read(self, task: str, *, family: str | None = None, known: Mapping[str, Any] | None = None) -> "Task":
        """The task before any draw; what was inferred is said on standard error.

        `known`: arguments of `Task.load` that hold where no option says otherwise.
        """
        from headstart.tasks import Task
        from headstart.tasks.settings import NO_LABELS

        labels = self.labels if self.labels in (None, NO_LABELS) else [each.strip() for each in self.labels.split(",")]
        asked = {
            "metric": self.metric, "labels": labels, "family": family, "input": self.input, "target": self.target,
            "group": self.group,
        }  # fmt: skip
        given = {name: value for name, value in asked.items() if value is not None}
        found = Task.load(task, **{**(known or {}), **given}, seed=self.seed)
        for note in found.notes:
            print_line(note, error=True)
        return found

    def drawn(self, task: "Task") -> "Task":
        """The requested few-shot draw of `task`, else `task` itself."""
        if self.shots is None:
            return task
        drawn = task.few_shot(k=self.shots, seed=self.seed)
        for note in drawn.notes[len(task.notes) :]:
            print_line(note, error=True)
        return drawn


@dataclass(frozen=True, kw_only=True)
class TaskOptions(ReadingOptions):
    """The task that a command is about, and how it is read."""

    task: Annotated[
        str, typer.Argument(help="JSONL/CSV/TSV/Parquet file, folder with splits and task.json, or datasets id.")
    ]

    def whole(self, *, family: str | None = None) -> "Task":
        """The task before any draw."""
        return self.read(self.task, family=family)

    def load(self) -> "Task":
        """The task, with a few-shot draw if requested."""
        return self.drawn(self.whole())


@dataclass(frozen=True)
class HubOptions(Options):
    """The hub that a command reads, or its modules of one kind."""

    hub: Annotated[Path, typer.Option("--hub", help="Hub folder made by `headstart hub add`.")]
    kind: Annotated[str | None, typer.Option("--kind", help="Only modules of this kind: {kinds}.")] = None
    include: IncludeOption = None
    exclude: ExcludeOption = None

    def open(self) -> "Hub":
        """The opened hub."""
        from headstart.hub import Hub

        opened = Hub.open(self.hub)
        if self.include or self.exclude:
            opened = opened.where(include=self.include, exclude=self.exclude)
        return opened if self.kind is None else opened.of_kind(self.kind)


@dataclass(frozen=True)
class BackboneOptions(Options):
    """The backbone that a command runs, and its device and dtype."""

    backbone: BackboneOption = None
    device: DeviceOption = "auto"
    dtype: DtypeOption = "auto"

    def load(self, of: "Hub | ModuleLike | None" = None) -> "Backbone":
        """The backbone in memory; if none is named, the one that the module, or every module of the hub, is for."""
        return load_backbone(self.backbone or backbone_of(of), self.device, self.dtype)


@dataclass(frozen=True)
class LayoutOptions(Options):
    """How an input becomes a prompt; what is not given is as the module was tuned, else the standard."""

    suffix: Annotated[
        str | None, typer.Option(help=r"Text after every input; \\n is a line end; default: as the module was tuned.")
    ] = None
    prefix: Annotated[str | None, typer.Option(help="Text before every input; default: as the module was tuned.")] = (
        None
    )
    chat: Annotated[
        bool, typer.Option("--chat", help="Make the input the user's turn in the tokenizer's chat template.")
    ] = False

    def layout(self) -> dict[str, Any]:
        """What is given, by the names of `TextFormat`."""
        texts = {name: getattr(self, name) for name in ("suffix", "prefix")}
        given = {name: text.replace("\\n", "\n") for name, text in texts.items() if text is not None}
        return given | ({"chat_template": True} if self.chat else {})

    def text_format(self, known: "TextFormat | None") -> "TextFormat | None":
        """The layout for a module with `known` on its card; `None` leaves it to the card."""
        from headstart.records import TextFormat  # here: looking at a hub reads no card

        given = self.layout()
        if not given:
            return None
        kept = {} if known is None else known.model_dump(exclude={"suffix"} if self.chat else set())
        return TextFormat(**{**kept, **given})


@dataclass(frozen=True)
class RecipeOptions(LayoutOptions):
    """How modules are tuned, and on which prompts."""

    recipe: Annotated[str, typer.Option(help="Named recipe: {recipes}.")] = "few-shot"
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one setting of the recipe or of its kind, as name=value; repeatable. Such as max_steps=16, "
            "batch_size=8, lr=0.001, max_input=128, kind=lora, rank=8; an unknown name lists them all.",
        ),
    ] = None

    def changes(self) -> dict[str, Any]:
        """What `--set` and the options of the layout change; values of `--set` are read as JSON if possible."""
        changes: dict[str, Any] = self.layout()
        for setting in self.settings or []:
            key, separator, value = setting.partition("=")
            if not separator:
                raise SettingError(
                    f"--set {setting} is not of the form name=value; write for example --set max_steps=100"
                )
            try:
                changes[key] = json.loads(value)
            except json.JSONDecodeError:
                changes[key] = value
        return changes

    def load(self, *, start: Path | None = None) -> "Recipe":
        """The named recipe with the changes; `start` is a module that is tuned instead of a fresh one."""
        from headstart.tuning.recipes import RECIPES, Recipe

        changes = self.changes()
        shaping = [name for name in changes if Recipe.shapes(name)]
        recipe = RECIPES[self.recipe].change(**changes)
        if start is not None and shaping:
            raise SettingError(
                f"--set {shaping[0]} shapes a fresh module, and {start} keeps the shape that it has; "
                "leave out --start or that setting"
            )
        return recipe


@dataclass(frozen=True)
class WorkOptions(Options):
    """Where finished work is kept, and where new work is computed."""

    store: StoreOption = None
    engine: Annotated[str, typer.Option(help="Where work is computed: serial (in this process), or processes=N.")] = (
        "serial"
    )

    def __post_init__(self) -> None:
        """Raise `SettingError` for an unknown engine before anything is loaded."""
        from headstart.units import ENGINES

        ENGINES[self.engine.partition("=")[0]]


def backbone_of(of: "Hub | ModuleLike | None") -> str:
    """Where the backbone is that a module, or all modules of a hub, are for. Raises `SettingError` if none is named."""
    if of is None:
        raise SettingError("there is no module here that says which backbone it is for; name it with --backbone")
    from headstart.hub import Hub

    if isinstance(of, Hub):
        from headstart.backbones.stated import stated_by_hub

        return stated_by_hub(of)
    from headstart.kinds.loading import own_backbone  # torch

    return own_backbone(of)


def load_backbone(source: str, device: str, dtype: str) -> "Backbone":
    """The backbone a command runs; this is where torch is first imported, after a look whether there is one."""
    from headstart.backbones.locating import possible

    possible(source)
    with listening(f"loading the backbone {source}"):
        from headstart.backbones import Backbone

        return Backbone.load(source, device=device, dtype=dtype)
