"""What `save_module` leaves on the disk, and what it leaves when it fails."""

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headstart.backbones import Backbone
from headstart.errors import ModuleError, OutputError
from headstart.formats import read_module
from headstart.hub.model_card import readme
from headstart.kinds import LoraModule, load_module, save_module, saving
from headstart.kinds.lora import Factors
from headstart.kinds.saving import based_on
from headstart.records import CARD_FILE, Donor, ModuleCard
from naive import assert_same_parameters, load, random_lora


@pytest.fixture(scope="module")
def backbone(tiny_llama: Path) -> Backbone:
    return load(tiny_llama)


@pytest.fixture(scope="module")
def module(backbone: Backbone) -> LoraModule:
    return random_lora(backbone, seed=1, name="mine")


def test_a_folder_as_peft_writes_it_and_a_card(module: LoraModule, backbone: Backbone, tmp_path: Path) -> None:
    saved = save_module(module, tmp_path / "new" / "mine")
    folder = tmp_path / "new" / "mine"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        CARD_FILE,
        "README.md",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == (
        "LORA",
        "CAUSAL_LM",
        3,
        6.0,
    )
    assert sorted(config["target_modules"]) == ["down_proj", "q_proj"]
    card = ModuleCard.read(folder / CARD_FILE)
    assert card == saved.card == read_module(folder).card
    assert card.tensor_hash
    assert card.backbone == backbone.fingerprint
    assert card.parameters == sum(value.numel() for value in module.parameters().values())
    assert (card.rank, card.scaling, card.targets) == (3, 2.0, tuple(sorted(module.factors)))
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o400


def test_files_are_utf8_wherever_texts_are_not(
    module: LoraModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_encoding = io.text_encoding
    monkeypatch.setattr(io, "text_encoding", lambda given, *rest: "ascii" if given is None else text_encoding(given))
    card = module.card.model_copy(update={"notes": "ΔW, café"})
    save_module(replace(module, card=card), tmp_path / "mine")
    assert "ΔW, café" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert ModuleCard.read(tmp_path / "mine" / CARD_FILE).notes == "ΔW, café"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name is Unicode")
def test_a_folder_may_have_a_name_that_is_no_text(module: LoraModule, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"m\xff")
    save_module(module, folder)
    assert load_module(folder).card.tensor_hash


def test_nothing_of_the_machine_is_on_the_disk(module: LoraModule, tiny_llama: Path, tmp_path: Path) -> None:
    save_module(module, tmp_path / "mine")
    for path in (tmp_path / "mine").iterdir():
        if path.name != "adapter_config.json":  # whose base_model_name_or_path is where PEFT finds the backbone
            assert str(tiny_llama.parent).encode() not in path.read_bytes()
    save_module(based_on(module, "tiny-llama"), tmp_path / "for-others")
    for path in (tmp_path / "for-others").iterdir():
        assert str(tiny_llama.parent).encode() not in path.read_bytes()


def test_saved_twice_is_byte_for_byte_the_same(module: LoraModule, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_module(module, tmp_path / name / "mine")
    for path in (tmp_path / "one" / "mine").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "mine" / path.name).read_bytes()


def test_saved_then_loaded_is_the_same(module: LoraModule, tmp_path: Path) -> None:
    saved = save_module(module, tmp_path / "mine")
    again = load_module(tmp_path / "mine")
    assert_same_parameters(again, module)
    assert again.card == saved.card
    assert again.digest() == saved.digest() == module.digest()
    twice = save_module(again, tmp_path / "again")
    assert twice.card == saved.card


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    both = torch.ones(2, 2)
    wide = torch.arange(12.0).view(2, 6)
    made = {"layers.0.q": Factors(both, both, 1.0), "layers.1.q": Factors(wide[:, ::3], wide[:, 1::3].T, 1.0)}
    module = LoraModule.build(made, name="m", backbone=None)
    save_module(module, tmp_path / "m")
    assert_same_parameters(load_module(tmp_path / "m"), module)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_read_as_float32(dtype: torch.dtype, module: LoraModule, tmp_path: Path) -> None:
    rounded = module.with_parameters({name: value.to(dtype) for name, value in module.parameters().items()})
    save_module(rounded, tmp_path / "m")
    again = load_module(tmp_path / "m")
    assert_same_parameters(again, rounded.with_parameters({k: v.float() for k, v in rounded.parameters().items()}))


def test_an_existing_folder_is_not_touched(module: LoraModule, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError, match="mine already exists; choose another output or remove it first"):
        save_module(module, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, os.strerror(28)), KeyboardInterrupt()])
def test_nothing_is_left_of_a_failure(
    error: BaseException, module: LoraModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(saving, "readme", full)
    wanted = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted):
        save_module(module, tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_the_weights_are_written(
    module: LoraModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot write .*mine: No space left on device; free some space"):
        save_module(module, tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_tensor_is_noticed(module: LoraModule, tmp_path: Path) -> None:
    save_module(module, tmp_path / "mine")
    save_module(module.reset(seed=3), tmp_path / "other")
    weights = "adapter_model.safetensors"
    (tmp_path / "mine" / weights).write_bytes((tmp_path / "other" / weights).read_bytes())
    with pytest.raises(ModuleError, match="field 'tensor_hash' is"):
        load_module(tmp_path / "mine")


def test_the_readme_by_hand(module: LoraModule) -> None:
    card = module.card.model_copy(
        update={
            "task": "rte", "metric": "ACC", "score": 0.51234, "train_rows": 32, "license": "mit", "dataset_license": "",
            "donors": (Donor(name="snli", tensor_hash="x", weight=0.75, license="cc-by"),
                       Donor(name="qnli", tensor_hash="y", weight=0.25)),
            "notes": "Made by hand.",
        }
    )  # fmt: skip
    text = readme(card)
    assert text.splitlines()[:6] == [
        "---",
        "library_name: peft",
        'base_model: "tiny-llama"',
        'license: "mit"',
        "tags: [headstart, lora]",
        "---",
    ]
    for line in (
        "# mine",
        "| Task | rte |",
        "| Dev ACC | 0.5123 |",
        "| snli | 0.7500 | cc-by |",
        "| qnli | 0.2500 | — |",
        "Made by hand.",
    ):
        assert line in text.splitlines()
    assert "Data licence" not in text
    assert "None" not in readme(replace(module, card=module.card).card)
