"""Who asks for help on a public function sees an example, and it is one that `make test` runs."""

import doctest
import inspect
import sys
from pathlib import Path

import pytest

import headstart as hs

DOCS = Path(__file__).parents[1] / "docs"

RESULTS = {
    "Comparison", "Evaluation", "Fitted", "HeadstartError", "Listener", "Merged", "Module", "Ranking", "SearchResult",
    "Start", "Tuned",
}  # fmt: skip
"""What nobody calls: the examples of what returns them show these."""
LONG = {"fit"}
"""Whose example takes too long to run."""


def examples(name: str) -> list[doctest.Example]:
    """The examples of one name that are run."""
    found = doctest.DocTestParser().get_examples(inspect.getdoc(getattr(hs, name)) or "")
    return [example for example in found if not example.options.get(doctest.SKIP)]


def test_whatever_is_called_has_an_example_that_is_run() -> None:
    called = {name for name in hs.__all__ if callable(getattr(hs, name))}
    assert {name for name in called - RESULTS - LONG if not examples(name)} == set()


def test_examples_are_short() -> None:
    lines = {name: sum(example.source.count("\n") for example in examples(name)) for name in hs.__all__}
    assert {name for name, count in lines.items() if count > 6} == set()


def test_the_documentation_shows_every_example_as_code(monkeypatch: pytest.MonkeyPatch) -> None:
    griffe = pytest.importorskip("griffe")
    monkeypatch.syspath_prepend(DOCS)
    from fence_examples import FenceExamples

    extensions = griffe.load_extensions(FenceExamples)
    sys.modules.pop("fence_examples")
    package = griffe.load("headstart", search_paths=[DOCS.parent / "src"], extensions=extensions)
    shown = package["showing.cut"].docstring.value
    assert shown.endswith("""\n```pycon\n>>> cut("a long name", 6)\n'a lon…'\n```""")
    parts = package["ranking.rank.rank"].docstring.parse("google")
    assert griffe.DocstringSectionKind.examples in {part.kind for part in parts}
