"""The command that a user would type next."""

import math
import shlex
from dataclasses import replace

import pytest

from headstart.cli.commands import COMMANDS, Deferred
from headstart.cli.compare import next_command
from headstart.cli.following import following
from headstart.comparing.decision import Decision

NAN = math.nan
USE = Decision("use", "average", 0.1, 0.05, 0.15, "", "Use it.", "")
WORDS = ["my tickets.csv", "--input", "text", "--labels", "a,b", "--hub", "hub", "-b", "llama", "--set", "rank=2",
         "--set", "lr=1", "--shots", "16", "--seeds", "3", "--test-rows", "50", "--method", "average", "-o", "report",
         "--chat"]  # fmt: skip


def after_compare(decision: Decision, *words: str) -> list[str]:
    reference, line = COMMANDS["compare"]
    with Deferred("compare", reference=reference, line=line).load().make_context("compare", [*words]) as context:
        return shlex.split(next_command(context, decision, rows=1000))


def test_a_start_is_fitted_on_all_rows() -> None:
    assert after_compare(USE, *WORDS) == [
        "headstart", "fit", "my tickets.csv", "--input", "text", "--labels", "a,b", "--test-rows", "50", "--hub", "hub",
        "--backbone", "llama", "--chat", "--set", "rank=2", "--set", "lr=1", "--start", "average", "-o", "my-module",
    ]  # fmt: skip


def test_what_is_not_given_is_not_repeated() -> None:
    fresh = replace(USE, choice="fresh")
    assert after_compare(fresh, "reviews", "--hub", "hub", "-o", "out") == [
        "headstart", "tune", "reviews", "-o", "my-module"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seeds", "rows", "more"), [(9.0, 700.0, ["--seeds", "9"]), (NAN, 700.0, ["--test-rows", "700"])]
)
def test_an_open_question_is_asked_again_with_what_would_decide(seeds: float, rows: float, more: list[str]) -> None:
    open_ = replace(USE, choice="undecided", seeds_needed=seeds, rows_needed=rows)
    words = after_compare(open_, "reviews", "--hub", "hub", "--seeds", "3", "--test-rows", "50", "-o", "out")
    assert words[:3] == ["headstart", "compare", "reviews"]
    assert words[-4:] == [*more, "-o", "my-report"]
    assert sum(word == more[0] for word in words) == 1, "an option is not given twice"


def test_where_nothing_would_decide_or_rows_are_too_few_there_is_no_command() -> None:
    many = replace(USE, choice="undecided", rows_needed=1001.0)
    assert after_compare(many, "reviews", "--hub", "hub") == [], "the task has 1,000 test rows"
    assert after_compare(replace(USE, choice="undecided"), "reviews", "--hub", "hub") == []


def test_every_command_that_follows_can_be_read() -> None:
    for command, decision in (("fit", USE), ("tune", replace(USE, choice="fresh"))):
        name, *rest = after_compare(decision, *WORDS)[1:]
        reference, line = COMMANDS[name]
        assert Deferred(name, reference=reference, line=line).load().make_context(name, rest).params["task"]
        assert name == command
    reference, line = COMMANDS["compare"]
    with (
        Deferred("compare", reference=reference, line=line).load().make_context("compare", ["a", "--hub", "h"]) as made
    ):
        assert following(made, "rank") == "headstart rank a --hub h"
