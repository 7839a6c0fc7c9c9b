"""`headstart store …` as a user types it."""

import os
import time
from pathlib import Path

import pytest

from headstart.blending.held_out import LossUnit
from headstart.blending.learning import LearnUnit
from headstart.blending.unit import MergeUnit
from headstart.cli.store import TYPES
from headstart.embeddings.unit import EmbedUnit
from headstart.evaluating.unit import EvaluateUnit
from headstart.indicators.unit import ScoreUnit
from headstart.tuning.unit import TuneUnit
from headstart.units import Store
from headstart.units import run as run_units
from program import Run, assert_mistake
from toy_units import Saved, Square, Total, weights

pytest_plugins = ["cli_helper"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five entries, one of them with a module; the last in this order was used last."""
    store = Store(tmp_path / "store")
    units = [Total((Square(3, name="[three]"), Square(4))), Square(5), Saved("one")]
    run_units(units, store=store, loaders={"backbone": weights})
    for age, entry in enumerate(sorted(store.entries(), key=lambda entry: (entry.type, entry.label))):
        when = time.time() - (10 - age) * 86400 + 60
        os.utime(store.home(entry) / "unit.json", (when, when))
    return store


def test_list(run: Run, store: Store) -> None:
    data = run("store", "list", "--store", store.folder, "--json").data
    assert [row["type"] for row in data["entries"]] == ["total", "square", "square", "square", "saved"]
    assert data["size"] == sum(entry.size for entry in store.entries())
    assert data["entries"][1]["label"] == "[three] squared"
    table = run("store", "list", "--store", store.folder).out
    assert "[three] squared" in table
    assert Square(3).key[:12] in table
    assert table.rstrip().endswith(f"5 entries, {data['size'] / 1000:.1f} kB, in {store.folder}.")
    assert [
        row["type"]
        for row in run("store", "list", "--type", "saved", "--store", store.folder, "--json").data["entries"]
    ] == ["saved"]


def test_list_says_what_is_not_there(run: Run, store: Store, tmp_path: Path) -> None:
    assert_mistake(
        run("store", "list", "--type", "nosuch", "--store", store.folder),
        "no unit is of type 'nosuch'; choose one of: tune, score, evaluate, merge, weigh, learn, embed, saved, square, "
        "total",
    )
    assert run("store", "list", "--type", "tune", "--store", store.folder, "--json").data["entries"] == []
    missing = tmp_path / "missing"
    ended = run("store", "list", "--store", missing)
    assert (ended.code, ended.out) == (0, f"There is no store at {missing} yet; it is made when something is stored.\n")
    assert not missing.exists()


def test_every_type_of_unit_can_be_listed() -> None:
    own = [TuneUnit, ScoreUnit, EvaluateUnit, MergeUnit, LossUnit, LearnUnit, EmbedUnit]
    assert tuple(unit.type for unit in own) == TYPES


def test_the_folder_comes_from_the_environment(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("store", "list", "--json").data["entries"] == []
    monkeypatch.setenv("HEADSTART_STORE", str(store.folder))
    assert len(run("store", "list", "--json").data["entries"]) == 5


def test_show(run: Run, store: Store) -> None:
    total = next(store.entries(type="total"))
    data = run("store", "show", total.key[:10], "--store", store.folder, "--json").data
    assert data["facts"] == {"value": 25}
    assert data["needs"] == [Square(3).key, Square(4).key]
    assert data["inputs"] == {"parts": [{"digest": Square(3).key}, {"digest": Square(4).key}]}
    shown = run("store", "show", Square(3).key, "--store", store.folder).out
    assert '{"number": 3}' in shown
    assert "[three] squared" in shown
    assert_mistake(run("store", "show", "zz", "--store", store.folder), "has no entry 'zz'; see `headstart store list`")


def test_export(run: Run, store: Store, tmp_path: Path) -> None:
    key, output = Saved("one").key, tmp_path / "out"
    ended = run("store", "export", key[:8], output, "--store", store.folder)
    assert ended.out == f"Saved the module of saved {key[:8]} as {output}.\n"
    assert sorted(path.name for path in output.iterdir()) == ["adapter_config.json", "weights"]
    assert_mistake(run("store", "export", key[:8], output, "--store", store.folder), "already exists")
    data = run("store", "export", Square(5).key, tmp_path / "files", "--store", store.folder, "--json").data
    assert (data["module"], Path(data["output"])) == (False, tmp_path / "files")


def test_prune(run: Run, store: Store) -> None:
    size = sum(entry.size for entry in store.entries())
    saved = next(store.entries(type="saved"))
    trial = run("store", "prune", "--older-than", "9d", "--dry-run", "--store", store.folder)
    assert trial.out.startswith(f"Would remove 1 entry, {saved.size} B; ")
    data = run("store", "prune", "--older-than", "9d", "--store", store.folder, "--json").data
    assert data == {
        "removed": [saved.key], "damaged": 0, "freed": saved.size, "left": size - saved.size, "dry_run": False
    }  # fmt: skip
    kept = run("store", "prune", "--keep", "1kB", "--store", store.folder)
    assert kept.out.startswith("Removed ")
    assert sum(entry.size for entry in store.entries()) <= 1000
    assert {entry.type for entry in store.entries()} == {"total"}


def test_prune_removes_what_cannot_be_read(run: Run, store: Store) -> None:
    (store.home(next(store.entries(type="saved"))) / "unit.json").write_text("{")
    trial = run("store", "prune", "--older-than", "30d", "--dry-run", "--store", store.folder)
    assert trial.out.startswith("Would remove 0 entries and 1 that cannot be read, ")
    data = run("store", "prune", "--keep", "0B", "--store", store.folder, "--json").data
    assert (len(data["removed"]), data["damaged"], data["left"]) == (4, 1, 0)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --older-than 30d, --keep 20GB or both"),
        (["--older-than", "30"], "--older-than 30 is not a number with one of the units s, min, h, d, w"),
        (["--keep", "x GB"], "--keep x GB is not a number with one of the units B, kB, MB, GB, TB; write for example"),
    ],
)
def test_prune_mistakes(run: Run, store: Store, options: list[str], message: str) -> None:
    assert_mistake(run("store", "prune", *options, "--store", store.folder), message)
    assert len(list(store.entries())) == 5


def test_a_broken_entry_is_named_and_does_not_stop_a_list(run: Run, store: Store) -> None:
    broken = next(store.entries())
    (store.home(broken) / "unit.json").write_text("{")
    ended = run("store", "list", "--store", store.folder)
    assert "4 entries" in ended.out
    assert ended.err == (
        f"damaged: {broken.type} {broken.key[:12]} cannot be read, and is computed again when it is needed; "
        "headstart store prune removes it\n"
    )
    data = run("store", "list", "--store", store.folder, "--json").data
    assert (len(data["entries"]), data["damaged"]) == (4, [str(store.home(broken))])
    other = "total" if broken.type != "total" else "saved"
    assert run("store", "list", "--type", other, "--store", store.folder, "--json").data["damaged"] == []
