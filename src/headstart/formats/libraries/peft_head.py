"""Task heads in module folders: the whole layers that PEFT saves beside a module made for an encoder; without torch."""

from collections.abc import Mapping
from typing import NamedTuple

from headstart.errors import ModuleError
from headstart.formats.containers.safetensors_file import StoredTensor
from headstart.formats.libraries.peft_config import SAVE_AGAIN
from headstart.records import HeadCard

__all__ = ["TASK_TYPES", "Parted", "head_card", "part_head"]

TASK_TYPES = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "span": "QUESTION_ANS"}
"""PEFT's task type, by a head's task."""

PREFIXES = ("base_model.model.", "base_model.")
"""What PEFT puts before the names of saved layers; the second is for prompts and prefixes."""

ALWAYS_NAMED = frozenset({"classifier", "score", "qa_outputs"})
"""Names that PEFT lists as the head, whether or not the backbone has a layer of that name."""

DEEPEST = 2
"""Dots in the longest name of a head's tensor, "classifier.out_proj.weight"."""

ANSWERING = ("out_proj", "qa_outputs", "score", "classifier")
"""The last parts of the paths of layers that give a head's answer, the most certain first."""


class Parted(NamedTuple):
    """A folder's configuration and tensors without the head, the head's tensors by their names in the backbone, and
    what the head is (`None` if there is no head).
    """

    config: dict[str, object]
    tensors: dict[str, StoredTensor]
    head: dict[str, StoredTensor]
    card: HeadCard | None


def part_head(config: Mapping[str, object], tensors: Mapping[str, StoredTensor]) -> Parted:
    """Take the task head out of what PEFT saved for a task type that has one; anything else stays as it is.

    Raises `ModuleError` if a layer is named in `modules_to_save` but was not saved, or if a head is not made of linear
    layers and norms. Saved layers of the encoder itself stay among the tensors, where every kind refuses them.
    """
    named, task_type = config.get("modules_to_save"), config.get("task_type")
    if task_type not in TASK_TYPES.values() or not isinstance(named, list):
        return Parted(dict(config), dict(tensors), {}, None)
    if not all(isinstance(name, str) and name for name in named):
        raise ModuleError(f"field 'modules_to_save' is {named!r}, not a list of names; {SAVE_AGAIN}")
    inner = next((name for name in tensors if ".modules_to_save." in name), None)
    if inner is not None:
        raise ModuleError(
            f"tensor '{inner}' is a bias of the task head that PEFT saved a second time, because of "
            "bias='all'; train the module with bias='none' or 'lora_only'"
        )
    head, rest = {}, {}
    for name, tensor in tensors.items():
        path = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
        # As PEFT matches: "classifier" also names DistilBERT's pre_classifier. Deeper paths are the encoder's.
        if path.partition(".")[0].endswith(tuple(named)) and path.count(".") <= DEEPEST:
            head[path] = tensor
        else:
            rest[name] = tensor
    if not head and named:
        raise ModuleError(
            f"field 'modules_to_save' names a task head ({', '.join(dict.fromkeys(named))}) but no "
            f"tensor of one is there; {SAVE_AGAIN}, or set the field to null"
        )
    whole = {path.partition(".")[0] for path in head} | ALWAYS_NAMED
    absent = [name for name in named if name not in whole]
    if absent:
        lies = next((held for held in rest if f".{absent[0]}." in held), None)
        raise ModuleError(
            f"field 'modules_to_save' names '{absent[0]}' but no tensor of it is there; {SAVE_AGAIN}"
            if lies is None
            else f"field 'modules_to_save' names '{absent[0]}', with tensor '{lies}', which is no task head; "
            "Headstart cannot use a module that trains other layers"
        )
    card = head_card(head, str(task_type)) if head else None
    return Parted({**config, "modules_to_save": None}, rest, head, card)


def head_card(head: Mapping[str, StoredTensor], task_type: str) -> HeadCard:
    """What a head is, by its tensors. Raises `ModuleError` if they are not those of linear layers and norms."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in head.items():
        path, _, part = name.rpartition(".")
        layers.setdefault(path, {})[part] = tensor.shape
    for path, parts in layers.items():
        weight, bias = parts.get("weight", ()), parts.get("bias")
        sound = (  # a linear layer's weight has two dimensions, a norm's one
            len(weight) in (1, 2)
            and 0 not in weight
            and bias in (None, weight[:1])
            and not parts.keys() - {"weight", "bias"}
        )
        if not sound:
            found = ", ".join(f"{path}.{part} {shape}" for part, shape in parts.items())
            raise ModuleError(f"the task head has {found}, which is no linear layer and no norm; {SAVE_AGAIN}")
    answering = [path for path, parts in layers.items() if len(parts["weight"]) == 2]
    last = next((path for end in ANSWERING for path in answering if path.rpartition(".")[2] == end), None)
    if last is None:
        raise ModuleError(
            f"which of {', '.join(layers)} gives the task head's answer is not known; Headstart cannot use this module"
        )
    outputs = layers[last]["weight"][0]
    by_size = "regression" if outputs == 1 else "classification"
    if task_type == TASK_TYPES["span"] and outputs != 2:
        raise ModuleError(f"tensor '{last}.weight' gives {outputs} answers where a span has 2; {SAVE_AGAIN}")
    shapes = {name: tuple(tensor.shape) for name, tensor in sorted(head.items())}
    return HeadCard.model_validate(
        {"task": "span" if task_type == TASK_TYPES["span"] else by_size, "outputs": outputs, "shapes": shapes}
    )
