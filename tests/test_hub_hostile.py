"""A hub with something bad in it: the bad thing is named, and everything else works on."""

import errno
import json
import os
import shutil
import sqlite3
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

import headstart.hub.adding
import headstart.hub.own_catalogue
import headstart.hub.reading
import headstart.hub.removing
from handmade import write_module
from headstart.atomic import hidden_folder, staged_folder
from headstart.errors import HubError, ModuleError, OutputError
from headstart.hub import Hub
from headstart.hub.catalogue import CATALOGUE_FILE
from headstart.hub.names import ANOTHER
from headstart.records import Refused
from program import Run

pytest_plugins = ["cli_helper"]

CARD = "headstart.json"
NAMES = ["cola", "rte", "sst2"]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    hub = Hub.create(tmp_path / "hub")
    made = [write_module(tmp_path / "made" / name, seed=seed) for seed, name in enumerate(NAMES)]
    assert all(admission.card for admission in hub.add_all(made))
    return hub


def reasons(hub: Hub) -> dict[str, str]:
    return {problem.name: problem.reason for problem in Hub.open(hub.path).problems()}


CARDS = {
    "NaN": '{"donors": [{"name": "a", "tensor_hash": "", "weight": NaN}]}',
    "Infinity": '{"donors": [{"name": "a", "tensor_hash": "", "weight": -Infinity}]}',
    "a score": '{"score": 1e999}',
    "half a letter": '{"family": "\\ud800x"}',
    "half a letter in a list": '{"head": null, "notes": "\\udfff"}',
    "no text": b'{"family": "\xff\xfe"}',
    "depth": '{"notes": ' + "[" * 100_000 + "]" * 100_000 + "}",
}


def write_card(folder: Path, change: str | bytes) -> None:
    """The card of the module with fields as a text gives them."""
    own = '{"schema_version": 1, "name": "x", "kind": "lora", "parameters": 14, "tensor_hash": '
    from headstart.formats import read_module

    own = f"{own}{json.dumps(read_module(folder).card.tensor_hash)}, "
    text = change if isinstance(change, bytes) else change.encode()
    (folder / CARD).write_bytes(own.encode() + text[1:])


@pytest.mark.parametrize("change", CARDS.values(), ids=CARDS)
def test_a_bad_card_is_refused_before_it_is_in(hub: Hub, tmp_path: Path, change: str | bytes) -> None:
    bad = write_module(tmp_path / "bad", seed=9)
    write_card(bad, change)
    before = sorted(path.name for path in hub.path.iterdir())
    with pytest.raises(ModuleError):
        hub.add(bad)
    assert sorted(path.name for path in hub.path.iterdir()) == before
    assert Hub.open(hub.path).names() == NAMES


@pytest.mark.parametrize("change", CARDS.values(), ids=CARDS)
def test_a_bad_card_among_good_ones_is_named_and_can_be_removed(hub: Hub, change: str | bytes) -> None:
    write_module(hub.path / "bad", seed=9)
    write_card(hub.path / "bad", change)
    opened = Hub.open(hub.path)
    assert opened.names() == NAMES
    assert list(reasons(hub)) == ["bad"]
    assert [problem.name for problem in opened.check()] == ["bad"]
    opened.remove("bad")
    assert Hub.open(hub.path).problems() == []


def test_links_that_lead_nowhere_are_named_and_the_rest_works(hub: Hub, tmp_path: Path) -> None:
    (hub.path / "loop").symlink_to(hub.path / "loop")
    (hub.path / "gone").symlink_to(tmp_path / "nowhere")
    (hub.path / "notes.txt").symlink_to(write_module(tmp_path / "x") / "adapter_config.json")
    assert Hub.open(hub.path).names() == NAMES
    assert list(reasons(hub)) == ["gone", "loop"]
    Hub.open(hub.path).remove("loop", "gone")
    assert reasons(hub) == {}
    assert not (hub.path / "loop").is_symlink()


