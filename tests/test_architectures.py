"""Architectures as data: what they say of a backbone is so in it, and parts of any path are told."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from headstart.architectures import ARCHITECTURES, Architecture, Part, architecture_of, part_of
from headstart.backbones import Backbone, TextFormat
from headstart.errors import BackboneError, SettingError
from headstart.kinds import fresh_module, stack_of
from headstart.testing import BACKBONES, MORE_BACKBONES, tiny_backbone


def described(family: str) -> tuple[Backbone, Architecture]:
    backbone = tiny_backbone(family)
    return backbone, ARCHITECTURES[backbone.model.config.model_type]


@pytest.mark.parametrize("family", [*BACKBONES, *MORE_BACKBONES])
def test_every_layer_of_a_block_is_described_and_every_description_is_a_layer(family: str) -> None:
    backbone, architecture = described(family)
    layers = dict(backbone.model.named_modules())
    linear = {path for path, layer in layers.items() if isinstance(layer, nn.Linear | Conv1D)}
    seen = set()
    for blocks in architecture.blocks:
        stack = f"{architecture.base}{blocks.path}"
        for number, _ in enumerate(layers[stack].children()):
            roles = {path: role for sublayer in blocks.sublayers for path, role in sublayer.layers.items()}
            own = {path.removeprefix(f"{stack}.{number}.") for path in linear if path.startswith(f"{stack}.{number}.")}
            assert own <= roles.keys()
            seen |= own
            for sublayer in blocks.sublayers:
                paths = {*sublayer.roots, sublayer.output, sublayer.norm, sublayer.stream[0], sublayer.unit or ""}
                assert {f"{stack}.{number}.{path}" for path in paths - {""}} <= layers.keys()
    # T5 has `wi`, or where its activation is gated `wi_0` and `wi_1`; DeBERTa shares its projections, or has more.
    absent = (".wi", ".pos_key_proj", ".pos_query_proj")
    assert {path for path in architecture.roles if not path.endswith(absent)} == seen


@pytest.mark.parametrize("family", [*BACKBONES, *MORE_BACKBONES])
def test_every_parameter_of_a_block_belongs_to_one_sublayer(family: str) -> None:
    backbone, architecture = described(family)
    for name, _ in backbone.model.named_parameters():
        located = architecture.locate(name)
        if located is not None:
            blocks, number, rest = located
            assert architecture.part(name) == Part(blocks.stack, number, architecture.part(name).sublayer)
            assert sum(sublayer.holds(rest) for sublayer in blocks.sublayers) == 1


@pytest.mark.parametrize(
    ("family", "path", "part"),
    [
        ("t5", "encoder.block.3.layer.1.DenseReluDense.wo", ("encoder", 3, "feed_forward")),
        ("mt5", "decoder.block.0.layer.1.EncDecAttention.q", ("decoder", 0, "cross_attention")),
        ("t5", "decoder.block.0.layer.0.layer_norm", ("decoder", 0, "attention")),
        ("t5", "decoder.final_layer_norm", (None, None, None)),
        ("mistral", "model.layers.11.mlp.gate_proj", ("decoder", 11, "feed_forward")),
        ("mistral", "layers.11.input_layernorm", ("decoder", 11, "attention")),
        ("gpt2", "transformer.h.0", ("decoder", 0, None)),
        ("gpt2", "transformer.wte", (None, None, None)),
        ("bert", "bert.encoder.layer.1.attention.output.dense", ("encoder", 1, "attention")),
        ("xlm-roberta", "roberta.encoder.layer.1.output.dense", ("encoder", 1, "feed_forward")),
        ("gemma2", "model.layers.1.post_feedforward_layernorm", ("decoder", 1, "feed_forward")),
        ("opt", "model.decoder.layers.1.fc1", ("decoder", 1, "feed_forward")),
        ("bart", "model.decoder.layers.1.encoder_attn.k_proj", ("decoder", 1, "cross_attention")),
        ("bart", "model.encoder.layers.1.self_attn_layer_norm", ("encoder", 1, "attention")),
        ("modernbert", "model.layers.0.mlp.Wo", ("encoder", 0, "feed_forward")),
        ("deberta-v2", "deberta.encoder.rel_embeddings", (None, None, None)),
        ("bert", "classifier", (None, None, None)),
        ("bert", "bert.encoder.layer.01.output.dense", (None, None, None)),
    ],
)
def test_parts(family: str, path: str, part: tuple[str | None, int | None, str | None]) -> None:
    assert part_of(family, path) == part


def test_parts_of_an_unknown_architecture() -> None:
    with pytest.raises(
        BackboneError, match=r"the parts of 'bloom' are not known, only those of t5, .*; ask for the whole"
    ):
        part_of("bloom", "transformer.h.0.mlp")


def test_names_say_what_a_layer_does_and_mean_no_other() -> None:
    assert ARCHITECTURES["t5"].names("query", "down") == ("q", "wo")
    assert ARCHITECTURES["t5"].names("up") == ("wi", "wi_1")
    assert ARCHITECTURES["gpt2"].names("query_key_value", "down") == ("c_attn", "mlp.c_proj")
    assert ARCHITECTURES["gpt2"].names("attention_output") == ("attn.c_proj",)
    # The end of `attention.output.dense` too: no shorter name is clear.
    assert ARCHITECTURES["bert"].names("up", "down") == ("intermediate.dense", "output.dense")
    assert ARCHITECTURES["llama"].names("query_key_value") == ()
    assert ARCHITECTURES["modernbert"].names("query_key_value", "down") == ("Wqkv", "mlp.Wo")


def test_unknown_architectures() -> None:
    assert architecture_of("bloom") is None
    assert architecture_of(None) is None
    assert architecture_of(["bert"]) is None
    assert architecture_of("bert", {}) is ARCHITECTURES["bert"]


def test_a_model_that_departs_from_its_architecture_is_refused() -> None:
    assert architecture_of("opt", {"do_layer_norm_before": True}) is ARCHITECTURES["opt"]
    assert architecture_of("opt", {"do_layer_norm_before": False}) is None
    backbone = tiny_backbone("opt")
    backbone.model.config.do_layer_norm_before = False
    with pytest.raises(
        SettingError, match=r"tiny-opt is a 'opt' built in another way: .* where do_layer_norm_before is True; use"
    ):
        fresh_module("adapter", backbone, {}, name="m", seed=0)


def test_modules_that_cannot_share_a_pass_are_attached_one_by_one() -> None:
    backbone = tiny_backbone("deberta-v2")
    modules = [fresh_module("lora", backbone, {}, name="m", seed=seed) for seed in (1, 2)]
    with pytest.raises(SettingError, match=r"modules on tiny-deberta-v2 cannot share a pass: .*; attach them one"):
        stack_of(modules, backbone)


def test_padding_takes_no_room_in_a_sliding_window() -> None:
    """In a batch with padding on the left a prefix stands as near to its text as alone."""
    backbone = tiny_backbone("mistral")
    stack = stack_of([fresh_module("prefix", backbone, {"length": 3}, name="m", seed=1)], backbone)
    prompts = [backbone.encoder.prompt(text, TextFormat()) for text in ("a", "a text of some length", "")]
    options = [[(5, 6), (7,)] for _ in prompts]
    with torch.inference_mode(), stack.attach(backbone):
        together = torch.tensor(backbone.option_scores(prompts, options)[0])
        alone = [backbone.option_scores([prompt], [own])[0][0] for prompt, own in zip(prompts, options, strict=True)]
    torch.testing.assert_close(together, torch.tensor(alone), rtol=1e-5, atol=1e-5)
