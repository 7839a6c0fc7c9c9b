import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handmade import LAYER, lora_config, lora_tensors, tensor_file, write_module
from headstart.errors import ModuleError
from headstart.formats import module_name, read_module, read_safetensors, tensor_hash
from headstart.hub import Hub
from headstart.records import ModuleCard

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "headstart.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_module(tmp_path / "rte")


def test_the_card_of_a_folder_without_one_is_derived(tmp_path: Path) -> None:
    layers = ("b.q_proj", "a.q_proj")
    config = lora_config(base_model_name_or_path="org/tiny", rank_pattern={})
    folder = write_module(tmp_path / "rte", config=config, tensors=lora_tensors(layers=layers))
    module = read_module(folder)
    # two layers, each A 2×4 and B 3×2: 2 (8 + 6) = 28 numbers; α/r = 4/2
    assert module.card == ModuleCard(
        name="rte",
        kind="lora",
        rank=2,
        scaling=2.0,
        targets=("a.q_proj", "b.q_proj"),
        parameters=28,
        tensor_hash=tensor_hash(read_safetensors(folder / WEIGHTS)),
        base_model="org/tiny",
    )
    assert module.config == config
    assert module.folder == folder
    assert module.tensors.keys() == lora_tensors(layers=layers).keys()


def test_unequal_scalings_leave_the_cards_scaling_open(tmp_path: Path) -> None:
    tensors = lora_tensors(layers=("a.q_proj",)) | lora_tensors(layers=("b.q_proj",), rank=3)
    config = lora_config(rank_pattern={"b.q_proj": 3})
    card = read_module(write_module(tmp_path / "m", config=config, tensors=tensors)).card
    assert (card.rank, card.scaling) == (3, None)


def test_a_module_peft_saved_is_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {name: torch.from_numpy(values).bfloat16() for name, values in lora_tensors().items()}
    folder = write_module(tmp_path / "m")
    save_file(tensors, folder / WEIGHTS)
    read = read_module(folder).tensors
    for name, tensor in load_file(folder / WEIGHTS).items():
        np.testing.assert_array_equal(read[name].numpy(), tensor.float().numpy())


def test_module_name_of_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnli" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mnli")
    assert [module_name(Path(path)) for path in (".", "sub", "sub/..")] == ["mnli", "sub", "mnli"]


def test_values_are_checked_unless_told_otherwise(tmp_path: Path) -> None:
    tensors = lora_tensors()
    next(iter(tensors.values()))[0, 0] = np.nan
    folder = write_module(tmp_path / "m", tensors=tensors)
    with pytest.raises(ModuleError, match=rf"tensor '.*{LAYER}\.lora_A\.weight' holds NaN"):
        read_module(folder)
    assert read_module(folder, check_values=False).card.parameters == 14


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModuleError, match=r"rte has no adapter_model\.safetensors; download or copy"):
        read_module(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(ModuleError, match=r"rte has no adapter_config\.json; name a folder saved by PEFT"):
        read_module(folder)
    with pytest.raises(ModuleError, match="nothing is not a folder"):
        read_module(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pt", "model.pkl"])
def test_a_pickle_is_refused_and_never_run(folder: Path, tmp_path: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModuleError, match=f"only the pickle {name}, and pickle files can run code; save it again"):
        read_module(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"not a pickle")
    assert read_module(folder).card.rank == 2


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"r": 1, "r": 2}', "key 'r' appears twice"),
        (b"{}", "it has no field 'peft_type'"),
        (b'{"peft_type": "LOHA"}', "peft_type 'LOHA' is not supported; supported: LORA"),
        (b'{"peft_type": ["LORA"]}', r"peft_type \['LORA'\] is not supported"),
    ],
)
def test_a_malformed_configuration_is_refused(folder: Path, text: bytes, fact: str) -> None:
    (folder / CONFIG).write_bytes(text)
    with pytest.raises(ModuleError, match=rf"rte/adapter_config\.json.*{fact}"):
        read_module(folder)


def test_no_tensors_and_tensors_that_are_no_floats_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).write_bytes(tensor_file({}, b""))
    with pytest.raises(ModuleError, match="holds no tensors, so the module does nothing"):
        read_module(folder)
    whole = {name: np.ones(values.shape, np.int8) for name, values in lora_tensors().items()}
    with pytest.raises(ModuleError, match=r"lora_A\.weight' is I8, not a float; save it again"):
        read_module(write_module(tmp_path / "whole", tensors=whole))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, CARD])
def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(ModuleError, match=rf"{name} is a link out of its folder; copy the folder with `cp -rL`"):
        read_module(folder)
    outside.unlink()
    with pytest.raises(ModuleError, match=rf"{name} is a link that leads nowhere"):
        read_module(folder)


def test_links_within_the_folder_and_to_the_folder_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).rename(folder / "blob")
    (folder / WEIGHTS).symlink_to("blob")
    (tmp_path / "alias").symlink_to(folder)
    assert read_module(tmp_path / "alias").card.name == "alias"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, CARD])
def test_what_is_no_regular_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModuleError, match=rf"{name} is not a regular file"):
        read_module(folder)


def test_a_stated_card_is_taken_and_completed(folder: Path) -> None:
    derived = read_module(folder).card
    stated = ModuleCard(
        name="mine",
        kind="lora",
        parameters=derived.parameters,
        tensor_hash=derived.tensor_hash,
        task="rte",
        license="MIT",
    )
    stated.write(folder / CARD)
    card = read_module(folder).card
    assert (card.name, card.task, card.license) == ("mine", "rte", "MIT")
    assert (card.rank, card.scaling, card.targets) == (2, 2.0, (LAYER,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tensor_hash", "0" * 64),
        ("kind", "ia3"),
        ("parameters", 15),
        ("rank", 4),
        ("scaling", 1.0),
        ("targets", ("lm_head",)),
    ],
)
def test_a_card_that_contradicts_its_module_is_refused(folder: Path, field: str, value: object) -> None:
    read_module(folder).card.model_copy(update={field: value}).write(folder / CARD)
    with pytest.raises(ModuleError, match=rf"headstart\.json: field '{field}' is .* but the module's own is .*remove"):
        read_module(folder)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("{", "is not valid JSON"),
        (json.dumps({"schema_version": 9}), "has schema version 9"),
        (json.dumps({"name": "x"}), "field 'kind'"),
        ("[" * 100_000, r"headstart\.json is malformed"),
    ],
)
def test_a_malformed_card_is_refused(folder: Path, text: str, fact: str) -> None:
    (folder / CARD).write_text(text)
    with pytest.raises(ModuleError, match=fact):
        read_module(folder)


@pytest.mark.parametrize(
    ("name", "size"), [("README.md", 3 << 30), (CONFIG, 17 << 20), ("headstart.json", 17 << 20), (WEIGHTS, 5 << 30)]
)
def test_a_file_that_is_too_large_is_refused_before_it_is_read(
    folder: Path, tmp_path: Path, name: str, size: int
) -> None:
    (folder / name).touch()
    os.truncate(folder / name, size)
    most = "4,294,967,296" if name == WEIGHTS else "16,777,216"
    with pytest.raises(
        ModuleError, match=rf"{name} has {size:,} bytes, and at most {most} are read; use a smaller one"
    ):
        Hub.create(tmp_path / "hub").add(folder)
