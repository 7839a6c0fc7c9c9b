"""Spans that lie beyond what is read of their input: they count neither as right nor as wrong answers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from encoder_tasks import RECIPE, STYLE, a_task, examples
from encoders import CARDS, encoder, random_module
from headstart.backbones import BackboneInput
from headstart.embeddings import EmbedUnit, Subject, make_embedding
from headstart.errors import ModuleError
from headstart.indicators.engine import score, score_table
from headstart.indicators.table import NO_ANSWER
from headstart.indicators.unit import ScoreUnit
from headstart.ranking.rank import rank
from headstart.tasks import head_of
from headstart.tasks.content import rows_read

BERT = encoder("bert")
LATE = tuple(replace(row, input=f"{'so ' * 20}{row.input}") for row in examples("span")[:3])
ROWS = examples("span")[3:9]
MIXED = (LATE[0], *ROWS[:2], LATE[1], *ROWS[2:], LATE[2])
PLACES = (1, 2, 4, 5, 6, 7)
"""Where `ROWS` stand in `MIXED`."""
MODULES = [random_module(BERT, CARDS["span"], seed=seed) for seed in range(3)]
REFERENCE = random_module(BERT, head_of(a_task("span").card), seed=50, name="reference")
NAMES = ["loss", "cosine", "el2n", "entropy", "kl", "grand"]


def test_the_scores_are_those_of_the_other_rows() -> None:
    found, others = (
        score(MODULES, rows, BERT, indicators=NAMES, reference=REFERENCE, text_format=STYLE) for rows in (MIXED, ROWS)
    )
    assert (found.tokens, found.examples, found.reasons) == (others.tokens, len(MIXED), {})
    for name in NAMES:
        assert found.values[name] == pytest.approx(others.values[name], rel=1e-4), name
    table = score_table(MODULES[:1], MIXED, BERT, indicators=["loss"], reference=REFERENCE, text_format=STYLE).rows
    assert [place for place, count in zip(table["example"], table["tokens"], strict=True) if count] == list(PLACES)
    assert table["value"][table["tokens"] == 0].tolist() == [0.0] * 3, "the sum over no token"


def test_without_any_such_answer_there_is_no_score() -> None:
    found = score(MODULES, LATE, BERT, indicators=NAMES, reference=REFERENCE, text_format=STYLE)
    for name in NAMES:
        assert all(map(math.isnan, found.values[name])), name
        assert set(found.reasons[name].values()) == {NO_ANSWER}, name


def test_a_ranking_says_so_too(tmp_path: Path) -> None:
    task = a_task("span")
    late = replace(task, splits={**task.splits, "dev": LATE})
    ranking = rank(late, MODULES, BERT, indicators="loss", reference=REFERENCE, recipe=RECIPE, store=tmp_path)
    assert set(ranking.scores.reasons["loss"].values()) == {NO_ANSWER}


def test_taskemb_is_that_of_the_other_rows() -> None:
    embedding = make_embedding("taskemb")
    found, others = (embedding.of(Subject(MODULES[0], (), rows, BERT, STYLE)) for rows in (MIXED, ROWS))
    assert found == pytest.approx(others, rel=1e-4)
    with pytest.raises(
        ModuleError, match="no answer of the 3 rows lies within the first 32 tokens of its input; raise"
    ):
        embedding.of(Subject(MODULES[0], (), LATE, BERT, STYLE))


def test_what_was_stored_of_spans_is_computed_again() -> None:
    identity = BackboneInput.of(BERT)

    def scoring(task: str) -> ScoreUnit:
        return ScoreUnit(identity, MODULES[0], rows_read(examples(task)), "cosine", STYLE, REFERENCE)

    def embedding(task: str) -> EmbedUnit:
        module = random_module(BERT, CARDS[task])
        return EmbedUnit(module, "taskemb", rows_read(examples(task)), identity, STYLE)

    for unit in (scoring, embedding):
        assert [unit(task).inputs.get("versions") for task in ("span", "classification", "regression")] == [
            {"spans": 2}, None, None,
        ]  # fmt: skip
