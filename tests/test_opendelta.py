"""OpenDelta's folders: what its library computed, what a hub makes of them, and what is refused by name."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from formula import answers, by_formula, formula_backbone
from headstart.errors import ModuleError
from headstart.formats import read_module
from headstart.formats.libraries.opendelta import ACTIVATIONS, HARMLESS, OWN, UNREAD
from headstart.hub import Hub
from headstart.kinds import load_module, save_module
from headstart.kinds.adapter import ACTIVATIONS as COMPUTED
from naive import assert_close, assert_same_parameters

CLASSES = {
    "bert": "BertForSequenceClassification", "roberta": "RobertaForSequenceClassification",
    "t5": "T5ForConditionalGeneration", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM",
}  # fmt: skip
STACKS = {
    "bert": ["bert.encoder.layer"], "roberta": ["roberta.encoder.layer"], "gpt2": ["transformer.h"],
    "llama": ["model.layers"], "t5": ["encoder.block", "decoder.block"],
}  # fmt: skip
ENDS: dict[str, dict[str, Any]] = {
    "lora": {"lora.lora_A": lambda i, o: (4, i), "lora.lora_B": lambda i, o: (o, 4)},
    "adapter": {
        "adapter.modulelist.down_proj.weight": lambda i, o: (8, o),
        "adapter.modulelist.down_proj.bias": lambda i, o: (8,),
        "adapter.modulelist.up_proj.weight": lambda i, o: (o, 8),
        "adapter.modulelist.up_proj.bias": lambda i, o: (o,),
    },
    "bitfit": {"bias": lambda i, o: (o,)},
}
WIDTHS = {
    "intermediate.dense": (32, 48), "layer.0.output.dense": (48, 32), "layer.1.output.dense": (48, 32),
    "mlp.c_fc": (32, 48), "attn.c_attn": (32, 96),
}  # fmt: skip
"""(in, out) by the end of a layer's path where they are not 32."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 4, "lora_alpha": 12, "lora_dropout": 0.0, "modified_modules": ["attn@.q@", "attn@.v@"]},
    "adapter": {"bottleneck_dim": 8, "non_linearity": "gelu_new", "modified_modules": ["attn@.proj@", "ff@.w2@"]},
    "bitfit": {"modified_modules": ["attn@", "ff@", "layer_norm@", "lm_head@.proj@"]},
}
"""OpenDelta's own, but for r and the bottleneck."""


class Made(NamedTuple):
    """A module as OpenDelta 0.3.2 saved it: where, what differs from `DEFAULTS`, which layers of each block have
    tensors ("encoder|…" in one stack only), and the logits it computed with transformers 4.30.2 and torch 2.13.0.
    """

    family: str
    delta: str
    fields: dict[str, Any]
    layers: tuple[str, ...]
    golden: tuple[Any, ...]


