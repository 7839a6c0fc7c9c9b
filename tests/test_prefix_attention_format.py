"""Folders of prefixes of chosen attention units: what is read, and what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import made_by_peft
from headstart.backbones import Backbone
from headstart.blending import merge
from headstart.errors import MergeError, ModuleError
from headstart.formats import AttentionPrefixLayout, attention_prefix_layout
from headstart.formats.libraries.own_prefix import BIASED_PREFIX, BIASED_TEXT
from headstart.kinds import fresh_module, load_module, save_module
from headstart.kinds.prefix_attention import AttentionPrefixModule
from naive import assert_same_parameters
from test_prefix_attention import EVERYWHERE, VARIANTS, random_prefix
from virtual import encoded

CONFIG = {
    "peft_type": "ATTENTION_PREFIX", "task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": 3, "token_dim": 6,
    "num_attention_heads": 2, "num_layers": {"encoder": 2, "decoder": 1}, "prefix_projection": False,
    "encoder_hidden_size": None, "embedding_dim": None, "relative_positions": "text", "inference_mode": True,
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {"encoder.prefix": (3, 24), "decoder.prefix": (3, 12)}
PROJECTION = {"prefix_projection": True, "encoder_hidden_size": 4, "embedding_dim": 5}


def projection_shapes() -> dict[str, tuple[int, ...]]:
    def parts(whole: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from {
            "tokens": (3, 5), "inner": (4, 5), "inner_bias": (4,), "outer": (whole, 4), "outer_bias": (whole,),
        }.items()  # fmt: skip

    return {
        f"{name}.{part}": shape for name, whole in (("encoder", 24), ("decoder", 12)) for part, shape in parts(whole)
    }


def test_a_layout() -> None:
    layers = (("encoder", 2), ("decoder", 1))
    assert attention_prefix_layout(CONFIG, SHAPES) == AttentionPrefixLayout(None, 3, 6, 2, layers, None, BIASED_TEXT)
    unsaid = CONFIG | PROJECTION | {"num_attention_heads": None, "relative_positions": "adapterhub"}
    found = attention_prefix_layout(unsaid, projection_shapes())
    assert found == AttentionPrefixLayout(None, 3, 6, None, layers, (4, 5), BIASED_PREFIX)
    assert (found.rank, found.widths, found.through_peft) == (3, {}, None)


@pytest.mark.parametrize(
    ("changes", "shapes", "text"),
    [
        ({"newest": 1}, SHAPES, "^unknown field 'newest' is set to 1"),
        (
            {"task_type": ["SEQ_2_SEQ_LM"]},
            SHAPES,
            r"field 'task_type' is \['SEQ_2_SEQ_LM'\]; Headstart uses modules for",
        ),
        ({"num_virtual_tokens": 0}, SHAPES, "field 'num_virtual_tokens' is 0, not a whole number above 0"),
        ({"num_attention_heads": 4}, SHAPES, "'token_dim' is 6, which num_attention_heads 4 does not divide"),
        ({"num_attention_heads": -1}, SHAPES, "field 'num_attention_heads' is -1, not a whole number"),
        (
            {"num_layers": 2},
            SHAPES,
            r"field 'num_layers' is 2, not the number of layers by site \(encoder, decoder, cr",
        ),
        ({"num_layers": {}}, SHAPES, "field 'num_layers' is {}, not the number"),
        ({"num_layers": {"encoder": 2, "head": 1}}, SHAPES, "field 'num_layers' is .*'head'.*, not the number"),
        ({"num_layers": {"encoder": True}}, SHAPES, "field 'num_layers' has True for 'encoder', not a whole number"),
        (
            {"num_layers": {"encoder": 3, "decoder": 1}},
            SHAPES,
            r"'encoder\.prefix' has shape \(3, 24\) but .* \(3, 36\)",
        ),
        ({"num_layers": {"decoder": 1}}, SHAPES, r"tensor 'encoder\.prefix' is not part of a prefix"),
        ({"relative_positions": "else"}, SHAPES, "field 'relative_positions' is 'else', not 'text' or 'adapterhub'"),
        ({"relative_positions": None}, SHAPES, "field 'relative_positions' is None"),
        (PROJECTION, SHAPES, r"tensor 'encoder\.tokens' is missing"),
        (PROJECTION | {"embedding_dim": None}, projection_shapes(), "field 'embedding_dim' is None"),
        (PROJECTION | {"encoder_hidden_size": 5}, projection_shapes(), r"'encoder\.inner' has shape \(4, 5\) but"),
        ({}, {"encoder.prefix": (3, 24)}, r"tensor 'decoder\.prefix' is missing"),
        ({}, SHAPES | {"head": (1,)}, "tensor 'head' is not part of a prefix"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], shapes: dict[str, tuple[int, ...]], text: str) -> None:
    with pytest.raises(ModuleError, match=text):
        attention_prefix_layout(CONFIG | changes, shapes)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_a_folder(t5: Backbone, variant: dict[str, Any], tmp_path: Path) -> None:
    module, items = random_prefix(t5, **variant), encoded(t5)
    saved = save_module(module, tmp_path / "m")
    again = load_module(tmp_path / "m")
    assert_same_parameters(again, module)
    assert (again.card, again.digest(), again.stack_key) == (saved.card, saved.digest(), saved.stack_key)
    found = made_by_peft.ours(t5, [module, again], items)
    assert torch.equal(found[0], found[1])
    path = tmp_path / "m" / "adapter_model.safetensors"
    (tmp_path / "m" / "headstart.json").unlink()
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(ModuleError, match=f"tensor '{name}' holds NaN"):
        load_module(tmp_path / "m")


def test_the_configuration_is_plain_json(t5: Backbone, tmp_path: Path) -> None:
    save_module(random_prefix(t5, **EVERYWHERE), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert config["num_layers"] == {"encoder": 2, "decoder": 2, "cross_attention": 2}
    assert (config["num_attention_heads"], config["token_dim"], config["relative_positions"]) == (4, 32, "text")


def test_prefixes_that_count_positions_in_another_way_are_not_merged(t5: Backbone) -> None:
    one, other = (fresh_module("prefix", t5, {"encoder": True}, name=name, seed=1) for name in ("one", "other"))
    assert isinstance(other, AttentionPrefixModule)
    counted = replace(other, shape=replace(other.shape, relative_positions=BIASED_PREFIX))
    with pytest.raises(MergeError, match="'other' has relative_positions 'adapterhub' and 'one' 'text', so an average"):
        merge([one, counted], [0.5, 0.5])
    fewer = replace(other, shape=replace(other.shape, heads=2))
    with pytest.raises(MergeError, match="'other' has heads 2 and 'one' 4, so an average of the two is neither"):
        merge([one, fewer], [0.5, 0.5])
    unsaid = replace(other, shape=replace(other.shape, heads=None))
    assert merge([one, unsaid], [0.5, 0.5]).effective == pytest.approx(2)
