"""Errors that are given another message, or sent between processes, stay what they are."""

import pickle

import pytest

from headstart.errors import HeadstartError, LanesError, SettingError, about


def lanes_error() -> LanesError:
    return LanesError("1 of 2 tunings failed: one; mend it", {1: SettingError("one; mend it")})


def test_an_error_keeps_its_class_and_attributes_under_a_subject() -> None:
    with pytest.raises(LanesError) as caught, about("reviews"):
        raise lanes_error()
    assert str(caught.value) == "reviews: 1 of 2 tunings failed: one; mend it"
    assert str(caught.value.failures[1]) == "one; mend it"
    assert isinstance(caught.value.__cause__, LanesError)


@pytest.mark.parametrize("error", [SettingError("wrong; mend it"), lanes_error()])
def test_an_error_survives_pickling(error: HeadstartError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found)) == (type(error), str(error))
    assert repr(vars(found)) == repr(vars(error))
