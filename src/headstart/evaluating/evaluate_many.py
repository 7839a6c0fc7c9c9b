"""Evaluating a list of modules on the same rows, those of equal shape in one pass."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from headstart.backbones import Backbone, BackboneLike, TextFormat, as_backbone
from headstart.backbones.memory import in_halves
from headstart.evaluating.answering import TOO_LARGE, answer_rows, decoding_for
from headstart.evaluating.evaluation import Evaluation
from headstart.events import Listener, Progress
from headstart.kinds import ModuleLike, as_module, stack_of, stacks
from headstart.records import HeadCard
from headstart.tasks import METRICS, Example

__all__ = ["evaluate_attached", "evaluate_many"]


def evaluate_many(
    modules: Sequence[ModuleLike | None],
    examples: Sequence[Example],
    backbone: BackboneLike,
    *,
    metric: str,
    decoding: str = "auto",
    text_format: TextFormat | None = None,
    progress: Listener | None = None,
) -> list[Evaluation]:
    """Evaluate modules (`None`: the bare backbone) without calibration, those of equal shape together.

    Args:
        modules: what to evaluate: modules, results that hold one, or folders.
        examples: labelled examples, usually a test split.
        backbone: the frozen model.
        metric: a name in `METRICS`.
        decoding: "options" takes the likeliest of each example's options; "generate" decodes greedily; "auto" is
            "options" if every example lists some, else "generate". On an encoder every module answers through its
            own head.
        text_format: text layout and cut lengths.
        progress: told how many rows are answered, those of all modules together.

    Raises:
        ModuleError: something that is no module, or a folder that is broken.
        TaskError: no examples, or options asked for and missing.
        SettingError: unknown metric or decoding, or, on an encoder, a module without a head.
        TooLargeError: a single row under a single module does not fit into the device's memory.
    """
    given = [None if each is None else as_module(each, parameter="a module in modules").load() for each in modules]
    backbone = as_backbone(backbone)
    results: dict[int, Evaluation] = {}
    bare = [index for index, module in enumerate(given) if module is None]
    done, total = 0, (len(given) - len(bare) + bool(bare)) * len(examples)

    def told(width: int) -> Callable[[int], None] | None:
        return progress and (lambda rows: progress(Progress("evaluating rows", done + width * rows, total)))

    if bare:
        found = evaluate_attached(
            backbone, examples, metric=metric, decoding=decoding, text_format=text_format, told=told(1)
        )[0]
        done += len(examples)
        results.update(dict.fromkeys(bare, found))
    present = [(index, module) for index, module in enumerate(given) if module is not None]
    groups = stacks([module for _, module in present], most=1 if backbone.goes_alone else 8)

    def evaluate_some(members: Sequence[int], most: int) -> None:
        nonlocal done
        left = [present[member] for member in members if present[member][0] not in results]
        for some in (left[start : start + most] for start in range(0, len(left), most)):
            chosen = [module for _, module in some]
            with torch.inference_mode(), stack_of(chosen, backbone).attach(backbone):
                found = evaluate_attached(
                    backbone,
                    examples,
                    metric=metric,
                    decoding=decoding,
                    text_format=text_format,
                    modules=len(chosen),
                    head=chosen[0].card.head,
                    told=told(len(chosen)),
                )
            results.update({index: value for (index, _), value in zip(some, found, strict=True)})
            done += len(chosen) * len(examples)

    for members in groups:
        in_halves(partial(evaluate_some, members), len(members), too_large=TOO_LARGE)
    return [results[index] for index in range(len(given))]


def evaluate_attached(
    backbone: Backbone,
    examples: Sequence[Example],
    *,
    metric: str,
    decoding: str = "auto",
    text_format: TextFormat | None = None,
    modules: int = 1,
    head: HeadCard | None = None,
    told: Callable[[int], None] | None = None,
) -> list[Evaluation]:
    """Evaluate the attached stack of N = `modules` modules (on an encoder, with heads); one result for each module."""
    METRICS[metric]
    how = decoding_for(decoding, examples, backbone)
    answers = answer_rows(
        backbone, examples, decoding=how, text_format=text_format or TextFormat(), modules=modules, head=head, told=told
    )
    return [Evaluation.of(each, examples, metric=metric, decoding=how) for each in answers]
