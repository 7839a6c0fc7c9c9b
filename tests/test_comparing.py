import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from comparison_example import assert_same
from headstart.backbones import Backbone, TextFormat
from headstart.backbones.load import tokens_of
from headstart.blending import Blend, softmax
from headstart.blending.merging import MergePlan
from headstart.comparing.compare import compare
from headstart.comparing.comparison import DEFAULT_METHODS, FRAMES, STAGES, Comparison
from headstart.comparing.running import TEST_NOTE
from headstart.errors import SettingError
from headstart.evaluating.calibration import fit_calibration
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.events import Event, Progress, UnitEvent
from headstart.hub import Hub
from headstart.indicators import unit as scoring
from headstart.kinds import load_module
from headstart.ranking.rank import rank
from headstart.tasks import METRICS, Example, Task
from headstart.tuning.run import Run as TuningRun
from headstart.units import Store
from small_hub import RECIPE, module

pytest_plugins = ["tuned_starts", "small_road"]

SEEDS, SHOTS = 2, 3
BLEND = Blend(temperature=0.5)
TOKENS = ["forward_tokens", "backward_tokens"]


def run(task: Task, hub: Any, llama: Backbone, **settings: Any) -> Comparison:
    return compare(task, hub, llama, **({"seeds": SEEDS, "shots": SHOTS, "blend": BLEND, "recipe": RECIPE} | settings))


@pytest.fixture(scope="module")
def whole(task: Task, hub: Hub, llama: Backbone) -> Comparison:
    """A comparison that nothing disturbed and that kept nothing."""
    return run(task, hub, llama, store=False)


class Stop:
    """A listener that presses Ctrl-C when a phase is `done` steps far."""

    def __init__(self, what: str, done: int) -> None:
        self.what, self.done = what, done

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.what.startswith(self.what) and event.done >= self.done:
            raise KeyboardInterrupt


def test_every_method_of_every_seed_is_there_before_and_after_tuning(whole: Comparison) -> None:
    rows = whole.scores.set_index(["seed", "method", "stage"]).sort_index()
    wanted = pd.MultiIndex.from_product([range(SEEDS), sorted(DEFAULT_METHODS), sorted(STAGES)])
    assert sorted(rows.index) == sorted(wanted)
    assert set(whole.scores["split"]) == {"test"}
    assert set(whole.scores["metric"]) == {"ACC"}
    assert whole.scores["score"].between(0, 1).all()
    tuned = whole.scores[whole.scores["stage"] == "tuned"]
    assert tuned["steps_to_best"].isin([0, 2, 4]).all()
    assert rows.xs("zero-shot", level=2)["steps_to_best"].isna().all()


def test_what_was_read_on_the_way_is_kept(whole: Comparison, task: Task, llama: Backbone) -> None:
    draw, found = task.few_shot(k=SHOTS, seed=1), whole.scores.set_index(["seed", "method", "stage"])
    train, dev = (tokens_of(rows, llama, RECIPE.text_format) for rows in (draw.train, draw.dev))

    def tuning(steps: int, evaluations: int) -> tuple[int, int]:
        back = steps * min(RECIPE.batch_size, len(draw.train)) * train // len(draw.train)
        return back + evaluations * dev, back

    scores = (4 * dev, 0)  # the indicator "cosine" needs a pass of each module over the dev rows, and no reference
    for method, scored in (("scratch", (0, 0)), ("average", (0, 0)), ("best_single", scores), ("ensemble", scores)):
        steps = whole.curves[(whole.curves["seed"] == 1) & (whole.curves["method"] == method)]["step"]
        own = tuning(max(steps), len(steps))
        before, after = (found.loc[(1, method, stage), TOKENS].tolist() for stage in STAGES)
        assert tuple(before) == scored
        assert tuple(after) == (scored[0] + own[0], scored[1] + own[1])


