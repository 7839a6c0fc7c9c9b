import errno
import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handmade import LAYER, lora_config, lora_tensors, pack, write_module
from headstart import atomic
from headstart.backbones import Backbone
from headstart.kinds import save_module
from program import FROM_START, QUICK, Run, assert_mistake
from small_hub import misfit, module, snapshot, write_task

pytest_plugins = ["cli_helper"]


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
        values = {name: value.numpy().copy() for name, value in sound.state_dict().items()}
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
    kind: str, run: Run, here: dict[str, list[str]], llama: Backbone, tmp_path: Path
) -> None:
    folder, message = broken(tmp_path / "x", llama, kind)
    before = snapshot(tmp_path)
    assert_mistake(
        run("tune", *here["task"], *here["on"], *FROM_START, "--start", folder, "-o", tmp_path / "out"), message
    )
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
    kind: str, run: Run, here: dict[str, list[str]], llama: Backbone, tmp_path: Path
) -> None:
    folder, message = alien(tmp_path / "x", llama, kind)
    before = snapshot(tmp_path)
    assert_mistake(
        run("tune", *here["task"], *here["on"], *FROM_START, "--start", folder, "-o", tmp_path / "out"), message
    )
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


def command_line(
    name: str, here: dict[str, list[str]], output: Path, *, task: Path | None = None, recipe: Sequence[str] = QUICK
) -> list[str]:
    words = [name, *([str(task)] if task else here["task"]), *here["on"], *recipe]
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
    (ANY, ["--set", "lr=-1"], "recipe setting lr=-1 must be above 0"),
    (ANY, ["--set", "lr=NaN"], "recipe setting lr=nan: Input should be a finite number"),
    (ANY, ["--set", "lr={"], "recipe setting lr='{'"),
    (ANY, ["--set", "max_steps=1.5"], "recipe setting max_steps=1.5"),
    (ANY, ["--set", "max_steps"], "--set max_steps is not of the form name=value"),
    (ANY, ["--set", "select=luck"], "unknown select 'luck'"),
    (ANY, ["--shots", "0"], "error: --shots 0 is too small; give 1 or more"),
    (
        ANY,
        ["--shots", "99"],
        "class 'negative' has 6 distinct rows in split 'train', 99 are needed; lower --shots or add rows",
    ),
    (ANY, ["--device", "abacus"], "device 'abacus' is not there on this machine"),
    (ANY, ["--dtype", "float8"], "unknown dtype 'float8'"),
    (ANY, ["--backbone", "./none"], "no backbone at ./none"),
    (ANY, ["--set", "optimizer=sgdx"], "unknown optimizer 'sgdx'"),
    (ANY, ["--set", "schedule=zigzag"], "unknown schedule 'zigzag'"),
    (ANY, ["--set", "kind=lara"], "unknown kind 'lara'; choose one of: lora"),
    (("tune",), ["--set", "rank=3", "--start", "x"], "--set rank shapes a fresh module, and x keeps the shape"),
    (
        ("ensemble", "compare"),
        ["-i", "loss,cosine"],
        "'loss,cosine' names 2 where one is needed; give loss or cosine",
    ),
    (("rank",), ["-i", "loss,cosin"], "unknown indicator 'cosin'; choose one of: loss"),
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
    (("ensemble", "compare"), ["--rule", "median"], "unknown merge rule 'median'; choose one of: softmax, uniform"),
    (("ensemble", "compare"), ["--rule", "manual"], "rule 'manual' has no members: the task states no family"),
    (
        ("ensemble", "compare"),
        ["--rule", "manual", "--member", "eve"],
        "'eve' is no module that can take part",
    ),
    (("ensemble", "compare"), ["--rule", "uniform", "--top-k", "2"], "top_k 2 is not for rule 'uniform'"),
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
    recipe = FROM_START if "--start" in words else QUICK
    assert_mistake(run(*command_line(name, here, Path("out"), recipe=recipe), *words), message)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".partial")] == []


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("rank", ["-i", "cosine,nope"], "unknown indicator 'nope'"),
        ("rank", ["-i", "hidden_cosine:block=x"], "'hidden_cosine:block=x': block cannot be 'x'"),
        ("ensemble", ["-i", "grand:block=-1"], "'grand:block=-1': block cannot be '-1'; input should be greater than"),
        ("ensemble", ["-i", "nope"], "unknown indicator 'nope'"),
        ("ensemble", ["--space", "coree"], "unknown merge space 'coree'"),
        ("compare", ["--rule", "nope"], "unknown merge rule 'nope'"),
        ("compare", ["--also", "nope"], "unknown indicator 'nope'"),
    ],
)
def test_names_are_checked_before_a_backbone_is_loaded(
    name: str, words: list[str], message: str, run: Run, here: dict[str, list[str]], tmp_path: Path
) -> None:
    # There is no such backbone, which would be said if it were looked for.
    command = command_line(name, here, tmp_path / "out", recipe=QUICK)
    assert_mistake(run(*command, "--backbone", tmp_path / "none", *words), message)


@pytest.mark.parametrize("words", [["--set"], ["--shots", "many"], ["--colour", "red"], []])
def test_what_is_no_command_line_exits_with_2(words: list[str], run: Run, here: dict[str, list[str]]) -> None:
    command = ["tune", *here["task"], *words] if not words else [*command_line("rank", here, Path("out")), *words]
    ended = run(*command)
    assert (ended.code, ended.out, "Traceback" in ended.err) == (2, "", False)


def test_a_hub_that_gives_no_start(
    run: Run, here: dict[str, list[str]], room: Path, llama: Backbone, tmp_path: Path
) -> None:
    words = [*here["task"], *here["on"], *QUICK, "-o", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    assert_mistake(run("ensemble", *words, "--hub", tmp_path / "empty"), "add some with headstart hub add")
    save_module(module(llama, "fat", seed=6, rank=3), tmp_path / "fat")
    run("hub", "add", tmp_path / "hub", room / "made" / "ada", tmp_path / "fat")
    for name in ("ensemble", "compare"):
        more = ["--seeds", "1", "--shots", "3"] if name == "compare" else []
        ended = run(name, *words, *more, "--hub", tmp_path / "hub", "--space", "parameters")
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
    _, error, said = ended.err.partition("error:")  # what is noted before stays
    ended = replace(ended, err=error + said)
    assert_mistake(ended, "cannot write", "No space left on device; free some space or choose another place")
    assert list(tmp_path.iterdir()) == []
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
        assert_mistake(run(*command_line("tune", here, tmp_path / "out")), "checkpoint", "free some space")
    assert list(tmp_path.iterdir()) == []
