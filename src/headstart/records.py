"""Frozen cards, which Headstart writes beside its results as JSON with a schema version."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headstart.atomic import write_text
from headstart.errors import CardError, Refused
from headstart.filenames import CARD_FILE
from headstart.showing import cut, line, plural

__all__ = [
    "CARD_FILE",
    "Calibration",
    "Donor",
    "Fingerprint",
    "HeadCard",
    "HistoryCard",
    "ModuleCard",
    "Record",
    "Refused",
    "TaskCard",
    "Template",
    "TextFormat",
    "fault",
]


class Record(BaseModel):
    """A frozen JSON record. Subclasses that live on disk carry `schema_version`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    current_version: ClassVar[int] = 1

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Self:
        """Parse `text`; raise `CardError` naming `source` and the offending field."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise CardError(f"{source} is not valid JSON ({error}); write it again or remove it") from error
        version = data.get("schema_version", cls.current_version) if isinstance(data, dict) else None
        if version is not None and version != cls.current_version:
            raise CardError(
                f"{source} has schema version {version}, this Headstart reads {cls.current_version}; upgrade Headstart"
            )
        try:
            record = cls.model_validate(data)
            record.to_json().encode()  # JSON can write characters that no text file can hold
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the record"
            raise CardError(f"{source}: field '{field}': {first['msg']}; correct that field") from error
        except ValueError as error:
            raise CardError(f"{source} holds a text that is not valid Unicode; correct it") from error
        return record

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the record from `path`. Raises `CardError` if it is missing or malformed."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CardError(f"cannot read {path}: {error}") from error
        return cls.from_json(text, source=str(path))

    def to_json(self) -> str:
        """The record as indented JSON, with a final newline."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Write the record to `path` in one step."""
        write_text(path, self.to_json())


def fault(error: ValidationError) -> str:
    """The first setting that pydantic refused, and what is wrong with it: "lr=-1 must be above 0"."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    bounds = {"greater_than": "above", "greater_than_equal": "at least"}
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] in bounds:
        (bound,) = first["ctx"].values()
        return f"{name}={first['input']!r} must be {bounds[first['type']]} {bound:g}"
    return f"{name}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}"


class Fingerprint(Record):
    """Identity of a backbone, independent of the dtype in which it computes.

    `architecture`: the model class name ("LlamaForCausalLM"). `shapes`: hash over all parameter names and shapes.
    `weights`: hash over all parameter values rounded to bfloat16. `name`: where it came from, for the reader only.
    """

    architecture: str
    shapes: str
    weights: str
    name: str = ""

    def same_as(self, other: "Fingerprint") -> bool:
        """Whether both describe the same backbone; `name` does not count."""
        return (self.architecture, self.shapes, self.weights) == (other.architecture, other.shapes, other.weights)


class Template(Record):
    """How one row becomes text: the names of columns, or Python format strings over the row's fields.

    `separator`: the text between two texts that encoders read as a pair, in the input's template or, if it has none, in
    each row's input: "[SEP]" in "{premise} [SEP] {hypothesis}". Language models read it as it is.

    >>> Template(input="{question} yes or no?", target="{answer}").input.format(question="Is it?")
    'Is it? yes or no?'
    """

    input: str = "{input}"
    target: str = "{output}"
    separator: str | None = None


class TaskCard(Record):
    """What a task is. `options`: where closed answer sets come from — the card's `labels`, `inline` "(A) … (B) …"
    lists in the input, the row's own `options` field, or `None` when answers are open. `group`: the column that says
    which rows belong together, such as an author's, or `None`."""

    schema_version: int = 1
    name: str
    family: str = ""
    metric: str = "EM"
    labels: tuple[str, ...] | None = None
    options: str | None = None
    template: Template = Field(default_factory=Template)
    group: str | None = None
    license: str = ""
    source: str = ""

    def __repr__(self) -> str:
        answers = "open answers" if self.options is None else f"options: {self.options}"
        if self.labels is not None:
            answers = plural(len(self.labels), "label")
        return line(type(self).__name__, cut(self.name), self.metric, answers)


class Donor(Record):
    """One module that went into a start: its name, tensor hash, weight, and licence."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: str
    tensor_hash: str
    weight: float
    license: str = ""


class HeadCard(Record):
    """What a task head on an encoder answers. It belongs to one task and is never merged or embedded.

    `task`: "classification" among `labels`, "regression" to one number, or an extractive "span" of the input (the
    logits of its first and of its last token). `outputs`: how many numbers it gives. `labels` are in the order of the
    outputs, and empty if they are unknown. `shapes` are those of its tensors, by their names in the backbone.
    """

    task: Literal["classification", "regression", "span"]
    outputs: int
    labels: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @property
    def words(self) -> str:
        """A description of its answers, for people.

        >>> HeadCard(task="classification", outputs=2, labels=("no", "yes")).words
        'classification among no, yes'
        """
        return f"{self.task} among {', '.join(self.labels)}" if self.labels else self.task

    def answers_as(self, other: "HeadCard") -> bool:
        """Whether both give the same answers in the same order, whatever their tensors."""
        return (self.task, self.outputs, self.labels) == (other.task, other.outputs, other.labels)


class HistoryCard(Record):
    """How a module was tuned: `losses`, pairs of a step and the mean training loss since the pair before.

    `early_step`: after how many steps the early state beside it was kept, `None` if none was.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    schema_version: int = 1
    losses: tuple[tuple[int, float], ...] = ()
    early_step: int | None = None