def test_every_answer_to_every_test_row_is_kept(whole: Comparison, task: Task) -> None:
    assert list(whole.examples["row"]) == list(range(len(task.test)))
    assert [tuple(json.loads(each)) for each in whole.examples["references"]] == [row.outputs for row in task.test]
    assert list(whole.examples["target"]) == [row.target for row in task.test]
    assert all(shown == row.input[:400] for shown, row in zip(whole.examples["input"], task.test, strict=True))
    assert len(whole.answers) == SEEDS * len(DEFAULT_METHODS) * len(STAGES) * len(task.test)
    scores = whole.scores.set_index(["method", "seed", "stage"])
    references = [row.outputs for row in task.test]
    for key, answers in whole.answers.groupby(["method", "seed", "stage"]):
        assert list(answers["row"]) == list(range(len(task.test)))
        found = scores.loc[key]
        assert METRICS["ACC"].compute(list(answers["prediction"]), references) == found["score"]
        assert METRICS["ACC"].compute(list(answers["uncalibrated"]), references) == found["uncalibrated"]
        if found["calibration"] == "none":
            assert list(answers["prediction"]) == list(answers["uncalibrated"])


def test_every_method_chooses_its_calibration_on_the_draw(
    whole: Comparison, task: Task, hub: Hub, llama: Backbone
) -> None:
    scratch = whole.scores[(whole.scores["method"] == "scratch") & (whole.scores["stage"] == "zero-shot")]
    for seed, found in enumerate(scratch["calibration"]):
        draw = task.few_shot(k=SHOTS, seed=seed)
        (dev,), (train,) = (evaluate_many([None], rows, llama, metric="ACC") for rows in (draw.dev, draw.train))
        assert found == fit_calibration(dev, train).method
    assert whole.settings["calibration"] == "auto"
    plain = run(task, hub, llama, seeds=1, methods=["scratch"], calibration="none")
    assert list(plain.scores["uncalibrated"]) == list(plain.scores["score"])
    assert set(plain.scores["calibration"]) == {"none"}
    with pytest.raises(SettingError, match="unknown calibration 'best'; choose one of: auto, none, length, batch"):
        run(task, hub, llama, calibration="best")


def test_it_says_what_guessing_would_score(whole: Comparison, task: Task, llama: Backbone) -> None:
    (bare,) = evaluate_many([None], task.test, llama, metric="ACC")
    baselines = whole.baselines.set_index("name")
    assert list(baselines.index) == ["chance", "majority", "backbone"]
    assert baselines.loc["chance"].tolist() == [0.5, "a uniform guess among 2 options"]
    assert baselines.loc["backbone"].tolist() == [bare.score, "no module, nothing tuned, no calibration"]
    assert baselines.loc["majority", "score"] == 0.5


def test_the_bare_backbone_is_calibrated_as_the_methods_are(task: Task, hub: Hub, llama: Backbone) -> None:
    found = run(task, hub, llama, seeds=1, methods=["scratch"], calibration="batch")
    scores = found.scores[(found.scores["stage"] == "zero-shot") & (found.scores["method"] == "scratch")]
    backbone = found.baselines.set_index("name").loc["backbone"]
    assert backbone["score"] == pytest.approx(scores["score"].item()), "a fresh module changes nothing"
    plain = scores["uncalibrated"].item()
    said = f"no module, nothing tuned; calibrated (batch, from the rows of the first draw), without {plain:.3f}"
    assert backbone["note"] == said


