"""A module's score on a task: it chooses among options or decodes greedily, and the task's metric compares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.backbones import PASS_COST, Backbone, Encoded, TextFormat, plan_batches, target_loss
from headstart.errors import SettingError, TaskError
from headstart.events import Listener, Progress
from headstart.kinds import Module, stack_of, stacks
from headstart.records import HeadCard
from headstart.tasks import METRICS, Example

__all__ = ["DECODINGS", "Evaluation", "check_decoding", "evaluate", "evaluate_attached"]

DECODINGS = ("auto", "options", "generate")
MOST_LOGIT_ROWS = 4096


@dataclass(frozen=True)
class Evaluation:
    """Result of one module on one set of examples.

    `score`: the metric, as a fraction of 1 (NaN where it is undefined, or where the likelihoods are NaN).
    `loss`: mean cross-entropy per target token, in nats; for a regression, the mean squared error. `decoding`:
    "options", "generate", or "head" on an encoder.
    """

    metric: str
    score: float
    loss: float
    predictions: tuple[str, ...]
    decoding: str


def evaluate(
    modules: Sequence[Module | None],
    examples: Sequence[Example],
    backbone: Backbone,
    *,
    metric: str,
    decoding: str = "auto",
    text_format: TextFormat | None = None,
    progress: Listener | None = None,
) -> list[Evaluation]:
    """Evaluate modules (`None`: the bare backbone), those of equal shape together.

    Args:
        modules: what to evaluate.
        examples: labelled examples, usually a test split.
        backbone: the frozen model.
        metric: a name in `METRICS`.
        decoding: "options" takes the likeliest of each example's options; "generate" decodes greedily; "auto" is
            "options" if every example lists some, else "generate". On an encoder every module answers through its
            own head.
        text_format: text layout and cut lengths.
        progress: told how many modules are evaluated.

    Raises:
        TaskError: no examples, or options asked for and missing.
        SettingError: unknown metric or decoding, or, on an encoder, a module without a head.
    """
    results: dict[int, Evaluation] = {}
    bare = [index for index, module in enumerate(modules) if module is None]
    if bare:
        found = evaluate_attached(backbone, examples, metric=metric, decoding=decoding, text_format=text_format)[0]
        results.update(dict.fromkeys(bare, found))
    present = [(index, module) for index, module in enumerate(modules) if module is not None]
    groups = stacks([module for _, module in present], most=1 if backbone.goes_alone else 8)
    done = 0
    for members in groups:
        chosen = [present[member][1] for member in members]
        stack, head = stack_of(chosen, backbone), chosen[0].card.head
        with torch.inference_mode(), stack.attach(backbone):
            found_all = evaluate_attached(
                backbone,
                examples,
                metric=metric,
                decoding=decoding,
                text_format=text_format,
                modules=len(chosen),
                head=head,
            )
        results.update({present[member][0]: value for member, value in zip(members, found_all, strict=True)})
        done += len(members)
        if progress:
            progress(Progress("evaluating", done, len(present)))
    return [results[index] for index in range(len(modules))]


def evaluate_attached(
    backbone: Backbone,
    examples: Sequence[Example],
    *,
    metric: str,
    decoding: str = "auto",
    text_format: TextFormat | None = None,
    modules: int = 1,
    head: HeadCard | None = None,
) -> list[Evaluation]:
    """Evaluate the attached stack of N = `modules` modules (on an encoder, with heads); one result for each module."""
    text_format = text_format or TextFormat()
    decoding = _decoding(decoding, examples, backbone)
    compute = METRICS[metric].compute
    references = [example.outputs for example in examples]
    with torch.inference_mode():
        if decoding == "head":
            predicted, losses = _by_head(backbone, examples, text_format, modules, head)
        elif decoding == "options":
            predicted, losses = _by_options(backbone, examples, text_format, modules)
        else:
            predicted = _by_generation(backbone, examples, text_format, modules)
            losses = _losses(backbone, examples, text_format, modules)
    # A module whose logits are not numbers would score as if it had chosen each first option.
    return [
        Evaluation(
            metric, compute(answers, references) if math.isfinite(loss) else math.nan, loss, tuple(answers), decoding
        )
        for answers, loss in zip(predicted, losses, strict=True)
    ]


def check_decoding(decoding: str, backbone: Backbone) -> None:
    """Raise `SettingError` for an unknown decoding, or one that an encoder does not offer."""
    if decoding not in DECODINGS:
        raise SettingError(f"unknown decoding '{decoding}'; choose one of: {', '.join(DECODINGS)}")
    if backbone.is_encoder and decoding != "auto":
        raise SettingError(f"{backbone.name} is an encoder and answers through its head; leave decoding at auto")


def _decoding(decoding: str, examples: Sequence[Example], backbone: Backbone) -> str:
    check_decoding(decoding, backbone)
    if not examples:
        raise TaskError("there are no examples to evaluate on; give the task a test split or more rows")
    if backbone.is_encoder:
        return "head"
    listed = all(example.options for example in examples)
    if decoding == "options" and not listed:
        raise TaskError(
            "this task's examples list no options; use decoding 'generate', or give its card labels or options"
        )
    return ("options" if listed else "generate") if decoding == "auto" else decoding


def _losses(backbone: Backbone, examples: Sequence[Example], text_format: TextFormat, modules: int) -> list[float]:
    items = backbone.encode([(example.text, example.target) for example in examples], text_format)
    lengths = [len(item.prompt) + len(item.target) for item in items]
    plan = plan_batches(
        lengths,
        budget=backbone.token_budget // modules,
        pass_cost=PASS_COST / modules,
        targets=[len(item.target) for item in items],
        most_targets=MOST_LOGIT_ROWS // modules,
    )
    total = torch.zeros(modules, dtype=torch.float64)
    for indices in plan:
        batch = backbone.batch(items, indices)
        logits = backbone.target_logits(batch, modules=modules)
        total += target_loss(logits, batch.gold.to(logits.device)).double().sum(1).cpu()
    return [float(value) for value in total / sum(len(item.target) for item in items)]


def _by_head(
    backbone: Backbone, examples: Sequence[Example], text_format: TextFormat, modules: int, head: HeadCard | None
) -> tuple[list[list[str]], list[float]]:
    """Each head's answer to every example, and its mean loss on the gold answers."""
    pairs = [(example.text, example.target) for example in examples]
    items = backbone.encode(pairs, text_format, head=head)
    assert head is not None  # `encode` has refused to go on without
    answers = [[""] * len(examples) for _ in range(modules)]
    total = torch.zeros(modules, dtype=torch.float64)
    lengths = [len(item.prompt) for item in items]
    for indices in plan_batches(lengths, budget=backbone.token_budget // modules, pass_cost=PASS_COST / modules):
        batch = backbone.batch(items, indices)
        logits = backbone.target_logits(batch, modules=modules)
        total += target_loss(logits, batch.gold.to(logits.device)).double().sum(1).cpu()
        each = logits.float().cpu().view(modules, len(indices), -1, logits.shape[2])
        for module in range(modules):
            for row, index in enumerate(indices):
                answers[module][index] = _answer(each[module, row], head, examples[index], items[index], text_format)
    tokens = sum(len(item.target) for item in items)
    return answers, [float(value) for value in total / tokens]


def _answer(logits: Tensor, head: HeadCard, example: Example, item: Encoded, text_format: TextFormat) -> str:
    """The answer of one head to one example, from its logits (1 or 2, V)."""
    if head.task == "classification":
        return head.labels[int(logits[0].argmax())]
    if head.task == "regression":
        return f"{float(logits[0, 0]):.6g}"
    real = torch.tensor([last > first for first, last in item.offsets])
    start, end = logits[:, : len(real)].masked_fill(~real, -math.inf)
    sums = start.unsqueeze(1) + end.unsqueeze(0)
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(text_format.max_target - 1)
    best = int(sums.masked_fill(~allowed, -math.inf).argmax())
    first, last = divmod(best, len(real))
    # In a byte-level vocabulary, a token includes the space before its word.
    return example.input[item.offsets[first][0] : item.offsets[last][1]].strip()


def _by_options(
    backbone: Backbone, examples: Sequence[Example], text_format: TextFormat, modules: int
) -> tuple[list[list[str]], list[float]]:
    """The likeliest option of every example (the first of equals) and the loss of the gold one, per module."""
    prompts = [backbone.encoder.prompt(example.input, text_format) for example in examples]
    listed = [tuple(dict.fromkeys((*(example.options or ()), example.target))) for example in examples]
    ids = {text: backbone.encoder.target(text, text_format) for texts in listed for text in texts}
    answers = [[""] * len(examples) for _ in range(modules)]
    total = [0.0] * modules
    plan = plan_batches(
        [len(prompt) for prompt in prompts],
        budget=backbone.token_budget // modules,
        pass_cost=2 * PASS_COST / modules,  # one pass over the prompts, one over the options
        targets=[sum(len(ids[text]) for text in texts) for texts in listed],
        most_targets=MOST_LOGIT_ROWS // modules,
    )
    for indices in plan:
        options = [[ids[text] for text in listed[index]] for index in indices]
        scores = backbone.option_scores([prompts[index] for index in indices], options, modules=modules)
        for module, rows in enumerate(scores):
            for index, row in zip(indices, rows, strict=True):
                offered = dict.fromkeys(examples[index].options or ())
                answers[module][index] = max(zip(row, offered, strict=False), key=lambda pair: pair[0])[1]
                total[module] -= row[listed[index].index(examples[index].target)]
    tokens = sum(len(ids[example.target]) for example in examples)
    return answers, [value / tokens for value in total]


def _by_generation(
    backbone: Backbone, examples: Sequence[Example], text_format: TextFormat, modules: int
) -> list[list[str]]:
    prompts = [backbone.encoder.prompt(example.input, text_format) for example in examples]
    answers = [[""] * len(examples) for _ in range(modules)]
    for indices in plan_batches([len(prompt) for prompt in prompts], budget=backbone.token_budget // modules):
        texts = backbone.generate(
            [prompts[index] for index in indices], max_new_tokens=text_format.max_target, modules=modules
        )
        for module, row in enumerate(texts):
            for index, text in zip(indices, row, strict=True):
                answers[module][index] = text
    return answers
