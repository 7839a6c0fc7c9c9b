"""Small tasks that heads on tiny encoders can learn, and a recipe of a few steps."""

import itertools

from headstart.records import TaskCard
from headstart.tasks import Example, Task
from headstart.tuning.recipes import Recipe
from headstart.tuning.tune import text_format_of

RECIPE = Recipe(
    name="tiny", lr=2e-2, batch_size=4, max_steps=8, eval_every=4, patience=9, optimizer="adamw", schedule="linear",
    warmup_steps=1, clip=1.0, max_input=32, max_target=12, shape={"rank": 2, "alpha": 4.0}, select="loss",
)  # fmt: skip
STYLE = text_format_of(RECIPE)
PLACES = ("film", "book", "play", "song", "tale", "show")
WORDS = {"positive": ("warm", "funny", "superb"), "negative": ("dull", "tired", "silly")}


def examples(task: str) -> tuple[Example, ...]:
    """Rows that a head can learn: a class, a number or the very word, by the adjective."""
    rows = []
    for place, (label, words) in itertools.product(PLACES[:4], WORDS.items()):
        for number, word in enumerate(words):
            text = f"the {place} is {word}"
            target = {"classification": label, "regression": str(number - 1.5), "span": word}[task]
            rows.append(Example(text, (target,), tuple(WORDS) if task == "classification" else None))
    return tuple(rows)


def a_task(task: str, *, name: str = "reviews") -> Task:
    metric = {"classification": "ACC", "regression": "Pearson-Correlation", "span": "EM"}[task]
    card = TaskCard(name=name, metric=metric, labels=tuple(WORDS) if task == "classification" else None)
    rows = examples(task)
    return Task(card, {"train": rows, "dev": rows[::2], "test": rows[1::2]})
