import io
import math
import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from comparison_example import answered, curves_frame, make_comparison, scores_frame
from headstart.comparing.comparison import DEFAULT_METHODS, FRAMES, Comparison
from headstart.errors import CardError
from headstart.reports.cells import DASH, Footnotes, cell_text, fixed_text, number_text, summary_cells
from headstart.reports.console import frame_columns, print_summary, print_table
from headstart.reports.explaining import place_numbers
from headstart.reports.intervals import ONE_SEED, SAME, estimate
from headstart.reports.tables import (
    curve_table,
    effective_modules,
    main_metric,
    ranking_table,
    settings_table,
    summary,
)
from headstart.reports.verdict import verdict

NAN = math.nan


def row_of(frame: pd.DataFrame, **keys: str) -> dict[str, object]:
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1
    return frame.iloc[0].to_dict()


def both_stages(values: dict[str, list[float]]) -> pd.DataFrame:
    return scores_frame({(method, stage): list(v) for method, v in values.items() for stage in ("zero-shot", "tuned")})


def first_rows(starts: pd.DataFrame | None = None, **right: int) -> Comparison:
    """Methods that have so many of the first of 100 rows right, on three seeds and at both stages."""
    values = {
        (method, stage): np.tile(np.arange(100) < count, (3, 1))
        for method, count in right.items()
        for stage in ("zero-shot", "tuned")
    }
    return answered(values) if starts is None else answered(values, starts=starts)


def render(*items: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    for item in items:
        console.print(item)
    return console.file.getvalue()  # type: ignore[attr-defined]


class TestEstimate:
    def test_three_seeds_by_hand(self) -> None:
        # mean 0.6; s = sqrt((0.01 + 0 + 0.01) / 2) = 0.1; t(0.975, 2) = 4.3027; 4.3027 * 0.1 / sqrt(3) = 0.24841
        found = estimate([0.5, 0.6, 0.7])
        assert found.mean == pytest.approx(0.6)
        assert found.interval == pytest.approx(0.24841, abs=1e-5)
        assert (found.low, found.high) == (pytest.approx(0.35159, abs=1e-5), pytest.approx(0.84841, abs=1e-5))
        assert (found.seeds, found.reason) == (3, "")

    def test_two_seeds_by_hand(self) -> None:
        # s / sqrt(2) = |b - a| / 2 = 0.5, t(0.975, 1) = 12.7062
        assert estimate([1.0, 2.0]).interval == pytest.approx(6.3531, abs=1e-4)

    def test_one_seed_has_no_interval(self) -> None:
        found = estimate([0.5, NAN])
        assert (found.mean, found.seeds, found.reason) == (0.5, 1, ONE_SEED)
        assert math.isnan(found.interval)

    def test_no_seed_has_no_mean(self) -> None:
        found = estimate([NAN], missing="diverged")
        assert math.isnan(found.mean)
        assert (found.seeds, found.reason) == (0, "diverged")

    def test_equal_values_have_no_interval(self) -> None:
        found = estimate([0.1 + 0.2, 0.3, 0.3])  # unlike in the last bit only
        assert math.isnan(found.interval)
        assert found.reason == SAME

    def test_infinite_values_have_no_mean(self) -> None:
        assert math.isnan(estimate([1.0, math.inf]).mean)

    @given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True), st.integers(-50, 50))
    def test_shift_moves_the_mean_only(self, values: list[int], shift: int) -> None:
        plain, moved = estimate(values), estimate([value + shift for value in values])
        assert moved.mean == pytest.approx(plain.mean + shift)
        assert moved.interval == pytest.approx(plain.interval)
        assert plain.interval > statistics.stdev(values) / math.sqrt(len(values))


