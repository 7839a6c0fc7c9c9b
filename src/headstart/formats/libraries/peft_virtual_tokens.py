"""What the readers of PEFT's prompt learning methods (prompt and prefix tuning) share."""

from collections.abc import Mapping

from headstart.errors import ModuleError
from headstart.formats.libraries.peft_config import SAVE_AGAIN

__all__ = ["EMBEDDINGS", "IDENTITY", "REFUSED", "halves", "require_shapes", "sizes"]

EMBEDDINGS = "prompt_embeddings"
"""The one tensor that PEFT saves for such a module."""

IDENTITY = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
    }
)  # fmt: skip
"""Fields of identity and provenance; the backbone is compared by fingerprint, not by these."""

REFUSED = {"modules_to_save": "it carries whole layers, such as a classification head, beside the virtual tokens"}

HALVES = {"CAUSAL_LM": 1, "SEQ_2_SEQ_LM": 2, "SEQ_CLS": 1, "QUESTION_ANS": 1}


def halves(config: Mapping[str, object]) -> int:
    """1 for a module of a causal backbone or an encoder, 2 (encoder and decoder) for one of an encoder-decoder.

    Without a task type PEFT runs the backbone as it is and leaves the virtual tokens out: that and other task types are
    refused with a `ModuleError`.
    """
    task = config.get("task_type")
    if not isinstance(task, str) or task not in HALVES:
        raise ModuleError(
            f"field 'task_type' is {task!r}; Headstart uses modules for "
            f"{', '.join(HALVES)}: set it, or leave the module out"
        )
    return HALVES[task]


def sizes(config: Mapping[str, object], fields: tuple[str, ...]) -> tuple[int, ...]:
    """The values of `fields`, each a whole number above 0; raises `ModuleError` naming the first that is not."""
    found = []
    for field in fields:
        value = config.get(field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModuleError(f"field '{field}' is {value!r}, not a whole number above 0; {SAVE_AGAIN}")
        found.append(value)
    return tuple(found)


def require_shapes(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], *, kind: str) -> None:
    """Raise `ModuleError` unless `shapes` is `wanted`: no tensor missing, none beside them, none of another shape."""
    for name, shape in wanted.items():
        if name not in shapes:
            raise ModuleError(f"tensor '{name}' is missing; {SAVE_AGAIN}")
        if tuple(shapes[name]) != shape:
            raise ModuleError(
                f"tensor '{name}' has shape {tuple(shapes[name])} but the configuration says {shape}; {SAVE_AGAIN}"
            )
    for name in shapes:
        if name not in wanted:
            raise ModuleError(f"tensor '{name}' is not part of a {kind}; train the module without saved heads")
