"""The store: what is put in comes out, damaged entries never do, and old ones go first."""

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import OutputError, StoreError
from headstart.events import Event
from headstart.units import Result, Store, run
from headstart.units.entry import MOST_JSON
from toy_units import Saved, Square, weights


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", heartbeat=0.05)


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of every file but the record, which tells the time."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.endswith("unit.json")}


def test_a_result_comes_back(store: Store) -> None:
    rows = [{"a": 1, "b": None, "c": [1, {"d": "é"}]}, {"a": -0.5, "b": "x"}]
    tensors = {"t": np.arange(6, dtype=np.float32).reshape(2, 3).T, "n": np.array(3)}
    assert store.get(Square(1)) is None
    store.put(Square(1), Result({"x": 1, "y": "z"}, rows, tensors, device="cpu"), seconds=0.25)
    found = store.get(Square(1))
    assert found is not None
    assert (found.facts, found.rows, found.seconds, found.device) == ({"x": 1, "y": "z"}, rows, 0.25, "cpu")
    assert found.frame()["a"].tolist() == [1, -0.5]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


@given(st.lists(st.floats(), max_size=5))
def test_every_number_comes_back(numbers: list[float]) -> None:
    with Store.temporary() as store:
        store.put(Square(1), Result({"numbers": numbers}), seconds=0)
        found = store.get(Square(1))
    assert found is not None
    assert list(map(repr, found.facts["numbers"])) == list(map(repr, numbers))


def test_many_rows_become_parquet(store: Store) -> None:
    rows = [{"n": n, "value": n / 7, "name": f"row {n}"} for n in range(MOST_JSON // 20)]
    rows[3]["value"] = math.inf
    store.put(Square(1), Result(rows=rows), seconds=0)
    store.put(Square(2), Result(rows=[{"mixed": "x" * MOST_JSON}, {"mixed": 1}]), seconds=0)
    assert (store.home(store.find(Square(1).key)) / "rows.parquet").exists()
    assert not (store.home(store.find(Square(2).key)) / "rows.parquet").exists()
    one, two = store.get(Square(1)), store.get(Square(2))
    assert one is not None
    assert two is not None
    assert one.rows == rows
    assert two.rows[1] == {"mixed": 1}


def test_the_record_explains_the_entry(store: Store) -> None:
    run([Square(3, name="three")], store=store)
    (entry,) = store.entries()
    assert (entry.type, entry.version, entry.label) == ("square", 1, "three squared")
    assert (entry.inputs, entry.key, entry.needs) == ({"number": 3}, Square(3).key, [])
    assert store.find(entry.key[:7]) == entry
    assert entry.size == sum(path.stat().st_size for path in store.home(entry).iterdir())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing", "other"])
@pytest.mark.parametrize("name", ["unit.json", "result.json", "tensors.safetensors"])
def test_a_damaged_entry_is_computed_again(store: Store, name: str, damage: str, tmp_path: Path) -> None:
    unit = Square(3, log=tmp_path / "log")
    run([unit], store=store)
    home = store.home(next(store.entries()))
    before = files_of(home)
    content = (home / name).read_bytes()
    changed = {
        "flip": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "cut": content[:-1],
        "empty": b"",
        "other": b"[[]]",
    }
    if damage == "missing":
        (home / name).unlink()
    else:
        (home / name).write_bytes(changed[damage])
    heard: list[Event] = []
    assert run([unit], store=store, listener=heard.append).of(unit).facts == {"value": 9}
    assert "the stored result of 3 squared is damaged" in str(heard)
    assert files_of(home) == before
    assert run([unit], store=store).tally.reused == {"square": 1}
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_every_flipped_bit_of_a_record_is_noticed(store: Store) -> None:
    run([Square(3)], store=store)
    path = store.home(next(store.entries())) / "unit.json"
    content = path.read_bytes()
    whole = store.get(Square(3))
    assert whole is not None
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 4]) + content[index + 1 :])
        found = store.get(Square(3))
        assert found is None or found.facts == whole.facts  # white space may change