class TestSummary:
    def test_paired_gain_by_hand(self) -> None:
        # 100 rows, alike on all three seeds: 40 and 50 right, so +1 on 10 rows. √(0.1·0.9/99) = 0.030151, times
        # t(0.975, 99) = 1.98422. Paired, so narrower than the method's own √(0.5·0.5/99) = 0.050252 times that.
        row = row_of(summary(first_rows(scratch=40, ensemble=50)), method="ensemble")
        assert row["tuned"] == pytest.approx(0.5)
        assert row["tuned_gain"] == pytest.approx(0.1)
        assert row["tuned_gain_interval"] == pytest.approx(0.059827, rel=0.03)
        assert row["tuned_interval"] == pytest.approx(0.099711, rel=0.03)

    def test_pairs_are_matched_by_seed_not_by_place(self) -> None:
        scores = both_stages({"scratch": [0.4, 0.5, 0.6], "ensemble": [0.42, 0.53, 0.64]})
        shuffled = scores.sample(frac=1, random_state=3)
        pd.testing.assert_frame_equal(
            summary(make_comparison(scores=scores)), summary(make_comparison(scores=shuffled)), check_exact=False
        )

    def test_a_missing_score_drops_its_pair_and_says_why(self) -> None:
        scores = both_stages({"scratch": [0.4, NAN, 0.6], "ensemble": [0.42, 0.53, 0.66]})
        told = make_comparison()
        table_ = summary(make_comparison(scores=scores, answers=told.answers, examples=told.examples))
        ensemble, scratch = row_of(table_, method="ensemble"), row_of(table_, method="scratch")
        assert (scratch["tuned"], scratch["tuned_seeds"]) == (pytest.approx(0.5), 2)
        assert scratch["tuned_reason"] == "seed 1: training diverged"
        assert (ensemble["tuned_gain"], ensemble["tuned_gain_seeds"]) == (pytest.approx(0.04), 2)
        assert ensemble["tuned_seeds"] == 3

    def test_scratch_gains_nothing_over_itself(self) -> None:
        row = row_of(summary(make_comparison()), method="scratch")
        assert math.isnan(row["tuned_gain"])  # type: ignore[arg-type]

    def test_methods_keep_their_order_and_absent_ones_are_shown(self) -> None:
        table_ = summary(make_comparison(scores=both_stages({"ensemble": [0.5, 0.6], "mine": [0.5, 0.7]})))
        assert table_["method"].tolist() == [*DEFAULT_METHODS, "mine"]
        assert row_of(table_, method="average")["tuned_reason"] == "average was not run"

    def test_steps_to_scratch_by_hand(self) -> None:
        # Scratch's best: 0.6 at step 40 (seed 0) and 0.5 at step 20 (seed 1).
        # The ensemble has 0.6 at step 20 (seed 0; equal counts) and 0.5 at step 0 (seed 1): median 10.
        # The average gets there in seed 0 only: its median lies beyond every step.
        curves = {
            ("scratch", 0): [0.4, 0.5, 0.6, 0.5],
            ("scratch", 1): [0.3, 0.5, 0.4, 0.4],
            ("ensemble", 0): [0.5, 0.6, 0.7, 0.7],
            ("ensemble", 1): [0.5, NAN, 0.9, 0.9],
            ("average", 0): [0.5, 0.5, 0.6, 0.6],
            ("average", 1): [0.2, 0.2, 0.2, 0.2],
            ("best_single", 0): [0.1, 0.1, 0.1, 0.1],
        }
        table_ = summary(make_comparison(curves=curves_frame(curves, steps=(0, 20, 40, 60))))
        steps = table_.set_index("method")["steps_to_scratch"]
        assert steps.drop(["random", "average", "best_single"]).to_dict() == {"scratch": 30.0, "ensemble": 10.0}
        assert steps[["average", "best_single"]].isna().all()
        assert row_of(table_, method="average")["steps_to_scratch_reason"] == "1 of 2 seeds got there"
        assert row_of(table_, method="best_single")["steps_to_scratch_reason"] == "none of 1 seeds got there"

    def test_no_step_is_named_where_scratch_was_tested_too_rarely(self) -> None:
        curves = {("scratch", 0): [0.4, 0.5, 0.6], ("ensemble", 0): [0.5, 0.6, 0.7]}
        row = row_of(summary(make_comparison(curves=curves_frame(curves, steps=(0, 8, 16)))), method="ensemble")
        assert math.isnan(row["steps_to_scratch"])  # type: ignore[arg-type]
        assert "scratch was tested fewer than 4 times" in str(row["steps_to_scratch_reason"])

    def test_without_curves_there_are_no_steps(self) -> None:
        row = row_of(summary(make_comparison(curves=curves_frame({}))), method="ensemble")
        assert math.isnan(row["steps_to_scratch"])  # type: ignore[arg-type]
        assert "no learning curve" in str(row["steps_to_scratch_reason"])


