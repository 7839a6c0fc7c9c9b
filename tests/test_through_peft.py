"""LoRA variants that PEFT itself runs inside the backbone: equal results, and no trace afterwards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import made_by_peft
from headstart.backbones import Backbone, Encoded
from headstart.errors import MergeError, ModuleError
from headstart.indicators.engine import score
from headstart.kinds import PeftModule, load_module, save_module, stacks
from naive import (
    REVIEWS,
    assert_close,
    assert_same_parameters,
    assert_untouched,
    encoded,
    load,
    photograph,
    plain_logits,
)

# PEFT warns whoever wants to merge such a module, and takes LoRA biases for broken tensors when it saves them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'. .* have invalid shape"),
]

VARIANTS = {
    "DoRA": {"use_dora": True},
    "LoRA biases": {"lora_bias": True},
    "trained biases": {"bias": "lora_only"},
    "DoRA + rsLoRA": {"use_dora": True, "use_rslora": True},
}


@pytest.fixture(scope="module", params=["tiny_gpt2", "tiny_t5", "tiny_llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load(folder)


@pytest.fixture(params=VARIANTS)
def made(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Path:
    settings = VARIANTS[request.param]
    if "bias" in settings and folder.name != "tiny-gpt2":
        settings = {"lora_bias": True, "use_rslora": True}  # only GPT-2's layers have biases to train
    return made_by_peft.make(folder, tmp_path / "module", **settings)


@pytest.fixture
def dora(tiny_gpt2: Path, tmp_path: Path) -> PeftModule:
    module = load_module(made_by_peft.make(tiny_gpt2, tmp_path / "dora", use_dora=True))
    assert isinstance(module, PeftModule)
    return module


def test_peft_computes_the_same_and_nothing_is_left(folder: Path, backbone: Backbone, made: Path) -> None:
    module = load_module(made)
    assert isinstance(module, PeftModule)
    module.check(backbone)
    before, items = photograph(backbone), encoded(backbone)
    expected = torch.cat(made_by_peft.logits(folder, made, items))
    for _ in range(2):  # twice: what the first time leaves behind would show in the second
        assert_close(made_by_peft.ours(backbone, [module], items)[0], expected, within=1e-4)
        assert_untouched(backbone, before)
    with torch.inference_mode():
        bare = torch.cat([plain_logits(backbone.model, item) for item in items])
    assert not torch.allclose(bare, expected, atol=0.1), "the module must matter for this to say anything"


def test_nothing_is_left_after_a_failure(backbone: Backbone, made: Path) -> None:
    module = load_module(made)
    before = photograph(backbone)
    stack = type(module).stack([module], backbone)
    with pytest.raises(KeyboardInterrupt), stack.attach(backbone), stack.gradients():
        raise KeyboardInterrupt
    assert_untouched(backbone, before)


def test_a_half_made_injection_is_undone(tiny_gpt2: Path, dora: PeftModule) -> None:
    backbone = load(tiny_gpt2)
    before = photograph(backbone)
    broken = replace(dora, values={name: value[:1] for name, value in dora.values.items()})
    with pytest.raises(RuntimeError, match="size mismatch"), PeftModule.stack([broken], backbone).attach(backbone):
        pass
    assert_untouched(backbone, before)


def test_attaching_draws_no_random_numbers(tiny_gpt2: Path, dora: PeftModule) -> None:
    backbone = load(tiny_gpt2)
    state = torch.get_rng_state()
    with PeftModule.stack([dora], backbone).attach(backbone):
        assert torch.equal(torch.get_rng_state(), state)


def naive_gradient_norm(folder: Path, made: Path, items: list[Encoded]) -> float:
    """Over everything that the saved module holds, biases included, with PEFT's own trainable model."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(made_by_peft.fresh_model(folder), made, is_trainable=True).eval()
    loss = sum(
        torch.nn.functional.cross_entropy(plain_logits(model, item), torch.tensor(item.target), reduction="sum")
        for item in items
    )
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    squared = [value.grad.double().pow(2).sum() for value in model.parameters() if value.grad is not None]
    return float(torch.stack(squared).sum().sqrt())


