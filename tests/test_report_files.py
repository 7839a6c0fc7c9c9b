import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from comparison_example import curves_frame, make_comparison, scores_frame
from headstart.backbones import Backbone
from headstart.comparing.classes import class_scores
from headstart.comparing.comparison import DEFAULT_METHODS, FRAMES, STAGES, Comparison
from headstart.comparing.decision import Decision, decide
from headstart.comparing.effects import effects, mean_scores
from headstart.errors import ModuleError, OutputError
from headstart.kinds import fresh_module, load_module
from headstart.records import TaskCard
from headstart.reports.axes import Axis
from headstart.reports.chosen import chosen_rows
from headstart.reports.html import write_report
from headstart.reports.page import MOST_MODULES, page_values
from headstart.reports.tables import summary
from report_examples import answered, full

TABLES = {f"{name}.csv" for name in ("summary", "effects", "ranking", "scores", "curves", "answers", "refused")}
PAGE = {"report.html", "comparison.json"}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, bool]] = []
        self.unheard: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "wbr"}:
            self.open.append((tag, dict(attrs).get("aria-hidden") == "true"))
        if any(hidden for _, hidden in self.open):
            self.unheard.append(self.seen[-1][1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "report"
    write_report(full(), folder)
    return folder


def page_of(comparison: Comparison, folder: Path) -> str:
    """The page of its report, which is written to a new folder."""
    write_report(comparison, folder / "report")
    return (folder / "report" / "report.html").read_text(encoding="utf-8")


def decision_for(method: str) -> Decision:
    return Decision("use", method, 0.1, 0.05, 0.15, "", "Because.", "")


def rows_of(comparison: Comparison, method: str) -> list[dict[str, str]]:
    """What the page says of the method against the others, after tuning."""
    return values(comparison, decision_for(method))["effects"]["rows"]["tuned"]  # type: ignore[no-any-return]


def values(comparison: Comparison, decision: Decision | None = None) -> dict[str, Any]:
    """What the template is given."""
    found = decision or decide(comparison)
    made = {"effects": effects(comparison), "means": mean_scores(comparison), "summary": summary(comparison)}
    return page_values(comparison, found, **made)


def test_the_folder_is_complete(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == TABLES | PAGE
    assert len(pd.read_csv(report / "summary.csv")) == 5
    assert len(pd.read_csv(report / "ranking.csv")) == 12
    assert len(pd.read_csv(report / "curves.csv")) == 90
    text = (report / "comparison.json").read_text(encoding="utf-8")
    assert Comparison.from_json(text).to_json() == text


def test_the_page_loads_nothing(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    tags = parsed(page)
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)
    assert all("href" not in attributes for _, attributes in tags.seen)
    assert all("src" not in attributes for _, attributes in tags.seen)
    assert "default-src 'none'" in page


def test_the_page_says_the_decision_before_any_table(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.index("<h1>") < page.index(decide(full()).sentence.partition(". ")[2]) < page.index("<table")
    assert "95 % interval" in page
    assert "nan" not in re.sub(r'src="[^"]*"', "", page).lower().split()


def test_names_are_escaped(tmp_path: Path) -> None:
    comparison = make_comparison()
    rename = {"lora-mnli-r8": "<script>alert(1)</script>", "lora-snli-r8": "_a$x^2$ & b"}
    ranking = comparison.ranking.assign(module=comparison.ranking["module"].replace(rename))
    refused = pd.DataFrame({"module": ["<img src=http://x>"], "reason": ["<u>"]})
    write_report(make_comparison(ranking=ranking, refused=refused, notes=("<em>",)), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    tags = {tag for tag, _ in parsed(page).seen}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.replace("<wbr>", "")
    assert not tags & {"script", "u", "em", "img"}


@pytest.mark.parametrize("name", ["=1+1", "@SUM(1)", "+1", "-1", "\t=1", "＝1"])
def test_a_cell_that_a_spreadsheet_would_compute_is_defused(tmp_path: Path, name: str) -> None:
    comparison = make_comparison()
    ranking = comparison.ranking.replace({"module": {"lora-mnli-r8": name}})
    refused = pd.DataFrame({"module": ["x"], "reason": [name]})
    write_report(make_comparison(ranking=ranking, refused=refused), tmp_path / "report")
    written = pd.read_csv(tmp_path / "report" / "ranking.csv")
    assert {f"'{name}", "lora-snli-r8"} <= set(written["module"])
    assert (written["el2n"] < 0).all(), "numbers stay numbers"
    assert pd.read_csv(tmp_path / "report" / "refused.csv")["reason"].tolist() == [f"'{name}"]
    restored = Comparison.from_json((tmp_path / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert name in set(restored.ranking["module"])


def test_characters_that_no_page_can_show_are_spelled(tmp_path: Path) -> None:
    odd = "a\x00b\x1b[31m\u202ecba\u200f"
    refused = pd.DataFrame({"module": ["x"], "reason": [odd]})
    write_report(make_comparison(refused=refused, notes=(odd,)), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("a\\x00b\\x1b[31m\\u202ecba\u200f<") == 2
    assert not set(page) & set("\x00\x1b\u202e")


def test_missing_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    given = {(method, stage): [0.5, 0.6, 0.7] for method in DEFAULT_METHODS for stage in ("zero-shot", "tuned")}
    given["average", "tuned"] = [float("nan")] * 3
    page = page_of(make_comparison(scores=scores_frame(given)), tmp_path)
    assert re.search(r"<td class=\"n\">—\xa0\[\d\]", page)
    assert re.search(r"<li>\[\d\] no score; seeds 0, 1, 2: training diverged", page)


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(OutputError, match=r"report already exists; choose another output"):
        write_report(make_comparison(), folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["report", "mine.txt"]
    assert (folder / "mine.txt").read_text(encoding="utf-8") == "keep"


def test_a_failing_plot_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("headstart.reports.page.curve_table", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(make_comparison(), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_comparison_still_has_a_page(tmp_path: Path) -> None:
    empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in FRAMES.items()}
    write_report(make_comparison(**empty), tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == TABLES | PAGE
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert parsed(page)
    assert "No module was ranked." in page


def test_equal_comparisons_give_equal_bytes(report: Path, tmp_path: Path) -> None:
    write_report(full(), tmp_path / "again")
    for path in report.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


class TestPlots:
    def test_marks_lie_where_the_numbers_are(self) -> None:
        comparison = full()
        means = mean_scores(comparison).set_index(["stage", "method"])
        panels = values(comparison)["scores"]["panels"]
        assert [panel["title"] for panel in panels] == ["After tuning", "Before tuning"]
        for line, method in zip(panels[0]["lines"], DEFAULT_METHODS, strict=True):
            row = means.loc["tuned", method]
            assert line["mean"] == pytest.approx(100 * row["score"], abs=0.01)
            assert (line["low"], line["high"]) == pytest.approx((100 * row["low"], 100 * row["high"]), abs=0.01)
            assert len(line["dots"]) == 3
        lines = {line["name"]: line["at"] for line in values(comparison)["scores"]["baselines"]}
        assert lines == {"chance": 50.0, "majority": 53.0, "backbone": 57.5}

    def test_intervals_and_bands_end_where_the_metric_does(self) -> None:
        # Two seeds of 0.9 and 1.0, on 8 rows: an interval that reaches far above 1.
        scores = {(method, stage): [0.9, 1.0] for method in DEFAULT_METHODS for stage in STAGES}
        curves = {(method, seed): [0.05 + 0.9 * seed, 0.95] for method in DEFAULT_METHODS for seed in (0, 1)}
        comparison = full(
            scores=scores_frame(scores, metric="ACC"),
            curves=curves_frame(curves),
            **answered(8, DEFAULT_METHODS, seeds=2),
        )
        found = values(comparison)
        assert found["scores"]["clipped"]
        assert found["curves"]["clipped"]
        places = re.findall(r"[\d.]+", found["curves"]["plots"][0]["panels"][0]["band"])
        assert all(0 <= float(place) <= 100 for place in places)
        for line in found["scores"]["panels"][0]["lines"]:
            assert line["interval"].endswith("to 1.000")
        assert (found["scores"]["axis"].low, found["scores"]["axis"].high) == (0, 1)

    def test_a_line_is_dotted_after_a_seed_has_stopped(self) -> None:
        curves = curves_frame({("scratch", 0): [0.4, 0.6, 0.8], ("scratch", 1): [0.5, 0.7]}, steps=(0, 10, 20))
        (panel,) = values(full(curves=curves))["curves"]["plots"][0]["panels"]
        assert panel["whole"] == "0,55 50,35"
        assert panel["all"] == "0,55 50,35 100,20"

    def test_a_large_hub_is_cut(self) -> None:
        ranking = pd.DataFrame(
            {
                "seed": 0,
                "module": [f"module {index}" for index in range(700)],
                **dict.fromkeys(["task", "family", "license"], "x"),
                "weight": 1 / 700,
            }
        )
        found = values(full(ranking=ranking, settings={}))["ranking"]
        assert (found["modules"], len(found["rows"])) == (700, MOST_MODULES)

    def test_loss_panel_only_where_there_is_a_loss(self) -> None:
        comparison = full()
        assert len(values(comparison)["curves"]["plots"]) == 2
        without = full(curves=comparison.curves.assign(dev_loss=float("nan")))
        assert len(values(without)["curves"]["plots"]) == 1

    def test_a_curve_says_when_it_is_at_scratchs_best(self) -> None:
        scores = {"scratch": [0.4, 0.5, 0.5, 0.4], "average": [0.3, 0.5, 0.5, 0.5], "ensemble": [0.6, 0.7, 0.7, 0.7]}
        curves = {(method, 0): points for method, points in scores.items()}
        plot = values(full(curves=curves_frame(curves)))["curves"]["plots"][0]
        assert {panel["method"]: panel["arrival"] for panel in plot["panels"]} == {
            "scratch": "", "average": "at scratch’s best from step 20",
            "ensemble": "at scratch’s best before any tuning",
        }  # fmt: skip

    def test_calibrated_scores_stand_beside_those_without(self) -> None:
        scores = full().scores
        batch = scores["method"] == "ensemble"
        scores = scores.assign(calibration=batch.map({True: "batch", False: "none"}), uncalibrated=0.25)
        lines = {line["method"]: line for line in values(full(scores=scores))["scores"]["panels"][0]["lines"]}
        assert lines["ensemble"]["calibrated"] == "0.250 uncalibrated"
        assert lines["average"]["calibrated"] == ""


class TestAxis:
    @pytest.mark.parametrize(
        ("low", "high", "ticks"),
        [
            (0, 1, (0, 0.25, 0.5, 0.75, 1)),
            (-1, 1, (-1, -0.5, 0, 0.5, 1)),
            (0, 3.3, (0, 1, 2, 3, 4)),
            (2, 47, (0, 20, 40, 60)),
        ],
    )
    def test_ticks_are_round(self, low: float, high: float, ticks: tuple[float, ...]) -> None:
        assert Axis.between(low, high).ticks == ticks

    def test_what_lies_beyond_an_end_is_at_that_end(self) -> None:
        axis = Axis.of_metric("ACC", [])
        assert [axis.at(value) for value in (-0.4, 0, 0.25, 1, 1.2)] == [0, 0, 25, 100, 100]
        assert [axis.holds(value) for value in (-0.4, 0, 1, 1.2, math.nan)] == [False, True, True, False, True]

    def test_a_metric_without_a_range_has_one_around_its_values(self) -> None:
        assert Axis.of_metric("unheard of", [12.0, 47.0]).high == 60
        assert Axis.of_metric("unheard of", [math.nan]).ticks[-1] == 1
        assert Axis.of_metric("Matthew-Correlation", [0.3]).low == -1


class TestDecision:
    def test_the_decision_is_the_headline(self) -> None:
        comparison = full()
        for choice, headline in (("use", "Use this start"), ("fresh", "Train fresh"), ("undecided", "Cannot tell yet")):
            decision = Decision(choice, "best_single", 0.1, 0.05, 0.15, "", "Because.", "")  # type: ignore[arg-type]
            found = values(comparison, decision)["decision"]
            assert found["headline"].startswith(headline)
            assert found["which"] == (": best single" if choice == "use" else "")
            assert (found["gain"], found["interval"]) == ("+0.100", "+0.050 to +0.150")

    def test_the_sentence_does_not_repeat_the_headline(self, report: Path) -> None:
        page = (report / "report.html").read_text(encoding="utf-8")
        headline = re.search(r"<h1>([^:<]+)", page)[1]  # type: ignore[index]
        why = re.search(r'<p class="why">(.*?)</p>', page)[1]  # type: ignore[index]
        assert headline not in why
        assert "95 % interval" in why

    def test_a_pair_reads_the_same_from_both_sides(self) -> None:
        comparison = full()
        mine, theirs = (
            {row["other"]: row for row in rows_of(comparison, method)} for method in ("ensemble", "average")
        )
        assert len(mine) == len(theirs) == len(rows_of(comparison, "average")) == 4
        seen, turned = mine["average"]["difference"], theirs["ensemble"]["difference"]
        assert seen.lstrip("+−") == turned.lstrip("+−")
        assert (seen[0], turned[0]) == ("+", "−")


class TestChosenRows:
    def test_rows_on_which_methods_differ_come_first(self) -> None:
        # rows 0 and 3: only the ensemble is right; row 1: only scratch; row 2: both
        said = {"scratch": "nyyn", "ensemble": "ynyy"}
        answers = [
            {"method": method, "seed": seed, "stage": "tuned", "row": row, "prediction": letter, "uncalibrated": letter}
            for method, letters in said.items() for seed in (0, 1) for row, letter in enumerate(letters)
        ]  # fmt: skip
        examples = [{"row": r, "input": f"{r}", "target": "y", "references": '["y"]', "group": ""} for r in range(4)]
        comparison = full(answers=pd.DataFrame(answers), examples=pd.DataFrame(examples))
        found = chosen_rows(comparison, method="ensemble")
        assert [row.row for row in found] == [0, 1, 3, 2]
        assert [(each.method, each.right, each.count) for each in found[0].answers] == [
            ("scratch", False, 2), ("ensemble", True, 2)
        ]  # fmt: skip
        assert len(chosen_rows(comparison, method="ensemble", rows=2)) == 2

    def test_without_answers_there_are_none(self) -> None:
        assert chosen_rows(full(answers=full().answers.head(0)), method="ensemble") == []


def test_class_scores_by_hand() -> None:
    # Targets a, a, b; answers a, b, b: of a, precision 1 and recall 1/2; of b, precision 1/2 and recall 1.
    answers = [
        {"method": "scratch", "seed": 0, "stage": "tuned", "row": row, "prediction": letter, "uncalibrated": letter}
        for row, letter in enumerate("abb")
    ]
    examples = [
        {"row": row, "input": "x", "target": letter, "references": json.dumps([letter]), "group": ""}
        for row, letter in enumerate("aab")
    ]
    card = TaskCard(name="t", metric="ACC", labels=("a", "b", "c"))
    table = class_scores(full(task=card, answers=pd.DataFrame(answers), examples=pd.DataFrame(examples)))
    rows = table.set_index("class")[["rows", "precision", "recall", "f1"]]
    assert rows.loc["a"].tolist() == pytest.approx([2, 1, 0.5, 2 / 3])
    assert rows.loc["b"].tolist() == pytest.approx([1, 0.5, 1, 2 / 3])
    assert rows.loc["c", "rows"] == 0
    assert rows.loc["c", ["precision", "recall", "f1"]].isna().all(), "a class that does not occur has no score"


def test_the_settings_show_the_rank_that_the_starts_have(tmp_path: Path) -> None:
    recipe = {"lr": 3e-4, "shape": {"rank": 16, "alpha": 32.0}}
    page = page_of(full(settings={"recipe": recipe, "command": "headstart compare x"}), tmp_path)
    assert re.search(r'rank of the starts</th><td dir="auto">8<', page)
    assert "recipe.shape.rank" not in page
    assert "<pre><code>headstart compare x</code></pre>" in page
    assert page.index("<details><summary>Settings, and the command that repeats it") < page.index("recipe.lr")


def test_the_weight_stands_beside_the_name(tmp_path: Path) -> None:
    page = page_of(full(), tmp_path)
    assert re.search(r'<th scope="col">Module</th><th scope="col">Weight</th>', page)


def test_every_table_and_plot_can_be_read_aloud(report: Path) -> None:
    tags = parsed((report / "report.html").read_text(encoding="utf-8"))
    for tag, attributes in tags.seen:
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "svg":
            assert attributes.get("aria-label") or any(attributes is other for other in tags.unheard)
    headings = [tag for tag, _ in tags.seen if re.fullmatch(r"h\d", tag)]
    assert headings.count("h1") == 1
    assert headings[0] == "h1"


def test_reports_do_not_import_torch() -> None:
    code = "import sys, headstart.reports.html, headstart.reports.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kept_modules_are_part_of_the_folder_or_there_is_no_folder(tmp_path: Path, llama: Backbone) -> None:
    module = fresh_module("lora", llama, {"rank": 2}, name="mine", seed=0)
    kept = replace(make_comparison(), modules={"ensemble-seed0": module})
    write_report(kept, tmp_path / "report")
    assert load_module(tmp_path / "report" / "modules" / "ensemble-seed0").digest() == module.digest()
    broken = replace(kept, modules={"ensemble-seed0": module, "no module": 1})
    with pytest.raises(ModuleError):
        write_report(broken, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