class Calibration(Record):
    """How likelihoods of options become comparable, so that short and frequent ones are not favoured.

    `method`: "none"; "length" divides each log-likelihood by the option's tokens; "batch" takes off `offsets`, the mean
    log-likelihood in nats of each option over many inputs, for which no labels are needed.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    method: Literal["none", "length", "batch"] = "none"
    offsets: dict[str, float] = Field(default_factory=dict)

    def adjusted(self, scores: Sequence[float], options: Sequence[str], lengths: Sequence[int]) -> list[float]:
        """The log-likelihoods `scores` of one row's options as they are compared; `lengths` are in tokens.

        >>> Calibration(method="batch", offsets={"no": -1.0, "yes": -4.0}).adjusted([-2.0, -3.0], ["no", "yes"], [2, 2])
        [-1.0, 1.0]
        """
        if self.method == "length" and lengths:
            return [score / length for score, length in zip(scores, lengths, strict=True)]
        if self.method == "batch":
            return [score - self.offsets[option] for score, option in zip(scores, options, strict=True)]
        return list(scores)


class TextFormat(Record):
    """How a text-to-text example is laid out for a causal backbone, and at which lengths texts are cut.

    The prompt is `prefix`, the input, cut on the right to leave room, and `suffix`; the target follows after one space.
    With `chat_template`, that text is the user's turn of a chat, as the tokenizer's own template writes it; the target
    begins the answer, without a space, and the suffix is empty unless it is given. Lengths are in tokens; [PEWE] uses
    512 and 64. Encoder-decoder backbones take input and target as they are.

    >>> hs.TextFormat(prefix="Review: ", suffix=" Label:").words
    '"Review: ", then the input, then " Label:"'
    """

    suffix: str = "\nAnswer:"
    max_input: int = 512
    max_target: int = 64
    prefix: str = ""
    chat_template: bool = False

    @model_validator(mode="before")
    @classmethod
    def _chat_ends_the_turn(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("chat_template"):
            return {"suffix": "", **data}
        return data

    @property
    def words(self) -> str:
        """How a prompt is laid out, for people.

        >>> print(TextFormat().words)
        the input, then "\\nAnswer:"
        """
        parts = [json.dumps(text, ensure_ascii=False) if text else "" for text in (self.prefix, self.suffix)]
        text = ", then ".join(part for part in (parts[0], "the input", parts[1]) if part)
        if self.chat_template:
            return f"{text}, as the user's turn in the tokenizer's chat template"
        return "the input as it is" if text == "the input" else text


class ModuleCard(Record):
    """What a module is: facts read from its tensors and configuration, and what its maker states about the training.

    `rank` is the largest over the targets; `scaling` is the common factor of the update (LoRA: α/r or α/√r), or `None`
    if patterns give different ones. `targets` are names of backbone layers. `tensor_hash` is a hash of tensor names,
    dtypes, shapes and bytes: equal hashes mean equal modules. `origin` is the remote reference from which these tensors
    were fetched, pinned to the commit ("hf://owner/name@commit"). `head` is the task head that was tuned with the
    module on an encoder; `parameters` does not count it. `merge_error`: if the module is a sum of `donors`, or was
    tuned from one, the distance of that sum from their exact weighted ΔW, relative to its norm. `text_format`: the
    layout of the texts that it was tuned on, which prompts should have too. `variant` names a variant that only PEFT
    computes ("DoRA"), else is empty. `template`, `labels` and `options` are those of the task's card, which make
    prompts and answers of rows; `calibration` was chosen on its dev rows. What is unknown is `None` or empty, never 0.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    schema_version: int = 1
    name: str
    kind: str
    rank: int | None = None
    scaling: float | None = None
    targets: tuple[str, ...] = ()
    parameters: int
    tensor_hash: str
    backbone: Fingerprint | None = None
    base_model: str = ""
    task: str = ""
    family: str = ""
    metric: str = ""
    score: float | None = None
    train_rows: int | None = None
    license: str = ""
    dataset_license: str = ""
    donors: tuple[Donor, ...] = ()
    merge_error: float | None = None
    notes: str = ""
    origin: str = ""
    head: HeadCard | None = None
    text_format: TextFormat | None = None
    variant: str = ""
    template: Template | None = None
    labels: tuple[str, ...] | None = None
    options: str | None = None
    calibration: Calibration | None = None

    def __repr__(self) -> str:
        return line(type(self).__name__, self.words)

    @property
    def words(self) -> str:
        """What the module is, for people, in one line.

        >>> ModuleCard(name="ada", kind="lora", rank=8, parameters=1200, tensor_hash="", task="sst2", score=0.9).words
        'ada, lora of rank 8, 1,200 parameters, tuned on sst2'
        """
        rank = "" if self.rank is None else f" of {'rank' if self.kind == 'lora' else 'size'} {self.rank}"
        variant = f" ({self.variant})" if self.variant else ""
        parts = (cut(self.name), f"{self.kind}{variant}{rank}", plural(self.parameters, "parameter"))
        return ", ".join(parts) + (f", tuned on {cut(self.task)}" if self.task else "")
