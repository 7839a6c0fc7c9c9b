"""What a module scores on a task: it chooses among options or decodes greedily, and the task's metric judges."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from headstart.backbone import PASS_COST, Backbone, TextFormat, plan_batches
from headstart.errors import SettingError, TaskError
from headstart.kinds import Module, stacks
from headstart.tasks import METRICS, Example

__all__ = ["DECODINGS", "Evaluation", "evaluate", "evaluate_attached"]

DECODINGS = ("auto", "options", "generate")
MOST_LOGIT_ROWS = 4096


@dataclass(frozen=True)
class Evaluation:
    """Result of one module on one set of examples.

    `score`: the metric, as a fraction of 1 (NaN where it is undefined, or where the likelihoods are not numbers).
    `loss`: mean cross-entropy per target token, in nats. `decoding`: "options" or "generate".
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
    style: TextFormat | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Evaluation]:
    """Evaluate modules (`None`: the bare backbone), those of equal shape together.

    Args:
        modules: what to evaluate.
        examples: labelled examples, usually a test split.
        backbone: the frozen model.
        metric: a name in `METRICS`.
        decoding: "options" takes the likeliest of each example's options; "generate" decodes greedily; "auto" is
            "options" where every example lists some.
        style: text layout and cut lengths.
        progress: called with (done, total) stacks.

    Raises:
        TaskError: no examples, or options asked for and missing.
        SettingError: unknown metric or decoding.
    """
    results: dict[int, Evaluation] = {}
    bare = [index for index, module in enumerate(modules) if module is None]
    if bare:
        found = evaluate_attached(backbone, examples, metric=metric, decoding=decoding, style=style)[0]
        results.update(dict.fromkeys(bare, found))
    present = [(index, module) for index, module in enumerate(modules) if module is not None]
    groups = stacks([module for _, module in present], most=8)
    for done, members in enumerate(groups):
        chosen = [present[member][1] for member in members]
        stack = type(chosen[0]).stack(chosen, backbone)
        with torch.inference_mode(), stack.attach(backbone):
            found_all = evaluate_attached(
                backbone, examples, metric=metric, decoding=decoding, style=style, modules=len(chosen)
            )
        results.update({present[member][0]: value for member, value in zip(members, found_all, strict=True)})
        if progress:
            progress(done + 1, len(groups))
    return [results[index] for index in range(len(modules))]


def evaluate_attached(
    backbone: Backbone,
    examples: Sequence[Example],
    *,
    metric: str,
    decoding: str = "auto",
    style: TextFormat | None = None,
    modules: int = 1,
) -> list[Evaluation]:
    """Evaluate the stack of N = `modules` modules that is attached now; one result per module."""
    style = style or TextFormat()
    decoding = _decoding(decoding, examples)
    compute = METRICS[metric].compute
    references = [example.outputs for example in examples]
    with torch.inference_mode():
        if decoding == "options":
            predicted, losses = _by_options(backbone, examples, style, modules)
        else:
            predicted = _by_generation(backbone, examples, style, modules)
            losses = _losses(backbone, examples, style, modules)
    # A module whose logits are not numbers would score as if it had chosen each first option.
    return [
        Evaluation(
            metric, compute(answers, references) if math.isfinite(loss) else math.nan, loss, tuple(answers), decoding
        )
        for answers, loss in zip(predicted, losses, strict=True)
    ]


def _decoding(decoding: str, examples: Sequence[Example]) -> str:
    if decoding not in DECODINGS:
        raise SettingError(f"unknown decoding '{decoding}'; choose one of: {', '.join(DECODINGS)}")
    if not examples:
        raise TaskError("there are no examples to evaluate on; give the task a test split or more rows")
    listed = all(example.options for example in examples)
    if decoding == "options" and not listed:
        raise TaskError(
            "this task's examples list no options; use decoding 'generate', or give its card labels or options"
        )
    return ("options" if listed else "generate") if decoding == "auto" else decoding


def _losses(backbone: Backbone, examples: Sequence[Example], style: TextFormat, modules: int) -> list[float]:
    items = backbone.encode([(example.input, example.target) for example in examples], style)
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
        log_p = backbone.target_logits(batch, modules=modules).float().log_softmax(-1)
        gold = batch.gold.to(log_p.device).view(1, -1, 1).expand(modules, -1, 1)
        total -= log_p.gather(2, gold).double().sum((1, 2)).cpu()
    return [float(value) for value in total / sum(len(item.target) for item in items)]


def _by_options(
    backbone: Backbone, examples: Sequence[Example], style: TextFormat, modules: int
) -> tuple[list[list[str]], list[float]]:
    """The likeliest option of every example (of equals the first) and the loss of the gold one, per module."""
    prompts = [backbone.encoder.prompt(example.input, style) for example in examples]
    listed = [tuple(dict.fromkeys((*(example.options or ()), example.target))) for example in examples]
    ids = {text: backbone.encoder.target(text, style) for texts in listed for text in texts}
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


def _by_generation(backbone: Backbone, examples: Sequence[Example], style: TextFormat, modules: int) -> list[list[str]]:
    prompts = [backbone.encoder.prompt(example.input, style) for example in examples]
    answers = [[""] * len(examples) for _ in range(modules)]
    for indices in plan_batches([len(prompt) for prompt in prompts], budget=backbone.token_budget // modules):
        texts = backbone.generate(
            [prompts[index] for index in indices], max_new_tokens=style.max_target, modules=modules
        )
        for module, row in enumerate(texts):
            for index, text in zip(indices, row, strict=True):
                answers[module][index] = text
    return answers
