"""The wheel in empty environments, without and with each extra: what it needs is declared, and it works there.

Fetches packages, torch included, so it is slow: `make dist` runs it, on the wheel that it has built.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headstart.extras import EXTRAS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CHECKOUT = ("PYTHONPATH", "VIRTUAL_ENV")
"""Variables that would let an environment see the checkout's packages."""
OUTSIDE = {name: value for name, value in os.environ.items() if name not in CHECKOUT}
"""The environment as it was before the tests' own: pip keeps its settings and its cache of packages."""


def environment(folder: Path, wanted: str, *, on: Path | None = None) -> Path:
    """The Python of a new environment with `wanted` and the locked versions of what that needs, and nothing else.

    `on` is the Python of an environment whose packages are there already, so that gigabytes are not installed twice.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, env=OUTSIDE)
    python = folder / "bin" / "python"
    if on is not None:
        (shared,) = on.parents[1].glob("lib/python*/site-packages")
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "shared.pth").write_text(f"{shared}\n")
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--constraint", str(ROOT / "requirements.lock"), wanted], check=True, env=OUTSIDE)
    subprocess.run([*pip, "check"], check=True, env=OUTSIDE)
    return python


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel alone."""
    return environment(tmp_path_factory.mktemp("plain") / "venv", str(wheel))


def tried(python: Path, folder: Path, *extras: str) -> None:
    """Run tests/installed.py by `python`, away from the checkout, and look at what it found."""
    words = [str(python), "-I", str(ROOT / "tests" / "installed.py"), str(folder), *extras]
    alone = {name: value for name, value in os.environ.items() if name not in CHECKOUT}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["imported"] > 200
    assert {row["module"] for row in found["ranked"]["modules"]} == {"ada", "bob"}
    assert found["answered"] == 8


def test_without_extras(plain: Path, tmp_path: Path) -> None:
    assert plain.with_name("headstart").is_file()
    tried(plain, tmp_path)


@pytest.mark.parametrize("extra", [*sorted(EXTRAS.values()), "all"])
def test_with_an_extra(extra: str, plain: Path, wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", f"{wheel}[{extra}]", on=plain)
    work = tmp_path / "work"
    work.mkdir()
    tried(python, work, *(EXTRAS.values() if extra == "all" else [extra]))
