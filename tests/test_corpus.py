"""The mutation corpus: no altered module loads silently wrong, and a reader that is lax is found out."""

import json
import os
import time
from pathlib import Path

import pytest

from headstart.errors import ModuleError
from headstart.formats import CONFIG_FILE, read_module
from headstart.kinds import Module, load_module
from headstart.records import CARD_FILE
from headstart.testing.corpus import FAMILIES, RESULTS, Corpus, run_corpus
from headstart.testing.corpus.case import Case
from headstart.testing.corpus.page import page, table
from headstart.testing.corpus.rooms import backbone_of
from headstart.testing.corpus.run import draw_cases
from headstart.testing.corpus.sources import given_sources, made_sources
from headstart.testing.corpus.worker import findings


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return run_corpus(cases=120, seed=3)


def careless(folder: Path) -> Module:
    """Looks at no values and at no card."""
    (folder / CARD_FILE).unlink(missing_ok=True)
    return load_module(read_module(folder, check_values=False))


def trusting(folder: Path) -> Module:
    """Runs what a pickle says, hangs, ends, or fails, by the folder's name."""
    what = folder.name
    if what == "runs":
        (folder.parent / "marker").touch()
    elif what == "hangs":
        time.sleep(60)
    elif what == "ends":
        os._exit(1)
    elif what == "fails":
        raise KeyError("lora_A")
    elif what == "mumbles":
        raise ModuleError("something is wrong")
    return load_module(folder)


def test_no_altered_module_loads_silently_wrong_or_crashes(corpus: Corpus) -> None:
    assert [(f.case.family, f.case.what, f.case.original.name, f.detail) for f in corpus.faults] == []
    assert sum(corpus.counts.values()) == 120
    assert corpus.counts["refused"] > 60
    assert corpus.counts["loaded_right"] > 10, "what changes nothing must load, or refusing everything would pass"


def test_every_family_is_drawn(corpus: Corpus) -> None:
    assert list(corpus.by_family) == list(FAMILIES)


def test_a_careless_reader_is_found_out() -> None:
    lax = run_corpus(cases=80, seed=3, reader=careless)
    families = {finding.case.family for finding in lax.faults}
    assert lax.counts["silent_wrong"] >= 2
    assert {"NaN or infinity planted", "card contradicts"} <= families


def test_sound_modules_of_every_kind_load_right(tmp_path: Path) -> None:
    sources = made_sources(tmp_path, seed=0)
    cases = [
        Case(number, "none", "", "judged", source.folder, source.folder, source.room, source.room)
        for number, source in enumerate(sources)
    ]
    found = list(findings(cases, reader=load_module, marker=tmp_path / "marker"))
    assert [(f.case.folder.name, f.result, f.detail) for f in found if f.result != "loaded_right"] == []
    kinds = {read_module(source.folder).card.kind for source in sources}
    assert kinds == {"lora", "ia3", "prompt", "prefix", "bitfit", "adapter"}


def test_code_that_runs_hangs_and_ends_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.testing.corpus.worker.SECONDS", 3.0)
    (tmp_path / "sources").mkdir()
    source = made_sources(tmp_path / "sources", seed=0)[0]
    cases = []
    for number, name in enumerate(("sound", "runs", "fails", "mumbles", "hangs", "ends")):
        sound = tmp_path / "sound"
        source.folder.rename(sound) if name == "sound" else (tmp_path / name).symlink_to(sound)
        cases.append(Case(number, "none", "", "judged", tmp_path / name, sound, source.room, source.room))
    found = [(f.result, f.detail) for f in findings(cases, reader=trusting, marker=tmp_path / "marker")]
    assert [result for result, _ in found] == ["loaded_right", *["crashed"] * 5]
    wanted = ("", "code from the module was run", "KeyError: 'lora_A'", "names nothing: something is wrong", "hung")
    for (_, detail), words in zip(found, (*wanted, "ended"), strict=True):
        assert words in detail


def test_modules_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "copies").mkdir()
    made = made_sources(tmp_path / "sources", seed=0)
    (made[0].folder / CONFIG_FILE).unlink()
    given = given_sources([source.folder for source in made], tmp_path / "copies")
    assert len(given) == len(made) - 1, "a module that is refused as it is shows nothing"
    for source in given:
        load_module(source.folder).check(backbone_of(source.room))


def test_folders_without_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no module in the given folders can be used as it is"):
        run_corpus(cases=1, folders=[tmp_path])


def test_one_seed_is_one_run(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    sources = made_sources(tmp_path, seed=3)
    again = [case.what for case in draw_cases(sources, tmp_path / "cases", cases=120, seed=3)]
    assert again == [finding.case.what for finding in corpus.found]
    assert not list((tmp_path / "cases").iterdir())


def test_the_page(corpus: Corpus) -> None:
    lines = table(corpus).splitlines()
    assert len(lines) == 2 + len(FAMILIES) + 1
    total = [int(cell.replace(",", "")) for cell in lines[-1].split("|")[2:-1]]
    assert total == [120, *(corpus.counts[name] for name in RESULTS)]
    assert "--seed 3 --cases 120" in page(corpus)
    assert json.dumps(corpus.counts)