def test_whatever_a_reader_stumbles_over_stays_with_its_folder(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    read = headstart.hub.reading.read_module

    def stumbling(folder: Path) -> object:
        if folder.name == "rte":
            raise KeyError("unforeseen")
        return read(folder)

    monkeypatch.setattr(headstart.hub.reading, "read_module", stumbling)
    problems = hub.check()
    assert [problem.name for problem in problems] == ["rte"]
    assert "rte: KeyError 'unforeseen'; remove it from the hub, or download it again" in problems[0].reason


def test_a_long_text_is_not_copied(hub: Hub, tmp_path: Path) -> None:
    talkative = write_module(tmp_path / "new", seed=9)
    with (talkative / "README.md").open("wb") as stream:
        stream.truncate(3_000_000_000)  # sparse: it takes no space here
    with pytest.raises(ModuleError, match=r"README.md has 3,000,000,000 bytes, and at most"):
        hub.add(talkative)


@pytest.fixture
def shared(hub: Hub) -> Iterator[Hub]:
    """The hub where another user put it, and this process without the right to write there.

    Permissions do not bind root, so for the length of the test root is the user "nobody" (effectively, so that pytest
    can become root again); anybody else is kept out by the permissions themselves. What the test imports is imported
    before: the interpreter's own files may be out of reach of "nobody".
    """
    folder = Path(tempfile.mkdtemp(prefix="shared-hub-"))
    folder.chmod(0o755)
    shutil.copytree(hub.path, folder / "hub")
    for path in (folder / "hub").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "hub").chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield Hub(folder / "hub")
    finally:
        if root:
            os.seteuid(0)
        for path in (folder / "hub", *(folder / "hub").rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


@pytest.fixture(params=["a cache folder", "no cache folder"])
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's cache folder, and one that cannot be written either."""
    folder = Path(tempfile.mkdtemp(prefix="cache-"))
    folder.chmod(0o777 if request.param == "a cache folder" else 0o555)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: folder)
    yield folder
    shutil.rmtree(folder)


def test_a_hub_that_cannot_be_written_can_be_used(shared: Hub, cache: Path, tmp_path_factory: object) -> None:
    opened = Hub.open(shared.path)
    assert opened.names() == NAMES
    assert opened.read("rte").card == opened.card("rte")
    assert opened.check() == []
    with pytest.raises(HubError, match=r"cannot delete .*rte: Permission denied; check its permissions"):
        opened.remove("rte")
    assert Hub.open(shared.path).names() == NAMES


@pytest.fixture
def listed(run: Run, hub: Hub) -> str:
    """What the command lists of the hub, while all is well."""
    return run("hub", "list", hub.path).out


def test_the_command_lists_a_hub_that_cannot_be_written(run: Run, listed: str, shared: Hub, cache: Path) -> None:
    assert all(name in listed for name in NAMES)
    (ended, again) = (run("hub", "list", shared.path) for _ in range(2))
    assert (ended.code, ended.out) == (0, listed)
    assert "cannot" not in ended.err
    assert again == ended


def test_nothing_can_be_added_to_a_hub_that_cannot_be_written(shared: Hub, cache: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*: Permission denied; free some space or choose another"):
        Hub.open(shared.path).add(shared.path / "rte", name="again")


def test_a_damaged_catalogue_of_the_users_own_is_built_again(shared: Hub, cache: Path) -> None:
    for content in (b"junk", b""):
        Hub.open(shared.path).check()
        for path in cache.rglob("*.sqlite"):
            path.write_bytes(content)
        assert Hub.open(shared.path).check() == []


@pytest.mark.parametrize("shape", ["no catalogue", "an old one", "a log of writes"])
def test_a_hub_that_cannot_be_written_and_whose_catalogue_is_behind(shared: Hub, cache: Path, shape: str) -> None:
    me = os.geteuid()
    if me == 65534:
        os.seteuid(0)
    shared.path.chmod(0o755)
    catalogue = shared.path / CATALOGUE_FILE
    catalogue.chmod(0o644)
    if shape == "no catalogue":
        catalogue.unlink()
    elif shape == "an old one":
        (shared.path / "rte").rename(shared.path / "other")
    else:
        with sqlite3.connect(catalogue) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        catalogue.chmod(0o444)
    shared.path.chmod(0o555)
    os.seteuid(me)
    opened = Hub.open(shared.path)
    names = [name.replace("rte", "other") if shape == "an old one" else name for name in NAMES]
    assert opened.names() == sorted(names)
    assert len(Hub.open(shared.path)) == 3


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_modules_can_be_removed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headstart.hub.removing, "hidden_folder", full)
    connect = sqlite3.connect

    class Full(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if sql.startswith(("BEGIN IMMEDIATE", "INSERT", "DELETE")) and (hub.path / "rte").exists():
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **settings: connect(*args, **settings, factory=Full))
    hub.remove("rte")
    assert not (hub.path / "rte").exists()
    assert Hub.open(hub.path).names() == ["cola", "sst2"]
    assert reasons(hub) == {}


