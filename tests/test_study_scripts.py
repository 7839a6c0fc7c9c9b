"""The scripts beside the table of transfer: targets out of BIG-bench, and what the guard does with hubs."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmarks.abstaining import main as abstaining
from benchmarks.abstaining import noise
from benchmarks.big_bench import main as big_bench

from headstart.backbones import Backbone
from headstart.kinds import load_module
from headstart.tasks import Task
from small_hub import write_modules, write_task


def packed(folder: Path, tasks: dict[str, list[dict[str, Any]]]) -> Path:
    path = folder / "bigbench-1.0.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, examples in tasks.items():
            content = json.dumps({"examples": examples}).encode()
            member = tarfile.TarInfo(f"bigbench-1.0.0/bigbench/benchmark_tasks/{name}/task.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def asked(text: str, right: str) -> dict[str, Any]:
    return {"input": text, "target_scores": {option: float(option == right) for option in ("yes", "no")}}


def test_a_task_of_big_bench_is_a_classification(tmp_path: Path, capsys: Any) -> None:
    rows = [asked(f" question {number} ", ("yes", "no")[number % 2]) for number in range(20)]
    sdist = packed(tmp_path, {"polarity": [*rows, rows[0]]})
    assert big_bench(["polarity", "--sdist", str(sdist), "-o", str(tmp_path / "tasks")]) == 0
    task = Task.load(capsys.readouterr().out.strip())
    assert (task.card.labels, task.card.options, task.card.metric) == (("no", "yes"), "labels", "ACC")
    drawn = [(row.input, row.outputs[0]) for split in ("train", "dev", "test") for row in task.rows(split)]
    assert sorted(drawn) == sorted((f"question {number}", ("yes", "no")[number % 2]) for number in range(20))
    assert [len(task.rows(split)) for split in ("train", "dev", "test")] == [8, 4, 8]


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ([{"input": "a", "target": "b"}], "has examples without options"),
        ([asked("a", "yes"), {"input": "b", "target_scores": {"maybe": 1.0}}], "have 2 sets of options"),
        (None, "holds no JSON task 'other'"),
    ],
)
def test_what_is_no_classification_is_refused(tmp_path: Path, examples: Any, said: str, capsys: Any) -> None:
    sdist = packed(tmp_path, {} if examples is None else {"other": examples})
    assert big_bench(["other", "--sdist", str(sdist), "-o", str(tmp_path / "tasks")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "tasks" / "other").exists()


def test_every_draw_and_hub_has_a_verdict(tmp_path: Path, tiny_llama: Path, capsys: Any) -> None:
    write_modules(tmp_path / "hub", Backbone.load(tiny_llama, device="cpu", dtype="float32"))
    write_task(tmp_path / "task")
    hub = tmp_path / "hub"
    abstaining(
        [
            str(tmp_path / "task"), "--backbone", str(tiny_llama), "--store", str(tmp_path / "store"),
            "-o", str(tmp_path / "verdicts.parquet"), "--hub", f"all={hub}",
            "--hub", f"two={hub / 'ada'},{hub / 'bob'}", "--seeds", "2",
            "--shots", "4", "--steps", "2", "--dtype", "float32",
        ]
    )  # fmt: skip
    found = pd.read_parquet(tmp_path / "verdicts.parquet")
    assert found[["hub", "seed", "modules"]].values.tolist() == [
        ["all", 0, 3],
        ["two", 0, 2],
        ["all", 1, 3],
        ["two", 1, 2],
    ]
    assert (found["loss_scratch"].groupby(found["seed"]).nunique() == 1).all(), "scratch does not depend on the hub"
    assert ((found["choice"] == "use") == (found["method"] != "scratch")).all()
    assert "2     0" in capsys.readouterr().out or (found["choice"] == "use").any()


def test_noise_is_as_large_as_the_module(tmp_path: Path, tiny_llama: Path) -> None:
    write_modules(tmp_path, Backbone.load(tiny_llama, device="cpu", dtype="float32"))
    module = load_module(tmp_path / "ada")
    own, made = module.load().parameters(), noise(module, 0).parameters()
    assert {name: value.norm().item() for name, value in made.items()} == pytest.approx(
        {name: value.norm().item() for name, value in own.items()}, rel=1e-5
    )
    assert not any(value.any() and value.equal(own[name]) for name, value in made.items())
    assert all(value.equal(made[name]) for name, value in noise(module, 0).parameters().items())
