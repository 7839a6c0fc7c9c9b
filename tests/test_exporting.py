"""Modules for other programs: PEFT finds the backbone, the README's code runs, and merged weights compute the same."""

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from encoders import encoder
from headstart.backbones import Backbone
from headstart.errors import ModuleError
from headstart.evaluating.evaluate import evaluate
from headstart.hub.remote import _files
from headstart.kinds import LoraModule, LoraSettings, Module, fresh_module, load_module, save_module
from headstart.kinds.exporting import merged_weights, save_merged
from headstart.kinds.saving import based_on
from headstart.records import Calibration, TextFormat
from headstart.tasks import Task
from headstart.tuning.tune import tune
from naive import assert_untouched, encoded, photograph, plain_logits
from program import Run, assert_mistake
from small_hub import RECIPE, module, write_task

pytest_plugins = ["cli_helper"]


def logits(backbone: Backbone) -> torch.Tensor:
    """The logits at the targets of a few examples, one after the other."""
    with torch.inference_mode():
        return torch.cat([plain_logits(backbone.model, item) for item in encoded(backbone)])


def moved(found: Module, *, by: float = 0.1) -> Module:
    """The module with every parameter changed."""
    generator = torch.Generator().manual_seed(3)
    parameters = found.parameters()
    return found.with_parameters(
        {name: value + by * torch.randn(value.shape, generator=generator) for name, value in parameters.items()}
    )


CASES = [
    ("tiny_llama", "lora", {"rank": 2, "targets": ("q_proj", "down_proj")}),
    ("tiny_gpt2", "lora", {"rank": 2, "targets": ("c_attn", "c_proj")}),
    ("tiny_t5", "lora", {"rank": 2, "targets": ("q", "wo")}),
    ("tiny_llama", "ia3", {}),
    ("tiny_gpt2", "ia3", {}),
    ("tiny_gpt2", "bitfit", {}),
]


@pytest.mark.parametrize(("name", "kind", "shape"), CASES)
def test_merged_weights_compute_what_the_module_computes(
    name: str, kind: str, shape: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backbone = Backbone.load(request.getfixturevalue(name), device="cpu", dtype="float32")
    tuned = moved(fresh_module(kind, backbone, shape, name="mine", seed=1))
    with type(tuned).stack([tuned], backbone).attach(backbone):
        expected = logits(backbone)
    assert (expected - logits(backbone)).abs().max() > 1e-2
    before = photograph(backbone)
    made = save_merged(tuned, tmp_path / "merged", backbone)
    assert_untouched(backbone, before)
    assert made.rounding < 1e-5
    again = Backbone.load(tmp_path / "merged", device="cpu", dtype="float32")
    torch.testing.assert_close(logits(again), expected, atol=1e-4, rtol=0)
    assert again.tokenizer_digest == backbone.tokenizer_digest
    assert (tmp_path / "merged" / "generation_config.json").exists()


def test_in_bfloat16_it_says_how_much_is_rounded_away(tiny_llama: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_llama, device="cpu", dtype="bfloat16")
    tuned = moved(fresh_module("lora", backbone, {"rank": 2}, name="mine", seed=1))
    made = merged_weights(tuned, backbone)
    moves, off = 0.0, 0.0
    for path, factor in tuned.factors.items():  # type: ignore[attr-defined]
        update = factor.scaling * factor.b.double() @ factor.a.double()
        old = backbone.model.get_submodule(path).weight.double()
        off += float((made.tensors[f"{path}.weight"].double() - old - update).square().sum())
        moves += float(update.square().sum())
    assert made.rounding == pytest.approx((off / moves) ** 0.5)
    assert 1e-4 < made.rounding < 0.5
    save_merged(tuned, tmp_path / "merged", backbone)
    readme = (tmp_path / "merged" / "README.md").read_text()
    assert f"in bfloat16: rounded by {made.rounding:.2g} of the change's norm." in readme


def test_the_readme_of_a_merged_model_shows_a_card_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_llama, device="cpu", dtype="float32")
    tuned = fresh_module("lora", backbone, {"rank": 2}, name="![x](http://a)", seed=1)
    card = tuned.card.model_copy(update={"license": "<img src=x>\n# big"})
    save_merged(replace(tuned, card=card), tmp_path / "merged", backbone)
    readme = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# tiny-llama with !\\[x\\](http://a)\n")
    assert "\nThe module's licence: \\<img src=x\\> # big.\n" in readme


