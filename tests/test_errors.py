"""Errors that are given another message, or sent between processes, stay what they are."""

import pickle

import pytest

from headstart.errors import HeadstartError, LanesError, SettingError, TaskError, about, spelled


def lanes_error() -> LanesError:
    return LanesError("1 of 2 tunings failed: one; mend it", {1: SettingError("one; mend it")})


def test_an_error_keeps_its_class_and_attributes_under_a_subject() -> None:
    with pytest.raises(LanesError) as caught, about("reviews"):
        raise lanes_error()
    assert str(caught.value) == "reviews: 1 of 2 tunings failed: one; mend it"
    assert str(caught.value.failures[1]) == "one; mend it"
    assert isinstance(caught.value.__cause__, LanesError)


def test_an_error_says_on_the_command_line_what_options_say() -> None:
    python, options = spelled(input="the text", top_k="3")
    assert (python, options) == ('input="the text", top_k="3"', "--input 'the text' --top-k 3")
    error = TaskError(f"no such column; write {python}").with_options({python: options})
    with pytest.raises(TaskError) as caught, about("reviews"):
        raise error
    assert str(caught.value) == 'reviews: no such column; write input="the text", top_k="3"'
    assert caught.value.on_command_line == "reviews: no such column; write --input 'the text' --top-k 3"
    assert pickle.loads(pickle.dumps(caught.value)).on_command_line == caught.value.on_command_line
    assert SettingError("wrong; mend it").on_command_line == "wrong; mend it"


@pytest.mark.parametrize("error", [SettingError("wrong; mend it"), lanes_error()])
def test_an_error_survives_pickling(error: HeadstartError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found)) == (type(error), str(error))
    assert repr(vars(found)) == repr(vars(error))
