"""The page of limits says what the code does."""

from pathlib import Path

import pytest

from headstart.formats.containers import regular_file, safetensors_file
from headstart.formats.libraries import peft_layers
from headstart.tasks import options, template
from headstart.tasks.sources import rows

PAGE = (Path(__file__).parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("a line of a JSONL, CSV or TSV file, and a `task.json`", f"{rows.LONGEST_LINE // 2**20} MiB"),
        ("a file of rows, decompressed", f"{rows.MOST_BYTES // 2**30} GiB"),
        ("rows in a file, including blank lines", f"{rows.MOST_ROWS:,}"),
        ("options in a row", f"{options.MOST_OPTIONS:,}"),
        ("a template", f"{template.LONGEST_TEMPLATE:,} characters"),
        ("the text that a template makes from a row", f"{template.LONGEST_TEXT // 2**20} Mi characters"),
        ("a regular expression, plus the counts of its repeats", f"{peft_layers.LONGEST_PATTERN:,} characters"),
        ("all regular expressions of one field", f"{peft_layers.LONGEST_PATTERNS:,} characters"),
        ("the count of a repeat in it, as in `a{2,5}`", f"{peft_layers.HIGHEST_REPEAT}"),
        ("regular expressions in one field; plain names do not count", f"{peft_layers.MOST_PATTERNS:,}"),
        ("names in one field", f"{peft_layers.MOST_NAMES:,}"),
        ("time for one match", f"{peft_layers.SLOWEST:g} s"),
        ("time for all matches of one field", f"{peft_layers.MOST_SECONDS:g} s"),
        ("a file of tensors", f"{safetensors_file.MAX_BYTES // 2**30} GiB"),
        ("a configuration, a card, a README or a licence", f"{regular_file.LARGEST_TEXT // 2**20} MiB"),
    ],
)
def test_the_page_states_every_limit(what: str, limit: str) -> None:
    assert f"| {what} | {limit} |" in PAGE