QUERY, VALUE = "attention.self.query", "attention.self.value"
ATTENTION = (QUERY, "attention.self.key", VALUE)
PLAIN: dict[str, Any] = {"common_structure": None}
MADE = {
    "t5 lora": Made("t5", "lora", {}, ("layer.0.SelfAttention.q", "layer.0.SelfAttention.v"),
        (-0.031146, -0.197022, -0.263438, -0.196865)),
    "bert lora": Made("bert", "lora", {}, (QUERY, VALUE),
        ((-0.011521, 0.303651, 0.451659), (0.017069, 0.301638, 0.42006))),
    "bert lora_ff": Made("bert", "lora", {"modified_modules": ["attn@.q@", "ff@.w2@"]}, (QUERY, "output.dense"),
        ((-0.040539, 0.285955, 0.45422), (0.046554, 0.360278, 0.478252))),
    "roberta lora": Made("roberta", "lora", PLAIN | {"modified_modules": ["query", "output.dense"], "lora_alpha": 16},
        (QUERY, "attention.output.dense", "output.dense"),
        ((-0.402496, 0.047439, 0.583969), (-0.399106, 0.049625, 0.583847))),
    "llama lora": Made("llama", "lora", PLAIN | {"modified_modules": ["q_proj", "v_proj"], "lora_alpha": 16},
        ("self_attn.q_proj", "self_attn.v_proj"), (-0.893276, -0.165633, 0.645624, 1.130957)),
    "t5 adapter": Made("t5", "adapter", {},
        ("layer.0.SelfAttention.o", "encoder|layer.1.DenseReluDense.wo", "decoder|layer.2.DenseReluDense.wo"),
        (-0.02074, -0.160556, -0.21932, -0.167367)),
    "t5 adapter_blocks": Made("t5", "adapter",
        PLAIN | {"modified_modules": ["SelfAttention", "EncDecAttention", "DenseReluDense"], "non_linearity": "relu"},
        ("layer.0.SelfAttention", "decoder|layer.1.EncDecAttention", "encoder|layer.1.DenseReluDense",
         "decoder|layer.2.DenseReluDense"),
        (0.070652, -0.129316, -0.264003, -0.265415)),
    "t5 adapter_layers": Made("t5", "adapter", PLAIN | {"modified_modules": ["layer.0", "layer.1", "layer.2"]},
        ("layer.0", "layer.1", "decoder|layer.2"), (-0.01633, -0.205495, -0.290922, -0.229485)),
    "bert adapter": Made("bert", "adapter", {}, ("attention.output.dense", "output.dense"),
        ((-0.923476, -0.104626, 0.753167), (-0.596548, 0.015707, 0.60616))),
    "bert adapter_output": Made("bert", "adapter", PLAIN | {"modified_modules": ["output"]},
        ("attention.output", "output"), ((-0.218723, 0.250987, 0.580119), (-0.142954, 0.296641, 0.572613))),
    "roberta adapter": Made("roberta", "adapter", {"non_linearity": "gelu_orig"},
        ("attention.output.dense", "output.dense"),
        ((-0.160551, 0.353142, 0.799105), (0.09354, 0.59073, 0.900251))),
    "gpt2 adapter": Made("gpt2", "adapter", {"non_linearity": "swish"}, ("attn.c_proj", "mlp.c_proj"),
        (-0.149236, -0.743271, -0.962087, -0.695222)),
    "llama adapter": Made("llama", "adapter", PLAIN | {"modified_modules": ["self_attn.o_proj", "down_proj"]},
        ("self_attn.o_proj", "mlp.down_proj"), (1.199367, 1.905549, 1.649771, 0.561155)),
    "bert bitfit": Made("bert", "bitfit", {},
        (*ATTENTION, "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
         "output.LayerNorm"),
        ((0.047626, 0.220282, 0.267861), (0.119943, 0.303915, 0.320591))),
    "bert bitfit_attn": Made("bert", "bitfit", PLAIN | {"modified_modules": ["attention.self", "intermediate.dense"]},
        (*ATTENTION, "intermediate.dense"), ((-0.134176, 0.303072, 0.573449), (-0.124532, 0.286233, 0.538628))),
    "gpt2 bitfit": Made("gpt2", "bitfit", {},
        ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj", "|transformer.ln_f"),
        (1.752647, -4.28885, -8.165249, -7.919663)),
}  # fmt: skip


def config_of(made: Made, **changes: Any) -> dict[str, Any]:
    return {
        "backbone_checkpoint_name": "", "backbone_class": CLASSES[made.family], "backbone_hash": "0" * 32,
        "common_structure": True, "delta_type": made.delta, "exclude_modules": ["lm_head"],
        "opendelta_version": "0.3.0", "transformers_version": "4.30.2",
    } | DEFAULTS[made.delta] | made.fields | changes  # fmt: skip


def paths_of(made: Made) -> list[str]:
    found = []
    for layer in made.layers:
        where, _, end = layer.rpartition("|")
        if layer.startswith("|"):
            found.append(end)
            continue
        stacks = [stack for stack in STACKS[made.family] if stack.startswith(where)]
        found += [f"{stack}.{number}.{end}" for stack in stacks for number in range(2)]
    return found


def tensors_of(made: Made) -> dict[str, Tensor]:
    found = {}
    for path in paths_of(made):
        inputs, outputs = next((widths for end, widths in WIDTHS.items() if path.endswith(end)), (32, 32))
        for end, shape in ENDS[made.delta].items():
            name = f"{path}.{end}"
            # Else the bias terms would be those that the backbone has already.
            drawn = f"m.{name}" if made.delta == "bitfit" else name
            found[name] = by_formula(drawn, torch.empty(shape(inputs, outputs)))
    return found


