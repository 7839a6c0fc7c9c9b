"""OpenDelta's adapters in odd places, and its file of tensors."""

from pathlib import Path

import pytest
import torch

from headstart.errors import ModuleError
from headstart.formats import read_module
from headstart.kinds import AdapterModule, load_module
from test_opendelta import DENSE0, MADE, PLAIN, config_of, saved, tensors_of, write


def test_adapters_without_a_place_of_adapterhub(tmp_path: Path) -> None:
    # OpenDelta's "ff@" in BERT is also the layer inside of the feed-forward network.
    made = MADE["bert adapter"]
    inner = made._replace(fields={"modified_modules": ["ff@"]}, layers=("intermediate", "output"))
    with pytest.raises(ModuleError, match=r"an adapter behind 'encoder\.layer\.0\.intermediate' has no place in"):
        read_module(write(tmp_path / "inner", config_of(inner), tensors_of(inner)))
    fields = PLAIN | {"modified_modules": ["attention", "output.dense"]}
    twice = made._replace(fields=fields, layers=("attention", "attention.output.dense", "output.dense"))
    with pytest.raises(ModuleError, match="adapt one sublayer, which Headstart does once"):
        read_module(write(tmp_path / "twice", config_of(twice), tensors_of(twice)))
    fields = PLAIN | {"modified_modules": ["attention", "0.output.dense", "1.output.dense"]}
    unlike = made._replace(fields=fields, layers=("attention", "output.dense"))
    with pytest.raises(ModuleError, match=r"the adapters behind \S+ and \S+ read different things"):
        read_module(write(tmp_path / "unlike", config_of(unlike), tensors_of(unlike)))


def test_the_file_of_tensors(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "bert lora")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModuleError, match=r"has no pytorch_model\.bin; download or copy the module again"):
        read_module(folder)
    torch.save({"w": torch.nn.Linear(2, 2)}, folder / "pytorch_model.bin")
    with pytest.raises(ModuleError, match=r"pytorch_model\.bin asks for 'torch\.nn\.modules\.linear\.Linear'"):
        read_module(folder)
    empty = write(tmp_path / "empty", config_of(MADE["bert lora"]), {})
    with pytest.raises(ModuleError, match="there is no tensor of the delta 'lora', so it does nothing"):
        read_module(empty)
    broken = tensors_of(MADE["bert lora"])
    next(iter(broken.values()))[0, 0] = torch.nan
    with pytest.raises(ModuleError, match="holds NaN or infinite values"):
        read_module(write(tmp_path / "nan", config_of(MADE["bert lora"]), broken))
    whole = {name: value.to(torch.int64) for name, value in tensors_of(MADE["bert lora"]).items()}
    with pytest.raises(ModuleError, match="is I64, not a float"):
        read_module(write(tmp_path / "whole", config_of(MADE["bert lora"]), whole))


def test_what_is_read_keeps_the_tensors(tmp_path: Path) -> None:
    module = load_module(saved(tmp_path / "m", "bert adapter"))
    assert isinstance(module, AdapterModule)
    assert (module.card.rank, module.card.scaling, module.computation.reads) == (8, 1.0, "output")
    down = module.values["bert.encoder.layer.0.attention.output.dense.down"]
    assert torch.equal(down, tensors_of(MADE["bert adapter"])[f"{DENSE0}.down_proj.weight"])
