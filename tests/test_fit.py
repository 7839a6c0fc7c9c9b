"""The whole road in one call on a tiny backbone: a start that is used, one that is not, and what is computed twice."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from fit_example import fit_record
from headstart.backbones import Backbone
from headstart.errors import CardError, OutputError, SettingError
from headstart.evaluating.predict import predict
from headstart.events import Event, UnitEvent
from headstart.fitting import guard as guarding
from headstart.fitting.explaining import importance_of, map_of
from headstart.fitting.fit import fit
from headstart.fitting.lacking import lacking
from headstart.fitting.record import FitRecord, Fitted
from headstart.fitting.verdict import Held
from headstart.hub import Hub
from headstart.indicators.table import ScoreTable
from headstart.kinds import load_module
from headstart.ranking.rank import rank
from headstart.reports.explaining import explanations
from headstart.reports.html import fit_page, write_report
from headstart.tasks import Task
from headstart.units import Store, foresee
from small_hub import RECIPE

pytest_plugins = ["small_road"]


def run(task: Task, hub: Any, llama: Backbone, store: Any, **more: Any) -> Fitted:
    return fit(task, hub, llama, **({"folds": 2, "recipe": RECIPE, "store": store} | more))


@pytest.fixture(scope="module")
def fitted(task: Task, hub: Hub, llama: Backbone, store: Store) -> Fitted:
    """Random modules help with nothing, so the guard abstains."""
    return run(task, hub, llama, store)


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard sees the average answer every held-out row better than all others do."""
    seen = guarding.decide_start

    def kinder(answers: dict[str, Held], *args: Any, **settings: Any) -> Any:
        best = np.min([held.losses for held in answers.values()], axis=0) - 5.0
        return seen({**answers, "average": replace(answers["average"], losses=best)}, *args, **settings)

    monkeypatch.setattr(guarding, "decide_start", kinder)


def test_where_nothing_helps_a_module_tuned_from_scratch_is_saved_and_says_so(
    fitted: Fitted, task: Task, llama: Backbone, tmp_path: Path
) -> None:
    assert (fitted.verdict.choice, fitted.verdict.method) == ("abstain", "scratch")
    assert fitted.record.sentence.startswith("The guard chose scratch.")
    assert fitted.record.lacks.startswith("By cosine, the nearest that the hub has is ")
    assert "of the bare backbone" in fitted.record.lacks
    assert fitted.module.card.donors == ()
    assert len(fitted.tuned.curve) >= 2
    assert "abstain: tuned from scratch; test ACC" in repr(fitted)
    write_report(fitted, tmp_path / "module")
    answered = predict(tmp_path / "module", [{"input": "the play is dull ."}], llama)
    assert answered["label"][0] in ("negative", "positive")
    assert load_module(tmp_path / "module").card.task == "reviews"


def test_a_start_that_helps_is_used_and_its_donors_are_on_the_card(
    task: Task, hub: Hub, llama: Backbone, store: Store, helped: None
) -> None:
    found = run(task, hub, llama, store)
    assert (found.verdict.choice, found.verdict.method) == ("use", "average")
    assert {donor.name for donor in found.module.card.donors} == {"ada", "bob", "cyd", "dan"}
    assert found.record.lacks == ""
    assert found.record.frames["ranking"]["weight"].tolist() == [0.25] * 4
    assert predict(found, [{"input": "the play is dull ."}], llama)["label"][0] in ("negative", "positive")


