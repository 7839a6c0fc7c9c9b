"""The commands by name: each is imported when it is run, so that the program and its `--help` start without them."""

import re
from pkgutil import resolve_name
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

__all__ = ["COMMANDS", "Deferred", "Explained", "Program"]

COMMANDS = {
    "fit": (
        "headstart.cli.fit:fit",
        "Make a tuned module for TASK, begun from a hub's modules if that is shown to help, else from scratch.",
    ),
    "hub": ("headstart.cli.hub:app", "Look after a hub of modules: add, edit, list, show, check, remove, push."),
    "task": ("headstart.cli.task:task", "Show what is understood of TASK: columns, splits, classes, prompts, lengths."),
    "tune": (
        "headstart.cli.tune:tune",
        "Tune a module on TASK and save the best state as a PEFT folder. A killed run continues with the same command.",
    ),
    "evaluate": (
        "headstart.cli.evaluate:evaluate",
        "Score MODULE on the test rows of TASK: the metric, every class, and which answers are taken for which.",
    ),
    "predict": (
        "headstart.cli.predict:predict",
        "Answer the rows of FILE with MODULE: the same rows come out, with a label and its probability.",
    ),
    "export": (
        "headstart.cli.export:export",
        "Write MODULE for other programs: a PEFT folder that finds its backbone, or the backbone with it merged in.",
    ),
    "rank": (
        "headstart.cli.rank:rank",
        "Score every module of a hub for TASK by the indicators asked for, in one pass; higher is better.",
    ),
    "search": (
        "headstart.cli.search:search",
        "Find the modules of a hub whose tasks are most similar to TASK, to a module (--like) or to words (--text).",
    ),
    "ensemble": (
        "headstart.cli.ensemble:ensemble",
        "Blend a hub's modules into a start for TASK, by default Σ softmax(S_i / τ) O_i, and save it as a PEFT folder.",
    ),
    "compare": (
        "headstart.cli.compare:compare",
        "Compare ways to start on TASK, before and after tuning, and write a report.",
    ),
    "evaluate-ranking": (
        "headstart.cli.evaluate_ranking:evaluate_ranking",
        "Measure rules that rank soft prompts by their parameters, against the measured transfer in FOLDER.",
    ),
    "store": ("headstart.cli.store:app", "Look after finished work: list, show, export, prune."),
    "list": (
        "headstart.cli.families:list_families",
        "List what options can name: kinds, indicators, rules, spaces, metrics, recipes and more, plug-ins included.",
    ),
}
"""Each command's "module:object" and the first paragraph of its help, in the order of the program's help."""

MARK = re.compile(r"\{(\w+)\}")
"""A family's plural in the help of an option, to be replaced by the names of its members."""


class Deferred(TyperCommand):
    """A command known only by its name and the first paragraph of its help; `load` imports it."""

    def __init__(self, name: str, *, reference: str, line: str) -> None:
        super().__init__(name, help=line)
        self.reference = reference

    def load(self) -> Any:
        """The command as it is run."""
        found, whole = resolve_name(self.reference), typer.Typer(rich_markup_mode="markdown")
        if isinstance(found, typer.Typer):
            whole.add_typer(found, name=self.name)
        else:
            whole.command(self.name, cls=Explained)(found)
        return typer.main.get_group(whole).commands[str(self.name)]


class Program(TyperGroup):
    """The group of all `COMMANDS`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (reference, line) in COMMANDS.items():
            self.add_command(Deferred(name, reference=reference, line=line))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command to run, imported now."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found.load() if isinstance(found, Deferred) else found, rest


class Explained(TyperCommand):
    """A command whose help names the members of families: "{kinds}" becomes "lora, adapter … or ia3"."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        for parameter in self.params:
            if isinstance(parameter, TyperArgument | TyperOption) and parameter.help:
                parameter.help = MARK.sub(_names, parameter.help)
        super().format_help(ctx, formatter)


def _names(mark: re.Match[str]) -> str:
    # Looking for plug-ins reads a file of every installed package, which running a command does not need.
    from headstart.cli.families import names_of_family

    return names_of_family(mark[1])
