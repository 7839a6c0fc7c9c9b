"""Commands that only look at files start at once: nothing they import brings torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handmade import write_module
from headstart.backbones.locating import possible
from headstart.errors import BackboneError
from headstart.hub import Hub

HEAVY = ("torch", "transformers", "peft", "datasets", "sklearn", "scipy", "pandas")


def heavy_after(statement: str) -> list[str]:
    """Which of `HEAVY` are loaded after `statement` ran in a new process."""
    loaded = loaded_after(statement)
    return [name for name in HEAVY if name in loaded]


def loaded_after(statement: str) -> set[str]:
    """The modules that are loaded after `statement` ran in a new process."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_the_check_sees_a_heavy_import() -> None:
    assert heavy_after("import pandas") == ["pandas"]


@pytest.mark.parametrize(
    "module",
    [
        "headstart",
        "headstart.records",
        "headstart.registry",
        "headstart.atomic",
        "headstart.hub.remote",
        "headstart.units",
    ],
)
def test_light_modules_stay_light(module: str) -> None:
    assert heavy_after(f"import {module}") == []


@pytest.mark.parametrize(
    ("package", "registry"),
    [
        ("headstart.kinds", "KINDS"),
        ("headstart.indicators", "INDICATORS"),
        ("headstart.embeddings", "EMBEDDINGS"),
        ("headstart.blending", "RULES"),
        ("headstart.blending", "SPACES"),
        ("headstart.tasks", "METRICS"),
        ("headstart.tasks.sources", "SOURCES"),
        ("headstart.tuning.recipes", "RECIPES"),
        ("headstart.formats", "READERS"),
        ("headstart.units", "ENGINES"),
    ],
)
def test_names_are_listed_without_torch(package: str, registry: str) -> None:
    assert heavy_after(f"from {package} import {registry}\nassert list({registry})") == []


def test_what_a_package_offers_is_what_dir_shows() -> None:
    import headstart
    from headstart import kinds

    assert {"Hub", "rank", "merge"} <= set(dir(headstart))
    for package in (headstart, kinds):
        assert dir(package) == sorted(package.__all__)


def test_the_command_line_starts_light() -> None:
    assert heavy_after("import headstart.cli") == []


def test_a_hub_of_folders_needs_no_network_library() -> None:
    assert not {"huggingface_hub", "httpx2", "httpx"} & loaded_after("import headstart.hub")


def program(*arguments: str) -> str:
    """The statement that runs the program."""
    run = f"import headstart.cli\nsys.argv = ['headstart', *{arguments!r}]"
    return f"{run}\ntry:\n    headstart.cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code"


@pytest.mark.parametrize("arguments", [["--help"], ["hub", "list", "--help"], ["store", "list"], ["rank", "--help"]])
def test_help_needs_no_torch(arguments: list[str]) -> None:
    assert heavy_after(program(*arguments)) == []


def test_the_program_imports_the_command_that_runs_and_no_other() -> None:
    commands = {f"headstart.cli.{name}" for name in ("hub", "store", "rank", "tune", "ensemble", "compare", "families")}
    assert loaded_after(program("--help")) & commands == set()
    assert loaded_after(program("store", "list")) & commands == {"headstart.cli.store"}


LOOKING = (
    "numpy", "regex", "huggingface_hub", "concurrent.futures", "platformdirs", "importlib.resources.readers",
    "rich.progress", "headstart.records", "headstart.registry",
    "headstart.formats", "headstart.units", "headstart.cli.families", "headstart.hub.reading",
)  # fmt: skip
"""What a hub whose folders did not change is listed without: reading modules, seeking plug-ins, the user's cache."""


@pytest.mark.parametrize("arguments", [[], ["--family", "reviews", "--text", "7", "--sort", "-score"], ["--json"]])
def test_a_hub_is_listed_from_its_catalogue_alone(tmp_path: Path, arguments: list[str]) -> None:
    Hub.create(tmp_path / "hub").add(write_module(tmp_path / "made"))
    loaded = loaded_after(program("hub", "list", str(tmp_path / "hub"), *arguments))
    assert [name for name in (*HEAVY, *LOOKING) if name in loaded] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "no-module", "TASK"], "no-module is not a folder"),
        (["evaluate", "MODULE", "no-task"], "there is nothing at no-task"),
        (["predict", "no-module", "TASK/train.jsonl"], "no-module is not a folder"),
        (["export", "no-module", "-o", "out"], "no-module is not a folder"),
        (["tune", "TASK", "--start", "no-module", "-o", "out"], "no-module is not a folder"),
        (["tune", "TASK", "-b", "no-backbone", "-o", "out"], "no backbone at no-backbone"),
        (
            ["fit", "TASK", "--hub", "HUB", "-o", "out"],
            "does not say which backbone it is for; give the frozen model with --backbone",
        ),
        (["fit", "TASK", "--hub", "HUB", "-b", "no/such/place", "-o", "out"], "no backbone at no/such/place"),
        (
            ["fit", "TASK", "--hub", "HUB", "-b", "MODULE", "-o", "out", "--start", "ensembl"],
            "unknown method 'ensembl'; did you mean 'ensemble'?",
        ),
    ],
)
def test_a_mistyped_path_is_told_before_torch_is_loaded(words: list[str], message: str, tmp_path: Path) -> None:
    write_module(tmp_path / "made" / "ada")
    Hub.create(tmp_path / "hub").add(tmp_path / "made" / "ada")
    (tmp_path / "task").mkdir()
    rows = "".join(f'{{"input": "row {n}", "output": "{"yn"[n % 2]}"}}\n' for n in range(20))
    for split in ("train", "dev", "test"):
        (tmp_path / "task" / f"{split}.jsonl").write_text(rows.replace("row", split))
    places = {"TASK": tmp_path / "task", "HUB": tmp_path / "hub", "MODULE": tmp_path / "hub" / "ada"}
    typed = [str(places.get(word.partition("/")[0], word)) + word[4:] * word.startswith("TASK/") for word in words]
    statement = (
        "import contextlib, io\nfrom headstart import cli\n"
        f"sys.argv = ['headstart', *{typed!r}]\nheard = io.StringIO()\n"
        "with contextlib.redirect_stderr(heard), contextlib.suppress(SystemExit):\n    cli.main()\n"
        f"assert {message!r} in ' '.join(heard.getvalue().split()), heard.getvalue()"
    )
    assert not {"torch", "transformers", "peft"} & loaded_after(statement)


def test_a_mistyped_backbone_in_a_folder_that_is_here_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackboneError, match=r"no backbone at models/lama \(did you mean models/llama\?\); give"):
        possible("models/lama")
    assert possible("models/llama") == "models/llama"
    assert possible("owner/lama") is None, "the Hugging Face Hub is to be asked"
