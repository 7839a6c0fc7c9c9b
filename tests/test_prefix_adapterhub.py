"""AdapterHub's prefixes: the library's own numbers, the pool that is repeated under every layer, what is refused."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from headstart.backbones import Backbone, EncoderBackbone
from headstart.errors import ModuleError
from headstart.formats import read_module
from headstart.formats.libraries.adapterhub_prefix import FIELDS
from headstart.hub import Hub
from headstart.kinds import load_module, save_module
from headstart.kinds.prefix_attention import AttentionPrefixModule
from headstart.testing.backbones import tiny_backbone
from naive import assert_same_parameters

LENGTH, WIDTH, HEADS, HEAD_DIM, ENCODER, DECODER, BOTTLENECK = 5, 16, 3, 4, 2, 3, 4
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats"

METHOD: dict[str, Any] = {
    "architecture": "prefix_tuning", "bottleneck_size": BOTTLENECK, "cross_prefix": True, "dropout": 0.0,
    "encoder_prefix": True, "flat": False, "init_weights_seed": None, "leave_out": [], "non_linearity": "tanh",
    "prefix_length": LENGTH, "shared_gating": True, "use_gating": False,
}  # fmt: skip
"""Every field of PrefixTuningConfig, as `adapters` 1.3 saves it."""

Tensors = dict[str, Tensor]


def by_formula(name: str, *shape: int) -> Tensor:
    """Numbers that any library can make again: 0.3·sin(0.37·i + c) with c from the name; 1 more for a layer norm."""
    places = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape)
    drawn = 0.3 * torch.sin(places * 0.37 + zlib.crc32(name.encode()) % 1000)
    return (drawn + 1 if "orm" in name else drawn).float()


@pytest.fixture(scope="module")
def t5() -> Backbone:
    """A T5 with fewer units in its keys than in its hidden states, and with more layers in its decoder."""
    config = T5Config(
        vocab_size=60, d_model=WIDTH, d_kv=HEAD_DIM, d_ff=24, num_layers=ENCODER, num_decoder_layers=DECODER,
        num_heads=HEADS, dropout_rate=0.0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        decoder_start_token_id=0, relative_attention_num_buckets=8, relative_attention_max_distance=10,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    tied = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(by_formula("shared.weight" if name in tied else name, *value.shape))
    return Backbone(model, tiny_backbone("t5").tokenizer, name="formula")


def pool(*, flat: bool, encoder: bool = True, cross: bool = True) -> Tensors:
    """The library's pool by location and part, every number 3 times that of the formula."""
    found: Tensors = {}
    for location, layers, there in (
        ("encoder_prefix", ENCODER, encoder),
        ("self_prefix", DECODER, True),
        ("cross_prefix", DECODER, cross),
    ):
        if there:
            found |= one_prefix(location, layers * 2 * HEADS * HEAD_DIM, flat=flat)
    return found


def one_prefix(location: str, whole: int, *, flat: bool) -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (LENGTH, WIDTH), "control_trans.0.weight": (BOTTLENECK, WIDTH),
        "control_trans.0.bias": (BOTTLENECK,), "control_trans.2.weight": (whole, BOTTLENECK),
        "control_trans.2.bias": (whole,),
    }  # fmt: skip
    names = {f"{location}.{part}": shape for part, shape in shapes.items()}
    names = {f"{location}.control_trans": (LENGTH * whole,)} if flat else names
    return {name: 3 * by_formula(f"prefix_tuning.prefix_tunings.m.{name}", *shape) for name, shape in names.items()}


def owners() -> list[str]:
    """What the library saves the pool under."""
    units = [f"encoder.block.{n}.layer.0.SelfAttention" for n in range(ENCODER)]
    units += [
        f"decoder.block.{n}.layer.{end}" for n in range(DECODER) for end in ("0.SelfAttention", "1.EncDecAttention")
    ]
    return [*(f"{unit}.prefix_tuning.pool" for unit in units), "prefix_tuning"]


def saved(held: Tensors) -> Tensors:
    return {f"{owner}.prefix_tunings.m.{name}": value.clone() for owner in owners() for name, value in held.items()}


