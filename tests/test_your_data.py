"""The page on own data: what it shows is what comes out, and every option and key that it names exists."""

import json
import re

import pytest
from docs.write_your_data import BACKBONE, PAGE, filled

from headstart.cli.options import TaskOptions
from headstart.tasks.classes import LEAST_ROWS, MOST_CLASSES, MOST_WORDS
from headstart.tasks.settings import KEYS


def test_the_page_shows_what_comes_out() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, backbone=None) == page, "run python docs/write_your_data.py"


@pytest.mark.slow
def test_the_page_shows_what_comes_out_of_the_backbone() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, backbone=BACKBONE) == page, "run python docs/write_your_data.py"


def test_options_keys_and_numbers_of_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and "`" in line]
    options = {option for line in lines for option in re.findall(r"--(\w+)", line[0])}
    assert (
        options == {"input", "target", "labels", "group", "metric"} <= {each.name for each in TaskOptions.parameters()}
    )
    assert {key for line in lines for key in re.findall(r"`(\w+)`", line[1])} <= set(KEYS)
    rule = f"2 to {MOST_CLASSES} different ones, with {LEAST_ROWS} rows or more on average, none longer than"
    assert f"{rule} {MOST_WORDS} words" in " ".join(page.split())
    (settings,) = re.findall(r"```json title=\"tickets.task.json\"\n(.*?)```", page, re.DOTALL)
    assert set(json.loads(settings)) <= set(KEYS)
