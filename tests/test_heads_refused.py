"""Folders whose task head does not fit the backbone, is broken or is none are refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoders import (
    CARDS,
    encoder,
    in_peft,
    items,
    ours,
    random_head,
    random_module,
    write,
)
from headstart.backbones import EncoderBackbone, TextFormat
from headstart.errors import ModuleError, SettingError
from headstart.kinds import KINDS, load_module, save_module
from headstart.records import CARD_FILE
from headstart.testing import tiny_backbone
from naive import assert_untouched, load, photograph
from test_heads import kind_module, lora_config


@pytest.fixture
def bert() -> EncoderBackbone:
    return encoder("bert")


WEIGHTS = "adapter_model.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


# What is refused


def broken(folder: Path, **changes: torch.Tensor | None) -> Path:
    """The folder without its card and with some tensors replaced or, where `None`, gone."""
    (folder / CARD_FILE).unlink()
    tensors: dict[str, Any] = {**load_file(folder / WEIGHTS), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


DENSE = "base_model.model.classifier.dense.weight"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (DENSE, None, r"the task head has classifier\.dense\.bias \(32,\), which is no linear layer and no norm; save"),
        (DENSE, torch.ones(31, 32), r"classifier\.dense\.bias|classifier\.dense\.weight"),
        (DENSE, torch.ones(32, 31), r"has 32×31 as classifier\.dense\.weight, where tiny-roberta has 32×32"),
        (DENSE, torch.full((32, 32), torch.nan), f"tensor '{DENSE}' holds NaN or infinite values"),
        ("base_model.model.classifier.other.weight", torch.ones(2, 2), r"2×2 as classifier\.other\.weight, where"),
        ("base_model.model.classifier.out_proj.bias", None, r"has none as classifier\.out_proj\.bias, where .* has 3;"),
    ],
)  # fmt: skip
def test_tensors_of_a_head_that_do_not_fit_are_named(
    name: str, value: torch.Tensor | None, message: str, tmp_path: Path
) -> None:
    roberta = encoder("roberta")
    save_module(random_module(roberta, CARDS["classification"]), tmp_path / "m")
    load_module(tmp_path / "m").check(roberta)  # or the refusals would say nothing
    with pytest.raises(ModuleError, match=message):
        load_module(broken(tmp_path / "m", **{name: value})).check(roberta)


@pytest.mark.parametrize("named", ["pooler", "dense", "LayerNorm"])
def test_a_whole_layer_of_the_encoder_is_refused(named: str, bert: EncoderBackbone, tmp_path: Path) -> None:
    config = lora_config(bert, "classification", modules_to_save=[named])
    in_peft(bert, random_head(bert, CARDS["classification"]), config).save_pretrained(tmp_path / "m")
    with pytest.raises(ModuleError, match=rf"tensor 'base_model\.model\.bert\..*{named}"):
        load_module(tmp_path / "m")


def test_biases_that_peft_saved_within_the_head_are_refused(bert: EncoderBackbone, tmp_path: Path) -> None:
    config = lora_config(bert, "classification", bias="all")
    in_peft(bert, random_head(bert, CARDS["classification"]), config).save_pretrained(tmp_path / "m")
    with pytest.raises(
        ModuleError, match=r"classifier\.modules_to_save.* because of bias='all'; train the module with bias"
    ):
        load_module(tmp_path / "m")


def test_a_head_of_another_encoder_is_refused(bert: EncoderBackbone, tmp_path: Path) -> None:
    save_module(random_module(bert, CARDS["classification"]), tmp_path / "m")
    (tmp_path / "m" / CARD_FILE).unlink()
    with pytest.raises(
        ModuleError, match=r"task head of module 'm' has 3 as classifier\.bias, where tiny-roberta has n"
    ):
        load_module(tmp_path / "m").check(encoder("roberta"))
    wide = tiny_backbone("bert", seed=1)
    load_module(tmp_path / "m").check(wide)  # of equal shapes: without the card nobody can tell


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_language_model_has_no_place_for_a_head(bert: EncoderBackbone, kind: str, tmp_path: Path) -> None:
    save_module(kind_module(kind, bert, CARDS["span"]), tmp_path / "m")
    (tmp_path / "m" / CARD_FILE).unlink()
    module = load_module(tmp_path / "m")
    with pytest.raises(
        ModuleError, match=rf"module '(m|{kind}.1)' has a task head for span, and tiny-llama is a langu"
    ):
        module.check(tiny_backbone("llama"))


def test_a_card_of_another_head_is_refused(bert: EncoderBackbone, tmp_path: Path) -> None:
    save_module(random_module(bert, CARDS["classification"]), tmp_path / "m")
    path = tmp_path / "m" / CARD_FILE
    card = json.loads(path.read_text())
    card["head"] |= {"labels": ["negative", "positive"]}
    path.write_text(json.dumps(card))
    with pytest.raises(ModuleError, match="field 'head' is not what the tensors of the task head are; remove the card"):
        load_module(tmp_path / "m")


def test_the_backbone_s_own_head_is_never_used_for_a_folder(bert: EncoderBackbone, tmp_path: Path) -> None:
    other = copy.deepcopy(bert.model)
    other.classifier.weight.data.fill_(9.0)
    folder = write(EncoderBackbone(other, bert.tokenizer, name="tiny-bert"), tmp_path / "tiny-bert")
    loaded = load(folder)
    assert isinstance(loaded, EncoderBackbone)
    module, rows = random_module(bert, CARDS["classification"]), items(bert, CARDS["classification"])
    module.check(loaded)
    assert torch.equal(ours(loaded, [module], rows), ours(bert, [module], rows))


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_virtual_tokens_take_positions_of_the_input(family: str, kind: str) -> None:
    # 256 positions, of which 20 go to the virtual tokens.
    backbone, card = encoder(family), CARDS["regression"]
    module = kind_module(kind, backbone, card)
    before = photograph(backbone)
    for most, fits in ((256, False), (237, False), (236, True)):
        rows = backbone.encode([("warm " * 200, "1")], TextFormat(max_input=most), head=card)
        if fits:
            assert ours(backbone, [module], rows).isfinite().all()
            continue
        with pytest.raises(
            SettingError, match=rf"{most} tokens of input and 20 virtual .* set max_input to at most 236"
        ):
            ours(backbone, [module], rows)
        assert_untouched(backbone, before)