def test_the_record_holds_what_the_page_shows(fitted: Fitted, task: Task) -> None:
    record = fitted.record
    assert list(record.frames["methods"]["method"]) == ["scratch", "random", "average", "best_single", "ensemble"]
    assert set(record.frames["importance"]["module"]) == {"ada", "bob", "cyd", "dan"}
    assert set(record.frames["importance"]["sublayer"]) == {"attention"}
    assert len(record.frames["agreement"]) == 16
    assert set(record.frames["donors"]["rows"]) == {24}
    assert set(record.frames["map"]["module"]) == {"ada", "bob", "cyd", "dan"}
    assert record.settings["chance"] == 0.5
    assert "A uniform guess among the options has ACC 0.500." in fit_page(record)
    page = explanations(record)
    assert (len(page["map"]["points"]), page["map"]["elsewhere"]) == (4, [])
    one = record.frames["map"].assign(x=lambda table: table["x"].where(table["module"] != "bob"))
    page = explanations(replace(record, frames={**record.frames, "map": one}))
    assert (len(page["map"]["points"]), page["map"]["elsewhere"]) == (3, ["bob"])
    sides = {(point["dx"], point["dy"], point["anchor"]) for point in page["map"]["points"]}
    assert all(anchor in ("start", "end", "middle") for *_, anchor in sides)
    assert len(record.frames["answers"]) == 10
    assert {row.input for row in task.test} >= set(record.frames["answers"]["input"])
    assert (record.rows, record.split) == (12, "test")
    assert record.settings["call"].startswith("hs.fit(task, hub, backbone, ")
    again = FitRecord.from_json(record.to_json())
    for name, frame in record.frames.items():
        assert_frame_equal(again.frames[name], frame, check_dtype=False)
    assert again.sentence == record.sentence


def test_a_second_run_computes_nothing_and_a_dry_run_knows_it(
    fitted: Fitted, task: Task, hub: Hub, llama: Backbone, store: Store
) -> None:
    heard: list[UnitEvent] = []

    def listen(event: Event) -> None:
        if isinstance(event, UnitEvent) and event.state in ("computed", "reused"):
            heard.append(event)

    again = run(task, hub, llama, store, progress=listen)
    assert {event.state for event in heard} == {"reused"}
    assert again.module.digest() == fitted.module.digest()

    def planned(**more: Any) -> Fitted:
        return run(task, hub, llama, store, **more)

    assert sum(each.compute for each in foresee(planned).expected) == 0


def test_a_dry_run_counts_every_stage(task: Task, hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    empty = Store(tmp_path / "store")
    found = foresee(lambda **more: run(task, hub, llama, empty, **more))
    counts: dict[str, int] = {}
    for each in found.expected:
        counts[each.type] = counts.get(each.type, 0) + each.compute
    assert counts["tune"] == 2 * 5 + 1
    assert counts["embed"] == 4
    assert counts["score"] >= 4 + 2 * 4


def test_without_test_rows_the_score_is_that_of_dev(task: Task, hub: Hub, llama: Backbone, store: Store) -> None:
    without = replace(task, splits={name: rows for name, rows in task.splits.items() if name != "test"})
    found = run(without, hub, llama, store)
    assert (found.record.split, found.record.rows) == ("dev", 12)


def test_what_cannot_work_is_refused_before_any_pass(task: Task, hub: Hub, llama: Backbone) -> None:
    with pytest.raises(SettingError, match="unknown method 'averge'"):
        run(task, hub, llama, False, starts="averge")
    with pytest.raises(SettingError, match="folds 1 must be at least 2"):
        run(task, hub, llama, False, folds=1)


def test_what_a_hub_lacks_names_the_best_module_and_its_family(task: Task, hub: Hub, llama: Backbone) -> None:
    ranking = rank(task, hub, llama, store=False)
    best = ranking.frame().iloc[0]
    found = lacking(ranking, "cosine", 0.9)
    family = f" ({best['family']})" if best["family"] else ""
    assert found.startswith(f"By cosine, the nearest that the hub has is {best['module']}{family} with ")
    assert found.endswith(" no more than the 0.9 of the bare backbone.")
    assert lacking(ranking, "cosine", math.nan).endswith(f" with {best['cosine']:.3g}.")
    assert lacking(ranking, None, math.nan).startswith("The modules were not scored; name an indicator")


def test_points_of_a_map_are_as_far_apart_as_the_directions() -> None:
    # Three unit vectors span a plane, so that two dimensions keep all distances: each pair is √2 apart.
    found = map_of({"a": np.array([2.0, 0, 0]), "b": np.array([0, 3.0, 0]), "c": np.array([0, 0, 1.0])})
    points = np.array([found[name] for name in "abc"])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(distances[np.triu_indices(3, 1)], math.sqrt(2), atol=1e-12)
    assert map_of({"a": np.ones(3), "b": np.ones(3)}) == {}


def test_importance_leaves_out_the_whole(fitted: Fitted) -> None:
    rows = [
        {"module": "m", "indicator": "grand", "part": part, "example": -1, "value": -1.0, "tokens": 0, "reason": None}
        for part in ("all", "encoder.1.feed_forward", "other")
    ]
    import pandas as pd

    found = importance_of(ScoreTable(pd.DataFrame(rows), ("m",), ("grand",), 1, 1))
    assert found["part"].tolist() == ["encoder.1.feed_forward", "other"]
    assert (found["stack"][0], found["block"][0], found["sublayer"][0]) == ("encoder", 1.0, "feed_forward")


def test_the_folder_of_a_fit_holds_the_module_its_page_and_the_record(fitted: Fitted, tmp_path: Path) -> None:
    write_report(fitted, tmp_path / "made")
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "report.html", "fit.json"} <= names
    assert json.loads((tmp_path / "made" / "fit.json").read_text())["choice"] == "abstain"
    assert "headstart predict made new-rows.csv" in (tmp_path / "made" / "report.html").read_text(encoding="utf-8")
    assert fitted.record.settings["dev_score"] == fitted.module.card.score, "calibrated, as on the card"
    with pytest.raises(OutputError, match="already exists"):
        write_report(fitted, tmp_path / "made")


