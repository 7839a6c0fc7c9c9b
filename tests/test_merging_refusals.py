"""What cannot be merged is refused by name, with the remedy."""

import math

import pytest

from headstart.blending import merge, uniform
from headstart.errors import MergeError, SettingError
from headstart.kinds import PeftModule
from headstart.records import Fingerprint
from small_merges import UNLIKE, dora, number_module, stated


def test_mixed_shapes_name_the_tensor_and_the_remedy() -> None:
    with pytest.raises(
        MergeError, match=r"one\.a is 3×4 in 'b' and 2×4 in 'a'; merge them with space 'exact' or 'svd'"
    ):
        merge(UNLIKE[:2], (0.5, 0.5))


@pytest.mark.parametrize("space", ["exact", "svd"])
def test_a_variant_is_refused_by_name(space: str) -> None:
    with pytest.raises(MergeError, match=rf"'dora' is not a plain LoRA module, so space '{space}' does not apply"):
        merge([UNLIKE[0], dora()], (0.5, 0.5), space=space)


@pytest.mark.parametrize("order", [1, -1], ids=["last", "first"])
def test_a_variant_is_refused_in_parameters_wherever_it_stands(order: int) -> None:
    with pytest.raises(MergeError, match=r"'dora' is a LoRA variant \(DoRA\) whose parameters have no exact merge"):
        merge([UNLIKE[0], dora()][::order], (0.5, 0.5))


def test_a_variant_alone_is_itself_in_parameters() -> None:
    merged = merge([dora(), UNLIKE[0]], (1.0, 0.0))
    assert isinstance(merged.module, PeftModule)
    assert merged.error == 0.0


@pytest.mark.parametrize("weights", [(0.5,), (0.5, 0.6), (1.5, -0.5), (math.nan, 1.0), (math.inf, 0.0), (0.0, 0.0)])
def test_weights_that_are_none_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(MergeError, match="the weights must be 2 numbers of at least 0 that sum to 1; normalize them"):
        merge([number_module(1, 1), number_module(2, 2)], weights)


def test_other_refusals() -> None:
    with pytest.raises(MergeError, match="there is no module to merge; add modules to the hub"):
        merge([], [])
    with pytest.raises(SettingError, match="unknown merge space 'slerp'; choose one of: parameters, exact, svd"):
        merge([number_module(1, 1)], [1.0], space="slerp")
    with pytest.raises(SettingError, match="rank 0 must be at least 1; leave it out"):
        merge([number_module(1, 1)], [1.0], space="svd", rank=0)


def test_modules_of_two_backbones_do_not_merge() -> None:
    prints = [Fingerprint(architecture="A", shapes="s", weights=weights) for weights in ("w", "v")]
    one = stated(number_module(1, 1), name="one", backbone=prints[0])
    two = stated(number_module(2, 1), name="two", backbone=prints[1])
    silent = stated(number_module(3, 1), name="silent")
    with pytest.raises(MergeError, match="'one' and 'two' were made for different backbones"):
        merge([silent, one, two], uniform(3))
    assert merge([silent, one], uniform(2)).module.card.backbone == prints[0]
    assert merge([one, two], (1.0, 0.0)).module.card.backbone == prints[0]
