"""A realistic comparison for the tests of reports: 5 methods × 3 seeds × 200 test rows, 12 modules, 6 curve points."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
from pandas.testing import assert_frame_equal

from headstart.comparing.comparison import DEFAULT_METHODS, FRAMES, STAGES, Comparison
from headstart.records import TaskCard

SEEDS = (0, 1, 2)
ROWS = 200
LABELS = ("entailment", "not_entailment")
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


def scores_frame(values: dict[tuple[str, str], list[float]], *, metric: str = "ACC") -> pd.DataFrame:
    """A scores frame from {(method, stage): one score per seed}; NaN gets a reason."""
    rows = [
        {"method": method, "seed": seed, "stage": stage, "split": "test", "metric": metric, "score": score}
        | {"reason": "training diverged" if math.isnan(score) else "", "steps_to_best": 60, "seconds": 12.5}
        | {"calibration": "none", "uncalibrated": score, "backward_tokens": 60_000}
        | {"forward_tokens": 84_000 if method in ("best_single", "ensemble") else 70_000}
        for (method, stage), scores in values.items()
        for seed, score in enumerate(scores)
    ]
    return pd.DataFrame(rows)


def examples_frame(rows: int = ROWS, *, groups: list[str] | None = None) -> pd.DataFrame:
    """An examples frame: premises and hypotheses, the labels in turn."""
    targets = [LABELS[row % 2] for row in range(rows)]
    return pd.DataFrame(
        {
            "row": range(rows),
            "input": [f"premise: rain number {row} fell. hypothesis: it was wet." for row in range(rows)],
            "target": targets,
            "references": [json.dumps([target]) for target in targets],
            "group": groups or [""] * rows,
        }
    )


def answers_frame(right: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """An answers frame from {(method, stage): whether each answer is right (seeds, rows)}."""
    frames = []
    for (method, stage), table in right.items():
        for seed, answers in enumerate(np.asarray(table, dtype=bool)):
            said = [LABELS[(row % 2) ^ (not good)] for row, good in enumerate(answers)]
            own = {"method": method, "seed": seed, "stage": stage, "row": range(len(said)), "prediction": said}
            frames.append(pd.DataFrame(own | {"uncalibrated": said}))
    return pd.concat(frames, ignore_index=True)


def answered(right: dict[tuple[str, str], np.ndarray], **changes: Any) -> Comparison:
    """The example with these answers and their accuracies, and as many test rows."""
    tables = {key: np.asarray(table, dtype=float) for key, table in right.items()}
    rows = next(iter(tables.values())).shape[1]
    own = {
        "scores": scores_frame({key: list(table.mean(1)) for key, table in tables.items()}),
        "answers": answers_frame(right),
        "examples": examples_frame(rows),
    }
    return make_comparison(**(own | changes))


def _right(draw: np.random.Generator, levels: dict[tuple[str, str], list[float]]) -> dict[tuple[str, str], np.ndarray]:
    """Answers of which these shares are right; what is hard for one method is harder for the others too."""
    ease = draw.normal(0, 1, ROWS)
    right = {}
    for key, shares in levels.items():
        order = [np.argsort(-(ease + draw.normal(0, 0.6, ROWS))) for _ in shares]
        right[key] = np.array(
            [np.isin(range(ROWS), rows[: round(share * ROWS)]) for rows, share in zip(order, shares, strict=True)]
        )
    return right


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
    right = _right(np.random.default_rng(11), values)
    values = {key: list(table.mean(1)) for key, table in right.items()}
    curves = {
        (method, seed): [
            float(high - (high - low) * math.exp(-step / (22 if low > 0.6 else 38)) + draw.normal(0, 0.007))
            for step in STEPS
        ]
        for method, (low, high) in _LEVELS.items()
        for seed in SEEDS
    }
    fields: dict[str, Any] = {
        "task": TaskCard(name="rte", family="nli", metric="ACC", labels=LABELS),
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
        "answers": answers_frame(right),
        "examples": examples_frame(),
        "baselines": pd.DataFrame(
            [
                {"name": "chance", "score": 0.5, "note": "a uniform guess among 2 options"},
                {"name": "majority", "score": 0.5, "note": "always 'entailment', the most frequent answer"},
                {"name": "backbone", "score": 0.505, "note": "no module, nothing tuned"},
            ]
        ),
        "notes": ("Merge error (relative ΔW): 0.0412.",),
    }
    assert {method for method, _ in values} == set(DEFAULT_METHODS)
    if "scores" in changes:  # the answers above would not be theirs
        fields |= {name: pd.DataFrame(columns=list(FRAMES[name])) for name in ("answers", "examples")}
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


def assert_same(one: Comparison, other: Comparison) -> None:
    """Equal in all but the time it took, and the rounding of lanes that share other passes."""
    for name in FRAMES:
        left, right = (getattr(side, name).drop(columns="seconds", errors="ignore") for side in (one, other))
        assert_frame_equal(left, right, rtol=1e-4)
    assert one.settings | {"seconds": 0} == other.settings | {"seconds": 0}
    assert (one.task, one.notes) == (other.task, other.notes)
