"""A record of a fit for the tests of its page: made by hand, of the size of a real one."""

from typing import Any

import numpy as np
import pandas as pd

from headstart.comparing.agreement import agreement, right_alone
from headstart.evaluating.evaluation import Evaluation
from headstart.fitting.explaining import map_of
from headstart.fitting.record import FIT_FRAMES, FitRecord
from headstart.fitting.verdict import Held, decide_start
from headstart.records import TaskCard
from headstart.tasks import Example

MODULES = ("imdb", "amazon-polarity-with-a-long-name-that-nobody-types-twice", "snli", "boolq", "codah", "paws", "qnli")
FAMILIES = ("Sentiment", "Sentiment", "Classification / Nli", "Binary", "Multiple choice", "Paraphrase", "Nli")
BLOCKS = 30


def shots(rows: int = 64) -> list[Example]:
    return [
        Example(f"a warm and funny film {row}", (("bad", "good")[row % 2],), ("bad", "good")) for row in range(rows)
    ]


def fit_record(gain: float = 0.3, **changes: Any) -> FitRecord:
    """A start that gains so much in nats a row; 0 makes the guard abstain."""
    draw, rows = np.random.default_rng(0), shots()
    common = draw.gamma(0.5, 1.0, len(rows))
    levels = {
        "scratch": 0.0,
        "random": 0.02,
        "average": -0.05 * bool(gain),
        "best_single": -gain,
        "ensemble": -1.2 * gain,
    }
    answers = {
        name: Held(
            common + level + draw.normal(0, 0.2, len(rows)),
            tuple(row.target if draw.random() < 0.75 - level / 2 else "good" for row in rows), 16.0, 12.5,
        )
        for name, level in levels.items()
    }  # fmt: skip
    verdict = decide_start(answers, rows, metric="ACC", folds=[row % 4 for row in range(len(rows))])
    said = {name: [row.target if draw.random() < 0.8 else "bad" for row in rows] for name in MODULES[:6]}
    vectors = {name: draw.normal(size=20) for name in MODULES}
    weights = (0.6, 0.3, 0.1, 0, 0, 0, 0)
    places = map_of(vectors)
    frames = {
        "methods": verdict.table, "contrasts": verdict.contrasts,
        "ranking": pd.DataFrame(
            {"module": MODULES, "task": MODULES, "family": FAMILIES, "license": "mit", "weight": weights,
             "cosine": np.linspace(0.9, 0.1, 7)}
        ),
        "refused": pd.DataFrame({"module": ["other"], "reason": ["4 layers, the backbone has 30"]}),
        "curve": pd.DataFrame({"step": [0, 8, 16], "train_loss": [np.nan, 0.6, 0.4], "dev_loss": [0.9, 0.5, 0.45],
                               "dev_score": [0.5, 0.8, 0.85]}),
        "answers": _answers(rows[:10]),
        "importance": pd.DataFrame(
            [{"module": name, "part": f"decoder.{block}.attention", "stack": "decoder", "block": float(block),
              "sublayer": "attention", "value": -float(draw.random())}
             for name in MODULES[:6] for block in range(BLOCKS)]
        ),
        "agreement": agreement(said),
        "donors": right_alone(said, [row.outputs for row in rows], [row.input for row in rows]),
        "map": pd.DataFrame(
            [{"module": name, "family": family, "x": places[name][0], "y": places[name][1], "weight": weight}
             for name, family, weight in zip(MODULES, FAMILIES, weights, strict=True)]
        ),
    }  # fmt: skip
    settings = {"backbone": "smollm2-135m", "modules": 7, "folds": 4, "held_out": 64, "train_rows": 32, "dev_rows": 32,
                "indicator": "cosine", "bare": 0.2, "seconds": 61.5,
                "command": "headstart fit reviews.csv --hub hub --backbone smollm2-135m -o module"}  # fmt: skip
    fields: dict[str, Any] = {
        "task": TaskCard(name="reviews", metric="ACC", labels=("bad", "good")), "settings": settings,
        "choice": verdict.choice, "method": verdict.method, "leader": verdict.leader, "sentence": verdict.sentence,
        "remedy": verdict.remedy,
        "lacks": "" if verdict.choice == "use" else "By cosine, the nearest that the hub has is amazon: 0.9.",
        "score": 0.86, "rows": 200, "split": "test", "frames": frames, "notes": ("dev was drawn from train",),
    }  # fmt: skip
    return FitRecord(**(fields | changes))


def _answers(rows: list[Example]) -> pd.DataFrame:
    predictions = tuple("good" for _ in rows)
    found = Evaluation(
        "ACC", 0.5, 0.7, predictions, "options", losses=tuple(0.7 for _ in rows),
        options=tuple(row.options or () for row in rows),
        scores=tuple((-1.0, 0.0) for _ in rows), lengths=tuple((1, 1) for _ in rows), examples=tuple(rows),
    )  # fmt: skip
    return found.frame()[list(FIT_FRAMES["answers"])]
