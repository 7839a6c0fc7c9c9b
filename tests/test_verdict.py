"""The rule by which a start is used or not, on answers made by hand, and what is said of it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from benchmarks.guarding import study

from headstart.errors import SettingError
from headstart.fitting.sentences import SQUARES
from headstart.fitting.verdict import ALPHA, Held, decide_start
from headstart.statistics.holm import holm
from headstart.tasks import Example


def held(
    level: float, seed: int = 0, *, rows: int = 40, right: float = 0.5, noise: float = 0.2, **changes: Any
) -> Held:
    """Losses that vary from row to row around a level, and answers of which a share is right."""
    values = level + np.random.default_rng(seed).normal(0, noise, rows)
    answers = tuple("yes" if row < right * rows else "no" for row in range(rows))
    return Held(values, answers, **changes)


ROWS = [Example(f"{row}", ("yes",), ("no", "yes")) for row in range(40)]


def test_a_start_that_is_clearly_better_is_used_and_by_how_much_is_said() -> None:
    found = decide_start(
        {"scratch": held(1.0, 1), "random": held(1.1, 2), "average": held(0.95, 3),
         "ensemble": held(0.5, 4, right=0.9)},
        ROWS, metric="ACC", folds=[row % 4 for row in range(40)],
    )  # fmt: skip
    assert (found.choice, found.method, found.leader) == ("use", "ensemble", "ensemble")
    assert found.low < found.gain < found.high
    assert found.gain == pytest.approx(0.5, abs=0.1)
    assert found.remedy == ""
    assert found.sentence.startswith("The guard chose the ensemble. Tuned from it, the right answer costs 0.")
    assert "(95 % interval 0." in found.sentence
    assert "40 held-out examples, 4 folds); ACC is 0.900 against 0.500 (+0.400; 0.240 to 0.560). " in found.sentence
    assert "It is better than a random module" in found.sentence
    by = found.contrasts.set_index(["method", "other", "measure"])
    assert by.loc[("ensemble", "scratch", "loss"), "outcome"] == "win"
    assert by.loc[("ensemble", "scratch", "loss"), "adjusted"] <= ALPHA
    assert by.loc[("ensemble", "scratch", "ACC"), "difference"] == pytest.approx(0.4)


def test_a_gain_of_one_lucky_tuning_is_not_a_gain() -> None:
    folds = [row // 10 for row in range(40)]
    lucky = held(1.0, 3)
    lucky = replace(lucky, losses=lucky.losses - 1.2 * (np.array(folds) == 2))
    answers = {"scratch": held(1.0, 1), "random": held(1.0, 2), "ensemble": lucky}
    one, several = (decide_start(answers, ROWS, metric="ACC", folds=each) for each in (None, folds))
    assert (one.choice, one.folds) == ("use", 1)
    assert (several.choice, several.folds) == ("abstain", 4)
    assert several.gain == one.gain
    assert several.high - several.low > 2 * (one.high - one.low)


def test_a_gain_that_random_directions_have_too_is_no_merit_of_the_hub() -> None:
    found = decide_start(
        {"scratch": held(1.0, 1), "random": held(0.5, 2), "ensemble": held(0.5, 3)}, ROWS, metric="ACC"
    )
    assert (found.choice, found.method, found.leader) == ("abstain", "scratch", "ensemble")
    assert "not told apart from a random module" in found.sentence


def test_what_is_undecided_is_tuned_from_scratch_and_comes_with_the_examples_that_would_tell() -> None:
    found = decide_start(
        {"scratch": held(1.0, 1), "random": held(1.0, 2), "ensemble": held(0.97, 3)}, ROWS, metric="ACC"
    )
    assert found.choice == "abstain"
    assert found.sentence.startswith(
        "The guard chose scratch. No start is shown to be better: the gain of the ensemble"
    )
    assert found.remedy.startswith("With these 40 examples, a gain shows in 80 of 100 cases if it is 0.")
    by = found.contrasts.set_index(["method", "other", "measure"])
    needed = max(by.loc[("ensemble", other, "loss"), "rows_needed"] for other in ("scratch", "random"))
    assert f"about {needed:,.0f} examples in all would show" in found.remedy


def test_a_start_that_is_worse_says_that_nearer_tasks_would_help() -> None:
    found = decide_start({"scratch": held(0.5, 1), "ensemble": held(1.0, 3)}, ROWS, metric="ACC")
    assert found.choice == "abstain"
    assert "over scratch is −0.4" in found.sentence
    assert found.remedy.endswith("would probably have been seen. Modules of nearer tasks may give one.")


def test_the_verdict_does_not_depend_on_the_unit_of_a_squared_error() -> None:
    losses = np.random.default_rng(0).random(len(ROWS))
    shown = []
    for unit in (1.0, 1e-2, 1e-4):
        answers = {"scratch": held(1.0), "ensemble": held(1.0)}
        answers["scratch"] = replace(answers["scratch"], losses=unit * (2 * losses + 0.2))
        answers["ensemble"] = replace(answers["ensemble"], losses=unit * losses)
        found = decide_start(answers, ROWS, metric="ACC", folds=[row % 4 for row in range(40)])
        assert found.choice == "use"
        shown.append([found.gain / unit, found.low / unit, found.contrasts["p"][0]])
    assert shown[1] == pytest.approx(shown[0], rel=1e-6)
    assert shown[2] == pytest.approx(shown[0], rel=1e-6)


def test_equal_losses_decide_nothing() -> None:
    alike = replace(held(1.0), losses=np.full(len(ROWS), 0.5))
    found = decide_start({"scratch": alike, "ensemble": alike}, ROWS, metric="ACC")
    assert (found.choice, found.gain, found.contrasts["p"][0]) == ("abstain", 0.0, 0.5)


def test_a_lower_loss_with_a_worse_score_is_not_used_and_that_is_said() -> None:
    found = decide_start({"scratch": held(1.0, 1, right=0.9), "ensemble": held(0.5, 3, right=0.3)}, ROWS, metric="ACC")
    assert found.choice == "abstain"
    assert found.sentence.startswith(
        "The guard chose scratch. The ensemble is not used, although it is the best start by its loss. Tuned from it, "
        "the right answer costs 0."
    )
    lower = "40 held-out examples), but ACC is lower: 0.300 against 0.900 (−0.600; −0.760 to −0.440)."
    assert found.sentence.endswith(lower)
    assert found.remedy.startswith("Tuned for longer, it may answer as many rightly")


def test_among_many_starts_more_examples_are_needed() -> None:
    better = {"scratch": held(1.0, 1), "ensemble": held(0.92, 3)}
    alone = decide_start(better, ROWS, metric="ACC")
    many = {f"s{n}": held(1.1, 10 + n) for n in range(8)}
    among = decide_start({**better, **many}, ROWS, metric="ACC")
    assert (alone.choice, among.choice, among.leader) == ("use", "abstain", "ensemble")
    row = among.contrasts.set_index(["method", "other", "measure"]).loc[("ensemble", "scratch", "loss")]
    assert row["p"] <= ALPHA < row["adjusted"], "it would pass by itself"
    assert row["outcome"] == "undecided", "what a table says is what was decided by"
    assert row["rows_needed"] > len(ROWS)
    assert f"about {row['rows_needed']:,.0f} examples in all would show one like this" in among.remedy


def test_better_than_scratch_and_not_than_a_random_module_is_said() -> None:
    answers = {"scratch": held(1.0, 1), "random": held(0.62, 2, noise=0.8), "ensemble": held(0.55, 3)}
    found = decide_start(answers, ROWS, metric="ACC")
    by = found.contrasts.set_index(["method", "other", "measure"])["outcome"]
    assert (by["ensemble", "scratch", "loss"], by["ensemble", "random", "loss"]) == ("win", "undecided")
    assert (found.choice, found.leader) == ("abstain", "ensemble")
    assert (
        "The ensemble, the best start by its loss, is better than scratch: the right answer costs 0." in found.sentence
    )
    assert "It is not told apart from a random module of the same size (+0." in found.sentence
    assert found.sentence.endswith("What it gains may be no merit of the hub's modules.")
    assert "a gain over a random module shows in 80 of 100 cases if it is 0." in found.remedy


@pytest.mark.parametrize("seed", range(40))
def test_a_start_is_used_where_both_of_its_lines_are_wins_and_only_there(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    names = ("scratch", "random", "average", "best_single", "ensemble")
    answers = {name: held(1.0 - 0.2 * drawn.random(), seed + place, noise=0.4) for place, name in enumerate(names)}
    found = decide_start(answers, ROWS, metric="ACC")
    lines = found.contrasts[found.contrasts["measure"] == "loss"]
    wins = lines.assign(won=lines["outcome"] == "win").groupby("method")["won"].all()
    passed = lines.groupby("method")["adjusted"].max() <= ALPHA
    assert wins.to_dict() == passed.to_dict()
    assert (found.choice == "use") == bool(wins.any()), "no score is lower here"
    worst = lines.groupby("method")["p"].max()
    corrected = dict(zip(worst.index, holm(worst.tolist()), strict=True))
    assert lines.groupby("method")["adjusted"].max().to_dict() == pytest.approx(corrected)
    assert lines.loc[lines["outcome"] == "win", "rows_needed"].isna().all()


def test_a_remedy_can_be_carried_out() -> None:
    answers = {"scratch": held(1.0, 1), "ensemble": held(0.97, 3)}

    def remedy(**known: Any) -> str:
        return decide_start(answers, ROWS, metric="ACC", **known).remedy

    needed = int(decide_start(answers, ROWS, metric="ACC").contrasts["rows_needed"][0])
    assert f"about {needed:,} examples in all would" in remedy()
    option = f"held_out={needed}, --held-out {needed}"
    assert f"about {needed:,} examples in all, all answered ({option}), would" in remedy(available=40, most=40)
    assert f"answering {needed:,} of all 9,000 ({option}) would" in remedy(available=9000, most=40)


def test_where_tunings_differ_more_folds_are_the_remedy() -> None:
    folds = np.arange(len(ROWS)) % 4
    unsteady = held(0.9, 3)
    unsteady = replace(unsteady, losses=unsteady.losses + np.array([0.8, -0.8, 0.8, -0.8])[folds])
    found = decide_start({"scratch": held(1.0, 1), "ensemble": unsteady}, ROWS, metric="ACC", folds=folds.tolist())
    assert found.contrasts["tunings"][0] > 0.5
    assert found.remedy.endswith(
        "mostly because tunings differ: more folds (--folds 8, folds=8 in Python, in about twice the time) would help, "
        "more examples would not."
    )


def test_a_start_that_diverged_in_one_fold_does_not_hide_another() -> None:
    folds = [row % 4 for row in range(len(ROWS))]
    answers = {"scratch": held(1.0, 1), "random": held(1.05, 2), "average": held(1.0, 5), "ensemble": held(0.5, 4)}
    gone = replace(answers["average"], losses=answers["average"].losses + 3.0 * (np.array(folds) == 1))
    found, known = (
        decide_start(each, ROWS, metric="ACC", folds=folds) for each in ({**answers, "average": gone}, answers)
    )
    assert (found.choice, found.method) == ("use", "ensemble")
    assert found.high - found.low < 1.5 * (known.high - known.low)


def test_where_scratch_has_no_loss_nothing_is_said_of_gains() -> None:
    gone = Held(np.array([]), (), reason="its answers have no loss")
    found = decide_start({"scratch": gone, "random": held(1.0, 2), "ensemble": held(0.5, 3)}, ROWS, metric="ACC")
    assert found.choice == "abstain"
    assert found.sentence.startswith(
        "The guard chose scratch. No start could be compared with it: its answers have no loss."
    )
    assert found.remedy == "Correct what the reasons name, and fit again."


def test_squared_errors_are_not_called_nats() -> None:
    answers = {"scratch": held(1.0, 1), "ensemble": held(0.5, 3, right=0.9)}
    used = decide_start(answers, ROWS, metric="ACC", unit=SQUARES)
    assert "Tuned from it, the squared error is 0." in used.sentence
    assert " a row less than tuned from scratch" in used.sentence
    near = decide_start({**answers, "ensemble": held(0.99, 3)}, ROWS, metric="ACC", unit=SQUARES)
    assert "of squared error a row" in near.sentence
    assert "of squared error a row" in near.remedy
    assert not [text for text in (used.sentence, near.sentence, near.remedy) if "nats" in text]


def test_a_method_without_a_loss_is_named_with_its_reason() -> None:
    gone = Held(np.array([]), (), reason="it diverged")
    found = decide_start({"scratch": held(1.0, 1), "ensemble": gone}, ROWS, metric="ACC")
    assert (found.choice, found.leader) == ("abstain", "")
    assert "No start has a loss" in found.sentence
    assert math.isnan(found.table.set_index("method").loc["ensemble", "loss"])
    assert set(found.contrasts["reason"]) == {"it diverged"}


def test_scratch_and_a_start_are_needed() -> None:
    with pytest.raises(SettingError, match="give the answers of 'scratch' and of one start or more"):
        decide_start({"scratch": held(1.0), "random": held(1.0)}, ROWS, metric="ACC")


@pytest.mark.parametrize(
    ("gain", "alike", "least", "most"), [(0.0, 0.0, 0.0, 0.05), (0.0, 0.25, 0.0, 0.1), (0.4, 0.0, 0.85, 1.0)]
)
def test_how_often_a_start_is_used_where_nothing_helps_and_where_one_does(
    gain: float, alike: float, least: float, most: float
) -> None:
    draw = np.random.default_rng(0)
    named = [study(draw, rows=64, gain=gain, tuning=0.07, alike=alike) for _ in range(120)]
    used = np.mean([name == "ensemble" if gain else name != "scratch" for name in named])
    assert least <= used <= most


def test_a_veto_by_the_score_is_named_where_the_correction_is_passed_by_a_later_step() -> None:
    # Of two starts, the larger p needs only 0.1 in Holm's second step, not 0.05; both answer fewer rows rightly.
    answers = {"scratch": held(1.0, 1, right=0.9), "average": held(0.7, 3, right=0.3)}
    gap = np.random.default_rng(0).normal(0, 1.9, 40)
    wide = held(0.69, 4, right=0.3)
    answers["ensemble"] = replace(wide, losses=wide.losses + gap - gap.mean())
    found = decide_start(answers, ROWS, metric="ACC")
    assert (found.choice, found.leader) == ("abstain", "ensemble")
    row = found.contrasts.set_index(["method", "other", "measure"]).loc[("ensemble", "scratch", "loss")]
    assert ALPHA / 2 < row["p"] < ALPHA
    assert row["adjusted"] <= ALPHA
    assert "but ACC is lower: 0.300 against 0.900" in found.sentence
    assert found.remedy.startswith("Tuned for longer")
