"""Run by the Python of an environment that holds the library `adapters`, never by this project's own.

    python adapters_runner.py FOLDER

FOLDER holds cases.json, a list of cases; each names its own folder, with the backbone's weights and an adapter "m" that
Headstart saved. The logits that `adapters` computes with it become logits.json in FOLDER, by the case's name, and the
adapter that it saves again becomes "again" in the case's folder.
"""

import json
import sys
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from safetensors.torch import load_file


def logits(case: dict[str, Any], folder: Path) -> list[Any]:
    model = getattr(transformers, case["model"])(getattr(transformers, case["config"])(**case["shape"]))
    weights, own = load_file(folder / "backbone.safetensors"), dict(model.named_parameters())
    if weights.keys() != own.keys():
        raise SystemExit(f"{case['name']}: the backbones differ in {sorted(weights.keys() ^ own.keys())}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
    adapters.init(model)
    name = model.load_adapter(str(folder / "m"), set_active=True, use_safetensors=True)
    model.eval()
    with torch.inference_mode():
        found = model(**{key: torch.tensor(value) for key, value in case["inputs"].items()}).logits
    model.save_adapter(str(folder / "again"), name)
    return found.double().tolist()


if __name__ == "__main__":
    root = Path(sys.argv[1])
    cases = json.loads((root / "cases.json").read_text())
    found = {case["name"]: logits(case, root / case["name"]) for case in cases}
    (root / "logits.json").write_text(json.dumps({"version": adapters.__version__, "logits": found}))