def write(folder: Path, config: Any, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(OrderedDict(tensors), folder / "pytorch_model.bin")
    return folder


def saved(folder: Path, name: str) -> Path:
    return write(folder, config_of(MADE[name]), tensors_of(MADE[name]))


@pytest.mark.parametrize("name", MADE)
def test_opendelta_computes_the_same(tmp_path: Path, name: str) -> None:
    made, backbone = MADE[name], formula_backbone(MADE[name].family)
    module = load_module(saved(tmp_path / "m", name))
    assert module.kind == made.delta
    module.check(backbone)
    found = answers(backbone, [module])[0]
    golden = torch.tensor(made.golden)
    assert (golden - answers(backbone, [])[0]).abs().max() > 5e-3, "it must do something for this to say anything"
    assert_close(found, golden, within=1e-6 * max(2.0, golden.abs().max().item()))
    save_module(module, tmp_path / "again")
    again = load_module(tmp_path / "again")
    assert_same_parameters(again, module)
    assert_close(answers(backbone, [again])[0], found, within=1e-6)


@pytest.mark.parametrize("name", ["t5 lora", "bert adapter", "gpt2 bitfit"])
def test_a_hub_keeps_it_in_its_own_layout(tmp_path: Path, name: str) -> None:
    folder, hub = saved(tmp_path / "m", name), Hub.create(tmp_path / "hub")
    (folder / "LICENSE").write_text("as you like")
    card = hub.add(folder)
    weights = "adapter.safetensors" if card.kind == "adapter" else "adapter_model.safetensors"
    assert {item.name for item in (tmp_path / "hub" / "m").iterdir()} == {"adapter_config.json", weights, "LICENSE"}
    assert hub.add(folder) == card, "the same module twice is one"
    assert hub.check() == []
    stored, original = hub.read("m"), read_module(folder)
    assert (stored.config, stored.card) == (original.config, original.card)
    assert_same_parameters(load_module(stored), load_module(original))


def test_one_that_was_put_into_a_hub_by_hand(tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    folder = saved(tmp_path / "hub" / "m", "t5 lora")
    assert Hub.open(hub.path).names() == ["m"]
    (folder / "config.json").write_text(
        json.dumps(config_of(MADE["t5 lora"], lora_alpha=4, transformers_version="4.31"))
    )
    (problem,) = Hub.open(hub.path).problems()
    assert "its tensors or configuration changed since it was added" in problem.reason


def test_a_classifier_trained_beside_it_is_its_head(tmp_path: Path) -> None:
    made = MADE["bert lora"]
    head = {"classifier.weight": torch.ones(3, 32), "classifier.bias": torch.arange(3.0)}
    config = config_of(made, unfrozen_modules=["deltas", "classifier"])
    stored = read_module(write(tmp_path / "m", config, tensors_of(made) | head))
    assert stored.card.head is not None
    assert (stored.card.head.task, stored.card.head.outputs) == ("classification", 3)
    assert stored.head.keys() == head.keys()
    hub = Hub.create(tmp_path / "hub")
    assert hub.add(tmp_path / "m").head == stored.card.head
    with pytest.raises(
        ModuleError, match=r"tensor 'classifier\.weight' is not part of the delta 'lora'; save it again"
    ):
        read_module(write(tmp_path / "unsaid", config_of(made), tensors_of(made) | head))
    adapter = MADE["bert adapter"]
    config = config_of(adapter, unfrozen_modules=["deltas", "classifier"])
    with pytest.raises(
        ModuleError, match=r"'classifier\.weight' is part of a task head, which Headstart does not read"
    ):
        read_module(write(tmp_path / "adapter", config, tensors_of(adapter) | head))


def test_a_bare_encoder_has_other_names(tmp_path: Path) -> None:
    made = MADE["bert lora"]
    tensors = {name.removeprefix("bert."): value for name, value in tensors_of(made).items()}
    folder = write(tmp_path / "m", config_of(made, backbone_class="BertModel"), tensors)
    assert read_module(folder).card.targets == read_module(saved(tmp_path / "whole", "bert lora")).card.targets


def test_a_whole_model_is_no_module(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"model_type": "bert"}, {"bert.pooler.dense.bias": torch.zeros(32)})
    with pytest.raises(ModuleError, match=r"has no adapter_config\.json; name a folder saved by PEFT"):
        read_module(folder)


def test_a_peft_folder_may_hold_a_config_of_another_kind(tmp_path: Path) -> None:
    save_module(load_module(saved(tmp_path / "delta", "t5 lora")), tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config_of(MADE["t5 adapter"])))
    assert read_module(tmp_path / "m").card.kind == "lora"