def test_generation_settings_that_contradict_themselves_are_exported_too(tiny_gpt2: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_gpt2, device="cpu", dtype="float32")
    own = backbone.model.generation_config
    own.temperature, own.do_sample, own.max_new_tokens = 0.5, False, 3
    save_merged(fresh_module("lora", backbone, {"rank": 2}, name="mine", seed=1), tmp_path / "merged", backbone)
    assert backbone.model.generation_config is own
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").generation_config
    assert (saved.temperature, saved.do_sample, saved.max_new_tokens) == (0.5, False, 3)
    assert saved.eos_token_id == own.eos_token_id


def test_what_cannot_be_merged_is_refused(tiny_llama: Path, tiny_gpt2: Path) -> None:
    llama, gpt2 = (Backbone.load(path, device="cpu", dtype="float32") for path in (tiny_llama, tiny_gpt2))
    prompt = fresh_module("prompt", llama, {"length": 2}, name="soft", seed=1)
    with pytest.raises(ModuleError, match=r"'soft' is a module of kind prompt.*; leave out --merged and load it with"):
        merged_weights(prompt, llama)
    tied = LoraModule.fresh(gpt2, LoraSettings(2, 4.0, ("wte",)), name="words", seed=1)
    with pytest.raises(ModuleError, match=r"changes transformer.wte.weight, which is lm_head.weight too"):
        merged_weights(tied, gpt2)
    with pytest.raises(ModuleError, match="load the backbone it was tuned on"):
        merged_weights(fresh_module("lora", gpt2, {"rank": 2}, name="other", seed=1), llama)
    bert = encoder("bert")
    with pytest.raises(ModuleError, match="answers through a task head, which no merge includes; leave out --merged"):
        merged_weights(fresh_module("lora", bert, {"rank": 2}, name="head", seed=1), bert)