def write(folder: Path, tensors: Tensors, *, model_type: Any = "t5", **method: Any) -> Path:
    folder.mkdir()
    config = {
        "config": METHOD | method, "hidden_size": WIDTH, "model_class": "T5ForConditionalGeneration", "model_name": "",
        "model_type": model_type, "name": "m", "version": "adapters.1.3.0",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.save(tensors, folder / "pytorch_adapter.bin")
    return folder


GOLDEN = {
    "projection": (
        {}, {}, [0.0734, 0.0360, -0.0061, -0.0475], [-0.4590, -0.3722, -0.2369, -0.0707]
    ),
    "flat": (
        {"flat": True}, {}, [0.0714, -0.0108, -0.0916, -0.1604], [-0.6851, -0.6064, -0.4487, -0.2323]
    ),
    "no cross": (
        {"flat": True, "cross_prefix": False}, {"cross": False},
        [0.0715, -0.0111, -0.0923, -0.1614], [-0.4570, -0.3539, -0.2046, -0.0286],
    ),
    "decoder": (
        {"encoder_prefix": False, "cross_prefix": False}, {"encoder": False, "cross": False},
        [0.0783, 0.0204, -0.0402, -0.0955], [-0.5628, -0.4835, -0.3410, -0.1541],
    ),
}  # fmt: skip
"""By case: fields, what the pool lacks, and the last logits of both examples as `adapters` 1.3.0 computes them, eager
attention on transformers 4.57.6, torch 2.13, float32. Without a prefix they are up to 0.4 away."""


@pytest.mark.parametrize("case", GOLDEN)
def test_the_library_s_own_numbers(t5: Backbone, tmp_path: Path, case: str) -> None:
    method, lacks, *expected = GOLDEN[case]
    flat = bool(method.get("flat"))
    module = load_module(write(tmp_path / "m", saved(pool(flat=flat, **lacks)), **method))
    module.check(t5)
    ids = torch.tensor([[5, 9, 33, 20, 17, 4, 1], [7, 8, 1, 0, 0, 0, 0]])
    given = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    decoder = torch.tensor([[0, 9, 4], [0, 12, 44]])
    save_module(module, tmp_path / "ours")
    for held in (module, load_module(tmp_path / "ours")):
        with torch.inference_mode(), type(held).stack([held], t5).attach(t5):
            whole = t5.model(**given, decoder_input_ids=decoder).logits
        for row, numbers in enumerate(expected):
            assert whole[row, -1, :4].tolist() == pytest.approx(numbers, abs=1e-4)


ENCODERS: dict[str, tuple[Any, Any, dict[bool, list[list[float]]]]] = {
    "bert": (
        BertForSequenceClassification, BertConfig, {
            True: [[-2.7146, -2.2793, -1.5463], [-2.5922, -2.0830, -1.3019]],
            False: [[-2.4033, -1.7475, -0.8635], [-1.3452, -0.7035, 0.0301]],
        },
    ),
    "roberta": (
        RobertaForSequenceClassification, RobertaConfig, {
            True: [[2.1833, 1.8692, 1.3098], [2.4556, 2.0890, 1.4484]],
            False: [[2.1849, 1.6646, 0.9257], [2.2953, 1.7084, 0.8972]],
        },
    ),
}  # fmt: skip
"""By family: the logits of two examples that `adapters` 1.3.0 computes, by whether the prefix is flat; eager and scaled
dot-product attention agree."""


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("family", ENCODERS)
def test_the_library_s_own_numbers_on_encoders(tmp_path: Path, family: str, flat: bool) -> None:
    model_class, config_class, golden = ENCODERS[family]
    config = config_class(
        vocab_size=60, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3, max_position_embeddings=40,
        pad_token_id=0,
    )  # fmt: skip
    model = model_class(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(by_formula(name, *value.shape))
    backbone = EncoderBackbone(model, tiny_backbone(family).tokenizer, name="formula")
    held = one_prefix("self_prefix", 2 * 2 * WIDTH, flat=flat)
    owners = [f"{family}.encoder.layer.{number}.attention.self.prefix_tuning.pool" for number in (0, 1)]
    tensors = {
        f"{owner}.prefix_tunings.m.{name}": value.clone()
        for owner in (*owners, f"{family}.prefix_tuning")
        for name, value in held.items()
    }
    module = load_module(write(tmp_path / "m", tensors, model_type=family, flat=flat))
    module.check(backbone)
    ids = torch.tensor([[5, 9, 33, 20, 17, 4, 1], [7, 8, 1, 0, 0, 0, 0]])
    with torch.inference_mode(), type(module).stack([module], backbone).attach(backbone):
        found = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
        alone = model(input_ids=ids[:1]).logits
    for row, numbers in enumerate(golden[flat]):
        assert found[row].tolist() == pytest.approx(numbers, abs=1e-4)
    assert alone[0].tolist() == pytest.approx(golden[flat][0], abs=1e-4)
    with pytest.raises(ModuleError, match=r"tensors 'encoder\.layer\.0\.attention\.self\..*' are missing"):
        load_module(write(tmp_path / "t5", saved(pool(flat=flat)), model_type=family, flat=flat))


def test_a_folder(t5: Backbone, tmp_path: Path) -> None:
    held = pool(flat=False)
    stored = read_module(write(tmp_path / "rte", saved(held)))
    card = stored.card
    assert (card.name, card.kind, card.rank, card.targets) == ("rte", "prefix", LENGTH, ())
    assert card.parameters == sum(value.numel() for value in held.values())
    module = load_module(stored)
    assert isinstance(module, AttentionPrefixModule)
    assert torch.equal(module.values["decoder.inner"], held["self_prefix.control_trans.0.weight"])
    assert torch.equal(module.values["cross_attention.outer_bias"], held["cross_prefix.control_trans.2.bias"])
    assert module.shape.layers == (("encoder", ENCODER), ("decoder", DECODER), ("cross_attention", DECODER))
    save_module(module, tmp_path / "ours")
    assert_same_parameters(load_module(tmp_path / "ours"), module)
    with pytest.raises(ModuleError, match="'rte' has a prefix for 3 layers of 'decoder', but tiny-t5 has 2; load"):
        module.check(tiny_backbone("t5"))


def test_a_hub_takes_it(tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    hub.add(write(tmp_path / "one", saved(pool(flat=True)), flat=True))
    assert hub.names() == ["one"]


@pytest.mark.parametrize("name", ["ah_t5_px", "ah_t5_pxf"])
def test_folders_of_the_library_itself(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip("the library's own folders are not at hand")
    module = load_module(SHARED / name)
    assert isinstance(module, AttentionPrefixModule)
    assert (module.shape.length, module.shape.dim) == (5, 16)
    assert module.shape.layers == (("encoder", 2), ("decoder", 2), ("cross_attention", 2))
    assert (module.shape.projection is None) == (name == "ah_t5_pxf")


def test_every_field_is_known() -> None:
    assert FIELDS.handled | FIELDS.harmless | FIELDS.refused.keys() == METHOD.keys()
    assert not FIELDS.handled & FIELDS.harmless


# What is refused

FIRST = "encoder.block.0.layer.0.SelfAttention.prefix_tuning.pool.prefix_tunings.m"
LAST = "prefix_tuning.prefix_tunings.m"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"use_gating": True}, "field 'use_gating' is set: it carries a gate beside each prefix"),
        ({"leave_out": [0]}, "field 'leave_out' is set: layers without a prefix are not computed"),
        ({"non_linearity": "relu"}, "field 'non_linearity' is 'relu'; Headstart computes projections with tanh only"),
        ({"non_linearity": None}, "field 'non_linearity' is None"),
        ({"flat": None}, "field 'flat' is None, not true or false"),
        ({"cross_prefix": 1}, "field 'cross_prefix' is 1, not true or false"),
        ({"newest": 2}, "unknown field 'newest' is set to 2"),
        ({"model_type": "llama"}, "prefix in AdapterHub's layout is not read for 'llama': the library computes it"),
        ({"model_type": "gpt2"}, "is not read for 'gpt2'"),
        ({"model_type": ["t5"]}, r"field 'model_type' is \['t5'\]; prefixes in AdapterHub's layout are read for"),
        ({"model_type": "opt"}, "field 'model_type' is 'opt'; prefixes in AdapterHub's layout are read for: t5, mt5"),
    ],
)
def test_settings_that_are_refused_before_tensors_are_read(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    folder = write(tmp_path / "m", {}, **changes)
    (folder / "pytorch_adapter.bin").write_bytes(b"never read")
    with pytest.raises(ModuleError, match=text):
        read_module(folder)


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda held: {name: value for name, value in held.items() if not any(part in name for part in parts)}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda held: held | {name: change(held[name])}


def everywhere(end: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda held: {name: change(value) if name.endswith(end) else value for name, value in held.items()}


def nudged(value: Tensor) -> Tensor:
    value = value.clone()
    value.view(-1)[-1] += 1e-6
    return value


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            changed(f"{FIRST}.self_prefix.wte.weight", nudged),
            rf"tensors '{LAST}\.self_prefix\.wte\.weight' and '{FIRST}\.self_prefix\.wte\.weight' are repeats",
        ),
        (
            changed(f"{LAST}.cross_prefix.wte.weight", nudged),
            rf"'{LAST}\.cross_prefix\.wte\.weight' and '.*' are repeats",
        ),
        (
            changed(f"{FIRST}.self_prefix.wte.weight", lambda value: value.double()),
            "are repeats of one another but differ; download or copy",
        ),
        (without("encoder.block.0."), r"tensors 'encoder\.block\.0\.layer\.0\.SelfAttention\..*' are missing"),
        (without("encoder.block.1."), r"tensor '.*encoder_prefix\.control_trans\.2\.weight' has shape \(48, 4\) but"),
        (without("encoder."), r"tensors 'encoder\.block\.0\.layer\.0\.SelfAttention\..*' are missing"),
        (without("decoder.block.2."), r"encoder_prefix\..*' has shape \(48, 4\) but the configuration and"),
        (without("decoder.block.1.layer.1"), r"tensors 'decoder\.block\.1\.layer\.1\.EncDecAttention\..*' are missing"),
        (without("block"), r"tensors 'decoder\.block\.0\.layer\.0\.SelfAttention\..*' are missing"),
        (lambda held: {}, "are missing; save it again with the library|holds no tensors"),
        (without(f"{FIRST}.self_prefix.wte"), r"'self_prefix\.wte\.weight' of 'encoder\.block\.0\..*' is missing"),
        (lambda held: {n: v for n, v in held.items() if not n.startswith(LAST)}, "of 'prefix_tuning' is missing"),
        (everywhere("self_prefix.wte.weight", lambda value: value[:, 1:]), r"wte\.weight' has shape \(5, 15\) but"),
        (
            everywhere("self_prefix.control_trans.2.bias", lambda value: value[1:]),
            r"which is not keys and values for 3",
        ),
        (
            everywhere("cross_prefix.control_trans.0.bias", lambda value: value[1:]),
            r"'.*' has shape \(3,\) but .* \(4,\)",
        ),
        (
            lambda held: held | {"shared.weight": torch.ones(2)},
            r"tensor 'shared\.weight' is not part of the prefix 'm'",
        ),
        (
            lambda held: held | {f"{LAST}.self_prefix.gate": torch.ones(2)},
            r"self_prefix\.gate' is there although the configuration has no such prefix",
        ),
        (
            lambda held: held | {name.replace("block.0", "block.00"): value for name, value in held.items()},
            r"tensors are there for 'encoder\.block\.00|are missing",
        ),
        (
            lambda held: held | {f"transformer.{LAST}.self_prefix.wte.weight": torch.ones(2)},
            r"tensor 'transformer\..*' stands for the same parameter as another one",
        ),
        (everywhere(".self_prefix.wte.weight", lambda value: value * torch.nan), r"wte\.weight' holds NaN"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: Callable[[Tensors], Tensors], text: str) -> None:
    with pytest.raises(ModuleError, match=text):
        read_module(write(tmp_path / "m", change(saved(pool(flat=False)))))


def test_a_flat_prefix_that_does_not_fit(tmp_path: Path) -> None:
    held = saved(pool(flat=True))
    with pytest.raises(ModuleError, match=r"encoder_prefix\.control_trans' has shape \(239,\) but .* \(240,\)"):
        read_module(write(tmp_path / "a", everywhere("encoder_prefix.control_trans", lambda v: v[1:])(held), flat=True))
    with pytest.raises(ModuleError, match=r"cross_prefix\.control_trans' is there although"):
        read_module(write(tmp_path / "b", held, flat=True, cross_prefix=False))
    with pytest.raises(ModuleError, match=r"tensor 'self_prefix\.wte\.weight' of '.*' is missing|is missing; save"):
        read_module(write(tmp_path / "c", held))
    with pytest.raises(ModuleError, match="which is not keys and values for 3 layers"):
        read_module(write(tmp_path / "d", held, flat=True, prefix_length=7))