def test_fields_are_known_once() -> None:
    assert not HARMLESS & frozenset().union(*OWN.values())
    assert not OWN.keys() & UNREAD.keys()
    assert set(ACTIVATIONS.values()) <= COMPUTED.keys()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        *(("t5 lora", {"delta_type": delta}, f"delta_type '{delta}' is not read: .*use one of") for delta in UNREAD),
        ("t5 lora", {"delta_type": "new"}, "delta_type 'new' is not read: Headstart does not know it"),
        ("t5 lora", {"delta_type": None}, "delta_type None is not read"),
        ("t5 lora", {"opendelta_version": "0.2.4"}, r"'opendelta_version' is '0\.2\.4': Headstart reads what"),
        ("t5 lora", {"opendelta_version": "0.30.0"}, r"'opendelta_version' is '0\.30\.0'"),
        ("t5 lora", {"backend": "bmt"}, "unknown field 'backend' is set to 'bmt'"),
        ("t5 lora", {"bottleneck_dim": 8}, "unknown field 'bottleneck_dim' is set to 8"),
        ("t5 lora", {"backbone_class": "OPTForCausalLM"}, "'backbone_class' is 'OPTForCausalLM'; OpenDelta's folders"),
        ("t5 lora", {"backbone_class": "BertGenerationEncoder"}, "'backbone_class' is 'BertGenerationEncoder'"),
        ("t5 lora", {"backbone_class": None}, "'backbone_class' is None"),
        ("t5 lora", {"modified_modules": None}, "'modified_modules' is None, not a list of layer names"),
        ("t5 lora", {"modified_modules": []}, r"'modified_modules' is \[\]"),
        ("t5 lora", {"modified_modules": ["attn.q"]}, r"holds 'attn\.q', which Headstart cannot resolve"),
        ("t5 lora", PLAIN | {"modified_modules": ["[r]q$"]}, r"holds '\[r\]q\$', which Headstart cannot resolve"),
        ("t5 lora", {"modified_modules": ["attn@.q@"]}, r"does not name layer '\S+SelfAttention\.v', which has tensor"),
        ("t5 lora", {"modified_modules": ["attn@.q@", "attn@.v@", "crossattn@.q@"]},
         "names 'crossattn@.q@' but no layer of it has a tensor"),
        ("t5 lora", {"exclude_modules": ["decoder"]}, r"'exclude_modules' is \['decoder'\]; Headstart reads"),
        ("t5 lora", {"common_structure": "yes"}, "'common_structure' is 'yes', not true or false"),
        ("llama lora", {"common_structure": True}, "OpenDelta has no common structure for 'llama'"),
        ("t5 lora", {"lora_r": 8}, r"lora_A' has shape \(4, 32\) but field 'lora_r' is 8"),
        ("t5 lora", {"lora_alpha": "16"}, "'lora_alpha' is '16', not a number"),
        ("bert adapter", {"bottleneck_dim": 4}, r"down_proj\.weight' has shape \(8, 32\), not \(4, 32\), where field"),
        ("bert adapter", {"bottleneck_dim": True}, "'bottleneck_dim' is True, not a number above 0"),
        ("bert adapter", {"bottleneck_dim": "8"}, "'bottleneck_dim' is '8', not a number above 0"),
        ("bert adapter", {"non_linearity": "mish"}, "'non_linearity' is 'mish'; Headstart computes: gelu, gelu_new"),
        ("bert adapter", {"modified_modules": ["ff@.w2@"]}, "does not name layer 'encoder.layer.0.attention.output.de"),
    ],
)  # fmt: skip
def test_fields_that_are_refused(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    folder = write(tmp_path / "m", config_of(MADE[name], **changes), tensors_of(MADE[name]))
    with pytest.raises(ModuleError, match=f"{folder}: .*{message}"):
        read_module(folder)


@pytest.mark.parametrize(
    ("name", "field"), [(f"bert {kind}", field) for kind, own in OWN.items() for field in sorted(own)]
)
def test_fields_that_are_missing(tmp_path: Path, name: str, field: str) -> None:
    config = {key: value for key, value in config_of(MADE[name]).items() if key != field}
    with pytest.raises(ModuleError, match=f"field '{field}' is missing; save it again with save_finetuned"):
        read_module(write(tmp_path / "m", config, tensors_of(MADE[name])))


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 3.5, float("nan"), 10**400, "", "@", "..", "[r](a+)+$", [], [""], [None], [["q"]], {}, {"a": 1},
    "lora", "adapter", "BertModel", ["attn@.q@"],
)  # fmt: skip


