import errno
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headstart
from handmade import LAYER, lora_config, lora_tensors, pack, write_module
from headstart import atomic, cli
from headstart.backbone import Backbone
from headstart.comparison import METHODS, Comparison
from headstart.hub import Hub
from headstart.kinds import load_module, save_module
from small_hub import SETTINGS, misfit, module, snapshot, write_modules, write_task

NAMES = ["ada", "bob", "cyd", "dan"]
QUICK = ["--recipe", "quick", *(part for setting in SETTINGS for part in ("--set", setting))]


@dataclass(frozen=True)
class Ended:
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed, as strict JSON."""
        assert self.code in (0, 1), self.err
        return json.loads(self.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program, in this process: importing torch anew for each command would take minutes."""
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def call(*arguments: Any) -> Ended:
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def backbone(tiny_llama: Path) -> Backbone:
    return Backbone.load(tiny_llama, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """A folder with modules in made/, a hub and a task; tests read it only."""
    room = tmp_path_factory.mktemp("room")
    write_task(room / "reviews")
    Hub.create(room / "hub").add_all(write_modules(room / "made", backbone))
    return room


@pytest.fixture
def here(room: Path, tiny_llama: Path) -> dict[str, list[str]]:
    """The options that most commands share."""
    on = ["--backbone", str(tiny_llama), "--device", "cpu", "--dtype", "float32"]
    return {"task": [str(room / "reviews")], "hub": ["--hub", str(room / "hub")], "on": on}


def assert_mistake(ended: Ended, *parts: str) -> None:
    """Exit code 2 and one paragraph on standard error that says `parts`."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert (ended.code, len(lines)) == (2, 1), ended.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    for part in parts:
        assert part in lines[0]


# ---- hub


def test_a_hub_from_add_to_remove(run: Run, room: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    added = run("hub", "add", hub, *(room / "made" / name for name in NAMES), "--json")
    assert added.code == 0
    assert [(row["module"], row["result"], row["reason"]) for row in added.data] == [
        (name, "accepted", None) for name in NAMES
    ]
    cards = run("hub", "list", hub, "--json").data
    assert [card["name"] for card in cards] == NAMES
    assert cards[0]["license"] == "mit"
    assert run("hub", "show", hub, "bob", "--json").data == cards[1]
    assert run("hub", "check", hub, "--json").data == {"modules": 4, "problems": []}
    assert run("hub", "remove", hub, "bob", "bob", "dan", "--json").data == {"removed": ["bob", "dan"], "left": 2}
    assert sorted(path.name for path in hub.iterdir() if not path.name.startswith(".")) == ["ada", "cyd"]


def test_the_hub_commands_print_tables(run: Run, room: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    added = run("hub", "add", hub, *(room / "made" / name for name in NAMES[:2]))
    assert (added.code, added.out.count("accepted")) == (0, 2)
    head, _, ada, bob = [line.split() for line in run("hub", "list", hub).out.splitlines() if line.strip()]
    assert head == ["name", "kind", "rank", "parameters", "family", "metric", "score"]
    # 2 layers, each with q_proj (32→32) and v_proj (32→16) at rank 2: 2·(2·(32 + 32) + 2·(32 + 16)).
    assert (ada, bob) == (["ada", "lora", "2", "448", "reviews"], ["bob", "lora", "2", "448", "reviews"])
    shown = run("hub", "show", hub, "ada").out
    assert "tiny-llama (LlamaForCausalLM, weights" in shown
    assert "model.layers.0.self_attn.q_proj" in shown
    assert run("hub", "check", hub).out == "All 2 modules are as catalogued.\n"
    assert run("hub", "remove", hub, "ada").out == "Removed ada; 1 modules are left.\n"


def test_hub_add_refuses_row_by_row(run: Run, room: Path, tmp_path: Path) -> None:
    again = run("hub", "add", tmp_path / "hub", room / "made" / "ada", room / "made" / "ada", room / "none", "--json")
    assert again.code == 1
    assert [row["result"] for row in again.data] == ["accepted", "refused", "refused"]
    assert "already has a module 'ada'" in again.data[1]["reason"]
    assert "none is not a folder" in again.data[2]["reason"]


def test_hub_check_and_list_tell_of_a_broken_module(run: Run, room: Path, tmp_path: Path) -> None:
    run("hub", "add", tmp_path / "hub", room / "made" / "ada", room / "made" / "bob")
    (tmp_path / "hub" / "ada" / "adapter_model.safetensors").write_bytes(b"")
    checked = run("hub", "check", tmp_path / "hub", "--json")
    assert (checked.code, checked.data["modules"]) == (1, 1)
    assert checked.data["problems"][0]["module"] == "ada"
    table = run("hub", "check", tmp_path / "hub")
    assert (table.code, "adapter_model.safetensors" in table.out) == (1, True)
    listed = run("hub", "list", tmp_path / "hub")
    assert (listed.code, "ada" in listed.out) == (0, False)
    assert listed.err == "1 more cannot be used; see headstart hub check\n"
    assert_mistake(run("hub", "show", tmp_path / "hub", "ada"), "module 'ada' of the hub", "cannot be used")


def test_hub_mistakes(run: Run, room: Path, tmp_path: Path) -> None:
    assert_mistake(run("hub", "list", tmp_path / "none"), "there is no hub at", "make one with `headstart hub add`")
    assert_mistake(run("hub", "show", room / "hub", "adda"), "has no module 'adda'; did you mean: ada")
    before = snapshot(room / "hub")
    assert_mistake(run("hub", "remove", room / "hub", "ada", "eve"), "has no module 'eve'; nothing was removed")
    assert snapshot(room / "hub") == before
    assert run("hub", "list").code == 2
    assert run("hub", "lst").code == 2


def test_names_with_brackets_are_printed_as_they_are(
    run: Run, here: dict[str, list[str]], room: Path, backbone: Backbone, tmp_path: Path
) -> None:
    save_module(module(backbone, "[bold]x[/y]", seed=5), tmp_path / "[bold]x[-y]")
    hub = tmp_path / "[hub]"
    assert run("hub", "add", hub, tmp_path / "[bold]x[-y]").code == 0
    assert "[bold]x[-y]" in run("hub", "list", hub).out
    assert_mistake(run("hub", "show", hub, r"\[z]"), r"has no module '\[z]'")
    made = run("ensemble", *here["task"], "--hub", hub, *here["on"], *QUICK, "-o", tmp_path / "[b]out")
    assert made.out.rstrip().endswith(f"Saved {tmp_path / '[b]out'}.")
    assert_mistake(run("rank", tmp_path / "[/b]", *here["hub"], *here["on"]), "[/b]")


# ---- the road


def test_rank(run: Run, here: dict[str, list[str]], backbone: Backbone) -> None:
    command = ["rank", *here["task"], *here["hub"], *here["on"], *QUICK, "-i", "cosine", "-i", "tupate"]
    data = run(*command, "--json").data
    assert (data["task"], data["examples"], data["reduction"], data["refused"]) == ("reviews", 12, "mean", [])
    found = [row["cosine"] for row in data["modules"]]
    assert found == sorted(found, reverse=True)
    assert all(-1 <= row["tupate"] <= 1 for row in data["modules"])
    ended = run(*command)
    # Each target is one word and the end of the sequence.
    assert "reviews: 4 modules on 12 dev rows, mean over 24 target tokens" in " ".join(ended.out.split())
    assert all(name in ended.out for name in (*NAMES, "cosine", "tupate"))
    fewer = run(*command, "--rows", "5", "--shots", "4", "--json").data
    assert fewer["examples"] == 5


def test_rank_says_what_it_could_not_rank(
    run: Run, here: dict[str, list[str]], room: Path, backbone: Backbone, tmp_path: Path
) -> None:
    save_module(misfit(backbone, "eve"), tmp_path / "eve")
    save_module(module(backbone, "fat", seed=6, rank=3), tmp_path / "fat")
    hub = tmp_path / "hub"
    run("hub", "add", hub, room / "made" / "ada", room / "made" / "bob", tmp_path / "eve", tmp_path / "fat")
    command = ["rank", *here["task"], "--hub", hub, *here["on"], *QUICK, "-i", "tupate"]
    ended = run(*command)
    assert "refused eve: " in ended.err
    assert "no tupate of fat: its embedding has" in ended.err
    data = run(*command, "--json").data
    assert [row["name"] for row in data["refused"]] == ["eve"]
    assert data["modules"][-1]["module"] == "fat"
    assert data["modules"][-1]["tupate"] is None
    assert set(data["reasons"]["tupate"]) == {"fat"}


def test_ensemble(run: Run, here: dict[str, list[str]], backbone: Backbone, tmp_path: Path) -> None:
    command = ["ensemble", *here["task"], *here["hub"], *here["on"], *QUICK, "--temperature", "0.5"]
    data = run(*command, "-o", tmp_path / "one", "--json").data
    assert [donor["name"] for donor in data["card"]["donors"]] == NAMES
    assert sum(donor["weight"] for donor in data["card"]["donors"]) == pytest.approx(1)
    assert (data["indicator"], data["temperature"], data["space"]) == ("cosine", 0.5, "parameters")
    assert data["card"]["name"] == "one"
    saved = load_module(tmp_path / "one")
    saved.check(backbone)
    assert saved.card.model_dump(mode="json") == data["card"]
    table = run(*command, "-o", tmp_path / "two", "--space", "svd", "--rank", "3", "--top-k", "2")
    assert "effective number of modules 2.00 of 4, space 'svd'" in table.out
    assert table.out.rstrip().endswith(f"Saved {tmp_path / 'two'}.")
    assert load_module(tmp_path / "two").card.rank == 3
    assert len(load_module(tmp_path / "two").card.donors) == 2


def test_tune_from_nothing_and_from_a_start(
    run: Run, here: dict[str, list[str]], room: Path, backbone: Backbone, tmp_path: Path
) -> None:
    command = ["tune", *here["task"], *here["on"], *QUICK]
    data = run(*command, "-o", tmp_path / "one", "--license", "mit", "--json").data
    assert [point["step"] for point in data["curve"]] == [0, 2, 4]
    assert data["curve"][0]["train_loss"] is None
    assert (data["module"]["license"], data["module"]["rank"], data["module"]["task"]) == ("mit", 2, "reviews")
    table = run(*command, "--start", room / "made" / "ada", "-o", tmp_path / "two", "--train-rows", "5", "--name", "n")
    assert "Tuning on reviews" in table.out
    assert f"Saved {tmp_path / 'two'}: dev ACC " in table.out
    assert (load_module(tmp_path / "two").card.name, load_module(tmp_path / "two").card.train_rows) == ("n", 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_compare(run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    command = ["compare", *here["task"], *here["hub"], *here["on"], *QUICK, "--seeds", "2", "--shots", "3"]
    data = run(*command, "-o", tmp_path / "one", "--also", "loss", "--test-rows", "6", "--json").data
    found = Comparison.from_json(json.dumps(data["comparison"]))
    assert found.indicators == ("cosine", "loss")
    assert (len(found.scores), found.settings["test_rows"]) == (2 * 2 * len(METHODS), 6)
    assert Path(data["report"]) == tmp_path / "one" / "report.html"
    assert json.loads((tmp_path / "one" / "comparison.json").read_text()) == data["comparison"]
    table = run(*command, "-o", tmp_path / "two")
    assert all(method in table.out for method in METHODS)
    assert table.out.rstrip().endswith(f"Report: {tmp_path / 'two' / 'report.html'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


# ---- mistakes


def broken(folder: Path, backbone: Backbone, kind: str) -> tuple[Path, str]:
    """A folder with a module that is broken in the way of `kind`, and what the message must name."""
    sound = save_module(module(backbone, "x", seed=8), folder)
    weights = folder / "adapter_model.safetensors"
    (folder / "headstart.json").unlink()
    if kind == "missing":
        weights.unlink()
        return folder, "has no adapter_model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-7])
        return folder, "adapter_model.safetensors is not a sound safetensors file"
    if kind == "pickle":
        weights.unlink()
        (folder / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))
        return folder, "holds only the pickle adapter_model.bin"
    if kind in ("nan", "inf"):
        values = {name: value.numpy().copy() for name, value in sound.tensors().items()}
        name = next(iter(values))
        values[name][0, 0] = np.nan if kind == "nan" else np.inf
        weights.write_bytes(pack(values))
        return folder, f"tensor '{name}' holds NaN or infinite values"
    assert kind == "ranks"
    weights.write_bytes(pack(lora_tensors(rank=3, layers=(LAYER,))))
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(target_modules=["q_proj"])))
    return folder, "has rank 3 but the configuration says 2"


@pytest.mark.parametrize("kind", ["missing", "truncated", "pickle", "nan", "inf", "ranks"])
def test_a_broken_module_is_refused(
    kind: str, run: Run, here: dict[str, list[str]], backbone: Backbone, tmp_path: Path
) -> None:
    folder, message = broken(tmp_path / "x", backbone, kind)
    before = snapshot(tmp_path)
    assert_mistake(run("tune", *here["task"], *here["on"], *QUICK, "--start", folder, "-o", tmp_path / "out"), message)
    assert snapshot(tmp_path) == before
    added = run("hub", "add", tmp_path / "hub", folder, "--json")
    assert (added.code, [row["result"] for row in added.data]) == (1, ["refused"])
    assert message in added.data[0]["reason"]
    assert snapshot(tmp_path) == before | {"hub": None}


def alien(folder: Path, backbone: Backbone, kind: str) -> tuple[Path, str]:
    """A sound module that does not fit `backbone`."""
    if kind == "layer":
        save_module(misfit(backbone, "x"), folder)
        return folder, "model.layers.7.self_attn.q_proj, which tiny-llama does not have"
    if kind == "shape":
        write_module(folder, tensors=lora_tensors(inner=16, outer=32))
        return folder, f"{LAYER} is 16→32 in module 'x' but 32→32 in tiny-llama"
    if kind == "fewer-layers":
        write_module(folder, tensors=lora_tensors(inner=32, outer=32))
        return folder, "names model.layers.1.self_attn.q_proj in target_modules but holds no tensors for it"
    assert kind == "backbone"
    found = module(backbone, "x", seed=8)
    other = backbone.fingerprint.model_copy(update={"weights": "f" * 64, "name": "another"})
    save_module(replace(found, card=found.card.model_copy(update={"backbone": other})), folder)
    return folder, "module 'x' was made for another backbone (another, weights ffffffffffff)"


@pytest.mark.parametrize("kind", ["layer", "shape", "fewer-layers", "backbone"])
def test_a_module_of_another_backbone_is_refused(
    kind: str, run: Run, here: dict[str, list[str]], backbone: Backbone, tmp_path: Path
) -> None:
    folder, message = alien(tmp_path / "x", backbone, kind)
    before = snapshot(tmp_path)
    assert_mistake(run("tune", *here["task"], *here["on"], *QUICK, "--start", folder, "-o", tmp_path / "out"), message)
    added = run("hub", "add", tmp_path / "hub", folder, *here["on"], "--json")
    assert (added.code, [row["result"] for row in added.data]) == (1, ["refused"])
    assert message in added.data[0]["reason"]
    assert snapshot(tmp_path) == before | {"hub": None}
    # Without a backbone at hand it is sound, so it enters, and is refused where it would be used.
    assert run("hub", "add", tmp_path / "hub", folder).code == 0
    start = ["ensemble", *here["task"], "--hub", tmp_path / "hub", *here["on"], *QUICK, "-o", tmp_path / "out"]
    assert_mistake(run(*start), "has no module that fits tiny-llama; the first of 1 refused: ", message)
    assert not (tmp_path / "out").exists()


COMMANDS = ("tune", "rank", "ensemble", "compare")


def command_line(name: str, here: dict[str, list[str]], output: Path, *, task: Path | None = None) -> list[str]:
    words = [name, *([str(task)] if task else here["task"]), *here["on"], *QUICK]
    words += [] if name == "tune" else here["hub"]
    words += [] if name == "rank" else ["--output", str(output)]
    return words + (["--seeds", "1", "--shots", "3"] if name == "compare" else [])


def task_without_rows(folder: Path) -> tuple[Path, str]:
    (write_task(folder) / "train.jsonl").write_text("")
    return folder, "has no rows; add some, or remove the file"


def task_without_the_field(folder: Path) -> tuple[Path, str]:
    (write_task(folder) / "train.jsonl").write_text('{"input": "a", "label": "positive"}\n')
    return folder, "output"


def task_of_an_unknown_metric(folder: Path) -> tuple[Path, str]:
    return write_task(folder, metric="BLEU-7"), "unknown metric 'BLEU-7'"


def task_that_is_not_there(folder: Path) -> tuple[Path, str]:
    return folder / "none.jsonl", "none.jsonl"


TASKS = (task_without_rows, task_without_the_field, task_of_an_unknown_metric, task_that_is_not_there)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("make", TASKS, ids=[make.__name__ for make in TASKS])
def test_a_bad_task_is_named(
    make: Callable[[Path], tuple[Path, str]], name: str, run: Run, here: dict[str, list[str]], tmp_path: Path
) -> None:
    task, message = make(tmp_path / "task")
    before = snapshot(tmp_path)
    assert_mistake(run(*command_line(name, here, tmp_path / "out", task=task)), message)
    assert snapshot(tmp_path) == before


ANY = COMMANDS
SETTING_MISTAKES: tuple[tuple[tuple[str, ...], list[str], str], ...] = (
    (ANY, ["--metric", "BLEU-7"], "unknown metric 'BLEU-7'; choose one of: "),
    (ANY, ["--recipe", "fast"], "unknown recipe 'fast'; choose one of: few-shot"),
    (ANY, ["--set", "speed=9"], "a recipe has no setting 'speed'; it has: name, lr"),
    (ANY, ["--set", "lr=abc"], "recipe setting lr='abc'"),
    (ANY, ["--set", "lr=-1"], "recipe setting lr=-1.0 must be above 0"),
    (ANY, ["--set", "lr=NaN"], "recipe setting lr=nan must be above 0"),
    (ANY, ["--set", "lr={"], "recipe setting lr='{'"),
    (ANY, ["--set", "max_steps=1.5"], "recipe setting max_steps=1.5"),
    (ANY, ["--set", "max_steps"], "--set max_steps is not of the form name=value"),
    (ANY, ["--set", "select=luck"], "unknown select 'luck'"),
    (ANY, ["--shots", "0"], "few-shot size k=0 is too small"),
    (ANY, ["--shots", "99"], "class 'negative' has 6 distinct rows"),
    (ANY, ["--device", "abacus"], "device 'abacus' is not there on this machine"),
    (ANY, ["--dtype", "float8"], "unknown dtype 'float8'"),
    (ANY, ["--backbone", "./none"], "no backbone at ./none"),
    (("tune", "compare"), ["--set", "optimizer=sgdx"], "unknown optimizer 'sgdx'"),
    (("tune", "compare"), ["--set", "schedule=zigzag"], "unknown schedule 'zigzag'"),
    (("tune",), ["--start", "./none"], "none is not a folder"),
    (("tune",), ["--train-rows", "0"], "cannot take 0 rows of split 'train'"),
    (("rank", "ensemble", "compare"), ["--indicator", "cosin"], "unknown indicator 'cosin'; choose one of: loss"),
    (("rank", "ensemble", "compare"), ["--reduction", "median"], "unknown reduction 'median'"),
    (("rank", "ensemble", "compare"), ["--hub", "./none"], "there is no hub at none"),
    (("rank",), ["--rows", "0"], "cannot take 0 rows of split 'dev'"),
    (("ensemble", "compare"), ["--space", "tie"], "unknown merge space 'tie'; choose one of: parameters"),
    (("ensemble", "compare"), ["--space", "svd", "--rank", "0"], "rank 0 must be at least 1"),
    (("ensemble", "compare"), ["--temperature", "0"], "temperature 0.0 must be above 0"),
    (("ensemble", "compare"), ["--top-k", "0"], "top_k 0 must be at least 1"),
    (("compare",), ["--seeds", "0"], "seeds 0 must be at least 1"),
    (("compare",), ["--also", "cosin"], "unknown indicator 'cosin'"),
    (("compare",), ["--decoding", "beam"], "unknown decoding 'beam'"),
    (("compare",), ["--test-rows", "0"], "cannot take 0 rows of split 'test'"),
)


def setting_mistakes() -> Iterator[Any]:
    for place, (names, words, message) in enumerate(SETTING_MISTAKES):
        # What all commands share is tried on one of them each, in turn.
        for name in [names[place % len(names)]] if names is ANY else names:
            yield pytest.param(name, words, message, id=f"{name} {' '.join(words)}")


@pytest.mark.parametrize(("name", "words", "message"), list(setting_mistakes()))
def test_a_bad_setting_is_named(
    name: str, words: list[str], message: str, run: Run, here: dict[str, list[str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert_mistake(run(*command_line(name, here, Path("out")), *words), message)
    assert [path.name for path in tmp_path.iterdir() if path.name != "out.partial"] == []


@pytest.mark.parametrize("words", [["--set"], ["--shots", "many"], ["--colour", "red"], []])
def test_what_is_no_command_line_exits_with_2(words: list[str], run: Run, here: dict[str, list[str]]) -> None:
    command = ["tune", *here["task"], *words] if not words else [*command_line("rank", here, Path("out")), *words]
    ended = run(*command)
    assert (ended.code, ended.out, "Traceback" in ended.err) == (2, "", False)


def test_a_hub_that_gives_no_start(
    run: Run, here: dict[str, list[str]], room: Path, backbone: Backbone, tmp_path: Path
) -> None:
    words = [*here["task"], *here["on"], *QUICK, "-o", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    assert_mistake(run("ensemble", *words, "--hub", tmp_path / "empty"), "add some with headstart hub add")
    save_module(module(backbone, "fat", seed=6, rank=3), tmp_path / "fat")
    run("hub", "add", tmp_path / "hub", room / "made" / "ada", tmp_path / "fat")
    for name in ("ensemble", "compare"):
        more = ["--seeds", "1", "--shots", "3"] if name == "compare" else []
        ended = run(name, *words, *more, "--hub", tmp_path / "hub")
        assert_mistake(ended, "is 3×32 in 'fat' and 2×32 in 'ada'; merge them with space 'exact' or 'svd'")
    assert not (tmp_path / "out").exists()
    assert run("ensemble", *words, "--hub", tmp_path / "hub", "--space", "exact").code == 0


@pytest.mark.parametrize("name", ["tune", "ensemble", "compare"])
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_an_output_that_exists_is_left_alone(
    kind: str, name: str, run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    {"folder": output.mkdir, "file": output.touch, "link": lambda: output.symlink_to("nowhere")}[kind]()
    monkeypatch.setattr(Backbone, "load", lambda *_, **__: pytest.fail("it began to work"))
    assert_mistake(run(*command_line(name, here, output)), f"{output} already exists; choose another output")


# ---- a full disk


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is written reaches the disk."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", refuse)


@pytest.mark.parametrize("name", ["tune", "ensemble", "compare"])
@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing_half_written(
    name: str, run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = run(*command_line(name, here, tmp_path / "out"))
    assert_mistake(ended, "cannot write", "No space left on device; free some space or choose another place")
    left = {"tune": ["out.partial"], "compare": ["out.partial"], "ensemble": []}[name]
    assert [path.name for path in tmp_path.iterdir()] == left
    assert not any(".staging" in path for path in snapshot(tmp_path))
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "240")
    assert_whole(name, tmp_path / "out", run, here)


def assert_whole(name: str, output: Path, run: Run, here: dict[str, list[str]]) -> None:
    """The same command now writes its result, and nothing besides."""
    ended = run(*command_line(name, here, output))
    assert ended.code == 0, ended.err
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    assert (output / ("report.html" if name == "compare" else "adapter_model.safetensors")).is_file()


@pytest.mark.usefixtures("full_disk")
def test_a_module_that_does_not_fit_on_the_disk_is_not_in_the_hub(
    run: Run, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = run("hub", "add", tmp_path / "hub", room / "made" / "ada", "--json")
    assert (added.code, added.data[0]["result"]) == (1, "refused")
    assert "No space left on device" in added.data[0]["reason"]
    assert snapshot(tmp_path) == {"hub": None}
    monkeypatch.undo()
    assert run("hub", "add", tmp_path / "hub", room / "made" / "ada").code == 0


def test_a_checkpoint_that_does_not_fit_on_the_disk(
    run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", refuse)
        assert_mistake(run(*command_line("tune", here, tmp_path / "out")), "out.partial", "free some space")
    assert list(tmp_path.iterdir()) == []


# ---- Ctrl-C


def press_ctrl_c(patch: pytest.MonkeyPatch, owner: Any, name: str, *, at: int) -> None:
    """Let the `at`-th call of `owner.name` be interrupted."""
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def call(*args: Any, **settings: Any) -> Any:
        if next(calls) == at:
            raise KeyboardInterrupt
        return original(*args, **settings)

    patch.setattr(owner, name, call)


def assert_stopped(ended: Ended) -> None:
    said = "stopped; nothing was half-written, and the same command continues where it can"
    assert (ended.code, ended.out, ended.err.strip()) == (130, "", said)


@pytest.mark.parametrize(("name", "at"), [("tune", 1), ("tune", 4), ("compare", 3), ("compare", 12)])
def test_ctrl_c_while_tuning(
    name: str, at: int, run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.tuning import _Run

    with monkeypatch.context() as patch:
        press_ctrl_c(patch, _Run, "update", at=at)
        assert_stopped(run(*command_line(name, here, tmp_path / "out")))
    assert {path.name for path in tmp_path.iterdir()} <= {"out.partial"}
    assert_whole(name, tmp_path / "out", run, here)


def test_an_interrupted_tuning_ends_as_if_nothing_had_been(
    run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.tuning import _Run

    whole = run(*command_line("tune", here, tmp_path / "whole"), "--json", "--name", "n").data
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, _Run, "update", at=4)
        run(*command_line("tune", here, tmp_path / "out"), "--json", "--name", "n")
    assert (tmp_path / "out.partial").is_file()
    assert run(*command_line("tune", here, tmp_path / "out"), "--json", "--name", "n").data == whole


@pytest.mark.parametrize("name", ["ensemble", "rank"])
def test_ctrl_c_while_scoring(
    name: str, run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    press_ctrl_c(monkeypatch, Backbone, "target_logits", at=1)
    assert_stopped(run(*command_line(name, here, tmp_path / "out")))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_saving(
    run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, atomic.os, "fsync", at=2)
        assert_stopped(run(*command_line("ensemble", here, tmp_path / "out")))
    assert list(tmp_path.iterdir()) == []
    assert_whole("ensemble", tmp_path / "out", run, here)


def test_ctrl_c_while_adding(run: Run, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["hub", "add", tmp_path / "hub", *(room / "made" / name for name in NAMES)]
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, atomic.os, "fsync", at=9)
        assert_stopped(run(*command))
    inside = [path.name for path in (tmp_path / "hub").iterdir() if not path.name.startswith(".catalogue")]
    assert inside == ["ada"], "the second was being written"
    again = run(*command, "--json")
    assert [row["result"] for row in again.data] == ["refused", "accepted", "accepted", "accepted"]
    assert "already has a module 'ada'" in again.data[0]["reason"]
    assert run("hub", "check", tmp_path / "hub").code == 0


# ---- the program itself


@pytest.mark.parametrize("words", [["list"], ["show", "ada"], ["check"], ["list", "--json"]])
def test_looking_at_a_hub_needs_no_torch(words: list[str], room: Path) -> None:
    command, *rest = words
    arguments = ["headstart", "hub", command, str(room / "hub"), *rest]
    code = (
        f"import sys, headstart.cli\nsys.argv = {arguments!r}\n"
        "try:\n    headstart.cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'transformers', 'pandas'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ada" in done.stdout or command == "check"


def test_the_installed_program_ends_a_mistake_with_2(tmp_path: Path) -> None:
    program = "from headstart.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "hub", "list", str(tmp_path / "none")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no hub at ")


def test_the_page_of_the_command_line_is_what_the_commands_say() -> None:
    path = Path(__file__).parents[1] / "docs" / "write_cli.py"
    spec = importlib.util.spec_from_file_location("write_cli", path)
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.page() == writer.PAGE.read_text(encoding="utf-8"), "run `python docs/write_cli.py`"


def test_every_public_name_can_be_imported() -> None:
    for name in headstart.__all__:
        assert getattr(headstart, name) is not None
    assert set(headstart.__all__) <= set(dir(headstart))
    with pytest.raises(AttributeError, match="module 'headstart' has no attribute 'tuna'"):
        headstart.tuna  # noqa: B018
