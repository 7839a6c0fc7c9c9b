"""Who asks for help on a public function sees an example, and it is one that `make test` runs."""

import doctest
import inspect

import headstart as hs

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
