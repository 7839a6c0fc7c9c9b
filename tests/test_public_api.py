"""What is public exists, is documented, and stands in the documentation."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import headstart

DOCS = Path(__file__).parents[1] / "docs"


def public_modules() -> list[str]:
    """Every module of the package whose path holds no underscore name."""
    found = (module.name for module in pkgutil.walk_packages(headstart.__path__, "headstart."))
    return ["headstart", *(name for name in found if not any(part.startswith("_") for part in name.split(".")))]


def commands() -> Iterator[str]:
    """Every command as the user types it: `hub list`."""
    import typer

    from headstart.cli import app
    from headstart.cli.commands import Deferred

    waiting = [("", typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        command = command.load() if isinstance(command, Deferred) else command
        children = getattr(command, "commands", {})
        waiting += [(f"{path} {name}".strip(), child) for name, child in children.items()]
        if path and not children:
            yield path


def documented(module: str) -> list[str]:
    """The public names of `module` that lack what a reader needs."""
    loaded = importlib.import_module(module)
    missing = [] if loaded.__doc__ else [f"{module} has no docstring"]
    for name in getattr(loaded, "__all__", ()):
        if not hasattr(loaded, name):
            missing.append(f"{module}.{name} is in __all__ but does not exist")
            continue
        value = getattr(loaded, name)
        if (inspect.isclass(value) or inspect.isroutine(value)) and not inspect.getdoc(value):
            missing.append(f"{module}.{name} has no docstring")
    return missing


@pytest.mark.parametrize("module", public_modules())
def test_a_public_name_exists_and_is_documented(module: str) -> None:
    assert documented(module) == []


@pytest.mark.parametrize("module", [name for name in public_modules() if name != "headstart"])
def test_a_module_says_what_is_public(module: str) -> None:
    loaded = importlib.import_module(module)
    if len(ast.parse(inspect.getsource(loaded)).body) == 1:
        return  # a package that is only a folder: its docstring is all there is
    assert hasattr(loaded, "__all__"), f"{module} has no __all__"
    assert len(loaded.__all__) == len(set(loaded.__all__))
    assert not [name for name in loaded.__all__ if name.startswith("_")]


def covered(page: str) -> set[str]:
    """The names that the `:::` lines of a page bring in: a module stands for all that it exports."""
    names = set()
    for identifier in re.findall(r"^::: (\S+)", page, flags=re.MULTILINE):
        try:
            names |= set(importlib.import_module(identifier).__all__)
        except ModuleNotFoundError:
            names.add(identifier.rpartition(".")[2])
    return names


def test_every_export_stands_in_the_reference() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    assert set(headstart.__all__) - covered(pages) - {"__version__"} == set(), "add a line `::: module` in docs/api/"


def test_the_overview_names_what_the_package_exports() -> None:
    overview = (DOCS / "api.md").read_text(encoding="utf-8")
    assert [name for name in headstart.__all__ if f"`{name}`" not in overview] == []
    for path in re.findall(r"\]\[([\w.]+)\]", overview):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_every_page_of_the_reference_is_listed() -> None:
    overview = (DOCS / "api.md").read_text(encoding="utf-8")
    menu = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (DOCS / "api").glob("*.md"):
        assert f"(api/{page.name})" in overview
        assert f"- {page.stem}: api/{page.name}\n" in menu
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# headstart.{page.stem}\n")
        named = re.findall(r"^::: (\S+)", text, flags=re.MULTILINE)
        assert named
        assert {name.split(".")[1] for name in named} == {page.stem}


def test_what_has_no_page_is_said_to_have_none() -> None:
    overview = " ".join((DOCS / "api.md").read_text(encoding="utf-8").split())
    said = re.search(r"So may (.+?), which have no page here", overview)
    assert said
    exempt = {name.removeprefix("headstart.") for name in re.findall(r"`([\w.]+)`", said[1])}
    top = {module.name for module in pkgutil.iter_modules(headstart.__path__) if not module.name.startswith("_")}
    assert top - {page.stem for page in (DOCS / "api").glob("*.md")} == exempt


def test_the_reports_name_modules_that_exist() -> None:
    import headstart.reports

    named = set(re.findall(r"`(\w+)`", str(headstart.reports.__doc__)))
    assert named <= {module.name for module in pkgutil.iter_modules(headstart.reports.__path__)}
    assert named == set(re.findall(r"`(\w+)`", (DOCS / "api" / "reports.md").read_text(encoding="utf-8")))


def test_every_name_a_user_types_stands_in_the_methods() -> None:
    from headstart.blending import RULES, SPACES
    from headstart.comparing.methods import METHODS
    from headstart.embeddings import EMBEDDINGS
    from headstart.indicators import INDICATORS
    from headstart.tasks.metrics import METRICS

    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    typed = (*INDICATORS, *EMBEDDINGS, *METRICS)
    assert [name for name in typed if f"`{name}`" not in page] == []
    # Several tables share names such as `random` and `best_single`, so each family is looked for in its own.
    for family, heading in ((RULES, "### Rules"), (SPACES, "### Spaces"), (METHODS, "## What it is compared with")):
        section = re.split(r"\n##", page.partition(f"\n{heading}")[2])[0]
        assert [name for name in family if f"\n| `{name}` |" not in section] == []


def test_every_command_stands_in_its_page() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert [command for command in commands() if f"headstart {command}" not in page] == []
