"""What is published: the wheel holds every file that the package needs and no others; so does the source archive."""

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = ROOT / ".github" / "workflows"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def archive(dist: Path) -> Path:
    (found,) = dist.glob("*.tar.gz")
    return found


def files_of(wheel: Path) -> dict[str, bytes]:
    """The package's own files in a wheel; the rest describes it."""
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist() if ".dist-info/" not in name}


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(opened.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    files = {
        str(path.relative_to(source)): path.read_bytes()
        for path in (source / "headstart").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = files_of(wheel)
    assert packed.keys() == files.keys()
    assert packed == files
    # What is no Python file is easily forgotten: one of each is looked for by name.
    assert {"headstart/py.typed", "headstart/__init__.pyi", "headstart/reports/report.html.j2"} <= packed.keys()
    assert "headstart/hub/migrations/0001_modules.sql" in packed


def test_the_wheel_states_what_it_needs(wheel: Path) -> None:
    stated = metadata_of(wheel)
    needed = stated.get_all("Requires-Dist") or []
    extras = PROJECT["optional-dependencies"]
    assert stated.get_all("Provides-Extra") == sorted(extras)
    assert len([line for line in needed if "extra ==" not in line]) == len(PROJECT["dependencies"])
    assert not [line for line in needed if line.startswith("torch") and "==" in line], "a library asks for a range"
    assert (stated["License-Expression"], stated["Requires-Python"]) == ("Apache-2.0", PROJECT["requires-python"])
    with zipfile.ZipFile(wheel) as opened:
        (entry,) = (opened.read(name).decode() for name in opened.namelist() if name.endswith("entry_points.txt"))
        assert any(name.endswith("licenses/LICENSE") for name in opened.namelist())
    assert "headstart = headstart.cli:main" in entry


def test_the_archive_builds_the_same_wheel(archive: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "requirements.lock", "tests/conftest.py", "docs/index.md"):
        assert (folder / name).is_file(), name
    assert archive.stat().st_size < 4 * 2**20, "megabytes of modules do not belong in it"
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "again")]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (again,) = (tmp_path / "again").glob("*.whl")
    assert again.name == wheel.name
    assert files_of(again) == files_of(wheel)


def workflow(name: str) -> dict[Any, Any]:
    read: dict[Any, Any] = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    return read


def test_a_release_is_tested_built_and_then_published() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert list(jobs) == ["test", "build", "publish"]
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("test", "build")
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    assert any("make dist" in step.get("run", "") for step in jobs["build"]["steps"])


def test_only_the_last_job_has_rights_and_it_runs_no_code_of_the_repository() -> None:
    for name in ("test.yml", "release.yml"):
        read = workflow(name)
        assert read["permissions"] == {}
        for title, job in read["jobs"].items():
            if title != "publish":
                assert job["permissions"] == {"contents": "read"}, title
    steps = workflow("release.yml")["jobs"]["publish"]["steps"]
    assert not [step for step in steps if "run" in step or "checkout" in step["uses"]]
