import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from comparison_example import make_comparison, scores_frame
from headstart.comparing.comparison import FRAMES, Comparison
from headstart.comparing.decision import decide
from headstart.errors import CardError
from headstart.records import Fingerprint


def test_json_round_trip_keeps_every_value() -> None:
    before = make_comparison()
    after = Comparison.from_json(before.to_json())
    assert after.task == before.task
    assert after.settings == before.settings
    assert after.notes == before.notes
    for name in FRAMES:
        assert_frame_equal(getattr(after, name), getattr(before, name), check_exact=True)


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.floats(), min_size=1, max_size=6),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4, unique=True),
)
def test_json_round_trip_property(scores: list[float], names: list[str]) -> None:
    refused = pd.DataFrame({"module": names, "reason": ["why"] * len(names)})
    before = make_comparison(scores=scores_frame({("ensemble", "tuned"): scores}), refused=refused)
    text = before.to_json()
    json.loads(text, parse_constant=pytest.fail)  # strict: no NaN, no Infinity
    after = Comparison.from_json(text)
    np.testing.assert_array_equal(after.scores["score"], before.scores["score"])
    assert after.refused["module"].tolist() == names
    assert after.to_json() == text


def test_missing_is_null_and_infinite_is_named() -> None:
    text = make_comparison(scores=scores_frame({("scratch", "tuned"): [math.nan, math.inf, -math.inf]})).to_json()
    columns = {column["name"]: column["values"] for column in json.loads(text)["scores"]}
    assert columns["score"] == [None, "Infinity", "-Infinity"]


def test_empty_frames_keep_their_columns() -> None:
    empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in FRAMES.items()}
    after = Comparison.from_json(make_comparison(**empty).to_json())
    for name, columns in FRAMES.items():
        assert tuple(getattr(after, name).columns) == columns


def test_settings_become_plain_data() -> None:
    fingerprint = Fingerprint(architecture="Llama", shapes="a", weights="b")
    given_settings = {
        "fingerprint": fingerprint,
        "hub": Path("x/y"),
        "seeds": (0, np.int64(1)),
        "tau": np.float32("nan"),
    }
    after = Comparison.from_json(make_comparison(settings=given_settings).to_json())
    assert after.settings["fingerprint"]["architecture"] == "Llama"
    assert after.settings["hub"] == str(Path("x/y"))
    assert after.settings["seeds"] == [0, 1]
    assert after.settings["tau"] is None


def test_a_setting_that_json_cannot_hold_is_named() -> None:
    with pytest.raises(CardError, match=r"settings\.recipe\.lr is a complex, .*give it as a number or a text"):
        make_comparison(settings={"recipe": {"lr": 1j}}).to_json()


def test_a_column_that_json_cannot_hold_is_named() -> None:
    refused = pd.DataFrame({"module": ["a"], "reason": [{"not": "text"}]})
    with pytest.raises(CardError, match=r"refused\.reason holds mixed values"):
        make_comparison(refused=refused).to_json()


def test_indicators_are_the_other_columns() -> None:
    assert make_comparison().indicators == ("el2n", "hidden_cosine")


def test_a_lacking_column_is_refused() -> None:
    with pytest.raises(CardError, match=r"table 'scores' lacks the column 'metric'"):
        make_comparison(scores=make_comparison().scores.drop(columns="metric"))


def test_two_rows_for_one_score_are_refused() -> None:
    scores = scores_frame({("ensemble", "tuned"): [0.5]})
    message = r"'scores' has two rows for method ensemble, seed 0, stage tuned, split test, metric ACC; keep one"
    with pytest.raises(CardError, match=message):
        make_comparison(scores=pd.concat([scores, scores]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 4}, r"run\.json has schema version 4, this Headstart reads 2 and 3; choose .* or upgrade"),
        ({"task": {"name": 3}}, r"run\.json: field 'task\.name'"),
        ({"curves": [{"name": "step"}]}, r"run\.json lacks the field 'values'"),
        ({"curves": 5}, r"run\.json holds a malformed table"),
        ({"refused": [{"name": "module", "type": "text", "values": []}]}, r"run\.json: .*lacks the column 'reason'"),
        ({"refused": [{"name": "module", "type": "odd", "values": []}]}, r"unknown type 'odd'"),
    ],
)
def test_malformed_records_name_the_file_and_field(change: dict[str, object], message: str) -> None:
    data = json.loads(make_comparison().to_json()) | change
    with pytest.raises(CardError, match=message):
        Comparison.from_json(json.dumps(data), source="run.json")


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "schema version None")])
def test_not_a_record(text: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        Comparison.from_json(text)


def test_a_record_of_version_2_is_read_without_the_answers_that_it_did_not_keep() -> None:
    data = json.loads(make_comparison().to_json()) | {"schema_version": 2}
    for name in ("answers", "examples", "baselines"):
        del data[name]
    kept = make_comparison().scores.drop(columns=["forward_tokens", "backward_tokens"])
    data["scores"] = [
        column
        for column in data["scores"]
        if column["name"] in kept and column["name"] not in ("calibration", "uncalibrated")
    ]
    found = Comparison.from_json(json.dumps(data))
    assert_frame_equal(found.scores[kept.columns], kept, check_exact=True)
    assert found.scores[["forward_tokens", "backward_tokens"]].isna().all(axis=None)
    assert decide(found).cost == "tuning took 12.5 s a seed, 12.5 s from scratch"
    assert set(found.scores["calibration"]) == {"none"}
    assert found.answers.empty
    assert json.loads(found.to_json())["schema_version"] == 3