class TestVerdict:
    def test_verdict_claims_only_what_is_shown(self) -> None:
        text = verdict(first_rows(scratch=40, average=52, ensemble=50))
        assert text.startswith(
            "On rte (ACC, 3 seeds): Better than training fresh: the average. The average, the method ahead, is 0.120 "
            "ACC above scratch after tuning (95 % interval 0.0"
        )
        assert "Before tuning, the average beats scratch by 0.120 (95 % interval 0.0" in text
        few = verdict(first_rows(scratch=40, average=43, ensemble=42))
        assert few.startswith(
            "On rte (ACC, 3 seeds): Cannot tell yet. The average, the method ahead, is 0.030 ACC above"
        )
        assert "Before tuning, the average is not told apart from scratch (difference 0.0300, 95 % interval −0.0" in few
        assert "beats" not in few

    def test_verdict_says_when_every_start_is_behind(self) -> None:
        text = verdict(first_rows(scratch=60, ensemble=40))
        assert "Train fresh: the hub has nothing for this task." in text
        assert "The ensemble, the best of the starts, is 0.200 ACC below scratch after tuning" in text
        assert "Before tuning, the ensemble is behind scratch by 0.200 (95 % interval −0.2" in text

    def test_scores_without_answers_claim_nothing(self) -> None:
        text = verdict(
            make_comparison(scores=both_stages({method: [0.1 * place] for place, method in enumerate(DEFAULT_METHODS)}))
        )
        assert text.startswith("On rte (ACC, 1 seed): Cannot tell yet.")
        assert "beats" not in text
        assert "0.400 ACC above scratch after tuning (no interval)" in text
        assert text.count("The record holds no answers to single rows; compare again to have them.") == 1

    def test_a_shared_start_is_named(self) -> None:
        starts = make_comparison().starts
        same = starts[starts["method"] == "best_single"].assign(method="ensemble")
        both = pd.concat([starts[starts["method"] != "ensemble"], same], ignore_index=True)
        text = verdict(first_rows(starts=both, scratch=40, best_single=80, ensemble=80))
        assert "The best single module begins from the very module of the ensemble." in text

    def test_steps_sentence(self) -> None:
        curves = {("scratch", 0): [0.4, 0.5, 0.5, 0.5], ("ensemble", 0): [0.5, 0.6, 0.6, 0.6]}
        text = verdict(make_comparison(curves=curves_frame(curves)))
        assert text.endswith(
            "Scratch reaches its best dev score at step 20, the ensemble the same score before any tuning "
            "(medians over seeds)."
        )
        never = {("scratch", 0): [0.4, 0.5, 0.5, 0.5], ("ensemble", 0): [0.1, 0.2, 0.2, 0.2]}
        assert verdict(make_comparison(curves=curves_frame(never))).endswith(
            "of the ensemble, none of 1 seeds got there."
        )

    def test_all_empty(self) -> None:
        empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in FRAMES.items()}
        text = verdict(make_comparison(**empty))
        assert text == (
            "On rte (ACC, 0 seeds): Cannot tell: no start was tuned and tested. Compare more methods than scratch."
        )


