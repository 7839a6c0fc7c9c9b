"""`headstart list`: what can be named on the command line, plug-ins included, without importing any of it."""

import ast
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from headstart.cli.output import print_json, print_line, print_rows
from headstart.records import Record
from headstart.registry import Declared, Registry

__all__ = ["FAMILIES", "described", "legend", "list_families", "names_of_family"]

FAMILIES: Registry[Registry[Any]] = Registry(
    "family",
    members={
        "kinds": "headstart.kinds:KINDS",
        "indicators": "headstart.indicators:INDICATORS",
        "embeddings": "headstart.embeddings:EMBEDDINGS",
        "rules": "headstart.blending:RULES",
        "spaces": "headstart.blending:SPACES",
        "methods": "headstart.comparing.methods:METHODS",
        "metrics": "headstart.tasks:METRICS",
        "recipes": "headstart.tuning.recipes:RECIPES",
        "optimizers": "headstart.tuning.optimizers:OPTIMIZERS",
        "architectures": "headstart.architectures:ARCHITECTURES",
        "formats": "headstart.tasks.sources:SOURCES",
        "folders": "headstart.formats:READERS",
        "engines": "headstart.units.engines:ENGINES",
    },
)
"""Every family whose members a user can name, under the plural that `headstart list` takes."""

FamilyArgument = Annotated[str | None, typer.Argument(help="Family to list: kinds, indicators, rules …; default: all.")]


def names_of_family(family: str) -> str:
    """The names of a family's members in one text, for the help of an option."""
    return _either(FAMILIES[family])


def list_families(
    family: FamilyArgument = None,
    name: Annotated[str | None, typer.Argument(help="One member, with its settings and their defaults.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Load every member; exits with code 1 if one is broken.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List what options can name: kinds, indicators, rules, spaces, metrics, recipes and more, plug-ins included."""
    if family is not None and name is not None:
        _show(FAMILIES[family], family, name, as_json=as_json)
        return
    chosen = list(FAMILIES) if family is None else [family]
    broken = [problem for each in chosen for problem in (FAMILIES[each].problems() if check else ())]
    found = {each: FAMILIES[each].declared() for each in chosen}
    if as_json:
        print_json({each: [_row(member) for member in members] for each, members in found.items()})
    elif family is None:
        print_rows(
            [{"family": each, "members": ", ".join(FAMILIES[each])} for each in found],
            ("family", "members"),
            whole=("family",),
        )
    else:
        rows = [_row(member) for member in found[family]]
        columns = [column for column in ("name", "from", "what it is") if any(row[column] for row in rows)]
        print_rows(rows, columns, whole=("name", "from"))
    for member in (member for members in found.values() for member in members if member.problem):
        print_line(f"broken: {member.problem}", error=True)
    if broken:
        raise typer.Exit(1)


def legend(family: str, names: Sequence[str]) -> list[str]:
    """A line for each of these members of a family: its name, and what it is in a sentence, if it says so."""
    rows = {member.name: _row(member) for member in FAMILIES[family].declared() if member.name in names}
    return [f"{name}: {rows[name]['what it is']}." for name in names if name in rows and rows[name]["what it is"]]


def described(reference: str) -> str:
    """The docstring of "module:object", read from the source, because importing it may take seconds."""
    module, _, name = reference.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        match node:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) if found == name:
                return ast.get_docstring(node) or ""
            case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        return text
    return ast.get_docstring(tree) or ""


def _row(member: Declared) -> dict[str, Any]:
    # Only our own modules are looked up: finding a plug-in's imports its packages, which may be slow or broken.
    own = member.source == "headstart" and member.reference
    first = _first_sentence(described(member.reference)) if own else ""
    return {
        "name": member.name, "from": member.source, "what it is": first.rstrip("."), "problem": member.problem
    }  # fmt: skip


def _first_sentence(text: str) -> str:
    """What a docstring begins with: its first sentence, up to a semicolon, on however many lines."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return paragraph.partition("; ")[0].partition(". ")[0]


def _show(registry: Registry[Any], family: str, name: str, *, as_json: bool) -> None:
    """One member: what it is, and its settings."""
    member = registry[name]
    declared = next(each for each in registry.declared() if each.name == name)
    text = described(declared.reference) if declared.reference else ""
    settings = _settings(family, name, member)
    if as_json:
        print_json({"name": name, "from": declared.source, "what it is": text, "settings": settings})
        return
    if text:
        print_line(text)
    if settings:
        print_rows(settings, ("setting", "default", "type"), whole=("setting",))


def _settings(family: str, name: str, member: Any) -> list[dict[str, Any]]:
    """The settings of a member with their defaults: a kind's shape, a recipe's values, an indicator's parameters."""
    if isinstance(member, Record):
        return [{"setting": key, "default": _text(value), "type": ""} for key, value in member]
    if family == "kinds":
        from headstart.kinds.settings import settings_of

        member = settings_of(name)
    if not (isinstance(member, type) and is_dataclass(member)):
        return []
    types = get_type_hints(member)
    return [
        {
            "setting": field.name,
            "default": "" if field.default is MISSING else _text(field.default),
            "type": _type(types[field.name]),
        }
        for field in fields(member)
        if field.init
    ]


def _text(value: object) -> str:
    match value:
        case None:
            return "its own"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return _joined(value)
        case dict():
            return _joined([f"{key}={_text(each)}" for key, each in value.items()])
    if is_dataclass(value):
        return _text({field.name: getattr(value, field.name) for field in fields(value)})
    return str(value)


def _joined(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


def _either(names: Iterable[str]) -> str:
    """The names in one text, "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _type(annotation: object) -> str:
    """The type in words; that a setting may be left out is told by its default."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _either(map(str, members))
    if origin in (Union, UnionType):
        return _either(_type(member) for member in members if member is not NoneType)
    if origin is tuple and members[1:] == (...,):
        return f"{_type(members[0])}, several separated by commas"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
