"""The check against a computation that shares nothing with the stack: slow, plain, and in float64."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from headstart.kinds import Module
from headstart.testing.case import Aside, Case, close, copied
from headstart.testing.oracles import OWN, by_oracle, computed

__all__ = ["float64_reference_agrees"]

NEAR = 3e-5
"""How far float32 may be from float64, as a fraction of the largest value: logits, and an encoder's hidden states."""


def float64_reference_agrees(case: Case) -> None:
    """The stack's float32 results are those in float64 of the given reference, of PEFT, or of a plain formula on the
    saved files.
    """
    module, double = case.module(), copied(case.backbone)
    double.model.double()
    if case.reference is not None:
        for number, item in enumerate(case.items):
            rows = case.batch.owner == list(case.batch.indices).index(number)
            close(case.logits([module])[0][rows], case.reference(module, double, item), "the reference", within=NEAR)
        return
    if not _has_oracle(module):
        raise Aside("skipped", "nobody else reads its folders; give check_kind a reference")
    folder = case.saved(module)
    close(computed(module, case.backbone), by_oracle(folder, folder, double), "float64", within=NEAR)


def _has_oracle(module: Module) -> bool:
    peft_type = module.config.get("peft_type")
    return peft_type is None or peft_type in OWN or peft_type in PEFT_TYPE_TO_CONFIG_MAPPING
