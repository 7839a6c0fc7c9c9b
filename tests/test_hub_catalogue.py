"""The catalogue's file: whatever becomes of it, the answers are those of the folders."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from handmade import lora_tensors, write_module
from headstart.errors import HubError, ModuleError
from headstart.formats import read_module
from headstart.hub import Hub
from headstart.hub.catalogue import CATALOGUE_FILE, SCHEMA, Catalogue
from headstart.hub.rows import known_stamps
from headstart.records import Fingerprint

NAMES = ["cola", "rte", "sst2"]


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    """Three sound modules outside the hub."""
    return [write_module(tmp_path / "made" / name, seed=seed) for seed, name in enumerate(NAMES)]


@pytest.fixture
def hub(tmp_path: Path, made: list[Path]) -> Hub:
    hub = Hub.create(tmp_path / "hub")
    assert all(admission.card for admission in hub.add_all(made))
    return hub


def test_the_schema_is_that_of_the_newest_migration() -> None:
    files = [item.name for item in resources.files("headstart.hub.migrations").iterdir() if item.name.endswith(".sql")]
    assert [int(name[:4]) for name in sorted(files)] == list(range(1, SCHEMA + 1))


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100, None])
def test_a_lost_or_damaged_catalogue_is_built_again(hub: Hub, damage: bytes | None) -> None:
    cards = hub.cards()
    catalogue = hub.path / CATALOGUE_FILE
    catalogue.unlink()
    if damage is not None:
        catalogue.write_bytes(damage)
    assert Hub.open(hub.path).cards() == cards


def test_a_catalogue_of_foreign_tables_is_built_again(hub: Hub) -> None:
    with sqlite3.connect(hub.path / CATALOGUE_FILE) as connection:
        connection.execute("DROP TABLE modules")
    connection.close()
    assert len(Hub.open(hub.path)) == 3


def test_a_newer_catalogue_is_left_alone_and_another_stands_in_for_it(hub: Hub, made: list[Path]) -> None:
    catalogue = hub.path / CATALOGUE_FILE
    with sqlite3.connect(catalogue) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE schema SET version = 99")
    connection.close()
    newer = catalogue.read_bytes()
    opened = Hub.open(hub.path)
    assert opened.names() == NAMES
    opened.remove("rte")
    opened.add(made[1], name="again")
    assert Hub.open(hub.path).names() == ["again", "cola", "sst2"]
    assert catalogue.read_bytes() == newer


def test_a_catalogue_that_states_two_schemas_is_damaged_not_newer(hub: Hub) -> None:
    with sqlite3.connect(hub.path / CATALOGUE_FILE) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert len(Hub.open(hub.path)) == 3
    assert sqlite3.connect(hub.path / CATALOGUE_FILE).execute("PRAGMA user_version").fetchone() == (SCHEMA,)


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_a_catalogue_with_flipped_bits_is_built_again(hub: Hub) -> None:
    catalogue = hub.path / CATALOGUE_FILE
    cards, content = hub.cards(), catalogue.read_bytes()
    generator = np.random.default_rng(0)
    # The header, where every byte counts, and places all over.
    places = [*range(100), *generator.integers(0, len(content), 40).tolist()]
    for place in places:
        catalogue.write_bytes(flipped(content, place, int(generator.integers(8))))
        opened = Hub.open(hub.path)
        assert opened.cards() == cards, place
        assert opened.card("rte") == cards[1], place
        assert opened.check() == [], place
        assert opened.names() == NAMES, place


DAMAGES: dict[str, Callable[[sqlite3.Connection], object]] = {
    "a blob for a name": lambda c: c.execute("UPDATE modules SET name = x'00ff' WHERE name = 'rte'"),
    "a blob for a card": lambda c: c.execute("UPDATE modules SET card = x'00ff' WHERE name = 'rte'"),
    "text that is none": lambda c: c.execute("UPDATE modules SET card = CAST(x'ff' AS TEXT) WHERE name = 'rte'"),
    "another number": lambda c: c.execute("UPDATE modules SET score = 0.5 WHERE name = 'rte'"),
    "no rows": lambda c: c.execute("DELETE FROM modules"),
    "other tables": lambda c: c.executescript("DROP TABLE modules; CREATE TABLE modules (x)"),
    "another width": lambda c: c.execute("UPDATE layers SET in_features = 6"),
    "no layers": lambda c: c.execute("DROP TABLE layers"),
    "no schema": lambda c: c.execute("DROP TABLE schema"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_catalogue_that_was_written_to_is_built_again(
    hub: Hub, tmp_path: Path, damage: Callable[[sqlite3.Connection], object]
) -> None:
    cards = hub.cards()
    connection = sqlite3.connect(hub.path / CATALOGUE_FILE, isolation_level=None)
    damage(connection)
    connection.close()
    assert Hub.open(hub.path).cards() == cards
    Hub.open(hub.path).add(write_module(tmp_path / "new", seed=9))
    assert Hub.open(hub.path).check() == []


@pytest.mark.parametrize("query", ["SELECT nothing", "SELECT 1 LIMIT 1e30", "SELECT zeroblob(2000000000)"])
def test_a_query_that_fails_on_a_sound_catalogue_is_no_damage(hub: Hub, query: str) -> None:
    catalogue = Catalogue(hub.path / CATALOGUE_FILE)
    with (
        pytest.raises(HubError, match=r"the hub cannot be asked this; ask for less$") as refused,
        catalogue.reading() as connection,
    ):
        connection.execute(query).fetchall()
    assert type(refused.value) is HubError


@pytest.mark.parametrize("kind", ["folder", "loop", "foreign"])
def test_something_else_under_the_catalogues_name(hub: Hub, kind: str) -> None:
    catalogue = hub.path / CATALOGUE_FILE
    catalogue.unlink()
    if kind == "folder":
        catalogue.mkdir()
    elif kind == "loop":
        catalogue.symlink_to(catalogue)
    else:
        with sqlite3.connect(catalogue) as connection:
            connection.execute("CREATE TABLE modules (songs)")
        connection.close()
    assert Hub.open(hub.path).names() == NAMES


def test_the_catalogue_keeps_no_write_ahead_log(hub: Hub) -> None:
    """A log's shared memory does not work on network file systems, nor in folders that cannot be written."""
    with sqlite3.connect(hub.path / CATALOGUE_FILE) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_a_catalogue_of_the_first_schema_is_taken_over(hub: Hub) -> None:
    catalogue = hub.path / CATALOGUE_FILE
    catalogue.unlink()
    script = (resources.files("headstart.hub.migrations") / "0001_modules.sql").read_text()
    with sqlite3.connect(catalogue) as connection:
        connection.executescript(f"PRAGMA journal_mode = WAL; {script}; PRAGMA user_version = 1")
        connection.execute("INSERT INTO modules VALUES ('cola', '', 'hash', '{}', NULL, NULL)")
    connection.close()
    assert Hub.open(hub.path).names() == NAMES
    test_the_catalogue_keeps_no_write_ahead_log(hub)


