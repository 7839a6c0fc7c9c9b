"""The scripts beside the table of transfer: targets out of BIG-bench, and what the guard does with hubs."""

import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from benchmarks.abstaining import main as abstaining
from benchmarks.abstaining import noise
from benchmarks.answer_indicators import AnswerCosine, AnswerLoss, AnswerProbability, OptionLoss, OptionProbability
from benchmarks.answer_indicators import main as answer_indicators
from benchmarks.big_bench import main as big_bench

from headstart.backbones import Backbone
from headstart.indicators.contract import TokenStatistics
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


def test_the_end_of_an_answer_counts_nothing() -> None:
    p = torch.tensor([[[0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]])
    tokens = TokenStatistics(p.log(), torch.tensor([0, 2]))
    for indicator, first in ((AnswerCosine, 0.6 / 0.44**0.5), (AnswerLoss, math.log(0.6)), (AnswerProbability, 0.6)):
        assert indicator(end=2).per_token(tokens).tolist() == [[pytest.approx(first, rel=1e-5), 0.0]]
        assert indicator(end=1).per_token(tokens)[0, 1] != 0.0


def test_options_are_weighed_against_each_other() -> None:
    likelihoods, right = torch.tensor([[1.0, 2.0, 0.5]]).log(), torch.tensor([True, False, True])
    assert OptionProbability().per_example(likelihoods, right).tolist() == [pytest.approx(1.5 / 3.5)]
    assert OptionLoss().per_example(likelihoods, right).tolist() == [pytest.approx(math.log(1.5 / 3.5))]


def test_every_module_has_a_score_of_the_answer_for_every_draw(tmp_path: Path, tiny_llama: Path) -> None:
    write_modules(tmp_path / "hub", Backbone.load(tiny_llama, device="cpu", dtype="float32"))
    write_task(tmp_path / "task")
    output = tmp_path / "predicted.parquet"
    answer_indicators(
        [
            str(tmp_path / "task"), "--hub", str(tmp_path / "hub"), "--backbone", str(tiny_llama), "-o", str(output),
            "--store", str(tmp_path / "store"), "--seeds", "2", "--shots", "4", "--dtype", "float32", "--threads", "1",
        ]
    )  # fmt: skip
    wide = pd.read_parquet(output).pivot(index=["seed", "source"], columns="method", values="value")
    assert set(wide) == {"loss", "cosine", *(one.name for one in (AnswerCosine, AnswerLoss, AnswerProbability)),
                         "option_loss", "option_probability"}  # fmt: skip
    assert len(wide) == 2 * 3
    assert (wide["answer_cosine"] < wide["cosine"]).all()
    assert (wide["answer_loss"] > wide["loss"]).all()
    assert wide["option_loss"].le(0).all()
