"""Fence the examples of docstrings on the API pages, where Markdown would take `>>>` for quotations in quotations."""

import re
from typing import Any

from griffe import Extension, Object

__all__ = ["FenceExamples"]

EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)
"""An example up to the next empty line. Those of a section "Examples:" are indented, and shown as code anyway."""


class FenceExamples(Extension):
    """Shows every example as code."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring before it is read as Markdown."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
