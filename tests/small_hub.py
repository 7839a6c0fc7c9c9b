"""A small hub on the tiny Llama, a small task with classes, and a recipe of a few steps: seconds for the whole road."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headstart.backbones import Backbone
from headstart.hub import Hub
from headstart.kinds import LoraModule, LoraSettings, save_module
from headstart.kinds.lora import Factors
from headstart.tuning.recipes import RECIPES

RECIPE = RECIPES["quick"].change(max_steps=4, eval_every=2, batch_size=4, max_input=48, max_target=8, rank=2, alpha=4)
SETTINGS = ("max_steps=4", "eval_every=2", "batch_size=4", "max_input=48", "max_target=8")
SHAPE = ("rank=2", "alpha=4")
"""`RECIPE` as the command line spells it, on top of the recipe "quick"."""

LABELS = ("negative", "positive")
GOOD = ("warm", "funny", "superb", "a delight", "moving", "clever")
BAD = ("dull", "tired", "a mess", "lifeless", "silly", "boring")
PLACES = {"train": "film", "dev": "book", "test": "play"}


def module(backbone: Backbone, name: str, *, seed: int, rank: int = 2, alpha: float = 4.0, **card: Any) -> LoraModule:
    """A LoRA module on q_proj and v_proj that changes every logit; `card` goes onto its card."""
    fresh = LoraModule.fresh(backbone, LoraSettings(rank, alpha, ("q_proj", "v_proj")), name=name, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {key: torch.randn(value.shape, generator=generator) * 0.3 for key, value in fresh.parameters().items()}
    return replace(fresh.with_parameters(drawn), card=fresh.card.model_copy(update=card))


def misfit(backbone: Backbone, name: str) -> LoraModule:
    """A module for layer 7 of a backbone that has 2, and whose card does not say so."""
    found = module(backbone, name, seed=70)
    factors = {path.replace("layers.1.", "layers.7."): factor for path, factor in found.factors.items()}
    return LoraModule.build(factors, name=name, backbone=None)


def filled(shapes: dict[str, tuple[int, int, int]], *, seed: int, scaling: float = 2.0, name: str = "m") -> LoraModule:
    """Random factors for layers given as (out, in, rank), for no backbone in particular."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: Factors(
            torch.randn(rank, inner, generator=generator), torch.randn(outer, rank, generator=generator), scaling
        )
        for path, (outer, inner, rank) in shapes.items()
    }
    return LoraModule.build(factors, name=name, backbone=None)


def write_modules(folder: Path, backbone: Backbone) -> list[Path]:
    """Four sound PEFT folders: ada, bob, cyd and dan; dan's card names the very task of `write_task`."""
    made = [
        module(backbone, "ada", seed=1, family="reviews", license="mit"),
        module(backbone, "bob", seed=2, family="reviews", license="apache-2.0"),
        module(backbone, "cyd", seed=3),
        module(backbone, "dan", seed=4, task="reviews"),
    ]
    for found in made:
        save_module(found, folder / found.name)
    return [folder / found.name for found in made]


def write_hub(folder: Path, backbone: Backbone) -> Hub:
    """A hub of the four modules in `folder`."""
    hub = Hub.create(folder)
    assert all(admission.card for admission in hub.add_all(write_modules(folder.with_name("made"), backbone)))
    return hub


def write_task(folder: Path, *, metric: str = "ACC") -> Path:
    """The task "reviews": 12 rows of two classes in each split."""
    folder.mkdir(parents=True)
    for split, place in PLACES.items():
        rows = [
            {"input": f"the {place} is {word} . positive or negative ?", "output": label}
            for words, label in ((BAD, "negative"), (GOOD, "positive"))
            for word in words
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.json").write_text(json.dumps({"name": "reviews", "metric": metric, "labels": list(LABELS)}))
    return folder


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder`, with the content of files; the hub's catalogue, a cache, is left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(".catalogue")
    }
