import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import headstart.formats
import headstart.hub.adding
import headstart.hub.reading
from handmade import LAYER, lora_config, lora_tensors, write_module
from headstart.atomic import hidden_folder
from headstart.errors import HubError, ModuleError, OutputError
from headstart.events import Event, Progress
from headstart.formats import StoredModule, read_module
from headstart.hub import Admission, Hub
from headstart.records import Fingerprint, Refused

WEIGHTS, CARD = "adapter_model.safetensors", "headstart.json"


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    """Three sound modules outside the hub."""
    return [write_module(tmp_path / "made" / name, seed=seed) for seed, name in enumerate(("cola", "rte", "sst2"))]


@pytest.fixture
def hub(tmp_path: Path, made: list[Path]) -> Hub:
    hub = Hub.create(tmp_path / "hub")
    assert all(admission.card for admission in hub.add_all(made))
    return hub


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def state_backbone(folder: Path, weights: str) -> Path:
    backbone = Fingerprint(architecture="LlamaForCausalLM", shapes="s", weights=weights)
    read_module(folder).card.model_copy(update={"backbone": backbone}).write(folder / CARD)
    return folder


def test_a_hub_holds_what_was_added(hub: Hub, made: list[Path]) -> None:
    assert hub.names() == list(hub) == ["cola", "rte", "sst2"]
    assert len(hub) == 3
    assert [card.name for card in hub.cards()] == hub.names()
    assert hub.card("rte") == read_module(made[1]).card
    assert hub.folder("rte") == hub.path / "rte"
    module = hub.read("rte")
    assert module.card == hub.card("rte")
    assert module.layout.targets.keys() == {LAYER}
    assert hub.problems() == hub.check() == []
    assert hub.backbone() is None


def test_add_returns_the_card_under_the_hubs_name_and_leaves_the_source(hub: Hub, tmp_path: Path) -> None:
    source = write_module(tmp_path / "new", seed=9)
    for name in ("README.md", "LICENSE", "optimizer.pt"):
        (source / name).write_text(name)
    before = sorted(path.name for path in source.iterdir())
    assert hub.add(source, name="other").name == "other"
    assert sorted(path.name for path in source.iterdir()) == before
    kept = sorted(path.name for path in hub.folder("other").iterdir())
    assert kept == ["LICENSE", "README.md", "adapter_config.json", WEIGHTS]
    assert Hub.open(hub.path).card("other").name == "other"