def test_rows_of_the_fifth_schema_are_read_again(hub: Hub, tmp_path: Path) -> None:
    """What its filters compare had the letters of the card."""
    new = write_module(tmp_path / "new", seed=9)
    read_module(new).card.model_copy(update={"task": "Élan"}).write(new / "headstart.json")
    hub.add(new)
    with sqlite3.connect(hub.path / CATALOGUE_FILE) as connection:
        connection.execute("UPDATE modules SET task = 'Élan' WHERE name = 'new'")
        connection.executescript("UPDATE schema SET version = 5; PRAGMA user_version = 5")
    connection.close()
    assert [ref.name for ref in Hub.open(hub.path).find(task="élan")] == ["new"]


def answers(hub: Hub) -> dict[str, object]:
    """Everything that a hub says from its catalogue."""
    return {
        "all": hub.refs(), "names": hub.names(), "count": len(hub), "each": [hub.ref(name) for name in hub.names()],
        "problems": hub.problems(), "backbone": hub.backbone(),
        "kind": hub.find(kind="lora", sort="-name"), "license": hub.find(license="mit"), "task": hub.count(task="t1"),
        "metric": hub.find(metric="acc", sort="-score"), "family": hub.find(family="reviews", sort="rank"),
        "text": hub.find(text="ol"), "page": hub.find(sort="parameters", limit=1, offset=1),
    }  # fmt: skip


