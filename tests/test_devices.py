"""On a device without float64, such as Apple's GPUs, everything computes: sums in float64 are the CPU's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from headstart.backbones import Backbone
from headstart.embeddings import Subject, make_embedding
from headstart.indicators.engine import score_table
from headstart.kinds import LoraModule, LoraSettings, Module
from headstart.kinds.exporting import merged_weights
from headstart.records import TaskCard
from headstart.tasks import Task
from headstart.testing import tiny_backbone
from headstart.tuning.lane import Lane
from headstart.tuning.lanes import tune_lanes
from naive import REVIEWS
from test_tuning import RECIPE

TASK = Task(TaskCard(name="reviews", labels=("negative", "positive")), {"train": REVIEWS, "dev": REVIEWS})
ATEN = torch.ops.aten


class WithoutFloat64(TorchDispatchMode):
    """PyTorch's `meta` device as one that has no float64. It computes only shapes, so zeros are read from it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        with self:  # in inference mode, compound operations arrive here whole
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        there = isinstance(args[0], Tensor) and args[0].is_meta if args else False
        if there and func is ATEN._to_copy.default and torch.device(kwargs.get("device", "meta")).type == "cpu":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if there and func in (ATEN._local_scalar_dense.default, ATEN.equal.default):
            return 0
        found = func(*args, **kwargs)
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor) and value.is_meta and value.dtype == torch.float64:
                raise TypeError(f"{func} makes float64, which this device has not")
        return found


@pytest.fixture(params=["llama"])
def backbone(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    """A backbone on that device."""
    found = tiny_backbone(request.param)
    assert found.fingerprint  # the weights' own, before they are gone
    found.model.to("meta")
    with WithoutFloat64():
        yield found


@pytest.fixture
def module(backbone: Backbone) -> Module:
    made = LoraModule.fresh(backbone, LoraSettings(rank=2), name="one", seed=0)
    return made.with_parameters({name: value + 0.1 for name, value in made.parameters().items()})


def test_the_device_has_no_float64() -> None:
    here = torch.ones(3)
    with WithoutFloat64():
        there = here.to("meta")
        assert there.cpu().double().tolist() == [0.0, 0.0, 0.0]
        for wrong in (there.double, lambda: torch.zeros(2, dtype=torch.float64, device="meta")):
            with pytest.raises(TypeError, match="makes float64"):
                wrong()


@pytest.mark.parametrize(
    ("backbone", "optimizer"), [("llama", "adamw"), ("llama", "adafactor"), ("bert", "adamw")], indirect=["backbone"]
)
def test_it_tunes_and_answers(backbone: Backbone, optimizer: str) -> None:
    recipe = RECIPE.change(optimizer=optimizer, max_steps=1, eval_every=1, batch_size=2, clip=0.1, weight_decay=0.1)
    ((_, tuned),) = tune_lanes([Lane(TASK, recipe=recipe)], backbone)
    assert [point.step for point in tuned.curve] == [0, 1]


def test_it_scores(backbone: Backbone, module: Module) -> None:
    names = ["cosine", "loss", "grand", "hidden_cosine", "arrow", "spectral", "logme", "option_accuracy", "tupate"]
    other = replace(module, card=module.card.model_copy(update={"name": "two"}))
    table = score_table([module, other], REVIEWS, backbone, indicators=names, reference=module)
    assert set(table.rows["indicator"]) == set(names)


@pytest.mark.parametrize("name", ["taskemb", "textemb"])
def test_it_embeds(backbone: Backbone, module: Module, name: str) -> None:
    assert make_embedding(name).of(Subject(module, (), REVIEWS, backbone)).dtype == "float64"


def test_it_merges_weights(backbone: Backbone, module: Module) -> None:
    assert merged_weights(module, backbone).tensors
