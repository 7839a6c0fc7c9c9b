"""Encoders are recognized, loaded and fingerprinted, and what is none, or lacks weights, is refused."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from encoders import (
    CARDS,
    ENCODERS,
    TASKS,
    encoder,
    items,
    ours,
    random_module,
    write,
)
from headstart.backbones import Backbone, EncoderBackbone
from headstart.errors import BackboneError
from naive import assert_close, load


@pytest.fixture(params=ENCODERS)
def backbone(request: pytest.FixtureRequest) -> EncoderBackbone:
    return encoder(request.param)


@pytest.fixture
def bert() -> EncoderBackbone:
    return encoder("bert")


# Loading


def test_a_fresh_process_sees_that_it_is_an_encoder(bert: EncoderBackbone, tmp_path: Path) -> None:
    bert.model.save_pretrained(tmp_path)
    bert.tokenizer.save_pretrained(tmp_path)
    code = f"import headstart; print(type(headstart.Backbone.load({str(tmp_path)!r})).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "EncoderBackbone"


def test_with_or_without_a_head_it_is_the_same_backbone(backbone: EncoderBackbone, tmp_path: Path) -> None:
    whole = load(write(backbone, tmp_path / "whole"))
    backbone.model.base_model.save_pretrained(tmp_path / "bare")
    backbone.tokenizer.save_pretrained(tmp_path / "bare")
    bare = load(tmp_path / "bare")
    assert isinstance(whole, EncoderBackbone)
    assert isinstance(bare, EncoderBackbone)
    assert whole.fingerprint.same_as(bare.fingerprint)
    assert whole.fingerprint.same_as(backbone.fingerprint)
    assert whole.fingerprint.architecture == type(backbone.model.base_model).__name__
    module = random_module(backbone, CARDS["classification"])
    rows = items(backbone, CARDS["classification"])
    for loaded in (whole, bare):
        module.check(loaded)
        assert_close(ours(loaded, [module], rows), ours(backbone, [module], rows), within=1e-6)


def test_the_fingerprint_sees_the_encoder_and_not_the_head(bert: EncoderBackbone) -> None:
    other = copy.deepcopy(bert.model)
    other.classifier.weight.data += 1
    assert EncoderBackbone(other, bert.tokenizer, name="other").fingerprint.same_as(bert.fingerprint)
    other.bert.encoder.layer[1].output.dense.bias.data += 1
    assert not EncoderBackbone(other, bert.tokenizer, name="other").fingerprint.same_as(bert.fingerprint)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_fingerprint_does_not_depend_on_the_dtype(bert: EncoderBackbone, dtype: str, tmp_path: Path) -> None:
    other = load(write(bert, tmp_path / "tiny-bert"), dtype)
    assert other.dtype == getattr(torch, dtype)
    assert other.fingerprint.same_as(bert.fingerprint)


@pytest.mark.parametrize("task", TASKS)
def test_in_bfloat16_it_computes_about_the_same(bert: EncoderBackbone, task: str, tmp_path: Path) -> None:
    other = load(write(bert, tmp_path / "tiny-bert"), "bfloat16")
    assert isinstance(other, EncoderBackbone)
    module, rows = random_module(bert, CARDS[task]), items(bert, CARDS[task])
    expected, found = ours(bert, [module], rows), ours(other, [module], rows)
    assert found.dtype == torch.bfloat16
    real = expected > -1e30
    assert torch.equal(found > -1e30, real)
    assert_close(found[real], expected[real], within=0.1 * expected[real].abs().max().item())


def test_an_encoder_that_lacks_weights_is_refused(bert: EncoderBackbone, tmp_path: Path) -> None:
    file = write(bert, tmp_path / "bert") / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if k != "bert.encoder.layer.1.output.dense.weight"}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lack bert\.encoder\.layer\.1\.output\.dense\.weight, which would be ran"):
        load(tmp_path / "bert")


def test_a_folder_of_a_masked_language_model_lacks_the_pooler(bert: EncoderBackbone, tmp_path: Path) -> None:
    # Its own head never reads it; drawn at random it would decide every answer.
    BertForMaskedLM(bert.model.config).save_pretrained(tmp_path / "bert")
    with pytest.raises(BackboneError, match=r"lack bert\.pooler\.dense\.bias, which would be random; give a complete"):
        load(tmp_path / "bert")


def test_a_tokenizer_needs_a_padding_token_and_no_end(bert: EncoderBackbone, tmp_path: Path) -> None:
    folder = write(bert, tmp_path / "bert")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "eos_token"}))
    assert load(folder).tokenizer.eos_token_id is None
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in ("eos_token", "pad_token")}))
    with pytest.raises(
        BackboneError, match=r"tokenizer of .*bert has no padding token; set pad_token in its configurat"
    ):
        load(folder)


def test_a_head_of_more_than_linear_layers_and_norms_is_refused(bert: EncoderBackbone) -> None:
    config = ModernBertConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    model = ModernBertForSequenceClassification(config)
    model.head.act = torch.nn.PReLU()
    with pytest.raises(BackboneError, match=r"head of ModernBertForSequenceClassification .*\(head\.act\); choose"):
        EncoderBackbone(model, bert.tokenizer, name="modern")


def test_a_bert_that_decodes_is_a_language_model(bert: EncoderBackbone, tmp_path: Path) -> None:
    config = BertConfig(**(bert.model.config.to_dict() | {"is_decoder": True}))
    BertLMHeadModel(config).save_pretrained(tmp_path / "decoder")
    bert.tokenizer.save_pretrained(tmp_path / "decoder")
    assert type(load(tmp_path / "decoder")) is Backbone


def test_bart_fills_in_words_but_is_an_encoder_decoder(bert: EncoderBackbone, tmp_path: Path) -> None:
    sizes = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in
             (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    config = BartConfig(vocab_size=len(bert.tokenizer), d_model=16, max_position_embeddings=64, **sizes)
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    bert.tokenizer.save_pretrained(tmp_path / "bart")
    loaded = load(tmp_path / "bart")
    assert (type(loaded), loaded.seq2seq, loaded.is_encoder) == (Backbone, True, False)
