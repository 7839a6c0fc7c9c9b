"""What the page of a report says first, and how what it shows can be repeated."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from comparison_example import make_comparison
from fit_example import fit_record
from headstart.comparing.comparison import Comparison
from headstart.comparing.decision import Decision, decide
from headstart.comparing.effects import effects, mean_scores
from headstart.fitting.record import FitRecord
from headstart.reports.html import fit_page, write_report
from headstart.reports.page import page_values
from headstart.reports.tables import summary
from report_examples import full, one_seed

CALL = 'hs.compare("tickets.csv", hub, backbone, seeds=2, methods=["scratch", "ensemble"])'


def page_of(comparison: Comparison, folder: Path) -> str:
    write_report(comparison, folder / "report")
    return (folder / "report" / "report.html").read_text(encoding="utf-8")


def in_python(**settings: str) -> FitRecord:
    """A record of a fit that no command made."""
    record = fit_record()
    own = {name: value for name, value in record.settings.items() if name != "command"}
    return replace(record, settings={**own, **settings})


@pytest.mark.parametrize("needed", ["3 more seeds or 400 more test rows", "1 more seed", ""])
def test_what_would_decide_is_in_the_headline(needed: str) -> None:
    decision = Decision("undecided", "average", 0.1, -0.1, 0.3, "", "Cannot tell yet. Because.", "More.", needed)
    comparison = full()
    tables = {"effects": effects(comparison), "means": mean_scores(comparison), "summary": summary(comparison)}
    found = page_values(comparison, decision, **tables)["decision"]
    assert (found["headline"], found["sentence"]) == ("Cannot tell yet", "Because.")
    assert found["which"] == (f": {needed} would" if needed else "")


def test_the_headline_and_the_title_are_one(tmp_path: Path) -> None:
    undecided = one_seed()
    needed = decide(undecided).needed
    assert re.fullmatch(r"[\d,]+ more test rows?", needed), "of one seed, no number of seeds can be told"
    page = page_of(undecided, tmp_path)
    assert f'<h1>Cannot tell yet<span class="which">: {needed} would</span></h1>' in page
    assert f"<title>Cannot tell yet: {needed} would (questions)</title>" in page


def test_more_rows_than_there_are_are_not_promised(tmp_path: Path) -> None:
    undecided = one_seed()
    few = replace(undecided, settings={**undecided.settings, "test_rows_there": 210, "next": "headstart fit rows.csv"})
    found = decide(few)
    assert decide(undecided).remedy.endswith("in 80 of 100 studies.")
    assert found.remedy == f"{decide(undecided).remedy} The task has 210 test rows in all: add some."
    page = page_of(few, tmp_path)
    assert "What to type now: <code><span>headstart</span> <span>fit</span> <span>rows.csv</span> </code>" in page
    assert "test_rows_there" not in page, "it is no setting"


def assert_shows_the_call(page: str, what: str) -> None:
    shown = CALL.replace('"', "&#34;")
    assert f"<pre><code>{shown}</code></pre>" in page
    assert f"This repeats the {what} in Python" in page
    assert "<summary>Settings, and the call that repeats it</summary>" in page
    assert page.count("hs.compare(") == 1, "it is no setting beside the others"


def test_a_report_made_in_python_shows_the_call_that_repeats_it(tmp_path: Path) -> None:
    assert_shows_the_call(page_of(full(settings={"call": CALL}), tmp_path), "comparison")
    assert_shows_the_call(fit_page(in_python(call=CALL)), "fit")


def test_a_command_is_shown_in_place_of_its_call() -> None:
    page = fit_page(in_python(call=CALL, command="headstart fit x"))
    assert "<pre><code>headstart fit x</code></pre>" in page
    assert "hs.compare(" not in page


def test_what_to_try_next_stands_beside_what_to_do_now_and_not_among_the_notes() -> None:
    said = "Tune for longer: --set max_steps=32."
    record = in_python(advice=said)
    page = fit_page(replace(record, notes=(*record.notes, said)), folder="mine")
    now = page[page.index("What to do now") : page.index("What the guard found")]
    assert "<code>headstart predict mine new-rows.csv</code>" in now
    assert f"<dd>{said}</dd>" in now
    assert page.count(said) == 1
    assert "headstart predict &#39;my module&#39; new-rows.csv" in fit_page(record, folder="my module")
    assert "dev was drawn from train" in page


def test_an_old_record_has_neither() -> None:
    assert "<summary>Settings</summary>" in fit_page(in_python())


def test_a_long_name_breaks_after_its_marks_only(tmp_path: Path) -> None:
    comparison = make_comparison()
    ranking = comparison.ranking.replace({"module": {"lora-mnli-r8": "a_b/<i>_c"}})
    write_report(make_comparison(ranking=ranking), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "a_<wbr>b/&lt;i&gt;_<wbr>c</th>" in page