class TestOtherTables:
    def test_main_metric(self) -> None:
        assert main_metric(make_comparison()) == "ACC"
        renamed = make_comparison().scores.assign(metric="EM")
        assert main_metric(make_comparison(scores=renamed)) == "EM"
        with pytest.raises(CardError, match=r"'rte' has the metric 'ACC', .*measured: EM, F1"):
            main_metric(make_comparison(scores=pd.concat([renamed, renamed.assign(metric="F1")])))

    def test_ranking_is_sorted_by_the_chosen_indicator_missing_last(self) -> None:
        ranking = pd.DataFrame(
            {
                "seed": [0, 0, 0, 1, 1],
                "module": ["a", "b", "c", "a", "b"],
                **dict.fromkeys(["task", "family", "license"], "x"),
                "weight": [0.5, 0.5, 0.0, 0.7, 0.3],
                "el2n": [1.0, 2.0, NAN, 3.0, 4.0],
            }
        )
        table_ = ranking_table(make_comparison(ranking=ranking))
        assert table_["module"].tolist() == ["b", "a", "c"]
        assert table_["el2n"].tolist()[:2] == [3.0, 2.0]
        assert math.isnan(table_["el2n"][2])
        assert table_["weight"].tolist() == [0.4, 0.6, 0.0]
        assert table_["seeds"].tolist() == [2, 2, 1]
        by_weight = ranking_table(make_comparison(ranking=ranking, settings={"indicator": "fisher"}))
        assert by_weight["module"].tolist() == ["a", "b", "c"]

    def test_effective_modules_by_hand(self) -> None:
        # 1 / (0.5² + 0.5²) = 2; 1 / 1² = 1; no weights: unknown
        ranking = pd.DataFrame(
            {
                "seed": [0, 0, 1, 2],
                "module": ["a", "b", "a", "a"],
                **dict.fromkeys(["task", "family", "license"], "x"),
                "weight": [0.5, 0.5, 1.0, NAN],
            }
        )
        table_ = effective_modules(make_comparison(ranking=ranking))
        np.testing.assert_allclose(table_["effective"], [2.0, 1.0, NAN])

    def test_curve_table_marks_steps_that_lack_a_seed(self) -> None:
        curves = curves_frame({("scratch", 0): [0.4, 0.6, 0.8], ("scratch", 1): [0.5, 0.7]}, steps=(0, 10, 20))
        table_ = curve_table(make_comparison(curves=curves))
        assert table_["dev_score"].tolist() == pytest.approx([0.45, 0.65, 0.8])
        assert table_["dev_loss"].tolist() == pytest.approx([0.55, 0.35, 0.2])
        assert table_["complete"].tolist() == [True, True, False]
        # t(0.975, 1) * s / sqrt(2) = 12.7062 * 0.05
        assert table_["dev_score_interval"][0] == pytest.approx(0.63531, abs=1e-5)
        assert math.isnan(table_["dev_score_interval"][2])

    def test_settings_are_flat(self) -> None:
        settings = {"backbone": "b", "recipe": {"lr": 0.1, "warm": {"up": 3}}, "seeds": (0, 1), "space": None}
        table_ = settings_table(make_comparison(settings=settings))
        assert table_["setting"].tolist() == ["backbone", "recipe.lr", "recipe.warm.up", "seeds", "space"]
        assert table_["value"].tolist() == ["b", 0.1, 3, "0, 1", None]


class TestCells:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.123456, "0.1235"),
            (0.5, "0.5000"),
            (1234.0, "1234"),
            (65536.0, "65536"),
            (-12.345, "−12.35"),
            (0.0, "0"),
            (0.00001234, "1.234e−05"),
            (NAN, DASH),
            (math.inf, "∞"),
        ],
    )
    def test_number_text(self, value: float, text: str) -> None:
        assert number_text(value) == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [(None, DASH), (pd.NA, DASH), (np.float32(0.5), "0.5000"), (np.True_, "yes"), (7, "7"), ("", "")],
    )
    def test_cell_text(self, value: object, text: str) -> None:
        assert cell_text(value) == text

    def test_what_is_not_zero_never_reads_as_zero(self) -> None:
        assert fixed_text(0.00004, 3) == "4e−05"
        assert fixed_text(-0.0126, 3) == "−0.013"

    def test_summary_cells_mark_their_reasons(self) -> None:
        scores = both_stages({"scratch": [40.0], "ensemble": [50.25]})
        notes = Footnotes()
        cells = summary_cells(summary(make_comparison(scores=scores)), notes)
        row = row_of(cells, Method="ensemble")
        assert str(row["Tuned"]).startswith("50.25")
        numbers = {line.split(" ", 1)[1]: line.split(" ", 1)[0] for line in notes.lines()}
        why = "the record holds no answers to single rows; compare again to have them"
        assert str(row["Tuned"]) == f"50.25\N{NO-BREAK SPACE}{numbers[why]}"
        assert row_of(cells, Method="average")["Tuned"] == f"{DASH}\N{NO-BREAK SPACE}{numbers['average was not run']}"


