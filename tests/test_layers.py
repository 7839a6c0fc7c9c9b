"""Imports point down: every module imports only from itself and from those before it in `LAYERS`, without a cycle."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "headstart"
LAYERS = (
    "errors",
    "extras",
    "atomic",
    "filenames",
    "showing",
    "records",
    "registry",
    "specs",
    "vectors",
    "events",
    "progress",
    "units",
    "statistics",
    "architectures",
    "formats",
    "tasks",
    "hub",
    "backbones",
    "kinds",
    "embeddings",
    "indicators",
    "evaluating",
    "tuning",
    "ranking",
    "blending",
    "comparing",
    "fitting",
    "reports",
    "testing",
    "cli",
    "__main__",
)
"""Every module and package directly below `headstart`, lowest first."""
NAMES_THAT_SAY_NOTHING = {"common", "core", "helpers", "misc", "util", "utils"}

Sources = Mapping[str, str]


def read_sources() -> dict[str, str]:
    """Dotted module name → source text. `headstart/__init__.py` is left out: it only names what lies where."""
    sources = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(("headstart", *parts)).removesuffix(".__init__")
        if name != "headstart":
            sources[name] = path.read_text(encoding="utf-8")
    return sources


def imported(source: str) -> Iterator[str]:
    """Every dotted name that `source` imports, wherever the import stands; a relative one begins with a dot."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                yield from (f"{'.' * level}{module or ''}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def targets(source: str, modules: Sources) -> set[str]:
    """The modules of `modules` that `source` imports; `from headstart.hub import Hub` imports `headstart.hub`."""
    return {
        name if name in modules else name.rpartition(".")[0]
        for name in imported(source)
        if name == "headstart" or name.startswith("headstart.")
    }


def layer(module: str) -> str:
    """`headstart.kinds.lora` lies in `kinds`."""
    return module.split(".")[1]


def offences(sources: Sources) -> list[str]:
    """What is wrong with the imports of `sources`, one sentence each."""
    found = [
        f"{module}: '{layer(module)}' is not in LAYERS; give it its place there"
        for module in sources
        if layer(module) not in LAYERS
    ]
    for module, source in sources.items():
        found += [
            f"{module} imports {name}: write it as an absolute import" for name in imported(source) if name[0] == "."
        ]
        for target in sorted(targets(source, sources)):
            if target == "headstart":
                found.append(f"{module} imports headstart, the package itself; import the module that holds it")
            elif target not in sources:
                found.append(f"{module} imports {target}, which does not exist")
            elif layer(module) in LAYERS and layer(target) in LAYERS[LAYERS.index(layer(module)) + 1 :]:
                found.append(f"{module} imports {target}: '{layer(target)}' lies above '{layer(module)}'")
    return found


def cycle(sources: Sources) -> list[str] | None:
    """A ring of modules that import one another, or `None`."""
    try:
        TopologicalSorter({module: targets(source, sources) for module, source in sources.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_imports_point_down() -> None:
    assert offences(read_sources()) == []


def test_no_imports_form_a_cycle() -> None:
    assert cycle(read_sources()) is None


def test_names_say_what_is_inside() -> None:
    found = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*") if path.stem in NAMES_THAT_SAY_NOTHING}
    assert found <= {"blending/spaces/core.py"}, "Core Space is a name from the literature"


@pytest.mark.parametrize(
    "source",
    [
        "import headstart.cli",
        "from headstart.cli import main",
        "from headstart import cli",
        "def late():\n    from headstart.cli import main",
        "if TYPE_CHECKING:\n    from headstart.cli import main",
        "def lazy():\n    return importlib.import_module('headstart.cli')",
    ],
)
def test_an_import_that_points_up_is_caught_wherever_it_stands(source: str) -> None:
    sources = {"headstart.kinds.lora": source, "headstart.cli": ""}
    assert offences(sources) == ["headstart.kinds.lora imports headstart.cli: 'cli' lies above 'kinds'"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"headstart.annex": ""}, "'annex' is not in LAYERS"),
        ({"headstart.errors": "from headstart import Hub"}, "imports headstart, the package itself"),
        ({"headstart.hub.card": "from headstart.hub.gone import find"}, "headstart.hub.gone, which does not exist"),
        ({"headstart.hub.card": "from . import catalogue"}, "write it as an absolute import"),
        ({"headstart.hub.card": "from .catalogue import find"}, "write it as an absolute import"),
    ],
)
def test_other_offences_are_caught(sources: Sources, message: str) -> None:
    (offence,) = offences(sources)
    assert message in offence


def test_imports_down_and_among_siblings_are_fine() -> None:
    sources = {
        "headstart.errors": "import json",
        "headstart.kinds": "from headstart.kinds import lora",
        "headstart.kinds.lora": "from headstart.kinds.stack import Stack\nfrom headstart.errors import ModuleError",
        "headstart.kinds.stack": "import torch",
    }
    assert offences(sources) == []
    assert cycle(sources) is None


def test_a_cycle_is_caught() -> None:
    sources = {
        "headstart.kinds": "from headstart.kinds.lora import LORA",
        "headstart.kinds.lora": "def late():\n    from headstart.kinds import KINDS",
    }
    assert set(cycle(sources) or ()) == set(sources)
