"""3E: modules of several kinds together."""

from headstart.embeddings.arrays import Array, joined
from headstart.embeddings.contract import Embedding, Need, Subject
from headstart.embeddings.tupate import tuned_parameters
from headstart.errors import ModuleError, SettingError

__all__ = ["ThreeE"]

KINDS = 3


class ThreeE(Embedding):
    """The mean of the similarities by `tupate` of three kinds, such as LoRA, BitFit and prefix.

    The vector is those of the three modules, each scaled to length 1/√3, in the order of their kinds' names: the cosine
    of two such vectors is the mean of the three cosines.
    """

    name = "3e"
    source = "Zhou et al., 2022, §4.3"
    needs = frozenset({Need.PARAMETERS, Need.OTHERS})

    def of(self, subject: Subject) -> Array:
        """Raises `ModuleError` unless there are modules of three kinds."""
        modules = {module.kind: module for module in (subject.module, *subject.others)}
        if len(modules) != KINDS or len(subject.others) != KINDS - 1:
            there = ", ".join(sorted(modules))
            raise ModuleError(f"3e compares modules of {KINDS} kinds of one task, and there are: {there}; give others=")
        try:
            return joined([tuned_parameters(module) for _, module in sorted(modules.items())])
        except SettingError as error:
            raise ModuleError(f"a module of '{subject.module.card.task}' is all zeros; tune it first") from error