class TestConsole:
    def test_table_shows_markup_as_it_is_and_missing_as_a_dash(self) -> None:
        frame = pd.DataFrame({"module": ["[red]x", None], "score": [0.123456, NAN]})
        console = Console(file=io.StringIO(), width=160)
        print_table(frame, console, title="[b]")
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "[red]x" in text
        assert "[b]" in text
        assert "0.1235" in text
        assert text.count(DASH) == 2

    def test_numbers_stand_on_the_right(self) -> None:
        frame = pd.DataFrame({"name": ["a"], "float": [0.5], "mixed": pd.Series([None], dtype=object)})
        assert [column.right for column in frame_columns(frame)] == [False, True, False]

    def test_a_table_too_wide_for_the_terminal_becomes_several(self) -> None:
        numbers = {f"indicator-{place}": [0.125 * place, -2.5] for place in range(1, 9)}
        frame = pd.DataFrame(
            {"module": ["a-module-with-a-rather-long-name-" * 2, "b"], "family": ["Nli", "x"]} | numbers
        )
        for width in (30, 36, 60, 80, 110, 200):
            console = Console(record=True, width=width, file=io.StringIO())
            print_table(frame, console, title="scores")
            text = console.export_text()
            assert all(len(line) <= width for line in text.splitlines())
            for name, (value, _) in numbers.items():
                assert text.count(name) == 1
                assert number_text(value) in text
            assert text.count("scores") == 1
        assert text.count("┏") == 1, "where there is room it is one table"

    def test_print_summary(self) -> None:
        console = Console(file=io.StringIO(), width=160)
        print_summary(make_comparison(), console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert text.startswith("On rte (ACC, 3 seeds): Use this start: the ensemble. The ensemble, the method ahead,")
        for part in ("best_single", "lora-mnli-r8", "Refused: 2", "Note: Merge error", "Effective number of modules"):
            assert part in text

    def test_a_narrow_terminal_shows_every_number(self) -> None:
        console = Console(record=True, width=80, file=io.StringIO())
        print_summary(make_comparison(), console)
        text = console.export_text()
        assert all(len(line) <= 80 for line in text.splitlines())
        for column in ("Zero-shot", "Tuned", "Steps to scratch", "Seeds", "scratch", "ensemble"):
            assert column in text

    def test_print_summary_of_nothing(self) -> None:
        empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in FRAMES.items()}
        console = Console(file=io.StringIO(), width=160)
        print_summary(make_comparison(**empty), console)
        assert "ensemble was not run" in console.file.getvalue()  # type: ignore[attr-defined]


def test_numbers_on_a_map_keep_clear_of_each_other_and_of_other_points() -> None:
    def point(x: float, y: float, number: int | str) -> dict[str, Any]:
        return {"x": x, "y": y, "r": 6.0, "number": number}

    points = [point(50, 50, 1), point(54, 50, 2), point(98, 20, 3), point(46, 50, 4), point(50, 50, "")]
    place_numbers(points)
    assert [each.get("anchor") for each in points] == ["middle", "start", "end", "end", None]
    assert (points[1]["dx"], points[0]["dy"] < 0) == (9.0, True), "the first is above, as both sides are taken"
    assert "dx" not in points[4], "a module of little weight has no number"
    crowd = [point(50, 50, number) for number in range(1, 9)]
    place_numbers(crowd)
    assert all("anchor" in each for each in crowd), "where nothing is free, they overlap"
