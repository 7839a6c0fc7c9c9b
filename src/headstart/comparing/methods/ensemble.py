"""The weighted blend."""

from collections.abc import Mapping

from headstart.blending import Blend
from headstart.blending.rules.contract import OPTIONS
from headstart.comparing.methods.contract import Blended

__all__ = ["Ensemble"]


class Ensemble(Blended):
    """The comparison's own blend, or one with some fields changed; see `headstart.ensemble`."""

    name = "ensemble"
    source = "Lv et al., 2023, eq. 1"
    rule = "softmax"

    def blend(self, base: Blend, changes: Mapping[str, str]) -> Blend | None:
        """The comparison's blend with the changes; another rule takes over none of the old rule's options."""
        same = changes.get("rule", base.rule) == base.rule
        kept = {} if same else {option: type(base).model_fields[option].default for option in OPTIONS}
        if changes.keys() & {"temperature", "effective"}:
            kept |= {"temperature": None, "effective": None}
        return base.change(**{**kept, **changes})
