"""The table of true transfer: what stands in it, that it grows with the hub, and that nothing is computed twice."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmarks import transfer_limited
from benchmarks.transfer import KEY, choice_loss, main, module_folders, parsed
from benchmarks.transfer_tables import differences, gains, joined, matrix, overall, worth
from benchmarks.transfer_tables import main as tables

from headstart.backbones import Backbone
from headstart.errors import SettingError
from headstart.evaluating.evaluation import Evaluation
from headstart.kinds import save_module
from headstart.records import Calibration
from headstart.tasks import Example, Task
from headstart.tuning.tune import tune
from small_hub import write_modules, write_task

SMALL = ["--dtype", "float32", "--seeds", "2", "--shots", "3", "--steps", "2", "--dev", "4", "--rows", "6", "--json"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    write_modules(folder / "hub", Backbone.load(tiny_llama, device="cpu", dtype="float32"))
    write_task(folder / "task")
    return folder


def measured(room: Path, backbone: Path, hub: list[Path], *more: str, capsys: Any) -> dict[str, Any]:
    main(
        [
            str(room / "task"), "--backbone", str(backbone), "-o", str(room / "table.parquet"),
            "--store", str(room / "store"), *SMALL, *more, "--hub", *map(str, hub),
        ]
    )  # fmt: skip
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_table_grows_with_the_hub_and_nothing_is_computed_twice(room: Path, tiny_llama: Path, capsys: Any) -> None:
    hub = room / "hub"
    first = measured(room, tiny_llama, [hub / "ada"], "--baselines", "scratch", capsys=capsys)
    assert first["computed"]["tune"] == 4  # two starts, two seeds
    whole = measured(room, tiny_llama, [hub], capsys=capsys)
    assert whole["computed"]["tune"] == 8  # bob, cyd, random and average; dan was tuned on this very task
    table = pd.read_parquet(room / "table.parquet")
    assert set(table["source"]) == {"scratch", "ada", "random", "average", "bob", "cyd"}
    assert len(table) == whole["rows"] == 6 * 2 * 2 * 2  # starts, seeds, before and after, two readings
    assert not table.duplicated(KEY).any()
    assert set(table["target"]) == {"reviews"}
    assert set(table["step"]) == {0, 2}
    assert table["score"].between(0, 1).all()
    assert np.isfinite(table[["loss", "choice_loss"]].to_numpy()).all()
    again = measured(room, tiny_llama, [hub], capsys=capsys)
    assert again["computed"] == {}
    pd.testing.assert_frame_equal(pd.read_parquet(room / "table.parquet"), table, check_like=True)


def test_the_untuned_test_of_a_module_is_the_same_for_all_seeds(room: Path, tiny_llama: Path, capsys: Any) -> None:
    measured(room, tiny_llama, [room / "hub"], capsys=capsys)
    table = pd.read_parquet(room / "table.parquet").set_index(["source", "step", "calibration", "seed"])["loss"]
    assert table["ada", 0, "none", 0] == table["ada", 0, "none", 1]
    assert table["ada", 2, "none", 0] != table["ada", 2, "none", 1]


def test_a_table_holds_one_protocol(room: Path, tiny_llama: Path, capsys: Any) -> None:
    measured(room, tiny_llama, [room / "hub" / "ada"], capsys=capsys)
    with pytest.raises(SettingError, match=r"measured otherwise \(3 shots, 2 steps .* name another -o"):
        measured(room, tiny_llama, [room / "hub" / "ada"], "--rows", "5", "--strict", capsys=capsys)


def test_choice_loss_is_that_of_the_right_option_among_the_options() -> None:
    rows = (Example("a", ("yes",), ("yes", "no")), Example("b", ("no",), ("yes", "no")))
    read = Evaluation(
        "ACC", 0.0, 1.0, ("yes", "yes"), "options", losses=(5.0, 5.0), options=(("yes", "no"),) * 2,
        scores=((math.log(0.2), math.log(0.2)), (math.log(0.3), math.log(0.1))), lengths=((1, 1), (1, 1)),
        examples=rows, uncalibrated=("yes", "yes"),
    )  # fmt: skip
    # Shares of the right options: 0.2 / 0.4 and 0.1 / 0.4.
    assert choice_loss(read) == pytest.approx((math.log(2) + math.log(4)) / 2)
    moved = read.answered(
        ("yes", "no"), Calibration(method="batch", offsets={"yes": math.log(0.3), "no": math.log(0.1)})
    )
    # Taking the offsets off leaves 2/3 : 2 in the first row and 1 : 1 in the second.
    assert choice_loss(moved) == pytest.approx((math.log(4) + math.log(2)) / 2)


def test_modules_are_found_in_folders_and_one_by_one(room: Path) -> None:
    (room / "hub" / ".staged").mkdir(exist_ok=True)
    (room / "hub" / "unfinished").mkdir(exist_ok=True)
    found = module_folders([room / "hub", room / "hub" / "ada"])
    assert [folder.name for folder in found] == ["ada", "bob", "cyd", "dan"]
    asked = parsed(["task", "--hub", "h", "--backbone", "b", "-o", "t", "--store", "s"])
    assert (asked.shots, asked.seeds) == (16, 3)


def test_blends_are_measured_beside_modules(room: Path, tiny_llama: Path, capsys: Any) -> None:
    more = ["--blend", "blend_two=softmax:indicator=loss,effective=2", "--baselines", "", "--blends-only"]
    measured(room, tiny_llama, [room / "hub"], capsys=capsys)
    before = pd.read_parquet(room / "table.parquet")
    found = measured(room, tiny_llama, [room / "hub"], *more, capsys=capsys)
    assert found["computed"]["tune"] == 2
    assert found["computed"]["score"] == 6
    table = pd.read_parquet(room / "table.parquet")
    assert set(table["source"]) == {*before["source"], "blend_two"}
    whole = gains(table, reading="choice", calibration="none")
    assert "| blend_two |" in worth(whole).splitlines()[0]
    assert "of 3 |" in worth(whole), "ada, bob and cyd; a blend is no module"


def test_indicators_are_held_against_the_table(room: Path, tiny_llama: Path, capsys: Any) -> None:
    measured(room, tiny_llama, [room / "hub"], capsys=capsys)
    tables(
        [
            "predict", str(room / "task"), "--hub", str(room / "hub"), "--backbone", str(tiny_llama),
            "-o", str(room / "predicted.parquet"), "--store", str(room / "store"), "--dtype", "float32",
            "--shots", "3", "--steps", "2", "--dev", "4", "--rows", "6", "--indicators", "loss;tupate;nosuch",
            "--own", str(room / "task"),  # the cards name no task, so that this is the folder of each
        ]
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "no nosuch for reviews" in said
    assert "no data_size for reviews" in said, "the cards do not say it"
    scores = pd.read_parquet(room / "predicted.parquet")
    assert set(scores["method"]) == {"loss", "tupate", "textemb", "taskemb"}
    of_rows = scores[scores["method"] == "textemb"]["value"]
    assert np.ptp(of_rows) < 1e-9, "one task for all"
    assert of_rows.gt(0.5).all()
    assert scores[scores["method"] == "taskemb"]["value"].between(0, 1).all()
    assert set(scores["source"]) == {"ada", "bob", "cyd"}
    assert scores["seconds"].gt(0).all()
    tables(
        [
            "show",
            str(room / "table.parquet"),
            str(room / "predicted.parquet"),
            "--readings",
            "choice",
            "--join",
            "loss+tupate",
        ]
    )
    shown = capsys.readouterr().out
    assert shown.startswith("1 targets, ")
    assert " starts; 3 shots, 2 steps of 8" in shown
    for ranker in ("loss", "tupate", "loss + tupate", "untuned test (oracle)", "random", "popularity"):
        assert f"| {ranker} | " in shown
    assert "| reviews | " in shown
    assert "| start | reviews | mean |" in shown


def test_modules_of_three_kinds_and_their_early_states_are_held_against_the_table(
    room: Path, tiny_llama: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(room, tiny_llama, [room / "hub"], capsys=capsys)
    usual = transfer_limited.recipe_of
    monkeypatch.setattr(
        transfer_limited, "recipe_of", lambda kind: usual(kind).change(max_steps=4, eval_every=1, early_steps=2)
    )
    backbone, task = Backbone.load(tiny_llama, device="cpu", dtype="float32"), Task.load(room / "task")
    for seed, name in enumerate(("ada", "bob", "cyd")):
        for kind in transfer_limited.LEARNING_RATES:
            made = tune(task, backbone, recipe=transfer_limited.recipe_of(kind), seed=seed, store=False)
            save_module(made, room / "limited" / kind / name)
    words = [str(room / "task"), "--limited", str(room / "limited"), "--backbone", str(tiny_llama)]
    kept = ["--store", str(room / "store"), "-o", str(room / "limited.parquet")]
    transfer_limited.main([*words, *kept, "--shots", "3", "--dev", "4", "--rows", "6"])
    scores = pd.read_parquet(room / "limited.parquet").pivot(index="source", columns="method", values="value")
    assert list(scores) == sorted(transfer_limited.METHODS)
    of_kinds = scores[["tupate (short)", "tupate (short, ia3)", "tupate (short, prefix)"]]
    np.testing.assert_allclose(scores["3e"], of_kinds.mean(axis=1), rtol=1e-5)  # Zhou et al., 2022, §4.3
    assert scores["tupate (short)"].idxmax() == "ada", "tuned on these rows from the same random values"
    assert (scores["early"] != scores["tupate (short)"]).all()
    assert (np.ptp(scores["tupate (short), centred"]) > np.ptp(scores["tupate (short)"])).all()
    both = [str(room / "predicted.parquet"), str(room / "limited.parquet")]
    scores.stack().rename("value").reset_index().assign(
        target="reviews", seed=1, seconds=1.0, method="other"
    ).to_parquet(both[0])
    tables(["show", str(room / "table.parquet"), *both, "--readings", "choice", "--draws", "1", "--targets", "reviews"])
    shown = capsys.readouterr().out
    assert "| 3e | " in shown
    assert "| other | " not in shown, "it has no score of the first draw"


def test_joined_methods_rank_by_the_mean_of_their_ranks() -> None:
    values = {("loss", 0): [-3.0, -1.0, -2.0], ("loss", 1): [-3.0, -1.0, -3.5], ("gram", 0): [0.1, 0.3, 0.2]}
    rows = [
        {"method": method, "target": "x", "seed": seed, "source": source, "value": value, "seconds": 1.0}
        for (method, seed), own in values.items()
        for source, value in zip(("ada", "bob", "cyd"), own, strict=True)
    ]
    found = joined(pd.DataFrame(rows), ["loss", "gram"])
    # loss: means −3, −1 and −2.75, ranks 1, 3 and 2 of 3; gram: ranks 1, 3 and 2 of 3
    assert found.set_index("source")["value"].to_dict() == pytest.approx({"ada": 1 / 3, "bob": 1.0, "cyd": 2 / 3})
    assert set(found["method"]) == {"loss + gram"}


def test_gains_are_over_scratch_and_means_over_seeds() -> None:
    rows = [
        {
            "target": "x",
            "source": source,
            "seed": seed,
            "step": 2,
            "calibration": "none",
            "score": score,
            "loss": -score,
        }
        for seed, scratch, own in ((0, 0.5, 0.7), (1, 0.6, 0.5))
        for source, score in (("scratch", scratch), ("ada", own))
    ]
    table = pd.DataFrame(rows).assign(target="x", step=2, calibration="none")
    whole = gains(table, reading="score", calibration="none")
    assert whole.loc["x"].to_dict() == pytest.approx({"scratch": 0.0, "ada": (0.2 - 0.1) / 2})
    assert gains(table, reading="loss", calibration="none").loc["x", "ada"] == pytest.approx(0.05)
    assert matrix(whole).splitlines()[2:] == ["| ada | +0.05 | +0.050 |"]
    assert matrix(-whole).splitlines()[2:] == ["| ada | −0.05 | −0.050 |"]


def test_the_mean_gain_has_an_interval_over_targets() -> None:
    whole = pd.DataFrame({"scratch": [0.0, 0.0, 0.0], "average": [0.1, 0.2, 0.3], "late": [math.nan, 0.1, 0.1]})
    # s = 0.1, so 4.3027 · 0.1 / √3 = 0.248; what was not tuned on all targets is left out.
    assert overall(whole).splitlines()[2:] == ["| average | 0.200 (-0.048 to 0.448) | 3 of 3 |"]
    blended = whole.assign(blend=[0.1 + 1e-16, 0.3, 0.5])  # gains of 0, 0.1 and 0.2 over the average: the same s
    assert overall(blended, over="average").splitlines()[2:] == ["| blend | 0.100 (-0.148 to 0.348) | 2 of 3 |"]


def test_a_table_paired_with_itself_moves_nothing(room: Path, tiny_llama: Path, capsys: Any) -> None:
    measured(room, tiny_llama, [room / "hub"], capsys=capsys)
    tables(["pairs", str(room / "table.parquet"), str(room / "table.parquet")])
    printed = capsys.readouterr().out
    assert "scratch itself, score: +0.000 from table to table, 0.000 a single draw" in printed
    assert printed.count("| mean |") == 3


def test_modules_of_two_tables_are_paired_by_target() -> None:
    before = pd.DataFrame({"scratch": [0.0, 0.0, 0.0], "a": [0.1, 0.2, 0.3], "b": [0.0, 0.0, 0.3]}, index=[*"xyz"])
    after = pd.DataFrame({"scratch": [0.0, 0.0], "b": [0.2, 0.4], "a": [0.2, 0.2], "c": [1.0, 1.0]}, index=[*"xz"])
    # of x and z: a 0.1 and −0.1, b 0.2 and 0.1, their mean 0.15 and 0; t = 12.706 of one degree of freedom
    assert differences(before, after).splitlines()[2:] == [
        "| b | 0.150 | 0.300 | 0.150 (-0.485 to 0.785) | 2 of 2 |",
        "| a | 0.200 | 0.200 | 0.000 (-1.271 to 1.271) | 1 of 2 |",
        "| mean | 0.175 | 0.250 | 0.075 (-0.878 to 1.028) | 1 of 2 |",
    ]
    before.loc["x", "b"] = after.loc["z", "a"] = math.nan  # what is missing in one table counts in neither
    assert [line.split(" | ")[-1] for line in differences(before, after).splitlines()[2:]] == [
        "1 of 1 |", "1 of 1 |", "2 of 2 |",
    ]  # fmt: skip