def test_a_module_is_stored_and_taken_out(store: Store, tmp_path: Path) -> None:
    found = run([Saved("one")], store=store, loaders={"backbone": weights}).of(Saved("one"))
    assert found.module is not None
    assert (found.module / "weights").read_bytes() == b"abcabcabcabc"
    assert list((store.folder / "work").iterdir()) == []
    entry = store.find(Saved("one").key)
    store.export(entry, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter_config.json", "weights"]
    with pytest.raises(OutputError, match="already exists"):
        store.export(entry, tmp_path / "out")
    (found.module / "weights").write_bytes(b"abcabcabcabd")
    with pytest.raises(StoreError, match=r"is damaged: .*weights is not what was written; run the command"):
        store.export(entry, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_has_no_module_is_taken_out_whole(store: Store, tmp_path: Path) -> None:
    run([Square(3)], store=store)
    store.export(store.find(Square(3).key), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"unit.json", "result.json", "tensors.safetensors"}


def test_entries_are_found_by_the_beginning_of_their_key(store: Store) -> None:
    run([Square(n) for n in range(40)], store=store)
    with pytest.raises(StoreError, match="has no entry 'xyz'; see `headstart store list`"):
        store.find("xyz")
    with pytest.raises(StoreError, match=r"has no entry '\.\./x'"):
        store.find("../x")
    with pytest.raises(StoreError, match=r"\d+ entries of the store .* begin with '.'; give more of the key"):
        store.find(max("0123456789abcdef", key=lambda c: sum(Square(n).key[0] == c for n in range(40))))


def test_the_least_recently_used_go_first(store: Store) -> None:
    units = [Square(n) for n in range(6)]
    run(units, store=store)
    entries = {entry.key: entry for entry in store.entries()}
    days = 86400
    for age, unit in enumerate(units):
        when = time.time() - age * 10 * days - 5
        os.utime(store.home(entries[unit.key]) / "unit.json", (when, when))
    store.get(units[5])  # 50 days old, but used just now
    foreseen = store.prune(older_than=30 * days, dry_run=True)
    assert len(list(store.entries())) == 6
    assert [entry.key for entry in foreseen.removed] == [units[4].key, units[3].key]
    assert store.prune(older_than=30 * days) == foreseen
    size = entries[units[0].key].size
    kept = store.prune(keep=2 * size + 100)
    assert [entry.key for entry in kept.removed] == [units[2].key, units[1].key]
    assert {entry.key for entry in store.entries()} == {units[0].key, units[5].key}
    assert kept.left == sum(entry.size for entry in store.entries())
    assert store.prune(keep=0).left == 0
    assert list(store.entries()) == []


def test_entries_that_cannot_be_read_are_pruned(store: Store) -> None:
    units = [Square(n) for n in range(4)]
    run(units, store=store)
    homes = [store.home(store.find(unit.key)) for unit in units]
    (homes[0] / "unit.json").write_text('{"check": 1}')
    (homes[1] / "unit.json").unlink()
    other = store.folder / "notes" / "ab" / "about"
    other.mkdir(parents=True)
    size = sum(path.stat().st_size for home in homes[:2] for path in home.iterdir())
    foreseen = store.prune(older_than=86400, dry_run=True)
    assert homes[0].exists()
    assert (foreseen.removed, foreseen.damaged, foreseen.freed) == ((), 2, size)
    assert store.prune(older_than=86400) == foreseen
    assert [home.exists() for home in homes] == [False, False, True, True]
    assert other.exists(), "it is no entry"
    assert store.prune(keep=0).damaged == 0


def test_leftovers_are_swept(store: Store) -> None:
    import subprocess
    import sys

    run([Square(1)], store=store)
    script = (
        "import os, sys; from pathlib import Path; from headstart.units import Store\n"
        "store = Store(Path(sys.argv[1])); store._staging(); store.leases().__enter__().take('ab' * 32)\n"
        "os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, store.folder], check=False)
    store.work(Square(1)).joinpath("checkpoint").write_text("finished")
    store.work(Square(2)).joinpath("checkpoint").write_text("not finished")
    assert [len(list((store.folder / name).rglob("*"))) for name in ("staging", "pulses", "leases")] == [1, 1, 3]
    store.sweep()
    left = [path.name for name in ("staging", "pulses", "leases") for path in (store.folder / name).rglob("*.*")]
    assert left == []
    assert [folder.name for folder in (store.folder / "work").iterdir()] == [Square(2).key]
    store.prune(older_than=-1)
    assert list((store.folder / "work").iterdir()) == []


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store")
    with pytest.raises(StoreError, match=r"file/store.*--store or HEADSTART_STORE"):
        run([Square(1)], store=store)


def test_the_folder_of_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store.default().folder == tmp_path / "headstart" / "store"
    monkeypatch.setenv("HEADSTART_STORE", str(tmp_path / "mine"))
    assert Store.default().folder == tmp_path / "mine"


def test_what_the_argument_store_stands_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADSTART_STORE", str(tmp_path / "mine"))
    for asked, folder in ((None, tmp_path / "mine"), (tmp_path, tmp_path), (str(tmp_path), tmp_path)):
        with Store.opened(asked) as store:
            assert store == Store(folder)
    with Store.opened(False) as store:
        run([Square(1)], store=store)
    assert not store.folder.exists()


def test_records_are_strict_json(store: Store) -> None:
    store.put(Square(1), Result({"x": math.nan}), seconds=0)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for path in store.home(next(store.entries())).glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
