"""Comparisons for the tests of a report's page: a full one, and those that a page finds hard to hold."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from comparison_example import SEEDS, curves_frame, make_comparison, scores_frame
from headstart.comparing.comparison import DEFAULT_METHODS, STAGES, Comparison
from headstart.records import TaskCard

LABELS = ("entailment", "not_entailment")
ARABIC = "ما هي المدينة التي وُلد فيها مؤلف الرواية؟"
LONG = "lora-of-a-very-long-name-that-nobody-would-type-twice-" * 3


def answered(
    rows: int, methods: tuple[str, ...], *, labels: tuple[str, ...] = LABELS, seeds: int = 3
) -> dict[str, Any]:
    """Frames of answers, test rows and baselines; later methods are right more often."""
    draw = np.random.default_rng(3)
    targets = [labels[int(place)] for place in draw.integers(0, len(labels), rows)]
    examples = [
        {"row": row, "input": f"A man plays a guitar on stage {row}. Somebody makes music.", "target": target,
         "references": json.dumps([target]), "group": ""}
        for row, target in enumerate(targets)
    ]  # fmt: skip
    answers = []
    for place, method in enumerate(methods):
        for seed in range(seeds):
            for stage, ease in zip(STAGES, (0.5, 0.62), strict=True):
                right = draw.random(rows) < ease + 0.3 * place / len(methods)
                for row, target in enumerate(targets):
                    other = labels[(labels.index(target) + 1) % len(labels)]
                    prediction = target if right[row] else other
                    answers.append(
                        {"method": method, "seed": seed, "stage": stage, "row": row, "prediction": prediction,
                         "uncalibrated": prediction}
                    )  # fmt: skip
    baselines = [
        ("chance", 0.5, "a uniform guess among 2 options"),
        ("majority", 0.53, "always 'entailment'"),
        ("backbone", 0.575, ""),
    ]
    return {
        "answers": pd.DataFrame(answers), "examples": pd.DataFrame(examples),
        "baselines": pd.DataFrame(baselines, columns=["name", "score", "note"]),
    }  # fmt: skip


def full(**changes: Any) -> Comparison:
    """The example with answers, test rows and baselines, and the metric ACC."""
    made = make_comparison()
    command = "headstart compare tickets.csv --hub loras --backbone smollm2-135m --seeds 3 -o report"
    fields: dict[str, Any] = {
        "task": TaskCard(name="rte", family="nli", metric="ACC", labels=LABELS),
        "scores": made.scores.assign(metric="ACC"),
        "settings": {**made.settings, "seeds": 3, "command": command},
        **answered(40, tuple(DEFAULT_METHODS)),
    }
    return replace(made, **(fields | changes))


def one_seed() -> Comparison:
    """One seed, open answers, nothing to guess among, and no command."""
    made = full()
    kept = {name: getattr(made, name) for name in ("ranking", "missing", "starts", "scores", "curves", "answers")}
    card = TaskCard(name="questions", family="qa", metric="ACC")
    baselines = made.baselines.assign(
        score=[math.nan] * 3, note="answers are open: there are no options to guess among"
    )
    return replace(
        made, task=card, baselines=baselines, settings={"seeds": 1, "methods": list(DEFAULT_METHODS)},
        **{name: frame[frame["seed"] == 0].reset_index(drop=True) for name, frame in kept.items()},
    )  # fmt: skip


def many_methods(count: int = 40) -> Comparison:
    """40 methods, some of long names, on a task of 30 classes."""
    methods = ("scratch", "ensemble", *(f"softmax with temperature {place}" for place in range(count - 2)))
    labels = tuple(f"class {place}" for place in range(30))
    draw = np.random.default_rng(1)
    values = {(m, stage): (0.3 + 0.4 * draw.random(3)).tolist() for m in methods for stage in STAGES}
    curves = {(m, seed): (0.2 + 0.1 * np.arange(6) + 0.05 * draw.random(6)).tolist() for m in methods for seed in SEEDS}
    card = TaskCard(name="intents", family="intent", metric="ACC", labels=labels)
    return full(
        task=card, scores=scores_frame(values, metric="ACC"), curves=curves_frame(curves),
        settings={"methods": list(methods), "indicator": "el2n"}, **answered(60, methods, labels=labels),
    )  # fmt: skip


def many_modules(count: int = 300) -> Comparison:
    """300 modules with long names and names in other scripts, missing values, and many that were refused."""
    names = [(f"{LONG}{place}", f"{ARABIC} {place}", f"言葉-{place}")[place % 3] for place in range(count)]
    draw = np.random.default_rng(2)
    rows = [
        {"seed": seed, "module": name, "task": "mnli", "family": ["Classification / Nli", ""][place % 2],
         "license": ["apache-2.0", ""][place % 2], "weight": 1 / count, "el2n": float(draw.normal()),
         "hidden_cosine": math.nan if place % 4 == 0 else float(draw.random()), "loss": float(-3 * draw.random())}
        for seed in SEEDS for place, name in enumerate(names)
    ]  # fmt: skip
    examples = full().examples
    examples = examples.assign(input=[[ARABIC * 4, "word " * 80, "x" * 400][row % 3] for row in examples["row"]])
    refused = pd.DataFrame(
        {"module": [f"{LONG}{place}" for place in range(40)], "reason": "4 layers, the backbone has 2"}
    )
    return full(ranking=pd.DataFrame(rows), refused=refused, examples=examples)


def missing_scores() -> Comparison:
    """The ensemble diverged in every seed, the average in one."""
    scores = full().scores.copy()
    tuned = scores["stage"] == "tuned"
    gone = tuned & ((scores["method"] == "ensemble") | ((scores["method"] == "average") & (scores["seed"] == 1)))
    scores.loc[gone, "score"] = math.nan
    scores.loc[gone, "reason"] = "training diverged"
    return full(scores=scores)


EXAMPLES = {
    "full": full, "one_seed": one_seed, "many_methods": many_methods, "many_modules": many_modules,
    "missing_scores": missing_scores,
}  # fmt: skip
