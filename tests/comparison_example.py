"""A realistic comparison for the tests of reports: 5 methods × 3 seeds, 12 modules, 6 curve points."""

import math
from typing import Any

import numpy as np
import pandas as pd

from headstart.comparing.comparison import DEFAULT_METHODS, STAGES, Comparison
from headstart.records import TaskCard

SEEDS = (0, 1, 2)
STEPS = (0, 20, 40, 60, 80, 100)
FAMILIES = ("nli", "nli", "nli", "paraphrase", "paraphrase", "sentiment", "sentiment", "qa", "qa", "qa", "topic", "")
TASKS = (
    "mnli",
    "snli",
    "anli-r1",
    "qqp",
    "mrpc",
    "sst2",
    "imdb",
    "boolq",
    "squad",
    "commonsense-qa",
    "agnews",
    "wikitext",
)
_LEVELS = {
    "scratch": (0.512, 0.634),
    "random": (0.508, 0.621),
    "average": (0.553, 0.671),
    "best_single": (0.668, 0.724),
    "ensemble": (0.681, 0.742),
}


def scores_frame(values: dict[tuple[str, str], list[float]], *, metric: str = "accuracy") -> pd.DataFrame:
    """A scores frame from {(method, stage): one score per seed}; NaN gets a reason."""
    rows = [
        {"method": method, "seed": seed, "stage": stage, "split": "test", "metric": metric, "score": score}
        | {"reason": "training diverged" if math.isnan(score) else "", "steps_to_best": 60, "seconds": 12.5}
        | {"calibration": "none", "uncalibrated": score}
        for (method, stage), scores in values.items()
        for seed, score in enumerate(scores)
    ]
    return pd.DataFrame(rows)


def curves_frame(values: dict[tuple[str, int], list[float]], *, steps: tuple[int, ...] = STEPS) -> pd.DataFrame:
    """A curves frame from {(method, seed): dev score at each step}; the loss is 1 - score."""
    rows = [
        {"method": method, "seed": seed, "step": step, "dev_score": score, "dev_loss": 1 - score}
        for (method, seed), scores in values.items()
        for step, score in zip(steps, scores, strict=False)
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "step", "dev_score", "dev_loss"])


def make_comparison(**changes: Any) -> Comparison:
    """The example, with some fields replaced."""
    draw = np.random.default_rng(7)
    values = {
        (method, stage): [float(level + draw.normal(0, 0.011)) for _ in SEEDS]
        for method, levels in _LEVELS.items()
        for stage, level in zip(STAGES, levels, strict=True)
    }
    curves = {
        (method, seed): [
            float(high - (high - low) * math.exp(-step / (22 if low > 0.6 else 38)) + draw.normal(0, 0.007))
            for step in STEPS
        ]
        for method, (low, high) in _LEVELS.items()
        for seed in SEEDS
    }
    fields: dict[str, Any] = {
        "task": TaskCard(name="rte", family="nli", metric="accuracy", labels=("entailment", "not_entailment")),
        "settings": _settings(),
        "ranking": _ranking(draw),
        "refused": pd.DataFrame(
            {
                "module": ["old-adapter", "qwen-lora"],
                "reason": [
                    "4 layers, the backbone has 2",
                    "backbone fingerprint differs; retrain it for this backbone",
                ],
            }
        ),
        "missing": pd.DataFrame(
            [
                {"seed": seed, "indicator": "hidden_cosine", "module": "lora-agnews-r8", "reason": "of other widths"}
                for seed in SEEDS
            ]
        ),
        "starts": _starts(),
        "scores": scores_frame(values),
        "curves": curves_frame(curves),
        "notes": ("Merge error (relative ΔW): 0.0412.",),
    }
    assert {method for method, _ in values} == set(DEFAULT_METHODS)
    return Comparison(**(fields | changes))


def _settings() -> dict[str, Any]:
    recipe = {"learning_rate": 3e-4, "steps": 100, "batch": 8}
    run = {"device": "cpu", "dtype": "float32", "decoding": "options", "version": "0.1.0", "wall_seconds": 412.7}
    weights = {"indicator": "el2n", "temperature": 0.05, "top_k": 8, "space": "svd"}
    data = {"shots": 32, "seeds": list(SEEDS), "eval_size": 256}
    return {"backbone": "tiny-llama", "hub": "modules", **weights, **data, "recipe": recipe, **run}


def _starts() -> pd.DataFrame:
    """scratch, random and best_single are modules, the others blends; in seed 2 the ensemble is the best single."""
    rows = []
    for method in DEFAULT_METHODS:
        for seed in SEEDS:
            blend, same = method in ("average", "ensemble"), method == "ensemble" and seed == 2
            row = {"method": method, "seed": seed, "made_by": method, "rank": 8.0, "parameters": 4096}
            row |= {"effective": {"average": 12.0, "ensemble": 3.5}.get(method, math.nan), "temperature": math.nan}
            row |= {"space": "svd" if blend else "", "error": 0.0412 if blend else math.nan}
            row |= {"same_as": "best_single" if same else "", "digest": f"{'best_single' if same else method}-{seed}"}
            rows.append(row | {"note": ""})
    return pd.DataFrame(rows)


def _ranking(draw: np.random.Generator) -> pd.DataFrame:
    rows = []
    for seed in SEEDS:
        el2n = np.sort(draw.normal(-0.55, 0.16, len(TASKS)))[::-1] + draw.normal(0, 0.01, len(TASKS))
        weights = np.exp((el2n - el2n.max()) / 0.05)
        weights[8:] = 0.0
        weights /= weights.sum()
        for place, (task, family) in enumerate(zip(TASKS, FAMILIES, strict=True)):
            row = {"seed": seed, "module": f"lora-{task}-r8", "task": task, "family": family, "license": "apache-2.0"}
            cosine = math.nan if place == 10 else float(0.8 - 0.04 * place + draw.normal(0, 0.02))
            rows.append(row | {"weight": float(weights[place]), "el2n": float(el2n[place]), "hidden_cosine": cosine})
    return pd.DataFrame(rows)