def code_of(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("name", "kind"), [("tiny_llama", "lora"), ("tiny_t5", "ia3"), ("tiny_gpt2", "bitfit"), ("tiny_llama", "prompt")]
)
def test_the_code_in_the_readme_runs(
    name: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(request.getfixturevalue(name), device="cpu", dtype="float32")
    fresh = fresh_module(kind, backbone, {"length": 2} if kind == "prompt" else {}, name="mine", seed=1)
    card = fresh.card.model_copy(update={"text_format": TextFormat(), "labels": ("yes", "no"), "options": "labels"})
    save_module(replace(fresh, card=card), tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code_of(tmp_path / "mine"), {})
    assert printed.getvalue()


@pytest.mark.parametrize("method", ["none", "length", "batch"])
@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_the_code_in_the_readme_chooses_as_predict_does(
    kind: str, method: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(tiny_llama, device="cpu", dtype="float32")
    labels = ("warm", "dull and slow", "not told")
    offsets = dict(zip(labels, (-40.0, -90.0, -60.0), strict=True)) if method == "batch" else {}
    made = moved(fresh_module(kind, backbone, {"length": 2} if kind == "prompt" else {"rank": 2}, name="mine", seed=1))
    card = made.card.model_copy(
        update={
            "text_format": TextFormat(), "labels": labels, "options": "labels", "metric": "ACC",
            "calibration": Calibration(method=method, offsets=offsets),
        }
    )  # fmt: skip
    module = replace(made, card=card)
    save_module(module, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    printed, names = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(printed):
        exec(code_of(tmp_path / "mine"), names)
    task = Task.from_rows([{"input": "Your text", "output": "warm"}] * 4, labels=list(labels))
    found = evaluate(module, task, backbone, split="all", store=False)
    wanted = card.calibration.adjusted(found.scores[0], found.options[0], found.lengths[0])
    likelihoods = [names["likelihood"](label) for label in found.options[0]]
    assert likelihoods == pytest.approx(wanted, abs=1e-3)
    assert printed.getvalue().strip() == found.predictions[0]


@pytest.mark.parametrize(("name", "suffix"), [("tiny_llama", "\nAnswer:"), ("tiny_t5", "")])
def test_the_code_in_the_readme_of_a_merged_model_runs(
    name: str, suffix: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(request.getfixturevalue(name), device="cpu", dtype="float32")
    fresh = fresh_module("lora", backbone, {"rank": 2}, name="mine", seed=1)
    card = fresh.card.model_copy(update={"text_format": TextFormat(suffix=suffix)})
    save_merged(replace(fresh, card=card), tmp_path / "merged", backbone)
    code, names = code_of(tmp_path / "merged"), {}
    assert json.dumps(f"Your text{suffix}") in code
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    assert printed.getvalue()
    torch.testing.assert_close(names["model"].state_dict(), backbone.model.state_dict())


def test_the_code_for_a_task_head_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from encoder_tasks import RECIPE as ENCODER_RECIPE
    from encoder_tasks import a_task

    bert = encoder("bert")
    bert.model.base_model.save_pretrained(tmp_path / "bert")
    bert.tokenizer.save_pretrained(tmp_path / "bert")
    backbone = Backbone.load(tmp_path / "bert", device="cpu", dtype="float32")
    tuned = tune(a_task("classification"), backbone, recipe=ENCODER_RECIPE, store=False)
    save_module(tuned.module, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    exec(code_of(tmp_path / "mine"), {})


def test_a_tuned_module_names_the_folder_of_its_backbone(tiny_llama: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_llama, device="cpu", dtype="float32")
    assert backbone.place == str(tiny_llama)
    task = Task.load(write_task(tmp_path / "reviews"))
    start = module(backbone, "start", seed=1)
    elsewhere = based_on(start, "tiny-llama")
    found = tune(task, backbone, start=elsewhere, recipe=RECIPE, store=False)
    save_module(found.module, tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_llama)
    stored = (tmp_path / "mine" / "headstart.json").read_text() + (tmp_path / "mine" / "README.md").read_text()
    assert str(tiny_llama) not in stored, "only the configuration says where on this machine it is"


def test_a_path_is_not_pushed(tiny_llama: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_llama, device="cpu", dtype="float32")
    saved = save_module(module(backbone, "mine", seed=1), tmp_path / "mine")
    assert str(tiny_llama) in (tmp_path / "mine" / "adapter_config.json").read_text()
    files = _files(tmp_path / "mine", saved.card, "owner/mine")
    whole = b"".join(part for part in files.values() if isinstance(part, bytes))
    assert str(tiny_llama).encode() not in whole
    assert b'"base_model_name_or_path": "tiny-llama"' in whole
    assert b'from_pretrained("owner/mine")' in whole


def test_export_on_the_command_line(run: Run, here: dict[str, list[str]], tiny_llama: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_llama, device="cpu", dtype="float32")
    mine = based_on(module(backbone, "mine", seed=1), "tiny-llama")
    save_module(mine, tmp_path / "mine")
    plain = run("export", tmp_path / "mine", "-o", tmp_path / "a")
    assert_mistake(plain, "says that it is for 'tiny-llama', which is no folder here; give the frozen model with")
    found = run("export", tmp_path / "mine", "-o", tmp_path / "b", "--backbone", tiny_llama, "--json").data
    assert found == {"folder": str(tmp_path / "b"), "backbone": str(tiny_llama)}
    assert load_module(tmp_path / "b").digest() == mine.digest()
    merged = run("export", tmp_path / "b", "-o", tmp_path / "whole", "--merged")
    assert f"Saved {tmp_path / 'whole'}: {tiny_llama} with mine merged into 4 of its tensors" in merged.out
    assert "Writing" not in merged.err
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "whole").iterdir())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "whole")("the film", return_tensors="pt")
    with torch.inference_mode(), LoraModule.stack([mine], backbone).attach(backbone):
        expected = backbone.model(**tokens).logits
    torch.testing.assert_close(model(**tokens).logits, expected, atol=1e-4, rtol=0)
    assert_mistake(run("export", tmp_path / "b", "-o", tmp_path / "whole"), "already exists")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "mine", "whole"]
