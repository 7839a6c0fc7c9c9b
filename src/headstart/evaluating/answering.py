"""How the attached modules answer rows: by the likelihood of options, through a task head, or by writing text."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from headstart.backbones import PASS_COST, Backbone, Encoded, TextFormat, plan_batches, target_loss
from headstart.backbones.memory import in_halves
from headstart.errors import SettingError, TaskError
from headstart.records import HeadCard
from headstart.tasks import Example

__all__ = ["DECODINGS", "TOO_LARGE", "Answers", "answer_rows", "check_decoding", "decoding_for"]

DECODINGS = ("auto", "options", "generate")
MOST_LOGIT_ROWS = 4096
Told = Callable[[int], None]
Plan = Callable[[Iterable[Sequence[int]]], Iterable[Sequence[int]]]
TOO_LARGE = "a single row does not fit into the device's memory; lower max_input or max_target"


@dataclass(frozen=True)
class Answers:
    """What one module answers to n rows; everything is in the order of the rows.

    `losses`: cross-entropy of the target in nats, summed over its tokens (a regression's squared error); NaN for a row
    without a target. `options`: the answers to choose from, `scores` their log-likelihoods in nats, `lengths` their
    tokens, end-of-sequence included; empty where the answer is open, `lengths` also where a task head answers.
    """

    predictions: tuple[str, ...]
    losses: tuple[float, ...]
    options: tuple[tuple[str, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    tokens: int


def check_decoding(decoding: str, backbone: Backbone) -> None:
    """Raise `SettingError` for an unknown decoding, or one that an encoder does not offer."""
    if decoding not in DECODINGS:
        raise SettingError(f"unknown decoding '{decoding}'; choose one of: {', '.join(DECODINGS)}")
    if backbone.is_encoder and decoding != "auto":
        raise SettingError(f"{backbone.name} is an encoder and answers through its head; leave decoding at auto")


def decoding_for(decoding: str, examples: Sequence[Example], backbone: Backbone) -> str:
    """How these rows are answered, "options", "generate" or "head"; raises `TaskError` if they cannot be."""
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


def answer_rows(
    backbone: Backbone,
    examples: Sequence[Example],
    *,
    decoding: str,
    text_format: TextFormat,
    modules: int = 1,
    head: HeadCard | None = None,
    told: Told | None = None,
) -> list[Answers]:
    """The answers of each of the N = `modules` attached modules; rows without `outputs` have no loss.

    `decoding`: as `decoding_for` returns it. `told` hears how many rows are answered. Where memory runs out, fewer rows
    share a pass, and they are counted again. Raises `TooLargeError` if a single row does not fit.
    """

    def answered(budget: int) -> list[Answers]:
        plan = partial(_told, told) if told else _silent
        if decoding == "head":
            return _by_head(backbone, examples, text_format, modules, head=head, budget=budget, plan=plan)
        by = _by_options if decoding == "options" else _by_generation
        return by(backbone, examples, text_format, modules, budget=budget, plan=plan)

    with torch.inference_mode():
        return in_halves(answered, backbone.token_budget // modules, too_large=TOO_LARGE)


def _told(told: Told, batches: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
    """The batches; after each, `told` hears how many rows have been answered."""
    done = 0
    for indices in batches:
        yield indices
        done += len(indices)
        told(done)


def _silent(batches: Iterable[Sequence[int]]) -> Iterable[Sequence[int]]:
    return batches


def _by_options(
    backbone: Backbone, examples: Sequence[Example], text_format: TextFormat, modules: int, *, budget: int, plan: Plan
) -> list[Answers]:
    """The likeliest option of every row (the first of equals), and the loss of the target."""
    prompts = [backbone.encoder.prompt(example.input, text_format) for example in examples]
    offered = [tuple(dict.fromkeys(example.options or ())) for example in examples]
    listed = [tuple(dict.fromkeys((*own, *row.outputs[:1]))) for own, row in zip(offered, examples, strict=True)]
    ids = {text: backbone.encoder.target(text, text_format) for texts in listed for text in texts}
    found: list[list[list[float]]] = [[[] for _ in examples] for _ in range(modules)]
    batches = plan_batches(
        [len(prompt) for prompt in prompts],
        budget=budget,
        pass_cost=2 * PASS_COST / modules,  # one pass over the prompts, one over the options
        targets=[sum(len(ids[text]) for text in texts) for texts in listed],
        most_targets=MOST_LOGIT_ROWS // modules,
    )
    for indices in plan(batches):
        options = [[ids[text] for text in listed[index]] for index in indices]
        scores = backbone.option_scores([prompts[index] for index in indices], options, modules=modules)
        for module, rows in enumerate(scores):
            for index, row in zip(indices, rows, strict=True):
                found[module][index] = row
    lengths = tuple(tuple(len(ids[text]) for text in texts) for texts in offered)
    tokens = sum(len(ids[row.target]) for row in examples if row.outputs)
    return [_chosen(examples, rows, offered=offered, listed=listed, lengths=lengths, tokens=tokens) for rows in found]


def _chosen(
    examples: Sequence[Example],
    found: Sequence[Sequence[float]],
    *,
    offered: Sequence[tuple[str, ...]],
    listed: Sequence[tuple[str, ...]],
    lengths: tuple[tuple[int, ...], ...],
    tokens: int,
) -> Answers:
    """The answers of one module from the log-likelihoods `found` of the texts in `listed`."""
    scores = tuple(tuple(row[: len(own)]) for row, own in zip(found, offered, strict=True))
    predictions = tuple(own[row.index(max(row))] for row, own in zip(scores, offered, strict=True))
    losses = tuple(
        -row[texts.index(example.target)] if example.outputs else math.nan
        for row, texts, example in zip(found, listed, examples, strict=True)
    )
    return Answers(predictions, losses, tuple(offered), scores, lengths, tokens)


def _by_head(
    backbone: Backbone,
    examples: Sequence[Example],
    text_format: TextFormat,
    modules: int,
    *,
    head: HeadCard | None,
    budget: int,
    plan: Plan,
) -> list[Answers]:
    """Each head's answer to every row, the log-likelihoods of a classifier's labels, and the loss of the target."""
    pairs = [(row.text, row.target if row.outputs else _any_target(head)) for row in examples]
    items = backbone.encode(pairs, text_format, head=head)
    assert head is not None  # `encode` has refused to go on without
    answers = [[""] * len(examples) for _ in range(modules)]
    scores: list[list[tuple[float, ...]]] = [[()] * len(examples) for _ in range(modules)]
    losses = torch.full((modules, len(examples)), math.nan, dtype=torch.float64)
    lengths = [len(item.prompt) for item in items]
    for indices in plan(plan_batches(lengths, budget=budget, pass_cost=PASS_COST / modules)):
        batch = backbone.batch(items, indices)
        logits = backbone.target_logits(batch, modules=modules)
        losses[:, indices] = _row_losses(target_loss(logits, batch.gold.to(logits.device)), batch.owner, len(indices))
        each = logits.float().cpu().view(modules, len(indices), -1, logits.shape[2])
        for module in range(modules):
            for row, index in enumerate(indices):
                found = each[module, row]
                answers[module][index] = _answer(found, head, examples[index], items[index], text_format)
                if head.task == "classification":
                    scores[module][index] = tuple(found[0].double().log_softmax(0).tolist())
    losses[:, [not row.outputs for row in examples]] = math.nan
    options = ((head.labels if head.task == "classification" else ()),) * len(examples)
    tokens = sum(len(item.target) for item in items)
    return [
        Answers(tuple(own), tuple(losses[module].tolist()), options, tuple(scores[module]), (), tokens)
        for module, own in enumerate(answers)
    ]


def _any_target(head: HeadCard | None) -> str:
    """A target that the head could answer, for a row whose answer is not known."""
    if head is None or head.task == "span":
        return ""
    return head.labels[0] if head.labels else "0"


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


def _by_generation(
    backbone: Backbone, examples: Sequence[Example], text_format: TextFormat, modules: int, *, budget: int, plan: Plan
) -> list[Answers]:
    prompts = [backbone.encoder.prompt(example.input, text_format) for example in examples]
    answers = [[""] * len(examples) for _ in range(modules)]
    for indices in plan(plan_batches([len(prompt) for prompt in prompts], budget=budget)):
        texts = backbone.generate(
            [prompts[index] for index in indices], max_new_tokens=text_format.max_target, modules=modules
        )
        for module, row in enumerate(texts):
            for index, text in zip(indices, row, strict=True):
                answers[module][index] = text
    losses, tokens = _target_losses(backbone, examples, text_format, modules, budget=budget)
    return [
        Answers(tuple(own), tuple(losses[module].tolist()), (), (), (), tokens) for module, own in enumerate(answers)
    ]


def _target_losses(
    backbone: Backbone, examples: Sequence[Example], text_format: TextFormat, modules: int, *, budget: int
) -> tuple[Tensor, int]:
    """The loss of every row's target under each module, (N, rows), NaN without one; and the number of their tokens."""
    losses = torch.full((modules, len(examples)), math.nan, dtype=torch.float64)
    known = [index for index, example in enumerate(examples) if example.outputs]
    items = backbone.encode([(examples[index].text, examples[index].target) for index in known], text_format)
    plan = plan_batches(
        [len(item.prompt) + len(item.target) for item in items],
        budget=budget,
        pass_cost=PASS_COST / modules,
        targets=[len(item.target) for item in items],
        most_targets=MOST_LOGIT_ROWS // modules,
    )
    for indices in plan:
        batch = backbone.batch(items, indices)
        logits = backbone.target_logits(batch, modules=modules)
        found = _row_losses(target_loss(logits, batch.gold.to(logits.device)), batch.owner, len(indices))
        losses[:, [known[index] for index in indices]] = found
    return losses, sum(len(item.target) for item in items)


def _row_losses(losses: Tensor, owner: Tensor, rows: int) -> Tensor:
    """Sums over each row's tokens, (N, rows), from the losses of tokens (N, M) and the row of each, (M,)."""
    found = losses.cpu().double()
    return found.new_zeros(found.shape[0], rows).index_add(1, owner, found)
