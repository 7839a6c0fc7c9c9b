"""The benchmark of modules from other random starts, on modules whose answer is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.other_seeds import main

from headstart.kinds import LoraModule, save_module
from headstart.kinds.lora import Factors


def test_gram_finds_the_task_behind_another_random_start(tmp_path: Path, capsys: Any) -> None:
    """B spans the same outputs for one task, and A is drawn anew for every seed, as tuning leaves it."""
    for task in range(4):
        span = np.random.default_rng(task).normal(size=(12, 32, 2))
        for seed, folder in enumerate(("hub", "others")):
            draw = np.random.default_rng(100 + seed)  # one random start for all modules of a folder
            pairs = {
                f"layers.{layer}.q": Factors(torch.tensor(draw.normal(size=(2, 24))), torch.tensor(span[layer]), 1.0)
                for layer in range(12)
            }
            made = LoraModule.build(pairs, name=f"task-{task}", backbone=None)
            save_module(made, tmp_path / folder / f"task-{task}")
    main([str(tmp_path / "hub"), str(tmp_path / "others"), "--json"])
    found = {row["embedding"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["gram"]["first"] == found["gram"]["modules"] == 4
    assert found["gram"]["same task, other seed"] > 0.4 > 0.2 > abs(found["gram"]["other task, other seed"])
    assert found["tupate"]["other task, same seed"] > 0.2, "what they have in common is the random start"
