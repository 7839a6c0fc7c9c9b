"""Which task head an encoder needs for a task."""

from headstart.errors import TaskError
from headstart.records import HeadCard, TaskCard

__all__ = ["head_of"]

REGRESSION = frozenset({"Pearson-Correlation"})
"""Metrics of tasks whose targets are numbers."""


def head_of(card: TaskCard) -> HeadCard:
    """A classifier over the task's labels, a regression if its metric correlates numbers, else a span of the input.

    Raises `TaskError` for a task whose rows each list their own options, or with fewer than two labels.

    >>> head_of(TaskCard(name="t", metric="ACC", labels=("no", "yes"))).outputs
    2
    """
    if card.labels is not None:
        if len(set(card.labels)) < max(2, len(card.labels)):
            raise TaskError(
                f"task '{card.name}' has the labels {list(card.labels)}, and a classifier chooses among at least two "
                "different ones; correct its labels"
            )
        return HeadCard(task="classification", outputs=len(card.labels), labels=card.labels)
    if card.options is not None:
        raise TaskError(
            f"every row of task '{card.name}' has its own options, which no head of an encoder chooses among; where "
            "they are the same in every row, name them as `labels` in task.json, else use a text-to-text backbone"
        )
    if card.metric in REGRESSION:
        return HeadCard(task="regression", outputs=1)
    return HeadCard(task="span", outputs=2)