def test_on_a_full_disk_nothing_enters(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = write_module(tmp_path / "new", seed=9)
    monkeypatch.setattr(headstart.hub.adding, "sync_trees", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        hub.add(new)
    assert sorted(path.name for path in hub.path.iterdir()) == [CATALOGUE_FILE, *NAMES]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CON", "Windows keeps it for a device"),
        ("nul.txt", "Windows keeps it for a device"),
        ("Com1.x.y", "Windows keeps it for a device"),
        ("LPT²", "Windows keeps it for a device"),
        ("dot.", "begin or end with a dot or a space"),
        ("cafe\u0301", "its letters are decomposed; write it in Unicode's form NFC, as 'café'"),
        ("rt\u0435", "mixes Latin letters with the Cyrillic '\u0435'"),
        ("c\u03bfla", "mixes Latin letters with the Greek '\u03bf'"),
        ("a\u202eb", "cannot be a module's name"),
    ],
)
def test_names_that_some_system_or_reader_mistakes_are_refused(
    hub: Hub, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(HubError, match=message):
        hub.add(write_module(tmp_path / "new", seed=9), name=name)


@pytest.mark.parametrize("name", ["RTE", "Sst2", "\u0455\u0455\u04422", "ＲＴＥ"])
def test_twins_by_case_or_look_are_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    new = write_module(tmp_path / "new", seed=9)
    if name.isascii() or name == "ＲＴＥ":
        with pytest.raises(HubError, match="only by case or by letters that look alike; choose another name"):
            hub.add(new, name=name)
    write_module(hub.path / name, seed=12)
    if name.isascii() or name == "ＲＴＥ":
        assert list(reasons(hub)) == [name]
    hub.check()
    Hub.open(hub.path).remove(name)
    assert Hub.open(hub.path).names() == NAMES


@pytest.mark.parametrize("name", ["β-lora", "Δ2", "рте", "東京", "cola.v2", "console", "café"])
def test_names_of_every_script_are_taken(hub: Hub, tmp_path: Path, name: str) -> None:
    assert unicodedata.is_normalized("NFC", name)
    assert hub.add(write_module(tmp_path / "new", seed=9), name=name).name == name
    assert Hub.open(hub.path).problems() == []


def test_a_problem_says_what_to_do(hub: Hub) -> None:
    write_module(hub.path / "nul", seed=9)
    assert Hub.open(hub.path).problems() == [
        Refused("nul", f"'nul' cannot be a module's name: Windows keeps it for a device; {ANOTHER}")
    ]


def test_what_killed_runs_staged_beside_an_output_is_swept(tmp_path: Path) -> None:
    kept = hidden_folder(tmp_path / "other")
    killed = tmp_path / kept.name.replace(f"-{os.getpid()}-", "-4194304-")  # above Linux's largest number
    mine = tmp_path / ".notes.staging"
    for folder in (killed, mine):
        folder.mkdir()
    with staged_folder(tmp_path / "start") as staging:
        (staging / "file").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, kept.name, "start"])