def taken_and_refused(hub: Hub, new: Path, wide: Path) -> tuple[object, str, list[str]]:
    """What comes of adding a module, and one of other widths."""
    card = hub.add(new)
    with pytest.raises(ModuleError) as refused:
        hub.add(wide)
    return card, str(refused.value), Hub.open(hub.path).names()


def damaged(content: bytes, generator: random.Random) -> tuple[bytes, str]:
    """The content cut short, or with one bit turned, and which."""
    place = generator.randrange(len(content))
    if generator.random() < 0.1:
        return content[:place], f"cut at {place}"
    bit = generator.randrange(8)
    return flipped(content, place, bit), f"byte {place}, bit {bit}"


def test_whatever_bit_is_flipped_the_answers_are_those_of_the_folders(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """More trials than usual: `pytest tests/test_hub_catalogue.py --trials 1500`."""
    backbone = Fingerprint(architecture="LlamaForCausalLM", shapes="s", weights="w")
    made = [write_module(tmp_path / "made" / f"m{seed}ol", seed=seed) for seed in range(4)]
    for number, folder in enumerate(made):
        stated = {
            "task": f"t{number}",
            "family": "reviews/films",
            "metric": "ACC",
            "license": "mit",
            "score": 0.1 * number,
        }
        read_module(folder).card.model_copy(update={**stated, "backbone": backbone}).write(folder / "headstart.json")
    new, wide = write_module(tmp_path / "new", seed=9), write_module(tmp_path / "wide", tensors=lora_tensors(inner=6))
    hub = Hub.create(tmp_path / "hub")
    hub.add_all(made)
    (hub.path / "notes").mkdir()
    right = answers(Hub.open(hub.path))
    catalogue = hub.path / CATALOGUE_FILE
    content = catalogue.read_bytes()
    then = taken_and_refused(hub, new, wide)
    generator = random.Random(0)
    for _ in range(request.config.getoption("--trials")):
        shutil.rmtree(hub.path / "new")
        changed, where = damaged(content, generator)
        catalogue.write_bytes(changed)
        opened = Hub.open(hub.path)
        assert answers(opened) == right, where
        assert taken_and_refused(opened, new, wide) == then, where
        assert Catalogue(catalogue).sound(), where


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_has_its_checksum(tmp_path: Path, seed: int) -> None:
    """Also where rows come and go: pages that fell free are the same in memory, where the sum is made, and on disk."""
    generator = random.Random(seed)
    catalogue = Catalogue(tmp_path / "c.sqlite")
    there: set[str] = set()
    for _ in range(60):
        with catalogue.writing() as connection:
            for name in generator.sample(sorted(there), len(there) // 2):
                connection.execute("DELETE FROM modules WHERE name = ?", (name,))
                there.discard(name)
            for _ in range(generator.randrange(30)):
                name = f"{generator.random()}"
                values = (name, name, "s", "reason", "x" * generator.randrange(9000))
                connection.execute(
                    "INSERT INTO modules (name, twin, stamp, reason, card) VALUES (?, ?, ?, ?, ?)", values
                )
                there.add(name)
        with Catalogue(tmp_path / "c.sqlite").reading() as connection:
            assert known_stamps(connection).keys() == there
