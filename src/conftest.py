"""What the examples of the package's docstrings begin with. It stands beside the package, so it is not installed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read by libraries when they are imported, so a fixture would come too late.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import pytest

WORDS = {"good": ("warm", "funny", "superb"), "bad": ("dull", "tired", "silly")}
PLACES = {"train": "film", "dev": "book", "test": "play"}


@pytest.fixture(scope="session")
def at_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder with `my-hub` and `tiny-llama`, and what the examples call by name."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, folder)
        yield folder, names()


@pytest.fixture(autouse=True)
def in_the_folder(
    at_hand: tuple[Path, dict[str, Any]], doctest_namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run every example there, with a home and a store of its own."""
    folder, known = at_hand
    settle(monkeypatch, folder)
    doctest_namespace.update(known)


def settle(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Work in the folder, and keep nothing elsewhere."""
    patch.chdir(folder)
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME"):
        patch.setenv(name, str(folder / "home"))
    patch.setenv("HEADSTART_STORE", str(folder / "store"))


def names() -> dict[str, Any]:
    """The hub has the random modules ada, bob and cyd; the task has two classes, and three rows of each in a split."""
    import headstart as hs
    from headstart.kinds import fresh_module
    from headstart.testing import tiny_backbone

    tiny = tiny_backbone("llama")
    tiny.model.save_pretrained("tiny-llama")
    tiny.tokenizer.save_pretrained("tiny-llama")
    backbone = hs.Backbone.load("tiny-llama", device="cpu", dtype="float32")
    splits = {
        split: [
            {"input": f"the {place} is {word}", "output": label} for label, words in WORDS.items() for word in words
        ]
        for split, place in PLACES.items()
    }
    task, hub = hs.Task.from_rows(splits=splits, name="reviews"), hs.Hub.create("my-hub")
    for seed, name in enumerate(("ada", "bob", "cyd")):
        module = fresh_module("lora", backbone, {"rank": 2}, name=name, seed=seed)
        hs.save_module(module.with_parameters(drawn(module, seed)), f"made/{name}")
        hub.add(f"made/{name}")
    short = hs.RECIPES["quick"].change(max_steps=4, eval_every=2)
    tuned = hs.tune(task, backbone, recipe=short)
    return {"hs": hs, "backbone": backbone, "task": task, "hub": hub, "short": short, "tuned": tuned}


def drawn(module: Any, seed: int) -> dict[str, Any]:
    """Values for the parameters that change every answer; those of a fresh module change none."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in module.parameters().items()}
