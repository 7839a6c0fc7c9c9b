"""AdapterHub's folders: bottleneck adapters and LoRA as modules, every field of theirs, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handmade import pack
from headstart.errors import ModuleError
from headstart.formats import AdapterLayout, adapter_layout, read_module
from headstart.formats.libraries.adapterhub import LORA_FIELDS
from headstart.formats.libraries.adapterhub_adapter import FIELDS
from headstart.hub import Hub
from headstart.kinds import AdapterModule, load_module, save_module
from naive import load

PLAIN: dict[str, Any] = {
    "adapter_residual_before_ln": False, "cross_adapter": False, "dropout": 0.0, "factorized_phm_W": True,
    "factorized_phm_rule": False, "hypercomplex_nonlinearity": "glorot-uniform", "init_weights": "bert",
    "init_weights_seed": None, "inv_adapter": None, "inv_adapter_reduction_factor": None, "is_parallel": False,
    "learn_phm": True, "leave_out": [], "ln_after": False, "ln_before": False, "mh_adapter": True,
    "non_linearity": "swish", "original_ln_after": True, "original_ln_before": False, "output_adapter": True,
    "phm_bias": True, "phm_c_init": "normal", "phm_dim": 4, "phm_init_range": 0.0001, "phm_layer": False,
    "phm_rank": 1, "reduction_factor": 8, "residual_before_ln": True, "scaling": 1.0, "shared_W_phm": False,
    "shared_phm_rule": True, "stochastic_depth": 0.0, "use_gating": False,
}  # fmt: skip
"""Every field of BnConfig, as `adapters` 1.3 saves its double_seq_bn."""

LORA: dict[str, Any] = {
    "alpha": 12, "architecture": "lora", "attn_matrices": ["q"], "composition_mode": "add", "dropout": 0.0,
    "dtype": None, "init_weights": "lora", "init_weights_seed": None, "intermediate_lora": False, "leave_out": [],
    "output_lora": False, "r": 4, "selfattn_lora": True, "use_dora": False, "use_gating": False, "vera_b": None,
    "vera_d": None,
}  # fmt: skip
"""Every field of LoRAConfig, as `adapters` 1.3 saves it."""

LLAMA0 = "model.layers.0"
KEYS = [f"model.layers.{n}.{site}.adapters.m" for n in (0, 1) for site in ("attention_adapters", "output_adapters")]
Q0 = "encoder.block.0.layer.0.SelfAttention.q"


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def config(method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "config": method, "hidden_size": 32, "model_class": "LlamaForCausalLM", "model_name": "tiny-llama",
        "model_type": "llama", "name": "m", "version": "adapters.1.3.0",
    } | changes  # fmt: skip


def bottlenecks(keys: list[str] = KEYS, *, size: int = 4, width: int = 32) -> dict[str, np.ndarray]:
    shapes = {
        "adapter_down.0.weight": (size, width), "adapter_down.0.bias": (size,), "adapter_up.weight": (width, size),
        "adapter_up.bias": (width,),
    }  # fmt: skip
    return {f"{key}.{end}": draw(*shape) for key in keys for end, shape in shapes.items()}


def factors(*layers: str, rank: int = 4) -> dict[str, np.ndarray]:
    found = {}
    for layer in layers:
        found |= {f"{layer}.loras.m.lora_A": draw(rank, 32), f"{layer}.loras.m.lora_B": draw(32, rank)}
    return found


def write(folder: Path, content: Any, tensors: dict[str, np.ndarray], *, as_pickle: bool = False) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(content))
    if as_pickle:
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, folder / "pytorch_adapter.bin")
    else:
        (folder / "adapter.safetensors").write_bytes(pack(tensors))
    return folder


def shapes(tensors: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in tensors.items()}


def layout_of(tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> AdapterLayout:
    found = bottlenecks() if tensors is None else tensors
    return adapter_layout(config(PLAIN | changes), shapes(found))


# Bottleneck adapters


@pytest.mark.parametrize("as_pickle", [False, True])
def test_an_adapter_folder(tmp_path: Path, tiny_llama: Path, as_pickle: bool) -> None:
    folder = write(tmp_path / "rte", config(PLAIN), bottlenecks(), as_pickle=as_pickle)
    (folder / "head_config.json").write_text("not even JSON")
    (folder / "pytorch_model_head.bin").write_bytes(b"a head")
    stored = read_module(folder)
    card = stored.card
    assert (card.name, card.kind, card.rank, card.scaling, card.base_model) == ("rte", "adapter", 4, 1.0, "tiny-llama")
    assert card.parameters == 4 * (2 * 4 * 32 + 4 + 32)
    assert card.targets == tuple(f"model.layers.{n}.{end}" for n in (0, 1) for end in ("mlp", "self_attn"))
    module = load_module(stored)
    assert isinstance(module, AdapterModule)
    module.check(load(tiny_llama))
    for name, value in bottlenecks().items():
        assert np.array_equal(module.state_dict()[name].numpy(), value)
    saved = save_module(module, tmp_path / "again")
    assert saved.card.tensor_hash == card.tensor_hash
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text()) == config(PLAIN)


def test_a_hub_takes_both_files(tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    hub.add(write(tmp_path / "one", config(PLAIN), bottlenecks(), as_pickle=True))
    hub.add(write(tmp_path / "two", config(PLAIN), bottlenecks(size=4) | {f"{KEYS[0]}.adapter_up.bias": draw(32) + 1}))
    assert hub.names() == ["one", "two"]
    assert (tmp_path / "hub" / "one" / "pytorch_adapter.bin").is_file()
    assert (tmp_path / "hub" / "two" / "adapter.safetensors").is_file()


@pytest.mark.parametrize(
    ("family", "key", "path"),
    [
        ("llama", "model.layers.3.attention_adapters", "model.layers.3.self_attn"),
        ("llama", "layers.3.output_adapters", "model.layers.3.mlp"),
        ("mistral", "model.layers.0.output_adapters", "model.layers.0.mlp"),
        ("gpt2", "transformer.h.1.attention_adapters", "transformer.h.1.attn"),
        ("gpt2", "h.1.output_adapters", "transformer.h.1.mlp"),
        ("t5", "encoder.block.1.layer.0", "encoder.block.1.layer.0.SelfAttention"),
        ("t5", "transformer.encoder.block.1.layer.1", "encoder.block.1.layer.1.DenseReluDense"),
        ("mt5", "decoder.block.1.layer.1", "decoder.block.1.layer.1.EncDecAttention"),
        ("t5", "decoder.block.1.layer.2", "decoder.block.1.layer.2.DenseReluDense"),
        ("bert", "encoder.layer.1.output", "bert.encoder.layer.1.output.dense"),
        ("roberta", "roberta.encoder.layer.0.attention.output", "roberta.encoder.layer.0.attention.output.dense"),
        ("xlm-roberta", "encoder.layer.0.output", "roberta.encoder.layer.0.output.dense"),
    ],
)
def test_names_become_paths(family: str, key: str, path: str) -> None:
    content = config(PLAIN | {"cross_adapter": True}, model_type=family)
    layout = adapter_layout(content, shapes(bottlenecks([f"{key}.adapters.m"])))
    assert list(layout.sites) == [path]
    assert layout.widths == {path: (None, 32)}


def test_every_field_has_its_place() -> None:
    groups = (FIELDS.harmless, FIELDS.handled, FIELDS.refused.keys())
    assert frozenset().union(*groups) == PLAIN.keys() | {"architecture", "biases"}
    assert sum(len(group) for group in groups) == len(PLAIN) + 2
    groups = (LORA_FIELDS.harmless, LORA_FIELDS.handled, LORA_FIELDS.refused.keys())
    assert frozenset().union(*groups) == LORA.keys()
    assert sum(len(group) for group in groups) == len(LORA)


@pytest.mark.parametrize("field", FIELDS.refused)
def test_variants_are_refused_by_name(field: str) -> None:
    with pytest.raises(ModuleError, match=f"field '{field}' is set: .*; Headstart cannot use this module"):
        layout_of(**{field: True})


@pytest.mark.parametrize(
    ("before", "after", "around", "parallel", "reads"),
    [
        (False, True, True, False, "output"),
        (False, True, False, False, "output"),
        (True, True, True, False, "sum"),
        (True, False, False, False, "sum"),
        (False, True, True, True, "residual"),
        (True, True, False, True, "residual"),
        (True, True, False, False, None),
        (True, False, True, False, None),
        (False, False, True, False, None),
        (False, False, False, False, None),
        (True, True, "post_add", False, None),
        (False, False, True, True, None),
    ],
)
def test_what_an_adapter_reads(before: bool, after: bool, around: Any, parallel: bool, reads: str | None) -> None:
    # The library adds r + U·act(…) and, where `original_ln_after`, the residual stream e; x is h or, with
    # `original_ln_before`, h + e; r is h with `residual_before_ln`, else x. Sound is what adds h and e once each.
    changes = {
        "original_ln_before": before, "original_ln_after": after, "residual_before_ln": around, "is_parallel": parallel,
    }  # fmt: skip
    if reads is not None:
        assert layout_of(**changes).computation.reads == reads
        return
    with pytest.raises(ModuleError, match=r"fields original_ln_before=.* drop the residual stream or add it twice"):
        layout_of(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling": "learned"}, "field 'scaling' is 'learned'; Headstart computes constant factors only"),
        ({"scaling": "channel"}, "field 'scaling' is 'channel'"),
        ({"scaling": True}, "field 'scaling' is True"),
        ({"non_linearity": "mish"}, "field 'non_linearity' is 'mish'; Headstart computes: relu, gelu, gelu_new"),
        ({"non_linearity": None}, "field 'non_linearity' is None"),
        ({"reduction_factor": 4}, "has a bottleneck of 4 but field 'reduction_factor' makes 8; save it again"),
        (
            {"reduction_factor": {"0": 4, "default": 16}},
            "has a bottleneck of 4 but field 'reduction_factor' makes 2 or 8",
        ),
        ({"reduction_factor": 0}, "field 'reduction_factor' is 0, not a number above 0"),
        ({"reduction_factor": None}, "field 'reduction_factor' is None"),
        ({"leave_out": "1"}, "field 'leave_out' is '1', not a list of layer numbers"),
        ({"mh_adapter": False}, "field 'mh_adapter' is not set but tensor 'model.layers.0.attention_adapters"),
        ({"biases": False}, r"its 'adapter_down\.0\.bias' is there although field 'biases' is false"),
        ({"newest": 3}, "unknown field 'newest' is set to 3 and may change what the module computes"),
    ],
)
def test_fields_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        layout_of(**changes)


def test_a_mapping_of_sizes() -> None:
    tensors = bottlenecks(KEYS[:2], size=8) | bottlenecks(KEYS[2:], size=2)
    layout = layout_of(tensors, reduction_factor={"0": 4, "default": 16}, scaling=2)
    assert [site.size for site in layout.sites.values()] == [8, 8, 2, 2]
    assert (layout.rank, layout.scaling) == (8, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{KEYS[0]}.adapter_up.bias": None}, r"its 'adapter_up\.bias' is missing; save it again"),
        ({f"{KEYS[0]}.adapter_down.0.weight": None}, r"its 'adapter_down\.0\.weight' is missing"),
        ({f"{KEYS[0]}.adapter_up.weight": (4, 32)}, r"adapter_up\.weight' has shape \(4, 32\), not \(32, 4\)"),
        ({f"{KEYS[0]}.adapter_down.0.bias": (5,)}, r"has shape \(5,\), not \(4,\)"),
        ({f"{KEYS[0]}.adapter_down.0.weight": (4, 32, 1)}, r"has shape \(4, 32, 1\), not two dimensions"),
        (
            {f"{KEYS[0]}.scaling": (1,)},
            r"attention_adapters\.adapters\.m\.scaling' is not part of the bottleneck adapter",
        ),
        ({"model.layers.0.mlp.weight": (2, 2)}, r"tensor 'model\.layers\.0\.mlp\.weight' is not part of the"),
        ({"model.layers.0.output_adapters.adapters.other.adapter_up.bias": (32,)}, "is not part of the"),
        ({"layers.0.output_adapters.adapters.m.adapter_up.bias": (32,)}, "stand for the same parameter"),
    ],
)
def test_tensors_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    tensors = bottlenecks() | {name: draw(*shape) for name, shape in change.items() if shape is not None}
    for name, shape in change.items():
        if shape is None:
            del tensors[name]
    with pytest.raises(ModuleError, match=message):
        layout_of(tensors)


def test_the_width_must_be_the_backbone_s() -> None:
    with pytest.raises(ModuleError, match="is 32 wide but field 'hidden_size' is 64"):
        adapter_layout(config(PLAIN, hidden_size=64), shapes(bottlenecks()))
    with pytest.raises(ModuleError, match="field 'model_type' is 'gptj'; bottleneck adapters are read for: t5, mt5"):
        adapter_layout(config(PLAIN, model_type="gptj"), shapes(bottlenecks()))


# Folders


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "3.2.1"}, r"field 'version' is '3\.2\.1': Headstart reads what the library `adapters` saved, not"),
        ({"version": None}, "field 'version' is None"),
        ({"name": ""}, "field 'name' is '', not the adapter's name"),
        ({"config": {"architecture": "prompt_tuning"}}, "prompt in AdapterHub's layout is not read yet"),
        ({"config": {"architecture": "reft"}}, "ReFT in AdapterHub's layout is not read yet"),
        ({"config": {"architecture": "union"}}, "a union of methods in AdapterHub's layout is not read yet"),
        ({"config": {"architecture": "new"}}, "'new' in AdapterHub's layout is not read yet"),
        ({"config": LORA | {"composition_mode": "scale"}}, r"\(IA\)³ in AdapterHub's layout is not read yet"),
        ({"config": None}, "has no field 'peft_type'"),
    ],
)
def test_other_methods_are_refused_before_their_tensors_are_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write(tmp_path / "m", config(PLAIN) | changes, {})
    (folder / "adapter.safetensors").write_bytes(b"never read")
    with pytest.raises(ModuleError, match=message):
        read_module(folder)


def test_the_file_of_tensors(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", config(PLAIN), bottlenecks())
    torch.save({}, folder / "pytorch_adapter.bin")
    with pytest.raises(ModuleError, match=r"holds both adapter\.safetensors and pytorch_adapter\.bin; remove one"):
        read_module(folder)
    for name in ("adapter.safetensors", "pytorch_adapter.bin"):
        (folder / name).unlink()
    with pytest.raises(ModuleError, match=r"has no adapter\.safetensors or pytorch_adapter\.bin; download or copy"):
        read_module(folder)
    broken = write(tmp_path / "broken", config(PLAIN), {})
    (broken / "adapter.safetensors").unlink()
    torch.save({"w": torch.nn.Linear(2, 2)}, broken / "pytorch_adapter.bin")
    with pytest.raises(ModuleError, match=r"pytorch_adapter\.bin asks for 'torch\.nn\.modules\.linear\.Linear'"):
        read_module(broken)
    infinite = bottlenecks() | {f"{KEYS[0]}.adapter_up.bias": np.full(32, np.inf, np.float32)}
    with pytest.raises(ModuleError, match="holds NaN or infinite values"):
        read_module(write(tmp_path / "infinite", config(PLAIN), infinite, as_pickle=True))


def test_the_plugin_interface_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", config(PLAIN), bottlenecks())
    (folder / "adapter_interface.json").write_text("{}")
    with pytest.raises(ModuleError, match=r"adapter_interface\.json: the module was made through AdapterHub's plugin"):
        read_module(folder)


def test_pickles_of_peft_stay_closed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    torch.save({}, folder / "pytorch_adapter.bin")
    with pytest.raises(ModuleError, match=r"holds only the pickle pytorch_adapter\.bin, and pickle files can run code"):
        read_module(folder)


def test_tensors_of_a_layer_that_is_left_out_are_refused(tmp_path: Path, tiny_llama: Path) -> None:
    # AdapterHub would pass over them.
    module = load_module(write(tmp_path / "m", config(PLAIN | {"leave_out": [1]}), bottlenecks()))
    with pytest.raises(ModuleError, match=r"model\.layers\.1\.\w+, but leave_out names its layer, 1; correct"):
        module.check(load(tiny_llama))


@pytest.mark.parametrize("number", ["00", "٠", "0" * 5000])
def test_a_layer_number_is_written_in_one_way(number: str) -> None:
    # AdapterHub would pass over the tensor; to `int` all of these are 0.
    tensors = {name.replace("layers.0.", f"layers.{number}.", 1): value for name, value in bottlenecks().items()}
    with pytest.raises(ModuleError, match=r"is not part of the bottleneck adapter 'm'"):
        layout_of(tensors)


@pytest.mark.parametrize("factor", [10**400, 5e-324, float("inf")])
def test_reduction_factors_beyond_reason(factor: float) -> None:
    with pytest.raises(ModuleError, match=r"'reduction_factor' (is .*, not a number above 0|makes 1;)"):
        layout_of(reduction_factor=factor)