def test_opening_again_reads_no_module(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a module was read")

    monkeypatch.setattr(headstart.hub.reading, "read_module", forbidden)
    monkeypatch.setattr(headstart.formats, "read_module", forbidden)
    opened = Hub.open(hub.path)
    assert len(opened.cards()) == len(opened.refs()) == 3


def test_a_ref_knows_the_module_and_reads_it_when_asked(hub: Hub, made: list[Path], tmp_path: Path) -> None:
    first, second, third = hub.refs()
    assert (second.name, second.card, second.path) == ("rte", hub.card("rte"), hub.path / "rte")
    assert hub.ref("rte") == second
    assert second.read().card == hub.card("rte")
    assert first.shape == second.shape == third.shape
    assert len({first.digest, second.digest, third.digest}) == 3
    wide = write_module(tmp_path / "wide", tensors=lora_tensors(rank=3), config=lora_config(r=3))
    hub.add(wide)
    assert hub.ref("wide").shape != first.shape
    (hub.path / "rte" / WEIGHTS).write_bytes((made[0] / WEIGHTS).read_bytes())
    with pytest.raises(ModuleError, match="rte: its tensors or configuration changed since it was added"):
        second.read()


def test_a_digest_is_of_the_function_not_of_the_name(hub: Hub, made: list[Path], tmp_path: Path) -> None:
    other = Hub.create(tmp_path / "other")
    described = lora_config(base_model_name_or_path="elsewhere", peft_version="9.9", revision=None)
    (made[1] / "adapter_config.json").write_text(json.dumps(described))
    other.add(made[1], name="another")
    assert other.ref("another").digest == hub.ref("rte").digest
    (made[2] / "adapter_config.json").write_text(json.dumps(lora_config(lora_alpha=8)))
    other.add(made[2])
    assert other.ref("sst2").digest != hub.ref("sst2").digest


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a\\b", "..", " a", "a\n", "a:b", "\udcff", "x" * 201])
def test_impossible_names_are_refused(hub: Hub, made: list[Path], name: str) -> None:
    with pytest.raises(HubError, match=r"cannot be a module's name|is longer than 200 bytes"):
        hub.add(made[0], name=name)


def test_taken_names_and_equal_tensors_are_refused(hub: Hub, made: list[Path], tmp_path: Path) -> None:
    with pytest.raises(
        HubError,
        match=r"already has a module 'rte'; choose another name \(--name, or name=",
    ):
        hub.add(write_module(tmp_path / "new", seed=9), name="rte")
    with pytest.raises(ModuleError, match="module 'twin' has the same tensors as 'rte' in the hub"):
        hub.add(made[1], name="twin")
    assert hub.names() == ["cola", "rte", "sst2"]


def test_a_check_from_above_can_refuse(hub: Hub, tmp_path: Path) -> None:
    def check(module: StoredModule) -> None:
        raise ModuleError(f"{module.card.name} does not fit")

    with pytest.raises(ModuleError, match="new does not fit"):
        hub.add(write_module(tmp_path / "new", seed=9), check=check)
    assert len(hub) == 3


def test_another_backbone_is_refused_by_fingerprint(hub: Hub, tmp_path: Path) -> None:
    first = state_backbone(write_module(tmp_path / "first", seed=10), "one")
    hub.add(first)
    assert hub.backbone() == read_module(first).card.backbone
    hub.add(state_backbone(write_module(tmp_path / "second", seed=11), "one"))
    with pytest.raises(ModuleError, match="module 'third' states another backbone than 'first'"):
        hub.add(state_backbone(write_module(tmp_path / "third", seed=12), "two"))


def test_another_backbone_is_refused_by_widths_until_the_last_module_left(hub: Hub, tmp_path: Path) -> None:
    wide = write_module(tmp_path / "wide", tensors=lora_tensors(inner=8))
    message = rf"module 'wide' was made for another backbone: its layer '{LAYER}' is 8→3, the hub's modules have 4→3"
    message += "; use one hub for each backbone; if the hub's modules are the wrong ones, remove them, and add these "
    message += r"with --backbone \(in Python: check=\)$"
    for name in hub.names():
        with pytest.raises(ModuleError, match=message):
            hub.add(wide)
        hub.remove(name)
    assert hub.add(wide).name == "wide"


def test_one_bad_module_does_not_stop_the_rest(tmp_path: Path, made: list[Path]) -> None:
    (made[1] / WEIGHTS).write_bytes(b"junk")
    hub = Hub.create(tmp_path / "hub")
    seen: list[Event] = []
    admissions = hub.add_all([*made, tmp_path / "absent"], progress=seen.append)
    assert [admission.card is None for admission in admissions] == [False, True, False, True]
    assert admissions[0] == Admission(made[0], "cola", hub.card("cola"), None, new=True)
    assert "is not a sound safetensors file" in (admissions[1].reason or "")
    assert "absent is not a folder" in (admissions[3].reason or "")
    assert seen == [Progress("adding modules", done, 4) for done in (1, 2, 3, 4)]
    assert hub.names() == ["cola", "sst2"]


def test_remove(hub: Hub) -> None:
    hub.remove("rte")
    assert hub.names() == ["cola", "sst2"]
    assert not (hub.path / "rte").exists()
    assert {path.name for path in hub.path.iterdir() if path.is_dir()} == {"cola", "sst2"}
    with pytest.raises(HubError, match="has no module 'rte'"):
        hub.remove("rte")


def test_unknown_names_are_answered_with_close_ones(hub: Hub) -> None:
    with pytest.raises(HubError, match=r"has no module 'sst'; did you mean: sst2\?"):
        hub.read("sst")
    with pytest.raises(HubError, match=r"has no module '\.\./made/rte'"):
        hub.folder("../made/rte")


def test_opening_what_is_no_hub(tmp_path: Path, made: list[Path]) -> None:
    with pytest.raises(HubError, match=r"there is no hub at .*absent; make one with Hub.create"):
        Hub.open(tmp_path / "absent")
    with pytest.raises(HubError, match="cola is a module, not a hub"):
        Hub.open(made[0])
    (tmp_path / "photos" / "2020").mkdir(parents=True)
    with pytest.raises(HubError, match="photos is not a hub: no folder in it is a module"):
        Hub.open(tmp_path / "photos")
    assert not list(tmp_path.glob("**/.catalogue*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(HubError, match=r"cannot make a hub at .*file"):
        Hub.create(tmp_path / "file")


def test_adding_to_what_is_no_hub(tmp_path: Path, made: list[Path]) -> None:
    for add in (Hub(tmp_path / "absent").add, Hub(tmp_path / "absent").add_all):
        with pytest.raises(HubError, match=r"there is no hub at .*absent; make one with Hub.create"):
            add(made[0])
    assert not (tmp_path / "absent").exists()


def test_adding_a_folder_of_modules_as_one(tmp_path: Path, made: list[Path]) -> None:
    hub = Hub.create(tmp_path / "new")
    with pytest.raises(ModuleError, match=rf"is no module, but holds {len(made)} modules; add them with add_all"):
        hub.add(made[0].parent)
    assert not hub.names()


def test_folders_alone_are_a_hub(made: list[Path]) -> None:
    seen: list[Event] = []
    hub = Hub.open(made[0].parent, progress=seen.append)
    assert hub.names() == ["cola", "rte", "sst2"]
    assert seen == [Progress("reading the hub", done, 3) for done in (1, 2, 3)]


def test_check_finds_a_change_that_left_no_trace_outside(hub: Hub) -> None:
    path = hub.path / "rte" / WEIGHTS
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-4] ^= 1  # the lowest bit of the last float32: still a sound file
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Hub.open(hub.path).problems() == []
    with pytest.raises(ModuleError, match="rte: its tensors or configuration changed since it was added"):
        hub.read("rte")
    problems = hub.check()
    assert [problem.name for problem in problems] == ["rte"]
    assert "changed since it was added" in problems[0].reason
    with pytest.raises(HubError, match=r"module 'rte' of the hub .* cannot be used: its tensors"):
        hub.card("rte")
    assert hub.names() == ["cola", "sst2"]
    content[-4] ^= 1
    path.write_bytes(content)
    assert Hub.open(hub.path).names() == ["cola", "rte", "sst2"]


def test_a_module_that_was_renamed_by_hand_is_not_missing(hub: Hub) -> None:
    for former, name in (("rte", "aaa"), ("cola", "zzz")):
        (hub.path / former).rename(hub.path / name)
    opened = Hub.open(hub.path)
    assert opened.names() == ["aaa", "sst2", "zzz"]
    assert opened.problems() == opened.check() == []


def test_opening_sees_changes_by_hand(hub: Hub, tmp_path: Path) -> None:
    (hub.path / "cola").rename(tmp_path / "elsewhere")
    (hub.path / "rte" / WEIGHTS).write_bytes(b"junk")
    config = (hub.path / "sst2" / "adapter_config.json").read_text()
    (hub.path / "sst2" / "adapter_config.json").write_text(config.replace('"lora_alpha": 4', '"lora_alpha": 8'))
    write_module(hub.path / "by-hand", seed=7)
    (hub.path / "notes").mkdir()
    opened = Hub.open(hub.path)
    assert opened.names() == ["by-hand"]
    reasons = {problem.name: problem.reason for problem in opened.problems()}
    assert reasons.keys() == {"cola", "notes", "rte", "sst2"}
    assert "its folder is missing; put it back" in reasons["cola"]
    assert "not a sound safetensors file" in reasons["rte"]
    assert "tensors or configuration changed" in reasons["sst2"]
    assert "notes has no adapter_config.json" in reasons["notes"]
    (tmp_path / "elsewhere").rename(hub.path / "cola")
    assert Hub.open(hub.path).names() == ["by-hand", "cola"]
    assert {problem.name for problem in opened.rebuild()} == {"notes", "rte"}
    assert opened.names() == ["by-hand", "cola", "sst2"]
    assert opened.card("sst2").scaling == 4.0
    opened.remove("notes")
    assert opened.problems()[0].name == "rte"


def test_a_changed_card_is_taken_in(hub: Hub) -> None:
    hub.card("rte").model_copy(update={"license": "MIT"}).write(hub.path / "rte" / CARD)
    assert Hub.open(hub.path).card("rte").license == "MIT"


def test_a_copy_by_hand_is_a_problem_and_recovers_when_the_first_leaves(hub: Hub, made: list[Path]) -> None:
    write_module(hub.path / "twin", seed=1)
    opened = Hub.open(hub.path)
    assert opened.problems() == [
        Refused("twin", "module 'twin' has the same tensors as 'rte' in the hub; keep one of them")
    ]
    opened.remove("rte")
    assert opened.check() == []
    assert opened.names() == ["cola", "sst2", "twin"]


def test_a_crash_before_the_row_leaves_a_folder_that_is_taken_in(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    source = write_module(tmp_path / "new", seed=9)
    with monkeypatch.context() as patch:
        patch.setattr(headstart.hub.adding, "record", crash)
        with pytest.raises(KeyboardInterrupt):
            hub.add(source)
    assert "new" not in hub.names()
    assert "new" in Hub.open(hub.path).names()


def test_a_crash_while_copying_leaves_nothing(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        (target / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(headstart.hub.reading, "copy_module", full)
    before = sorted(hub.path.rglob("*"))
    with pytest.raises(OutputError, match="No space left on device"):
        hub.add(write_module(tmp_path / "new", seed=9))
    assert sorted(hub.path.rglob("*")) == before


def test_a_module_that_changes_while_it_is_copied_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(source: Path, target: Path) -> None:
        target.rmdir()
        write_module(target, seed=50)

    monkeypatch.setattr(headstart.hub.reading, "copy_module", other)
    with pytest.raises(ModuleError, match="new changed while it was copied"):
        hub.add(write_module(tmp_path / "new", seed=9))
    assert not (hub.path / "new").exists()


def test_leftovers_of_killed_runs_are_swept(hub: Hub) -> None:
    killed = dead_process()
    mine = hidden_folder(hub.path / "a")
    machine = mine.name.split(".")[2].partition("-")[0]
    left = hub.path / f".b.{machine}-{killed}-abcdefgh.staging"
    removed = hub.path / f".c.{machine}-{killed}-abcdefgh.removed"
    elsewhere, long_ago = (hub.path / f".{name}.00000000-1-abcdefgh.staging" for name in "de")
    for folder in (left, removed, elsewhere, long_ago):
        (folder / "half").mkdir(parents=True)
    os.utime(long_ago, (time.time() - 100_000,) * 2)
    assert hub.check() == []
    there = [folder.exists() for folder in (mine, left, removed, elsewhere, long_ago)]
    assert there == [True, False, False, True, False], "those of running processes and of other machines stay a day"


def test_a_module_may_be_called_like_the_list_of_a_removal(hub: Hub, tmp_path: Path) -> None:
    before = sorted(path.name for path in hub.path.iterdir())
    hub.add(write_module(tmp_path / "names.json", seed=9))
    hub.remove("names.json")
    assert sorted(path.name for path in hub.path.iterdir()) == before


def test_processes_that_add_at_once_do_not_lose_or_double_anything(tmp_path: Path) -> None:
    folders = [write_module(tmp_path / "made" / f"m{seed}", seed=seed) for seed in range(6)]
    code = (
        "import sys, pathlib; from headstart.hub import Hub\n"
        "hub = Hub.create(pathlib.Path(sys.argv[1]))\n"
        "print(sum(a.card is not None for a in hub.add_all(map(pathlib.Path, sys.argv[2:]))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "hub")]
    runs = [
        subprocess.Popen([*command, *map(str, order)], stdout=subprocess.PIPE, text=True)
        for order in (folders, folders[::-1], folders[3:] + folders[:3])
    ]
    added = [int(run.communicate()[0]) for run in runs]
    assert added == [6, 6, 6], "each finds the others' modules there, or adds them"
    hub = Hub.open(tmp_path / "hub")
    assert hub.names() == [f"m{seed}" for seed in range(6)]
    assert hub.check() == []


def test_a_locked_catalogue_is_a_clear_error(hub: Hub, made: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.hub.catalogue.WAIT_SECONDS", 0.05)
    blocker = sqlite3.connect(hub.path / ".catalogue.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(HubError, match="another process is writing to the hub; try again"):
        hub.add(made[0], name="new")
    assert len(hub.cards()) == 3
    blocker.close()


def test_values_survive_the_hub(hub: Hub) -> None:
    for name, values in lora_tensors(seed=1).items():
        np.testing.assert_array_equal(hub.read("rte").tensors[name].numpy(), values)
