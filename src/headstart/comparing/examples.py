"""The test rows as a comparison keeps them."""

import json
from collections.abc import Sequence
from typing import Any

from headstart.tasks import Example

__all__ = ["MOST_INPUT", "example_rows"]

MOST_INPUT = 400
"""How many characters of an input a comparison keeps."""


def example_rows(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The rows of `Comparison.examples`."""
    return [
        {
            "row": row, "input": example.input[:MOST_INPUT], "target": example.target,
            "references": json.dumps(example.outputs, ensure_ascii=False),
            "group": example.group or "",
        }
        for row, example in enumerate(examples)
    ]  # fmt: skip
