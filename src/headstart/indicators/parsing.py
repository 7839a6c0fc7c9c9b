"""From a spec to the indicator that it names."""

from headstart.errors import SettingError, of_type
from headstart.indicators.contract import Indicator
from headstart.indicators.registry import INDICATORS
from headstart.specs import Spec, make

__all__ = ["make_indicator"]


def make_indicator(asked: str | Spec | Indicator) -> Indicator:
    """The indicator that a spec names.

    Raises `SettingError` for an unknown name or parameter, or a value that the parameter cannot have.

    >>> make_indicator("grand:block=3,sublayer=attention")
    Grand(stack=None, block=3, sublayer='attention')
    >>> str(make_indicator("grand:block=03").spec)
    'grand:block=3'
    """
    if isinstance(asked, Indicator):
        return asked
    if not isinstance(asked, str | Spec):
        raise SettingError(f"{of_type('an indicator', asked)}; give its name, such as 'cosine' or 'grand:block=3'")
    return make(INDICATORS, asked)
