"""What the loss of a row is measured in."""

from headstart.tasks.head import REGRESSION

__all__ = ["NATS", "SQUARES", "loss_unit"]

NATS, SQUARES = "nats a row", "of squared error a row"


def loss_unit(metric: str, decoding: str) -> str:
    """`SQUARES` for a regression through a task head, else `NATS`.

    >>> loss_unit("ACC", "options"), loss_unit("Pearson-Correlation", "head")
    ('nats a row', 'of squared error a row')
    """
    return SQUARES if decoding == "head" and metric in REGRESSION else NATS
