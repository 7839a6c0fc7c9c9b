"""The Python on documentation pages that is marked as tested runs and prints what the page shows."""

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
TESTED = re.compile(
    r"<!-- tested -->\n```python[^\n]*\n(?P<code>.*?)```(?:\n\n<!-- output -->\n```text\n(?P<output>.*?)```)?",
    re.DOTALL,
)
PAGES = sorted(page for page in DOCS.rglob("*.md") if TESTED.search(page.read_text(encoding="utf-8")))


def test_some_page_has_tested_code():
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_a_page_runs_and_prints_what_the_page_shows(page, monkeypatch, tmp_path):
    """All blocks of a page run one after the other with the same names, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in TESTED.finditer(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], str(page), "exec"), names)
        if block["output"] is not None:
            assert printed.getvalue() == block["output"]
