"""Asking a hub for modules: filters, order and pages in SQL, and views that hold for every method."""

import json
from pathlib import Path

import numpy as np
import pytest

from handmade import LAYER, lora_config, lora_tensors, write_module
from headstart.errors import HubError, SettingError
from headstart.formats import read_module
from headstart.hub import Hub
from headstart.hub.catalogue import CATALOGUE_FILE
from headstart.hub.query import SORTS, Filter
from headstart.records import ModuleCard
from program import Run

pytest_plugins = ["cli_helper"]


def stated(folder: Path, **card: object) -> Path:
    """The module with these fields on its card."""
    read_module(folder).card.model_copy(update=card).write(folder / "headstart.json")
    return folder


def column(seed: int) -> np.ndarray:
    """One number for each output of the layer."""
    return lora_tensors(seed=seed)[f"base_model.model.{LAYER}.lora_B.weight"][:, 0].copy()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cola, dora, mnli and sst2; none has what the others have, and mnli states almost nothing."""
    room = tmp_path_factory.mktemp("find")
    cola = write_module(room / "cola", seed=1)
    stated(
        cola, task="cola", family="grammar / Acceptability", metric="MCC", license="MIT", score=0.4, notes="50%_of it"
    )
    tensors = lora_tensors(seed=2) | {f"base_model.model.{LAYER}.lora_magnitude_vector": column(3)}
    dora = write_module(room / "dora", tensors=tensors, config=lora_config(use_dora=True))
    stated(dora, task="sst2", family="reviews/films", metric="ACC", license="apache-2.0", score=0.9)
    write_module(room / "mnli", tensors=lora_tensors(seed=4, rank=3), config=lora_config(r=3))
    bias = {f"base_model.model.{LAYER}.bias": column(5)}
    sst2 = write_module(room / "sst2", tensors=bias, config={"peft_type": "BITFIT", "target_modules": ["q_proj"]})
    stated(
        sst2, task="SST2", family="reviews/shops", metric="ACC", license="apache-2.0", score=0.0, notes="Straße, café"
    )
    hub = Hub.create(room / "hub")
    for admission in hub.add_all([cola, dora, room / "mnli", sst2]):
        assert admission.card is not None, admission.reason
    return hub.path


@pytest.fixture
def hub(path: Path) -> Hub:
    return Hub.open(path)


def found(hub: Hub, **asked: object) -> list[str]:
    return [ref.name for ref in hub.find(**asked)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["cola", "dora", "mnli", "sst2"]),
        ({"kind": "LoRA"}, ["cola", "dora", "mnli"]),
        ({"kind": "bitfit"}, ["sst2"]),
        ({"kind": "lor"}, []),
        ({"variant": "dora"}, ["dora"]),
        ({"variant": ""}, ["cola", "mnli", "sst2"]),
        ({"family": "reviews"}, ["dora", "sst2"]),
        ({"family": "Films"}, ["dora"]),
        ({"family": "grammar/acceptability"}, ["cola"]),
        ({"family": "grammar / Acceptability"}, ["cola"]),
        ({"family": " reviews /films/ "}, ["dora"]),
        ({"family": "film"}, []),
        ({"family": "%"}, []),
        ({"license": "mit"}, ["cola"]),
        ({"task": "sst2"}, ["dora", "sst2"]),
        ({"metric": "acc", "kind": "lora"}, ["dora"]),
        ({"text": "sst"}, ["dora", "sst2"]),
        ({"text": "SHOPS sst2"}, ["sst2"]),
        ({"text": "STRASSE"}, ["sst2"]),
        ({"text": "cafe\u0301"}, ["sst2"]),
        ({"text": "50%_"}, ["cola"]),
        ({"text": "5_%"}, []),
        ({"text": "films shops"}, []),
        ({"text": "\udcff"}, []),
        ({"sort": "-score"}, ["dora", "cola", "sst2", "mnli"]),
        ({"sort": "score"}, ["sst2", "cola", "dora", "mnli"]),
        ({"sort": "-name"}, ["sst2", "mnli", "dora", "cola"]),
        ({"sort": "rank"}, ["cola", "dora", "mnli", "sst2"]),
        ({"sort": "license"}, ["dora", "sst2", "cola", "mnli"]),
        ({"limit": 2}, ["cola", "dora"]),
        ({"limit": 2, "offset": 3}, ["sst2"]),
        ({"limit": 0}, []),
        ({"offset": 9}, []),
    ],
)
def test_find(hub: Hub, asked: dict[str, object], names: list[str]) -> None:
    assert found(hub, **asked) == names
    if not {"limit", "offset"} & asked.keys():
        assert hub.count(**{key: value for key, value in asked.items() if key != "sort"}) == len(names)  # type: ignore[arg-type]


def test_capital_letters_of_every_alphabet_do_not_matter(tmp_path: Path) -> None:
    card = {"task": "Élan", "family": "Лес / Straße", "metric": "Ö", "license": "Ünfrei"}
    Hub.create(tmp_path / "hub").add(stated(write_module(tmp_path / "one"), **card))
    hub = Hub.open(tmp_path / "hub")
    for asked in (card, {name: value.upper() for name, value in card.items()}, {"task": "e\u0301lan"}):
        for name, value in asked.items():
            assert found(hub, **{name: value}) == found(hub.where(**card), **{name: value}) == ["one"], value  # type: ignore[arg-type]
    assert found(hub, family="лес") == ["one"]
    assert found(hub, task="elan") == []
    assert hub.card("one").task == hub.find()[0].facts()["task"] == "Élan"


def test_every_order_keeps_every_module(hub: Hub) -> None:
    for sort in SORTS:
        assert sorted(found(hub, sort=sort)) == sorted(found(hub, sort=f"-{sort}")) == hub.names()


@pytest.mark.parametrize("settings", [{"sort": "weight; DROP TABLE modules"}, {"limit": -1}, {"offset": -1}])
def test_what_cannot_be_asked_is_refused(hub: Hub, settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=r"cannot be sorted by .*; choose one of: name, kind|must be at least 0"):
        found(hub, **settings)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"limit": 10**30}, r"at most 9,223,372,036,854,775,807; choose another limit or page"),
        ({"offset": 2**63}, r"at most 9,223,372,036,854,775,807; choose another limit or page"),
        ({"text": "a" * 60_000}, "the text to look for has more than 1,000 characters; shorten it"),
        ({"family": "a" * 60_000}, "the family to look for has more than 1,000 characters; shorten it"),
        ({"variant": "a" * 60_000}, "the variant to look for has more than 1,000 characters; shorten it"),
        ({"text": "a " * 33}, "the text to look for has more than 32 words; look for fewer"),
        ({"text": "\ufdfa" * 1000}, "the text to look for has more than 32 words; look for fewer"),
    ],
)
def test_what_is_too_much_to_ask_is_no_damage(path: Path, asked: dict[str, object], message: str) -> None:
    before = (path / CATALOGUE_FILE).stat()
    hub = Hub.open(path)
    with pytest.raises(SettingError, match=f"{message}$"):
        found(hub, **asked)
    after = (path / CATALOGUE_FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_may_just_be_asked_is_answered(hub: Hub) -> None:
    assert found(hub, limit=2**63 - 1, offset=1) == ["dora", "mnli", "sst2"]
    assert found(hub, limit=2**63 - 1, offset=2**63 - 1) == []
    assert found(hub, text="a " * 32, family="%" * 1000, variant="\U0001f600" * 1000) == []
    assert found(hub, family="\ufdfa" * 1000) == []


def test_the_command_refuses_a_page_beyond_every_number(run: Run, path: Path) -> None:
    shown = run("hub", "list", path, "--page", "99999999999999999999")
    assert (shown.code, shown.err.strip().endswith("choose another limit or page")) == (2, True)


def test_a_view_holds_for_every_method(hub: Hub, tmp_path: Path) -> None:
    view = hub.of_kind("bitfit")
    assert (view.names(), len(view), list(view)) == (["sst2"], 1, ["sst2"])
    assert [card.name for card in view.cards()] == [ref.name for ref in view.refs()] == ["sst2"]
    for method in (view.card, view.ref, view.read, view.folder, view.remove):
        with pytest.raises(HubError, match="has no module 'cola' of kind 'bitfit'"):
            method("cola")
    assert found(view, kind="lora") == []
    assert found(view, kind="BitFit", text="shops") == ["sst2"]
    assert view.count(kind="lora") == 0
    assert hub.where(family="reviews").where(kind="lora").names() == ["dora"]
    with pytest.raises(HubError, match=r"no module of kind 'lora' and text 'shops'; see `headstart hub list`"):
        hub.where(kind="lora", text="shops")
    with pytest.raises(HubError, match=r"has no module of kind 'lora'"):
        view.where(kind="lora")
    assert repr(view) == f"Hub('{hub.path}'; 1 module; only kind 'bitfit')"


def test_problems_of_a_view_are_those_of_its_kind_and_of_no_known_kind(tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    for seed, name in enumerate(("one", "two")):
        hub.add(write_module(tmp_path / name, seed=seed))
    bias = {f"base_model.model.{LAYER}.bias": column(5)}
    hub.add(write_module(tmp_path / "b", tensors=bias, config={"peft_type": "BITFIT", "target_modules": ["q_proj"]}))
    (hub.path / "two" / "adapter_model.safetensors").write_bytes(b"junk")
    (hub.path / "notes").mkdir()
    hub = Hub.open(hub.path)
    assert [problem.name for problem in hub.of_kind("lora").problems()] == ["notes", "two"]
    assert [problem.name for problem in hub.of_kind("bitfit").problems()] == ["notes"]


def test_filters_are_narrowed_only_by_what_can_be_true_at_once() -> None:
    assert Filter(kind="lora").narrowed(Filter(kind="LORA", text="b")) == Filter(kind="LORA", text="b")
    assert Filter(text="a").narrowed(Filter(text="b")) == Filter(text="a b")
    assert Filter(kind="lora").narrowed(Filter(kind="ia3")) is None
    assert Filter(family="a / b").narrowed(Filter(family="A/b")) == Filter(family="A/b")


def test_a_page_parses_its_own_cards_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = ModuleCard.model_validate_json, []
    monkeypatch.setattr(ModuleCard, "model_validate_json", lambda text: parsed.append(text) or parse(text))
    hub = Hub.open(path)
    assert (len(hub), hub.names()[0], hub.problems(), parsed) == (4, "cola", [], [])
    page = hub.find(kind="lora", sort="-score", limit=2, offset=1)
    assert ([ref.name for ref in page], [ref.facts()["rank"] for ref in page], parsed) == (["cola", "mnli"], [2, 3], [])
    assert [ref.card.name for ref in page for _ in range(2)] == ["cola", "cola", "mnli", "mnli"]
    assert len(parsed) == 2


def test_the_command_filters_sorts_and_pages(run: Run, path: Path, tmp_path: Path) -> None:
    shown = run("hub", "list", path, "--family", "reviews", "--sort", "-score", "--limit", "1", "--json")
    assert [card["name"] for card in shown.data] == ["dora"]
    again = run("hub", "list", path, "--family", "reviews", "--sort", "-score", "--limit", "1", "--page", "2", "--json")
    assert [card["name"] for card in again.data] == ["sst2"]
    table = run("hub", "list", path, "--limit", "2")
    assert "DoRA" in table.out
    assert "variant" in table.out
    assert "1–2 of 4; --page 2 shows the next" in table.err
    assert "variant" not in run("hub", "list", path, "--kind", "bitfit").out
    assert json.loads(run("hub", "show", path, "dora", "--json").out)["variant"] == "DoRA"
    assert "DoRA" in run("hub", "show", path, "dora").out
    assert run("hub", "list", path, "--sort", "luck").code == 2
    assert run("hub", "list", path, "--kind", "ia3").out.strip() == "no such module"
    (tmp_path / "empty").mkdir()
    assert run("hub", "list", tmp_path / "empty", "--kind", "ia3").out == (
        f"{tmp_path / 'empty'} has no modules yet; add some with `headstart hub add`\n"
    )
    assert "has 4 such modules, none of them on page 3" in run("hub", "list", path, "--page", "3").out
    assert run("hub", "list", path, "--page", "2", "--json").data == []
