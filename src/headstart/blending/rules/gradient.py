"""Weights learned by gradient, through the backbone with all modules attached."""

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Learning, Request, Rule, Weighed
from headstart.errors import MergeError, SettingError

__all__ = ["Gradient"]


class Gradient(Rule):
    """One weight per module, or one per module and group of layers, learned on half of the held-out rows and stopped
    early on the other half. The weights are a softmax of what is learned; with `signed`, they are free numbers of any
    sign and sum, and `l1` times the sum of their sizes is added to the loss.
    """

    name = "gradient"
    source = "ours; AdaMerging (Yang et al., 2024) with labels and an L1 norm as in LoraHub (Huang et al., 2024)"
    needs = frozenset({"loss"})
    reads = frozenset({"signed", "l1", "groups", "split"})

    def check(self, blend: Blend, *, family: str = "") -> None:
        """As for every rule; besides, `l1` needs `signed`, because without it the weights always sum to 1."""
        super().check(blend, family=family)
        if blend.l1 is not None and not blend.signed:
            raise SettingError(
                f"l1 {blend.l1:g} does nothing for weights that sum to 1; leave it out, or give signed too"
            )
        if blend.groups is not None and blend.groups < 1:
            raise SettingError(f"groups {blend.groups} must be at least 1; leave it out for one weight per module")
        if blend.l1 is not None and not blend.l1 >= 0:
            raise SettingError(f"l1 {blend.l1:g} must be at least 0; correct it")

    def signs(self, blend: Blend) -> bool:
        """If asked."""
        return bool(blend.signed)

    def weigh(self, request: Request) -> Weighed:
        """Modules that cannot be merged get 0."""
        blend = request.blend
        positions = [index for index, candidate in enumerate(request.candidates) if candidate.merges]
        if not positions:
            raise MergeError("there is no module to merge; add modules to the hub")
        usual = Learning()
        signed = bool(blend.signed)
        learning = Learning(
            signed=signed, groups=blend.groups or 1, l1=(usual.l1 if blend.l1 is None else blend.l1) if signed else 0.0
        )
        return Weighed(request.held_out.learned(learning, positions))