def test_a_record_that_is_none_is_named() -> None:
    with pytest.raises(CardError, match=r"fit\.json lacks the field 'schema_version'; fit again"):
        FitRecord.from_json("{}", source="fit.json")
    with pytest.raises(CardError, match="is not the record of a fit"):
        FitRecord.from_json("[]", source="fit.json")
    read = FitRecord.from_json(fit_record(settings=fit_record().settings | {"bare": math.nan}).to_json())
    assert fit_page(read).count("the bare backbone:") == 0
    assert "(the bare backbone: 0.2000)" in fit_page(fit_record())
    assert fit_record().choice == "use"
    assert fit_record(0.0).choice == "abstain"


def test_negative_weights_have_a_place_on_the_page() -> None:
    frames = dict(fit_record().frames)
    signed = {"imdb": 0.9, "snli": -0.8}
    for name in ("map", "ranking"):
        frames[name] = frames[name].assign(weight=frames[name]["module"].map(signed).fillna(0.0))
    page = fit_page(fit_record(frames=frames))
    assert "width: 88.89%" in page
    assert "width: -" not in page


def test_the_page_says_why_what_modules_answer_is_left_out() -> None:
    said = "What single modules know, and how they agree, is left out: no module answered the examples before tuning."
    assert said not in fit_page(fit_record())
    frames = {
        name: frame[:0] if name in ("donors", "agreement") else frame for name, frame in fit_record().frames.items()
    }
    page = fit_page(fit_record(frames=frames))
    assert said in page
    assert "<h3>Agreement" not in page


def test_the_page_names_a_variant() -> None:
    frames = dict(fit_record().frames)
    frames["ranking"] = frames["ranking"].assign(variant=["DoRA", *[""] * 6])
    assert ">DoRA</td>" in fit_page(FitRecord.from_json(fit_record(frames=frames).to_json()))


def test_a_start_s_own_indicator_is_the_one_that_is_shown(task: Task, hub: Hub, llama: Backbone, store: Store) -> None:
    found = run(task, hub, llama, store, starts=["best_single:indicator=loss"])
    assert found.record.settings["indicator"] == "loss"
    assert math.isfinite(found.record.settings["bare"])
    assert found.record.lacks.startswith("By loss, ")
    both = run(task, hub, llama, store, starts=["best_single:indicator=loss", "ensemble"])
    assert both.record.settings["indicator"] == "cosine"
    assert list(both.ranking.scores.values) == ["cosine", "loss"]


def test_the_time_of_all_work_is_added_up(task: Task, hub: Hub, llama: Backbone) -> None:
    heard: list[Event] = []
    found = run(task, hub, llama, False, progress=heard.append)
    each = {event.key: event.seconds for event in heard if isinstance(event, UnitEvent) and event.state == "computed"}
    assert found.record.settings["seconds"] == pytest.approx(sum(filter(None, each.values())), abs=0.06)
    assert {event.type for event in heard if isinstance(event, UnitEvent)} >= {"score", "tune", "evaluate"}
