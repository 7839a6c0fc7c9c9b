"""Methods as users type them: `scratch`, `best_single:indicator=loss`, `mine=softmax:temperature=0.1`."""

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.blending import RULES, Blend
from headstart.blending.blend import fields_of
from headstart.comparing.methods import METHODS
from headstart.comparing.methods.contract import Method
from headstart.comparing.methods.naming import method_parts
from headstart.errors import SettingError

__all__ = ["Compared", "parse_methods"]


@dataclass(frozen=True)
class Compared:
    """One method of a comparison: its label in tables, the method, and how it blends, if it does."""

    label: str
    method: Method
    blend: Blend | None

    @property
    def needs_scores(self) -> bool:
        """Whether the modules must have been scored by an indicator."""
        return self.blend is not None and "scores" in RULES[self.blend.rule].needs


def parse_methods(texts: str | Sequence[str], base: Blend) -> tuple[Compared, ...]:
    """Parse the methods, each written as "[LABEL=]NAME[:field=value,…]", in the given order; a single text is one.

    NAME is a method or a merge rule; the fields are those of a `Blend`, on top of `base`. Without a LABEL, the name is
    the label. Raises `SettingError` for an unknown name or field, and for two methods with one label.
    """
    if not texts:
        raise SettingError(f"there is no method to compare; name some of: {', '.join(METHODS)}")
    found = tuple(_parse(text, base) for text in ([texts] if isinstance(texts, str) else texts))
    labels = [compared.label for compared in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise SettingError(f"two methods are called '{twice}'; give one a label of its own, as in mine={twice}:…")
    return found


def _parse(text: str, base: Blend) -> Compared:
    label, name, rest = method_parts(text)
    changes = dict(fields_of(rest, source=text))
    if name in METHODS:
        method = METHODS[name]
    else:
        method = METHODS["ensemble"]
        if "rule" in changes:
            raise SettingError(f"method '{text}' names two rules; keep one of them")
        changes["rule"] = name
    return Compared(label, method, method.blend(base, changes))