def test_scores_are_those_of_peft(folder: Path, backbone: Backbone, made: Path) -> None:
    module, items, before = load_module(made), encoded(backbone), photograph(backbone)
    tokens = sum(len(item.target) for item in items)
    found = score([module], REVIEWS, backbone, indicators=["loss", "grand"])
    log_p = [logits.log_softmax(-1) for logits in made_by_peft.logits(folder, made, items)]
    loss = sum(
        float(row[torch.arange(len(item.target)), torch.tensor(item.target)].sum())
        for row, item in zip(log_p, items, strict=True)
    )
    assert found.values["loss"][0] == pytest.approx(loss / tokens, abs=1e-4)
    assert found.values["grand"][0] == pytest.approx(-naive_gradient_norm(folder, made, items) / tokens, rel=1e-3)
    assert_untouched(backbone, before)


def test_beside_plain_modules_in_one_run(tiny_gpt2: Path, dora: PeftModule, tmp_path: Path) -> None:
    backbone = load(tiny_gpt2)
    plain = load_module(made_by_peft.make(tiny_gpt2, tmp_path / "plain", seed=4))
    assert stacks([plain, dora, plain], most=8) == [[0, 2], [1]]
    again = replace(plain, card=plain.card.model_copy(update={"name": "again"}))
    together = score([plain, dora, again], REVIEWS, backbone, indicators=["loss"]).values["loss"]
    alone = [score([module], REVIEWS, backbone, indicators=["loss"]).values["loss"][0] for module in (plain, dora)]
    assert together == pytest.approx([alone[0], alone[1], alone[0]], abs=1e-5)


def test_saved_then_loaded_is_the_same(tiny_gpt2: Path, dora: PeftModule, tmp_path: Path) -> None:
    save_module(dora, tmp_path / "again")
    again = load_module(tmp_path / "again")
    assert_same_parameters(again, dora)
    assert isinstance(again, PeftModule)
    assert again.variant == "DoRA"
    backbone = load(tiny_gpt2)
    items = encoded(backbone)
    first, second = (made_by_peft.ours(backbone, [module], items) for module in (dora, again))
    assert torch.equal(first, second)


def test_a_field_that_this_peft_does_not_know_and_that_is_empty(tiny_gpt2: Path, dora: PeftModule) -> None:
    backbone = load(tiny_gpt2)
    later: dict[str, Any] = {**dora.config, "from_a_later_peft": None}
    with PeftModule.stack([replace(dora, config=later)], backbone).attach(backbone):
        pass


def test_a_tensor_without_a_place_is_not_passed_over(tiny_gpt2: Path, dora: PeftModule) -> None:
    backbone = load(tiny_gpt2)
    before = photograph(backbone)
    odd = replace(dora, values={**dora.values, "base_model.model.nowhere.lora_A.weight": torch.ones(3, 32)})
    with (
        pytest.raises(ModuleError, match=r"PEFT has no place for tensor .*nowhere.* of module 'dora'"),
        PeftModule.stack([odd], backbone).attach(backbone),
    ):
        pass
    assert_untouched(backbone, before)


def test_what_such_a_module_cannot_do(tiny_llama: Path, dora: PeftModule, tmp_path: Path) -> None:
    other = replace(dora)
    assert dora.aligned_to(dora) is dora
    with pytest.raises(MergeError, match=r"is a LoRA variant \(DoRA\) whose parameters have no exact merge"):
        dora.aligned_to(other)
    with pytest.raises(ModuleError, match=r"is a LoRA variant \(DoRA\) without a task embedding"):
        dora.layer_vectors()
    with pytest.raises(ModuleError, match=r"is a LoRA variant \(DoRA\) that cannot be drawn afresh"):
        dora.reset(seed=0)
    with pytest.raises(ModuleError, match=r"tiny-llama does not have; load the backbone"):
        dora.check(load(tiny_llama))
