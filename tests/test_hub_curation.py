"""Looking after a hub: parents of modules, facts on cards, new names, and patterns of names."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handmade import write_module
from headstart.backbones import Backbone
from headstart.cli.hub import _only_ranked
from headstart.errors import HubError, ModuleError, OutputError, SettingError
from headstart.hub import Hub
from headstart.hub.admission import Admission
from headstart.hub.model_card import readme
from headstart.hub.snippet import snippet
from headstart.kinds import load_module, save_module
from program import Run
from small_hub import module

pytest_plugins = ["cli_helper"]

NAMES = ("glue-mrpc", "glue-qqp", "paws", "rte")


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """A folder of four PEFT modules, one of them two levels down, and something else."""
    for seed, place in enumerate(("glue-mrpc", "glue-qqp", "deep/er/paws", "rte")):
        write_module(tmp_path / "loras" / place, seed=seed)
    write_module(tmp_path / "loras" / ".hidden" / "old", seed=9)
    (tmp_path / "loras" / "notes.txt").write_text("mine")
    return tmp_path / "loras"


@pytest.fixture
def hub(tmp_path: Path, loras: Path) -> Hub:
    hub = Hub.create(tmp_path / "hub")
    assert all(one.card for one in hub.add_all([loras]))
    return hub


# Adding


def test_a_parent_stands_for_the_modules_in_it(hub: Hub, loras: Path) -> None:
    assert hub.names() == list(NAMES)
    assert [one.name for one in hub.add_all([loras, loras / "rte"])] == ["paws", "glue-mrpc", "glue-qqp", "rte", "rte"]


def test_links_do_not_double_modules(tmp_path: Path, loras: Path) -> None:
    (loras / "loop").symlink_to(loras)
    (loras / "same").symlink_to(loras / "rte")
    (loras / "self").symlink_to("self")
    admitted = Hub.create(tmp_path / "hub").add_all([loras], family="nli")
    assert sorted((one.name, one.reason) for one in admitted) == [(name, None) for name in NAMES]


def test_a_folder_that_cannot_be_looked_into_is_named(
    tmp_path: Path, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (loras / "locked").mkdir()
    iterdir = Path.iterdir

    def guarded(path: Path) -> Any:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    admitted = Hub.create(tmp_path / "hub").add_all([loras])
    assert {one.name for one in admitted if one.card} == set(NAMES)
    assert [one.name for one in admitted if one.reason] == ["locked"]


def test_a_folder_without_modules_is_refused_as_before(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (one,) = hub.add_all([tmp_path / "empty"])
    assert (
        one.reason == f"{tmp_path / 'empty'} has no adapter_config.json; name a folder saved by PEFT's save_pretrained"
    )


def test_facts_go_onto_the_card_in_the_hub_s_folder_alone(tmp_path: Path, loras: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    card = hub.add(loras / "rte", name="entailment", task="rte", family="nli", license="mit", metric="ACC", score=0.7)
    assert (card.name, card.task, card.family, card.license, card.metric, card.score) == (
        "entailment", "rte", "nli", "mit", "ACC", 0.7,
    )  # fmt: skip
    assert not (loras / "rte" / "headstart.json").exists()
    assert Hub.open(tmp_path / "hub").rebuild() == []
    assert hub.card("entailment") == card == load_module(tmp_path / "hub" / "entailment").card
    assert hub.add(loras / "rte", name="entailment", task="rte") == card
    with pytest.raises(HubError, match=r"entailment is this very module; change its card with headstart hub edit$"):
        hub.add(loras / "rte", name="entailment", task="other")


def test_a_name_is_for_one_module(tmp_path: Path, loras: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    with pytest.raises(HubError, match=r"the name 'x' is for one module, and 4 are given; add that one alone$"):
        hub.add_all([loras], name="x")
    (one,) = hub.add_all([loras / "deep"], name="x")
    assert one.card is not None
    assert hub.names() == ["x"]


def test_what_no_card_can_hold_is_refused(tmp_path: Path, loras: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    with pytest.raises(SettingError, match=r"^the card of 'rte': score=nan: .* finite number; correct it$"):
        hub.add(loras / "rte", score=float("nan"))
    assert hub.names() == []


def test_a_taken_name_says_how_to_give_another(hub: Hub, tmp_path: Path) -> None:
    write_module(tmp_path / "rte", seed=7)
    with pytest.raises(HubError) as caught:
        hub.add(tmp_path / "rte")
    assert str(caught.value).endswith(
        "already has a module 'rte'; choose another name (--name, or name= in Python), or remove that one"
    )
    for name in ("RTE", "con", "a/b"):
        with pytest.raises(HubError, match=r"; choose another name \(--name, or name= in Python\)$"):
            hub.add(tmp_path / "rte", name=name)


# Editing


def test_an_edit_is_in_the_folder_and_in_the_catalogue(hub: Hub) -> None:
    before = hub["rte"]
    card = hub.edit("rte", name="entailment", task="rte", notes="from last year")
    after = hub["entailment"]
    assert (after.card, after.digest, after.shape) == (card, before.digest, before.shape)
    assert (card.name, card.task, card.notes) == ("entailment", "rte", "from last year")
    assert load_module(hub.path / "entailment").card == card
    assert not (hub.path / "rte").exists()
    assert hub.check() == [] == hub.rebuild()
    assert hub.card("entailment") == card
    assert hub.find(task="RTE")[0].name == "entailment"
    assert hub.edit("entailment", notes="").notes == ""


def test_a_page_that_headstart_wrote_follows_its_card_and_another_one_stays(hub: Hub, tmp_path: Path) -> None:
    made = save_module(load_module(hub.folder("rte")), tmp_path / "made" / "own")
    hub.remove("rte")
    hub.add(tmp_path / "made" / "own")
    card = hub.edit("own", license="mit", name="mine")
    page = hub.folder("mine") / "README.md"
    loading = snippet(card, load_module(page.parent).config, folder="mine")
    assert page.read_text() == readme(card, loading=loading) != readme(made.card)
    page.write_text("my own words")
    hub.edit("mine", license="apache-2.0")
    assert page.read_text() == "my own words"


def test_the_page_of_a_tuned_module_says_whose_error_it_is(hub: Hub) -> None:
    merged = hub.card("rte").model_copy(update={"merge_error": 0.25})
    assert "| ΔW error of the merge | 0.25 |" in readme(merged)
    assert "| ΔW error of the start | 0.25 |" in readme(merged.model_copy(update={"train_rows": 48}))


def test_a_refused_edit_changes_nothing(hub: Hub) -> None:
    before = {path: path.read_bytes() for path in hub.path.rglob("*.json")}
    for change, said in (
        ({"name": "paws"}, r"already has a module 'paws'; choose another name \(--name, or name= in Python\), or rem"),
        ({"name": "Paws"}, "differs from 'paws' in the hub only by case"),
        ({"name": "a/b"}, "cannot be a module's name"),
    ):
        with pytest.raises(HubError, match=said):
            hub.edit("rte", task="x", **change)  # type: ignore[arg-type]
    with pytest.raises(HubError, match=r"has no module 'rtd'; did you mean: rte\?$"):
        hub.edit("rtd", task="x")
    assert {path: path.read_bytes() for path in hub.path.rglob("*.json")} == before
    assert hub.names() == list(NAMES)


def test_only_the_case_of_a_name_may_change(hub: Hub) -> None:
    hub.edit("rte", name="RTE")
    assert hub.names() == ["RTE", "glue-mrpc", "glue-qqp", "paws"]


def test_a_broken_module_and_a_read_only_one_are_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub.path / "rte" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModuleError, match="adapter_model"):
        hub.edit("rte", task="x")

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError, match=r"cannot change .*paws: Permission denied; check its permissions$"):
        hub.edit("paws", name="other")
    monkeypatch.undo()
    assert (hub.names(), Hub.open(hub.path).names()) == (["glue-mrpc", "glue-qqp", "paws"],) * 2 or hub.problems()


def test_readers_see_the_old_state_or_the_new_one(hub: Hub) -> None:
    seen: list[tuple[str, ...]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(tuple(Hub.open(hub.path).names()))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for turn in range(10):
            hub.edit("rte" if turn % 2 == 0 else "zzz", name="zzz" if turn % 2 == 0 else "rte")
    finally:
        done.set()
        reader.join()
    assert set(seen) <= {NAMES, (*NAMES[:-1], "zzz")}
    assert hub.problems() == []


def test_a_catalogue_that_breaks_meanwhile_is_built_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.hub import editing
    from headstart.hub.catalogue import DamageError

    plain, calls = editing.record, []

    def breaks_once(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 1:
            raise DamageError("broken")
        plain(*given)

    monkeypatch.setattr(editing, "record", breaks_once)
    assert hub.edit("rte", name="new", task="x").task == "x"
    assert (hub.names(), hub.problems(), len(calls)) == (["glue-mrpc", "glue-qqp", "new", "paws"], [], 2)


def test_what_a_link_leads_to_is_not_edited(hub: Hub, tmp_path: Path) -> None:
    outside = write_module(tmp_path / "mine" / "linked", seed=7)
    (hub.path / "linked").symlink_to(outside)
    hub = Hub.open(hub.path)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    for changes in ({"task": "nli"}, {"name": "other"}):
        with pytest.raises(HubError, match=r"linked is a link, and what is outside .* add .*mine/linked\)$"):
            hub.edit("linked", **changes)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    assert hub.card("linked").task == ""
    hub.remove("linked")
    assert hub.add(outside, task="nli").task == "nli"
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


# Patterns of names


def test_patterns_of_names(hub: Hub) -> None:
    assert hub.where(include="glue-*").names() == ["glue-mrpc", "glue-qqp"]
    assert hub.where(include=["GLUE-?qp", "rte"]).names() == ["glue-qqp", "rte"]
    assert hub.where(exclude=["glue-*", "rte"]).names() == ["paws"]
    assert hub.where(include="[!g]*", exclude="r*").names() == ["paws"]
    assert hub.where(include="*").where(include="glue*").where(exclude="*qqp").names() == ["glue-mrpc"]
    assert [ref.name for ref in hub.find(include="*w*")] == ["paws"]
    assert hub.count(exclude="paws") == 3
    view = hub.where(exclude="rte")
    assert ("rte" in view, "paws" in view, repr(view).endswith("3 modules; only name not 'rte')")) == (
        False,
        True,
        True,
    )


def test_letters_from_one_to_another_in_every_alphabet(hub: Hub) -> None:
    for old, new in zip(NAMES, ("вода", "где", "ωμέγα", "rte"), strict=True):
        hub.edit(old, name=new)
    assert hub.where(include="[а-в]*").names() == ["вода"]
    assert hub.where(include="[А-Я]*").names() == ["вода", "где"]
    assert hub.where(include="[α-ω]*", exclude="rte").names() == ["ωμέγα"]
    assert hub.where(include="[!в]*").names() == ["rte", "ωμέγα", "где"]
    assert hub.where(include="[a-z]te").names() == ["rte"]


def test_a_pattern_that_fits_no_name_is_mistyped(hub: Hub) -> None:
    for asked in ({"exclude": "pawz"}, {"include": ["rte", "pawz"]}):
        with pytest.raises(HubError, match=r"has no module 'pawz'; did you mean: paws\?$"):
            hub.where(**asked)  # type: ignore[arg-type]
    with pytest.raises(HubError, match=r"has no module of name '\*' and name not '\*'; see `headstart hub list`$"):
        hub.where(include="*", exclude="*")


def test_brackets_may_stand_for_themselves(hub: Hub) -> None:
    hub.edit("rte", name="a[b")
    assert hub.where(include="a[b").names() == ["a[b"]
    hub.edit("a[b", name="a]b")
    assert hub.where(include="a[]]b").names() == ["a]b"]
    hub.edit("a]b", name="run[1]")
    assert hub.where(include="run[1]").names() == ["run[1]"]
    assert "run[1]" not in hub.where(exclude="RUN[1]").names()


def test_no_name_is_no_name_for_a_module(hub: Hub) -> None:
    with pytest.raises(HubError, match=r"^'' cannot be a module's name: it must not be empty"):
        hub.edit("rte", name="")


def test_a_broken_module_can_be_left_out_by_name(hub: Hub) -> None:
    (hub.path / "rte" / "adapter_config.json").write_text("{")
    hub = Hub.open(hub.path)
    assert [problem.name for problem in hub.problems()] == ["rte"]
    assert hub.where(exclude="rte").problems() == []


# On the command line


def test_adding_with_facts(run: Run, tmp_path: Path, loras: Path) -> None:
    hub = str(tmp_path / "hub")
    done = run("hub", "add", hub, str(loras / "rte"), "--name", "nli", "--task", "rte", "--license", "mit", "--json")
    assert done.code == 0, done.err
    assert [(row["module"], row["result"]) for row in json.loads(done.out)] == [("nli", "accepted")]
    card = json.loads(run("hub", "show", hub, "nli", "--json").out)
    assert (card["task"], card["license"]) == ("rte", "mit")
    done = run("hub", "add", hub, str(loras))
    assert done.code == 1
    assert "has the same tensors as 'nli'" in " ".join(done.out.split())
    assert run("hub", "list", hub, "--json", "--exclude", "glue*").out.count('"name"') == 2


def test_editing(run: Run, hub: Hub) -> None:
    done = run("hub", "edit", str(hub.path), "rte", "--name", "nli", "--task", "rte", "--score", "0.5")
    assert done.out == "rte: name 'rte' → 'nli', task '' → 'rte', score None → 0.5\n"
    assert run("hub", "edit", str(hub.path), "nli", "--task", "rte").out.startswith("nli: nothing changed")
    assert json.loads(run("hub", "edit", str(hub.path), "nli", "--notes", "x", "--json").out)["notes"] == "x"
    percent = run("hub", "edit", str(hub.path), "nli", "--score", "75")
    assert (percent.code, "should be less than or equal to 1" in percent.err) == (2, True), percent.err
    done = run("hub", "edit", str(hub.path), "nli")
    assert done.code == 2
    assert "nothing to change; give --name, --task, --family, --license, --metric, --score or --notes" in done.err


def test_the_arguments_in_the_wrong_order(run: Run, hub: Hub, loras: Path, tmp_path: Path) -> None:
    did, two = "did you mean headstart hub add", (loras / "rte", loras / "glue-qqp")
    for given, said in (
        ((loras, hub.path), f"{loras} is a folder of modules, and the hub comes first; {did} {hub.path} {loras}?"),
        ((loras, tmp_path / "new"), f"{did} {tmp_path / 'new'} {loras}?"),
        ((*two, hub.path), f"is a module, and the hub comes first; {did} {hub.path} {two[0]} {two[1]}?"),
    ):
        done = run("hub", "add", *map(str, given))
        assert done.code == 2
        assert said in " ".join(done.err.split())
        assert not (loras / ".catalogue.sqlite").exists()


def test_a_hub_says_what_it_knows_of_its_modules(run: Run, llama: Backbone, tmp_path: Path) -> None:
    save_module(module(llama, "ada", seed=1, task="rte", family="", metric="ACC", score=0.5), tmp_path / "ada")
    dora = module(llama, "bob", seed=2, task="", family="")
    hub = Hub.create(tmp_path / "hub")
    hub.add(tmp_path / "ada")
    listed = run("hub", "list", hub.path)
    assert listed.out.split()[:7] == ["name", "kind", "rank", "parameters", "task", "metric", "score"]
    assert listed.err == ""
    hub.edit("ada", task="")
    assert (
        "No card says what its module was tuned on. If you know it: headstart hub edit HUB"
        in run("hub", "list", hub.path).err
    )
    admission = Admission(tmp_path / "bob", "bob", dora.card.model_copy(update={"variant": "DoRA"}), None, new=True)
    assert _only_ranked(admission) == "DoRA: it can be ranked, but not merged or tuned"
    assert _only_ranked(replace(admission, card=dora.card)) is None
