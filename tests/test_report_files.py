import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from comparison_example import make_comparison, scores_frame
from headstart.comparing.comparison import DEFAULT_METHODS, FRAMES, Comparison
from headstart.errors import OutputError
from headstart.reports import plots
from headstart.reports.html import write_report
from headstart.reports.tables import curve_table, ranking_table, seed_scores, summary

PLOTS = {"ranking.png", "weights.png", "scores.png", "curves.png"}
TABLES = {"summary.csv", "ranking.csv", "scores.csv", "curves.csv", "refused.csv"}
PAGE = {"report.html", "comparison.json"}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "report"
    write_report(make_comparison(), folder)
    return folder


def test_the_folder_is_complete(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == PLOTS | TABLES | PAGE
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
    sources = [attributes["src"] or "" for tag, attributes in tags.seen if tag == "img"]
    assert len(sources) == 4
    assert all("src" not in attributes for tag, attributes in tags.seen if tag != "img")
    images = {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources}
    assert images == {(report / name).read_bytes() for name in PLOTS}
    assert all(attributes["alt"] for tag, attributes in tags.seen if tag == "img")


def test_the_page_says_the_verdict_before_any_table(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.index("the ensemble beats scratch") < page.index("<table")
    assert "95 % interval" in page
    assert "nan" not in re.sub(r'src="[^"]*"', "", page).lower().split()


def test_names_are_escaped(tmp_path: Path) -> None:
    comparison = make_comparison()
    rename = {"lora-mnli-r8": "<script>alert(1)</script>", "lora-snli-r8": "_a$x^2$ & b"}
    ranking = comparison.ranking.assign(module=comparison.ranking["module"].replace(rename))
    refused = pd.DataFrame({"module": ["<img src=http://x>"], "reason": ["<b>"]})
    write_report(make_comparison(ranking=ranking, refused=refused, notes=("<i>",)), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    tags = {tag for tag, _ in parsed(page).seen}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not tags & {"script", "b", "i"}


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


def test_missing_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    values = {(method, stage): [0.5, 0.6, 0.7] for method in DEFAULT_METHODS for stage in ("zero-shot", "tuned")}
    values["average", "tuned"] = [float("nan")] * 3
    write_report(make_comparison(scores=scores_frame(values)), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
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

    monkeypatch.setattr(plots, "curves_figure", fail)
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
    write_report(make_comparison(), tmp_path / "again")
    for path in report.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


class TestPlots:
    def test_scores_figure_draws_the_table(self) -> None:
        comparison = make_comparison()
        table = summary(comparison)
        axes = plots.scores_figure(table, seed_scores(comparison), metric="ACC").axes
        assert [each.get_title(loc="left") for each in axes] == ["Zero-shot", "Tuned"]
        means = [float(bar.lines[0].get_ydata()[0]) for bar in axes[1].containers]  # type: ignore[attr-defined]
        assert means == table["tuned"].tolist()
        assert axes[0].get_ylabel() == "test ACC"

    def test_bars_only_where_zero_is_the_floor(self) -> None:
        ranking = ranking_table(make_comparison())
        assert len(plots.ranking_figure(ranking, "hidden_cosine").axes[0].patches) == 11  # one module has no value
        assert len(plots.ranking_figure(ranking, "el2n").axes[0].patches) == 0

    def test_weights_figure_leaves_out_modules_without_weight(self) -> None:
        ranking = ranking_table(make_comparison())
        bars = plots.weights_figure(ranking).axes[0].patches
        assert [bar.get_width() for bar in bars] == sorted(ranking["weight"][ranking["weight"] > 0], reverse=True)  # type: ignore[attr-defined]

    def test_a_large_hub_is_cut(self) -> None:
        ranking = pd.DataFrame(
            {
                "module": [f"_module-{'very-' * 12}{index}" for index in range(200)],
                "family": [f"_family {index % 20}" for index in range(200)],
                "weight": 1 / 200,
            }
        )
        axes = plots.weights_figure(ranking).axes[0]
        assert len(axes.patches) == plots.TOP
        assert all(len(label.get_text()) < 40 for label in axes.get_yticklabels())

    def test_loss_panel_only_where_there_is_a_loss(self) -> None:
        curves = curve_table(make_comparison())
        assert len(plots.curves_figure(curves, metric="EM").axes) == 2
        assert len(plots.curves_figure(curves.assign(dev_loss=float("nan")), metric="EM").axes) == 1


def test_reports_do_not_import_torch() -> None:
    code = "import sys, headstart.reports.html, headstart.reports.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