def test_tuned_modules_are_kept_where_asked(task: Task, hub: Hub, llama: Backbone, whole: Comparison) -> None:
    assert whole.modules == {}
    methods = ["scratch", "ensemble", "again=ensemble"]
    kept = run(task, hub, llama, methods=methods, seeds=2, keep="all")
    assert list(kept.modules) == ["scratch-seed0", "ensemble-seed0", "scratch-seed1", "ensemble-seed1"]
    (found,) = evaluate_many([kept.modules["ensemble-seed1"]], task.test, llama, metric="ACC")
    by = kept.scores.set_index(["method", "seed", "stage"])
    assert found.score == by.loc["ensemble", 1, "tuned"]["uncalibrated"]
    card = kept.modules["ensemble-seed1"].card
    assert card.calibration is not None
    assert (card.name, card.calibration.method) == (
        "reviews-ensemble-seed1", by.loc["ensemble", 1, "tuned"]["calibration"]
    )  # fmt: skip
    assert (card.labels, card.text_format) == (task.card.labels, TextFormat(max_input=48, max_target=8))
    (name,) = run(task, hub, llama, methods=methods, seeds=2, keep="best").modules
    assert name == max(kept.modules, key=lambda each: kept.modules[each].card.score or 0)
    with pytest.raises(SettingError, match="unknown keep 'some'; choose one of: best, all"):
        run(task, hub, llama, keep="some")


def test_the_curves_begin_before_tuning(whole: Comparison) -> None:
    for _, curve in whole.curves.groupby(["method", "seed"]):
        assert list(curve["step"]) == [0, 2, 4]
        assert curve[["dev_score", "dev_loss"]].notna().all(axis=None)


def test_the_rankings_hold_the_weights_of_each_draw(whole: Comparison) -> None:
    for seed in range(SEEDS):
        rows = whole.ranking[whole.ranking["seed"] == seed].sort_values("module")
        assert list(rows["module"]) == ["ada", "bob", "cyd", "dan"]
        assert list(rows["weight"]) == pytest.approx(softmax(list(rows["cosine"]), temperature=0.5), rel=1e-9)
    draws = [whole.ranking[whole.ranking["seed"] == seed].set_index("module")["cosine"] for seed in range(SEEDS)]
    assert (draws[0] - draws[1]).abs().max() > 0, "every seed draws its own rows"


def test_the_untrained_module_is_tested_as_the_bare_backbone(whole: Comparison, task: Task, llama: Backbone) -> None:
    (bare,) = evaluate_many([None], task.test, llama, metric="ACC")
    scratch = whole.scores[(whole.scores["method"] == "scratch") & (whole.scores["stage"] == "zero-shot")]
    assert list(scratch["score"]) == [bare.score] * SEEDS


