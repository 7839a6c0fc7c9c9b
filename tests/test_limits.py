"""The page of limits says what the code does."""

from pathlib import Path

import pytest

from headstart.tasks import options, template
from headstart.tasks.sources import rows

PAGE = (Path(__file__).parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("a line of a JSONL, CSV or TSV file, and a `task.json`", f"{rows.LONGEST_LINE // 2**20} MiB"),
        ("a file of rows, decompressed", f"{rows.MOST_BYTES // 2**30} GiB"),
        ("rows of a file, blank lines included", f"{rows.MOST_ROWS:,}"),
        ("options of a row", f"{options.MOST_OPTIONS:,}"),
        ("a template", f"{template.LONGEST_TEMPLATE:,} characters"),
        ("the text that a template makes of a row", f"{template.LONGEST_TEXT // 2**20} Mi characters"),
    ],
)
def test_the_page_states_every_limit(what: str, limit: str) -> None:
    assert f"| {what} | {limit} |" in PAGE
