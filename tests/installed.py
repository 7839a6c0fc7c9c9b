"""Run by the Python of an environment that holds the installed wheel: import all of it, then rank a tiny hub.

Arguments: an empty folder to work in, and the extras that are installed. Nothing of the checkout is imported.
"""

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import headstart
from headstart import extras
from headstart.hub import Hub
from headstart.kinds import LoraModule, LoraSettings, save_module
from headstart.testing import tiny_backbone

SCRIPT = Path(sys.executable).with_name("headstart")
PROGRAM = [SCRIPT] if SCRIPT.exists() else [sys.executable, "-I", "-m", "headstart"]
"""An environment on top of another has the packages of both, but its own scripts only."""


def run(*words: object) -> str:
    """What the installed program prints."""
    done = subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"headstart {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def import_everything() -> int:
    """Import every module of the package: whatever it imports at the top must be a declared dependency."""
    names = [module.name for module in pkgutil.walk_packages(headstart.__path__, "headstart.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    return len(names)


def check_extras(given: set[str]) -> None:
    """Optional packages are there exactly if their extra was asked for; what is missing names its extra."""
    for package, extra in extras.EXTRAS.items():
        if extra in given:
            extras.require(package, for_what="this test")
            importlib.import_module(package)
        else:
            remedy = extras.missing(package)
            assert remedy == f"install it with pip install 'headstart[{extra}]'", (package, remedy)


def write_inputs(folder: Path) -> None:
    """A tiny backbone, a hub of two modules and a task of eight rows."""
    backbone = tiny_backbone("llama")
    backbone.model.save_pretrained(folder / "backbone")
    backbone.tokenizer.save_pretrained(folder / "backbone")
    for seed, name in enumerate(("ada", "bob")):
        save_module(LoraModule.fresh(backbone, LoraSettings(2, 4), name=name, seed=seed), folder / name)
    Hub.create(folder / "hub").add_all([folder / "ada", folder / "bob"])
    (folder / "task").mkdir()
    rows = [{"input": f"film {i}", "output": "good" if i % 2 else "bad"} for i in range(8)]
    for split in ("train", "dev"):
        (folder / "task" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task" / "task.json").write_text(json.dumps({"metric": "ACC", "labels": ["good", "bad"]}))


def main() -> None:
    """Say what was done, as JSON."""
    folder, given = Path(sys.argv[1]), set(sys.argv[2:])
    assert Path(headstart.__file__).parents[1].name == "site-packages", headstart.__file__
    imported = import_everything()
    check_extras(given)
    write_inputs(folder)
    run("--help")
    run("list", "--check")
    run("task", folder / "task")
    listed = run("hub", "list", folder / "hub")
    assert "ada" in listed, listed
    assert "bob" in listed, listed
    words = ["--hub", folder / "hub", "--backbone", folder / "backbone", "--device", "cpu", "--indicator", "loss"]
    ranked = json.loads(run("rank", folder / "task", *words, "--json"))
    rows = folder / "task" / "dev.jsonl"
    on = ["--backbone", folder / "backbone", "--device", "cpu", "--labels", "good,bad"]
    answered = run("predict", folder / "ada", rows, *on).splitlines()
    sys.stdout.write(json.dumps({"imported": imported, "ranked": ranked, "answered": len(answered) - 1}))


if __name__ == "__main__":
    main()