@pytest.mark.parametrize("name", ["t5 lora", "bert adapter", "bert bitfit"])
def test_no_odd_value_of_a_field_passes_or_ends_in_another_error(tmp_path: Path, name: str) -> None:
    made = MADE[name]
    folder, config = saved(tmp_path / "m", name), config_of(made, unfrozen_modules=["deltas"])
    sound, told = load_module(folder), {"lora_alpha", "non_linearity"}
    for field in config:
        for value in ODD:
            (folder / "config.json").write_text(json.dumps(config | {field: value}))
            try:
                module = load_module(folder)
            except ModuleError:
                continue
            # Who states another factor means another function.
            assert field in told or (module.card.scaling, module.card.targets) == (
                sound.card.scaling,
                sound.card.targets,
            )
            assert_same_parameters(module, sound)


Q0, DENSE0 = f"bert.encoder.layer.0.{QUERY}", "bert.encoder.layer.0.attention.output.dense.adapter.modulelist"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bert lora", {f"{Q0}.lora.lora_B": None}, r"query\.lora\.lora_B' is missing beside its others"),
        ("bert lora", {f"{Q0}.lora.lora_A": (4,)}, r"lora_A' has shape \(4,\) but field 'lora_r' is 4"),
        ("bert lora", {f"{Q0}.lora.lora_B": (32, 5)}, r"rank 4 but '\S+query\.lora_B\.weight' has rank 5"),
        ("bert lora", {"bert.embeddings.word_embeddings.weight": (9, 32)}, "is not part of the delta 'lora'; save it"),
        ("bert lora", {f"{Q0}.weight": (32, 32)}, r"query\.weight' is not part of the delta 'lora'"),
        ("bert lora", {"classifier.lora.lora_A": (4, 32)}, "'classifier.lora.lora_A' is not part of the delta 'lora'"),
        (
            "bert lora",
            {Q0.removeprefix("bert.") + ".lora.lora_A": (4, 32)},
            "stands for the same parameter as another one",
        ),
        ("bert adapter", {f"{DENSE0}.up_proj.bias": None}, r"up_proj\.bias' is missing beside its others"),
        ("bert adapter", {f"{DENSE0}.up_proj.bias": (33,)}, r"up_proj\.bias' has shape \(33,\), not \(32,\)"),
        ("bert adapter", {f"{DENSE0}.down_proj.weight": ()}, r"down_proj\.weight' has shape \(\), not"),
        ("bert bitfit", {f"{Q0}.bias": (32, 1)}, r"query\.bias' has shape \(32, 1\), not one dimension"),
        ("bert bitfit", {"bert.pooler.dense.bias": (32,)}, r"does not name layer 'pooler\.dense'"),
        ("bert bitfit", {"bert.embeddings.LayerNorm.bias": (32,)}, r"does not name layer 'embeddings\.LayerNorm'"),
    ],
)
def test_tensors_that_are_refused(
    tmp_path: Path, name: str, change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    tensors = tensors_of(MADE[name])
    for tensor, shape in change.items():
        if shape is None:
            del tensors[tensor]
        else:
            tensors[tensor] = torch.ones(shape)
    with pytest.raises(ModuleError, match=message):
        read_module(write(tmp_path / "m", config_of(MADE[name]), tensors))


@pytest.mark.parametrize("name", ["t5 lora", "bert lora_ff", "t5 adapter", "bert adapter_output", "bert bitfit"])
def test_a_layer_without_tensors_is_refused(tmp_path: Path, name: str) -> None:
    made = MADE[name]
    few = {tensor: value for tensor, value in tensors_of(made).items() if not tensor.startswith(paths_of(made)[-1])}
    module = load_module(write(tmp_path / "m", config_of(made), few))
    with pytest.raises(ModuleError, match=r"holds no(ne| tensors)? for \S+; it was made for|holds no tensors for it"):
        module.check(formula_backbone(made.family))