def test_the_settings_say_what_a_repetition_needs(whole: Comparison, llama: Backbone) -> None:
    settings = whole.settings
    expected = {
        "backbone": "tiny-llama", "fingerprint": llama.fingerprint.weights, "modules": 4, "indicator": "cosine",
        "temperature": 0.5, "top_k": None, "space": "auto", "shots": SHOTS, "seeds": SEEDS, "test_rows": 12,
        "decoding": "options", "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    assert {key: settings[key] for key in expected} == expected
    assert settings["recipe"]["max_steps"] == 4
    assert settings["call"] == "hs.compare(task, hub, backbone, seeds=2, shots=3, blend=blend, recipe=recipe)"


def test_a_module_tuned_on_the_very_task_is_named(whole: Comparison, task: Task, hub: Hub, llama: Backbone) -> None:
    assert "Tuned on a task of this very name, so not unseen: dan." in whole.notes
    unseen = [module(llama, "new", seed=9)]
    notes = run(task, unseen, llama, seeds=1).notes
    assert not [note for note in notes if "not unseen" in note]
    assert TEST_NOTE.format(rows=12) in notes


def test_it_survives_json(whole: Comparison) -> None:
    after = Comparison.from_json(whole.to_json())
    assert json.loads(after.to_json()) == json.loads(whole.to_json())
    for name in FRAMES:
        assert_frame_equal(getattr(after, name), getattr(whole, name), check_exact=True)


def test_the_same_call_gives_the_same_result(whole: Comparison, task: Task, hub: Hub, llama: Backbone) -> None:
    assert_same(run(task, hub, llama), whole)


def test_nothing_is_computed_twice(
    whole: Comparison, task: Task, hub: Hub, llama: Backbone, tmp_path: Path, tunes: list[str]
) -> None:
    assert_same(run(task, hub, llama, store=tmp_path / "store"), whole)
    assert len(tunes) == len(set(tunes)) == SEEDS * len(DEFAULT_METHODS)
    assert_same(run(task, hub, llama, store=tmp_path / "store"), whole)
    assert len(tunes) == SEEDS * len(DEFAULT_METHODS)
    assert list((tmp_path / "store" / "work").iterdir()) == [], "checkpoints are gone"


def test_its_seconds_are_those_of_its_units_in_whichever_run(
    task: Task, hub: Hub, llama: Backbone, tmp_path: Path
) -> None:
    run(task, hub, llama, seeds=1, store=tmp_path)
    first = run(task, hub, llama, store=tmp_path)
    took = [entry.seconds for entry in Store(tmp_path).entries()]
    assert first.settings["seconds"] == round(sum(took), 1) > 0
    again = run(task, hub, llama, store=tmp_path)
    assert again.to_json() == first.to_json(), "nothing was computed, and it took what it took"


def test_each_seed_starts_scratch_afresh(task: Task, hub: Hub, llama: Backbone, tunes: list[str]) -> None:
    ranking = run(task, hub, llama).ranking
    for seed, start in enumerate(tunes[:: len(DEFAULT_METHODS)]):
        rows = ranking[ranking["seed"] == seed]
        best = load_module(hub.read(rows.loc[rows["cosine"].idxmax(), "module"]))
        assert start == f"{seed}/{best.reset(seed=seed).digest()}"


@pytest.mark.parametrize(
    "stop",
    [Stop("reading modules", 1), Stop("scoring", 1), Stop("tuning 10 modules", 11), Stop("tuning 10 modules", 40)],
    ids=["at-once", "while-scoring", "while-tuning", "at-the-end"],
)
def test_a_killed_comparison_continues(
    stop: Stop, whole: Comparison, task: Task, hub: Hub, llama: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(task, hub, llama, store=tmp_path / "store", progress=stop)
    assert_same(run(task, hub, llama, store=tmp_path / "store"), whole)
    assert list((tmp_path / "store" / "work").iterdir()) == []


def test_its_tunings_continue_from_their_checkpoints(
    whole: Comparison, task: Task, hub: Hub, llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(task, hub, llama, store=tmp_path, progress=Stop("tuning 10 modules", 25))
    finished = len(list(Store(tmp_path).entries(type="tune")))
    kept = [torch.load(path, weights_only=True)["step"] for path in tmp_path.glob("work/*/checkpoint")]
    assert sum(kept) > 0
    made: list[float] = []
    take = TuningRun.took_step

    def counted(lane: TuningRun, loss: float, *, seconds: float) -> None:
        made.append(loss)
        take(lane, loss, seconds=seconds)

    monkeypatch.setattr(TuningRun, "took_step", counted)
    assert_same(run(task, hub, llama, store=tmp_path), whole)
    assert len(made) == 4 * (SEEDS * len(DEFAULT_METHODS) - finished) - sum(kept)


def test_an_interrupted_comparison_merges_nothing_again(
    whole: Comparison, task: Task, hub: Hub, llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[MergePlan] = []
    take = MergePlan.summed

    def counted(plan: MergePlan, *args: Any) -> Any:
        merged.append(plan)
        return take(plan, *args)

    monkeypatch.setattr(MergePlan, "summed", counted)
    with pytest.raises(KeyboardInterrupt):
        run(task, hub, llama, store=tmp_path, progress=Stop("tuning 10 modules", 1))
    best = whole.starts.loc[whole.starts["method"] == "best_single", "digest"].nunique()
    assert len(merged) == 1 + best + SEEDS, "the average is that of every draw"
    merged.clear()
    assert_same(run(task, hub, llama, store=tmp_path), whole)
    assert merged == []


def test_the_ranking_is_made_of_units_too(
    task: Task, hub: Hub, llama: Backbone, tmp_path: Path, tunes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"seeds": 1, "indicators": ("kl", "tupate"), "store": tmp_path / "store"}
    first = run(task, hub, llama, **asked)
    assert tunes.count("reference") == 1
    monkeypatch.setattr(scoring, "score_table", lambda *_, **__: pytest.fail("ranked again"))
    assert_same(run(task, hub, llama, **asked), first)
    assert first.indicators == ("cosine", "kl", "tupate")
    assert first.ranking[["kl", "tupate"]].notna().all(axis=None)
    # What a ranking of the same draw needs is there.
    heard: list[Event] = []
    draw = task.few_shot(k=SHOTS, seed=0)
    rank(draw, hub, llama, indicators=("kl",), recipe=RECIPE, store=tmp_path / "store", progress=heard.append)
    assert {event.state for event in heard if isinstance(event, UnitEvent)} == {"reused"}


def test_more_test_rows_tune_nothing_anew(
    task: Task, hub: Hub, llama: Backbone, tmp_path: Path, tunes: list[str]
) -> None:
    run(task, hub, llama, store=tmp_path, seeds=1)
    tunes.clear()
    more = (*task.test, Example("one more row . positive or negative ?", ("positive",), task.test[0].options))
    heard: list[Event] = []
    run(
        replace(task, splits={**task.splits, "test": more}), hub, llama, store=tmp_path, seeds=1,
        progress=heard.append,
    )  # fmt: skip
    assert tunes == []
    computed = [event.type for event in heard if isinstance(event, UnitEvent) and event.state == "computed"]
    assert set(computed) == {"evaluate"}
    assert len(computed) == 2 * len(DEFAULT_METHODS) + 1, "and the bare backbone"


def test_more_seeds_reuse_what_is_there(
    whole: Comparison, task: Task, hub: Hub, llama: Backbone, tmp_path: Path, tunes: list[str]
) -> None:
    run(task, hub, llama, store=tmp_path / "store", seeds=1)
    tunes.clear()
    assert_same(run(task, hub, llama, store=tmp_path / "store"), whole)
    assert len(tunes) == len(DEFAULT_METHODS)


@pytest.mark.parametrize(
    "changed", [{"recipe": RECIPE.change(lr=0.5)}, {"shots": 4}, {"blend": Blend(temperature=9.0)}]
)
def test_other_settings_do_not_meet_in_one_store(
    changed: dict[str, Any], whole: Comparison, task: Task, hub: Hub, llama: Backbone, tmp_path: Path
) -> None:
    run(task, hub, llama, store=tmp_path / "store", seeds=1, **changed)
    assert_same(run(task, hub, llama, store=tmp_path / "store"), whole)


def test_the_test_split_makes_scores_and_nothing_else(whole: Comparison, task: Task, hub: Hub, llama: Backbone) -> None:
    flipped = {"negative": "positive", "positive": "negative"}
    test = tuple(Example(row.input, (flipped[row.target],), row.options) for row in task.test)
    other = run(replace(task, splits={**task.splits, "test": test}), hub, llama)
    for name in ("ranking", "curves", "refused"):
        assert_frame_equal(getattr(other, name), getattr(whole, name), check_exact=True)
    steps = ["method", "seed", "stage", "steps_to_best"]
    assert_frame_equal(other.scores[steps], whole.scores[steps])
    # What was right is wrong now, and the other way round.
    assert list(other.scores["score"]) == pytest.approx(list(1 - whole.scores["score"]))
    assert not (whole.scores["score"] == 0.5).all(), "or the line before would prove nothing"


@pytest.mark.slow  # workers, each of which imports torch
def test_processes_compare_as_one_does(whole: Comparison, task: Task, hub: Hub, llama: Backbone) -> None:
    assert_same(run(task, hub, llama, store=False, engine="processes=2"), whole)
