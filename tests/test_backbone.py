"""The backbone: identity, tokens, and forward passes equal to transformers' own on one example at a time."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaModel, ViTConfig, ViTModel

from headstart.backbones import Backbone, Encoded, TextFormat
from headstart.backbones.loading import choose_dtype
from headstart.backbones.options import most_rows
from headstart.errors import BackboneError, SettingError, TaskError
from hub_standin import HubStandin
from naive import (
    BACKBONES,
    REVIEWS,
    Merged,
    assert_close,
    assert_untouched,
    load,
    photograph,
    plain_logits,
    random_lora,
)

STYLE = TextFormat()
OPTIONS = (("positive", "negative"), ("yes", "no", "not_entailment", "true"), ("the Moon",))
"""Unequal numbers and lengths of options."""


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load(request.getfixturevalue(request.param))


def encoded(backbone: Backbone) -> list[Encoded]:
    return backbone.encode([(example.input, example.target) for example in REVIEWS], STYLE)


# Comparison helpers can fail.


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (torch.tensor([1.0, 2.3]), "apart"),
        (torch.tensor([1.0, float("nan")]), "NaN"),
        (torch.tensor([[1.0, 2.0]]), "shapes"),
    ],
)
def test_a_difference_is_seen(actual: torch.Tensor, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_close(actual, torch.tensor([1.0, 2.0]), within=0.05)


def test_a_touched_backbone_is_seen(tiny_gpt2: Path) -> None:
    touched = load(tiny_gpt2)
    before = photograph(touched)
    assert_untouched(touched, before)
    handle = touched.head.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(AssertionError, match="pre-hook"):
        assert_untouched(touched, before)
    handle.remove()
    touched.head.weight[0, 0] += 1
    with pytest.raises(AssertionError, match="weight changed"):
        assert_untouched(touched, before)


# Identity


def test_the_fingerprint_does_not_depend_on_the_dtype(backbone: Backbone, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(backbone.name.replace("-", "_"))
    for dtype in ("bfloat16", "float16"):
        other = load(folder, dtype)
        assert other.dtype == getattr(torch, dtype)
        assert other.fingerprint == backbone.fingerprint
    assert backbone.fingerprint.name == backbone.name
    assert backbone.fingerprint.architecture == type(backbone.model).__name__


def test_the_fingerprint_sees_one_weight(tiny_llama: Path) -> None:
    first, second = load(tiny_llama), load(tiny_llama)
    weight = second.model.model.layers[1].mlp.down_proj.weight
    kept = weight[3, 5].item()
    weight[3, 5] = kept * (1 + 2**-20)  # bfloat16 keeps 8 bits: this is the same backbone, loaded in another dtype
    assert torch.equal(weight.bfloat16(), first.model.model.layers[1].mlp.down_proj.weight.bfloat16())
    assert second.fingerprint.same_as(first.fingerprint)
    third = load(tiny_llama)
    third.model.model.layers[1].mlp.down_proj.weight[3, 5] = kept * 1.02
    assert not third.fingerprint.same_as(first.fingerprint)
    assert third.fingerprint.shapes == first.fingerprint.shapes


def test_backbones_differ(tiny_llama: Path, tiny_gpt2: Path, tiny_t5: Path) -> None:
    found = [load(folder).fingerprint for folder in (tiny_llama, tiny_gpt2, tiny_t5)]
    assert len({(f.architecture, f.shapes, f.weights) for f in found}) == 3


# Tokens


def test_a_long_prompt_keeps_start_and_suffix(llama: Backbone) -> None:
    text_format = TextFormat(max_input=12)
    suffix = llama.tokenizer(text_format.suffix, add_special_tokens=False)["input_ids"]
    text = "the film is a warm and funny delight , and the acting is superb"
    plain = llama.tokenizer(text, add_special_tokens=False)["input_ids"]
    room = 12 - 1 - len(suffix)
    assert room > 0
    assert llama.encoder.prompt(text, text_format) == (llama.tokenizer.bos_token_id, *plain[:room], *suffix)


def test_without_room_for_the_input_it_says_so(llama: Backbone) -> None:
    with pytest.raises(TaskError, match=r"max_input=3 leaves no room for the input; raise it above \d+"):
        llama.encoder.prompt("the film", TextFormat(max_input=3))


def test_nothing_to_read_is_an_error(tiny_gpt2: Path) -> None:
    with pytest.raises(TaskError, match="leaves nothing to read"):
        load(tiny_gpt2).encoder.prompt("", TextFormat(suffix=""))


def test_causal_text_is_prompt_space_target_end(tiny_gpt2: Path) -> None:
    backbone = load(tiny_gpt2)
    (item,) = backbone.encode([("the film", "yes")], STYLE)
    text = backbone.tokenizer.decode([*item.prompt, *item.target], clean_up_tokenization_spaces=False)
    assert text == "the film\nAnswer: yes<|endoftext|>"


def test_seq2seq_text_is_taken_as_it_is(tiny_t5: Path) -> None:
    backbone = load(tiny_t5)
    (item,) = backbone.encode([("the film", "yes")], STYLE)
    assert backbone.tokenizer.decode(item.prompt) == "the film</s>"
    assert backbone.tokenizer.decode(item.target) == "yes</s>"
    assert item.prompt[-1] == item.target[-1] == backbone.tokenizer.eos_token_id


def test_a_target_is_cut_but_still_ends(backbone: Backbone) -> None:
    (item,) = backbone.encode([("x", "positive negative neutral contradiction")], TextFormat(max_target=4))
    assert len(item.target) == 4
    assert item.target[-1] == backbone.tokenizer.eos_token_id


# Forward passes


def test_target_logits_are_those_of_plain_forward_passes(backbone: Backbone) -> None:
    items, indices = encoded(backbone), [3, 0, 2, 5]
    with torch.inference_mode():
        batch = backbone.batch(items, indices)
        logits = backbone.target_logits(batch)
        expected = [plain_logits(backbone.model, items[index]) for index in indices]
    assert batch.gold.tolist() == [token for index in indices for token in items[index].target]
    assert batch.owner.tolist() == [row for row, index in enumerate(indices) for _ in items[index].target]
    assert batch.indices == tuple(indices)
    assert_close(logits, torch.cat(expected).unsqueeze(0), within=1e-4)


def test_repeated_rows_are_equal(backbone: Backbone) -> None:
    batch = backbone.batch(encoded(backbone), [0, 1, 4])
    with torch.inference_mode():
        once, twice = backbone.target_logits(batch), backbone.target_logits(batch, modules=2)
    assert_close(twice, once.expand(2, -1, -1), within=1e-5)


def test_float64_reference_agrees_with_the_backbone_itself(backbone: Backbone) -> None:
    item = encoded(backbone)[1]
    with torch.inference_mode():
        assert_close(Merged(backbone, None).logits(item), plain_logits(backbone.model, item), within=1e-4)


def naive_option_scores(backbone: Backbone, prompts: list[tuple[int, ...]]) -> list[list[float]]:
    return [
        [
            -float(Merged(backbone, None).cross_entropy([Encoded(prompt, backbone.encoder.target(option, STYLE))]))
            for option in options
        ]
        for prompt, options in zip(prompts, OPTIONS, strict=True)
    ]


def test_option_scores_are_those_of_one_pass_per_option(backbone: Backbone) -> None:
    prompts = [backbone.encoder.prompt(example.input, STYLE) for example in REVIEWS[:3]]
    assert len({len(prompt) for prompt in prompts}) == 3, "the batch must hold padding"
    ids = [[backbone.encoder.target(option, STYLE) for option in options] for options in OPTIONS]
    expected = naive_option_scores(backbone, prompts)
    with torch.inference_mode():
        for modules in (1, 2):
            found = backbone.option_scores(prompts, ids, modules=modules)
            assert len(found) == modules
            for per_module in found:
                assert [len(row) for row in per_module] == [2, 4, 1]
                for row, wanted in zip(per_module, expected, strict=True):
                    assert row == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_options_are_read_in_groups_that_fit(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    prompts = [backbone.encoder.prompt(example.input, STYLE) for example in REVIEWS[:3]]
    ids = [[backbone.encoder.target(option, STYLE) for option in options] for options in OPTIONS]
    with torch.inference_mode():
        expected = backbone.option_scores(prompts, ids, modules=2)
        seen: list[int] = []
        handle = backbone.head.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[0]))
        monkeypatch.setattr("headstart.backbones.backbone.most_rows", lambda *_: rows)
        try:
            found = backbone.option_scores(prompts, ids, modules=2)
        finally:
            handle.remove()
    assert max(seen) == rows
    assert len(seen) >= 14 / rows
    for one, other in zip(found, expected, strict=True):
        for scores, wanted in zip(one, other, strict=True):
            assert scores == pytest.approx(wanted, abs=1e-4)


def test_what_options_copy_is_bounded() -> None:
    # Options of 8 tokens behind a prompt of 400 that take 23,040 bytes each: 9.2 MB a row, so 29 rows of 268 MB.
    assert most_rows(400 * 23_040, 7 * 49_152) == 29
    # 7 tokens over a vocabulary of 150,000 are 4.2 MB of logits: 63 rows.
    assert most_rows(1, 7 * 150_000) == 63
    assert most_rows(2**40, 1) == 1


def test_options_of_one_token(backbone: Backbone) -> None:
    prompt = backbone.encoder.prompt("the film", STYLE)
    with torch.inference_mode():
        ((found,),) = backbone.option_scores([prompt], [[(5,), (7,)]])
        first = plain_logits(backbone.model, Encoded(prompt, (5,)))[0].log_softmax(-1)
    assert found == pytest.approx([first[5].item(), first[7].item()], abs=1e-4)


def test_generation_is_greedy_on_each_prompt_alone(backbone: Backbone) -> None:
    prompts = [backbone.encoder.prompt(example.input, STYLE) for example in REVIEWS[:4]]
    expected = []
    with torch.inference_mode():
        for prompt in prompts:
            produced: list[int] = []
            while len(produced) < 6 and backbone.tokenizer.eos_token_id not in produced:
                produced.append(int(plain_logits(backbone.model, Encoded(prompt, (*produced, 0)))[-1].argmax()))
            expected.append(backbone.tokenizer.decode(produced, skip_special_tokens=True).strip())
        found = backbone.generate(prompts, max_new_tokens=6, modules=2)
    assert found == [expected, expected]
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1},
        {"min_length": 40, "min_new_tokens": 12},
        {"encoder_no_repeat_ngram_size": 1, "encoder_repetition_penalty": 9.0},
        {"forced_bos_token_id": 7, "forced_eos_token_id": 8},
        {"suppress_tokens": list(range(3, 250)), "begin_suppress_tokens": list(range(3, 200))},
        {"bad_words_ids": [[token] for token in range(3, 250)]},
        {"exponential_decay_length_penalty": (1, 9.0), "sequence_bias": [[[9], 99.0]]},
        {"num_beams": 3, "length_penalty": 9.0, "max_length": 3},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_generation_takes_no_settings_from_the_model(backbone: Backbone, settings: dict[str, Any]) -> None:
    prompts = [backbone.encoder.prompt("the film", STYLE)]
    kept = backbone.model.generation_config
    with torch.inference_mode():
        plain = backbone.generate(prompts, max_new_tokens=12)
        own = copy.deepcopy(kept)
        for name, value in settings.items():
            setattr(own, name, value)
        try:
            backbone.model.generation_config = own
            assert backbone.generate(prompts, max_new_tokens=12) == plain
            assert backbone.model.generation_config is own
        finally:
            backbone.model.generation_config = kept


def test_hooks_are_gone_after_a_failure(backbone: Backbone) -> None:
    before = photograph(backbone)
    batch = backbone.batch(encoded(backbone), [0, 1])
    broken = dict(batch.inputs, input_ids=batch.inputs["input_ids"] + 10_000)
    with pytest.raises(IndexError), torch.inference_mode():
        backbone.target_logits(type(batch)(batch.indices, broken, batch.rows, batch.gold, batch.owner))
    assert_untouched(backbone, before)
    module = random_lora(backbone, seed=1)
    stack = type(module).stack([module], backbone)
    with pytest.raises(KeyboardInterrupt), stack.attach(backbone):
        raise KeyboardInterrupt
    assert_untouched(backbone, before)


# What is refused


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"no backbone at .*gone; give an existing folder"):
        Backbone.load(tmp_path / "gone")


def test_a_missing_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"no GGUF file at .*gone\.gguf; give the path of an existing file"):
        Backbone.load(tmp_path / "gone.gguf")


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"has no config\.json; give a folder written by save_pretrained"):
        Backbone.load(tmp_path)


def test_a_peft_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BackboneError, match="holds a PEFT module, not a backbone"):
        Backbone.load(tmp_path)


def test_a_model_that_reads_no_text(tmp_path: Path) -> None:
    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16)
    ).save_pretrained(tmp_path / "vit")
    with pytest.raises(BackboneError, match="'vit' is neither a causal or encoder-decoder language model nor an encod"):
        Backbone.load(tmp_path / "vit")


def test_weights_that_are_not_there_are_not_drawn_at_random(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "headless")
    LlamaModel.from_pretrained(tiny_llama).save_pretrained(tmp_path / "headless")
    with pytest.raises(BackboneError, match=r"lack lm_head\.weight, which would be random; give a complete checkpoint"):
        Backbone.load(tmp_path / "headless")


def test_a_broken_weights_file(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BackboneError, match=r"cannot load the backbone .*broken"):
        Backbone.load(tmp_path / "broken")


def test_code_from_strangers_is_not_run(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "foreign")
    path = tmp_path / "foreign" / "config.json"
    foreign = {"model_type": "foreign", "auto_map": {"AutoConfig": "run_me.Config"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | foreign))
    (tmp_path / "foreign" / "run_me.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(BackboneError, match=r"cannot load the backbone .*foreign"):
        Backbone.load(tmp_path / "foreign")


def test_unknown_dtype_and_device(tiny_llama: Path) -> None:
    with pytest.raises(SettingError, match="unknown dtype 'int3'; choose one of: auto, float32, bfloat16, float16"):
        Backbone.load(tiny_llama, dtype="int3")
    with pytest.raises(SettingError, match="device 'abacus' is not there on this machine; use auto or cpu"):
        Backbone.load(tiny_llama, device="abacus")
    assert choose_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_a_backbone_is_frozen_and_named_after_its_folder(tiny_llama: Path) -> None:
    backbone = load(tiny_llama)
    assert backbone.name == "tiny-llama"
    assert not backbone.model.training
    assert not any(value.requires_grad for value in backbone.model.parameters())
    with torch.inference_mode():
        fresh = AutoModelForCausalLM.from_pretrained(tiny_llama)
        item = encoded(backbone)[0]
        assert_close(plain_logits(backbone.model, item), plain_logits(fresh, item), within=0.0)


def test_a_mistyped_name_is_answered_at_once(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    shutil.copytree(tiny_llama, tmp_path / "models" / "smollm2-135m")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackboneError, match=r"no backbone at smollm: .*; did you mean models.smollm2-135m"):
        Backbone.load("smollm", device="cpu")
    with pytest.raises(BackboneError, match=r"give an existing folder, a \.gguf file or a hub id$"):
        Backbone.load("zebra", device="cpu")


def test_a_model_that_the_network_may_have_is_asked_for_once(
    tiny_llama: Path, tmp_path: Path, hub_standin: HubStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "models" / "smollm2-135m")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackboneError, match=r"no backbone at models/smollm2 \(did you mean models/smollm2-135m\?\); "):
        Backbone.load("models/smollm2", device="cpu")
    with pytest.raises(BackboneError) as caught:
        Backbone.load("owner/smollm2", device="cpu")
    assert str(caught.value) == (
        "no backbone at owner/smollm2: it is no folder here, and the Hugging Face Hub shows no such model; did you "
        "mean models/smollm2-135m, or check the name, or log in with `hf auth login` if the model is private"
    )
    assert hub_standin.requests == ["GET /api/models/owner/smollm2"], "the first was mistyped, and nobody was asked"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(BackboneError, match=r"the Hugging Face Hub cannot be reached \(.+\); check the network$"):
        Backbone.load("ada/zebra", device="cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=r"and HF_HUB_OFFLINE keeps it from being fetched; unset that$"):
        Backbone.load("ada/zebra", device="cpu")
