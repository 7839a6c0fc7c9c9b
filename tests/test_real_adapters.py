"""What Headstart saves, in AdapterHub's own library: `adapters` 1.3.0 in an environment of its own; `make slow`."""

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from formula import IDS, MODELS, formula_backbone
from headstart.backbones import Backbone
from headstart.kinds import AdapterModule, AdapterSettings, load_module, save_module
from naive import assert_close, assert_same_parameters

ENVIRONMENT = Path(__file__).parents[1] / ".cache" / "adapters-venv"
WANTED = ("adapters==1.3.0", f"torch=={torch.__version__.partition('+')[0]}")
PLACEMENTS = ("houlsby", "pfeiffer", "pewe")
CASES = [(family, placement) for family in MODELS for placement in PLACEMENTS]
pytestmark = pytest.mark.slow


def python_with_adapters() -> Path:
    """The Python of the environment, which is made when it is not there. Skips the test when pip cannot do that."""
    python, ready = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "ready"
    if ready.exists() and ready.read_text().split() == list(WANTED):
        return python
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    venv.create(ENVIRONMENT, with_pip=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *WANTED], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(ENVIRONMENT)
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        pytest.skip(f"pip could not install {' and '.join(WANTED)}, which needs a network: {lines[-1]}")
    ready.write_text("\n".join(WANTED))
    return python


def random_adapter(backbone: Backbone, placement: str) -> AdapterModule:
    """Every parameter normal with standard deviation 0.3, so that every logit changes."""
    fresh = AdapterModule.fresh(backbone, AdapterSettings(bottleneck=5, placement=placement), name="m", seed=0)
    generator = torch.Generator().manual_seed(0)
    drawn = {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in fresh.parameters().items()}
    return fresh.with_parameters(drawn)


def inputs_of(backbone: Backbone) -> dict[str, Tensor]:
    """Two texts for encoders, the second one with padding; else one."""
    ids = IDS if backbone.is_encoder else IDS[:1]
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    return inputs | ({"decoder_input_ids": torch.tensor([[0, 9, 4]])} if backbone.seq2seq else {})


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder with all cases, and what `adapters` computed for each."""
    python, root = python_with_adapters(), tmp_path_factory.mktemp("cases")
    cases = []
    for family, placement in CASES:
        backbone, folder = formula_backbone(family), root / f"{family}-{placement}"
        model, config, shape = MODELS[family]
        save_module(random_adapter(backbone, placement), folder / "m")
        weights = {name: value.detach().clone() for name, value in backbone.model.named_parameters()}
        save_file(weights, folder / "backbone.safetensors")
        inputs = {name: value.tolist() for name, value in inputs_of(backbone).items()}
        cases.append({"name": folder.name, "model": model.__name__, "config": config.__name__, "shape": shape,
                      "inputs": inputs})  # fmt: skip
    (root / "cases.json").write_text(json.dumps(cases))
    runner = Path(__file__).with_name("adapters_runner.py")
    # Without this project's own packages on the path.
    room = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, runner, root], capture_output=True, text=True, env=room)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((root / "logits.json").read_text())
    assert found["version"] == "1.3.0"
    return root, found["logits"]


@pytest.mark.parametrize(("family", "placement"), CASES)
def test_adapters_loads_it_and_computes_the_same(
    theirs: tuple[Path, dict[str, Any]], family: str, placement: str
) -> None:
    root, logits = theirs
    backbone = formula_backbone(family)
    inputs = inputs_of(backbone)
    with torch.inference_mode():
        bare = backbone.model(**inputs).logits
        module = load_module(root / f"{family}-{placement}" / "m")
        with type(module).stack([module], backbone).attach(backbone):
            ours = backbone.model(**inputs).logits
    expected = torch.tensor(logits[f"{family}-{placement}"])
    effect = (bare - expected).abs().max().item()
    assert effect > 1e-2, "the adapter must do something for this to say anything"
    # Where it does little, an error of its own is small as well.
    assert_close(ours, expected, within=min(1e-5, 2e-5 * effect))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_what_adapters_saves_again_is_the_same(
    theirs: tuple[Path, dict[str, Any]], family: str, placement: str
) -> None:
    folder = theirs[0] / f"{family}-{placement}"
    again, module = load_module(folder / "again"), load_module(folder / "m")
    again.check(formula_backbone(family))
    assert_same_parameters(again, module)
