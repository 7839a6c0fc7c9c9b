"""Checks of what modules compute: alone, together, attached, differentiated, merged."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from headstart.backbones import Backbone, TargetBatch
from headstart.blending import merge
from headstart.errors import MergeError
from headstart.kinds import Module
from headstart.testing.case import TOLERANCE, Aside, Case, Violation, close, require, same_head

__all__ = [
    "attach_leaves_no_trace",
    "gradient_is_that_of_finite_differences",
    "gradients_together_are_those_alone",
    "merge_of_one_or_equals_is_itself",
    "options_score_as_targets_do",
    "stack_is_single_runs",
    "threads_compute_as_one_does",
]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
STEPS = (1e-2, 3e-3, 1e-3)
"""Steps of finite differences: the first is too wide where the loss curves, the last too small where it is flat."""
NEAR = 0.01
"""How far the nearest finite difference may be from the gradient, as a fraction of the largest gradient."""


class _Interruption(Exception):  # noqa: N818 - it only stands for any error of a user's
    pass


def attach_leaves_no_trace(case: Case) -> None:
    """After a stack is detached, weights and output are bit-identical and no hook is left; also after an exception."""
    backbone, stack = case.backbone, case.stack(case.several(1, 2))
    plain = _plain_logits(case)
    before = _photograph(backbone)
    with torch.inference_mode():
        with stack.attach(backbone):
            changed = backbone.target_logits(case.batch, modules=len(stack))
        _require_untouched(backbone, before, "detached")
        with contextlib.suppress(_Interruption), stack.attach(backbone):
            raise _Interruption
        _require_untouched(backbone, before, "an exception in the block")
        with _failing(backbone.head), contextlib.suppress(_Interruption), stack.attach(backbone):
            backbone.target_logits(case.batch, modules=len(stack))
        _require_untouched(backbone, before, "an exception in the forward pass")
    require(torch.equal(_plain_logits(case), plain), "the backbone's own output is another one afterwards")
    for logits in changed:
        require(not torch.allclose(logits, plain[0], atol=1e-3), "a module whose parameters were moved does nothing")


def stack_is_single_runs(case: Case) -> None:
    """A stack of three computes, scores and generates what each module does alone; `module` returns that module."""
    modules = _three(case)
    require(len({module.stack_key for module in modules}) == 1, "modules of one shape have unequal stack_keys")
    together, alone = case.logits(modules), [case.logits([module])[0] for module in modules]
    require(not torch.allclose(alone[0], alone[1], atol=1e-3), "two different modules compute the same")
    for number, expected in enumerate(alone):
        close(together[number], expected, f"module {number} of the stack")
    stack = case.stack(modules)
    require(len(stack) == 3, f"a stack of three has length {len(stack)}")
    for number, module in enumerate(modules):
        _require_same_parameters(stack.module(number), module.parameters(), within=0.0)
        same_head(stack.module(number), module)
    if not case.backbone.is_encoder:
        _require_same_texts(case, modules)


def threads_compute_as_one_does(case: Case) -> None:
    """Threads that run at once, each with its own texts, compute what one does alone, if the stack allows it."""
    backbone, stack = case.backbone, case.stack(case.several(1, 2))
    if not stack.concurrent:
        raise Aside("skipped", "its passes run one after the other")
    batches = [backbone.batch(case.items, [index]) for index in range(len(case.items))] * 4

    def run(batch: TargetBatch) -> Tensor:
        with torch.inference_mode():
            return backbone.target_logits(batch, modules=len(stack))

    with stack.attach(backbone):
        expected = [run(batch) for batch in batches]
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(run, batches))
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        close(one, other, f"batch {number} in a thread of its own")


def _require_same_texts(case: Case, modules: Sequence[Module]) -> None:
    prompts = [item.prompt for item in case.items]
    with torch.inference_mode(), case.stack(modules).attach(case.backbone):
        texts = case.backbone.generate(prompts, max_new_tokens=4, modules=len(modules))
    for number, module in enumerate(modules):
        with torch.inference_mode(), case.stack([module]).attach(case.backbone):
            (expected_texts,) = case.backbone.generate(prompts, max_new_tokens=4)
        require(texts[number] == expected_texts, f"module {number} of the stack generates another text than alone")


def options_score_as_targets_do(case: Case) -> None:
    """Options scored from a cache of the prompt have the same log-likelihood as that target in one pass."""
    if case.backbone.is_encoder:
        raise Aside("skipped", "an encoder answers through its head")
    modules = [case.module(1), case.module(2)]
    stack, backbone = case.stack(modules), case.backbone
    options = [[item.target, case.items[0].target] for item in case.items]
    with torch.inference_mode(), stack.attach(backbone):
        scores = torch.tensor(backbone.option_scores([i.prompt for i in case.items], options, modules=2))[:, :, 0]
        log_p = backbone.target_logits(case.batch, modules=2).log_softmax(-1)
    taken = log_p.gather(2, case.batch.gold.view(1, -1, 1).expand(2, -1, 1)).squeeze(2)
    expected = torch.zeros(2, len(options)).index_add_(1, case.batch.owner, taken)
    expected = expected[:, torch.argsort(torch.tensor(case.batch.indices))]
    close(scores, expected, "scores of options")


def gradient_is_that_of_finite_differences(case: Case) -> None:
    """The gradient at the steepest coordinate of six evenly spread parameters, against fourth-order differences."""
    stack = case.stack(case.several(1, 2))
    gradients = _gradients(case, stack.parameters, stack)
    largest = max(gradient[-1].abs().max().item() for gradient in gradients.values())
    require(largest > 0, "no parameter has a gradient")
    for name in _some(sorted(gradients), most=6):
        gradient = gradients[name][-1].flatten()
        position = int(gradient.abs().argmax())
        expected, found = gradient[position].item(), []
        for step in STEPS:
            found.append(_difference(case, stack, name, position=position, step=step))
            if abs(found[-1] - expected) <= NEAR * largest:
                break
        else:
            raise Violation(f"{name} at {position}: gradient {expected:.4g}, finite differences {found}")


def gradients_together_are_those_alone(case: Case) -> None:
    """The gradients that one backward pass gives a stack of three, against one pass for each module alone."""
    modules = _three(case)
    stack = case.stack(modules)
    together = _gradients(case, stack.parameters, stack)
    for number, module in enumerate(modules):
        single = case.stack([module])
        for name, expected in _gradients(case, single.parameters, single).items():
            close(together[name][number], expected[0], f"gradient of {name}, module {number}", within=10 * TOLERANCE)


def merge_of_one_or_equals_is_itself(case: Case) -> None:
    """In space "parameters": weight 1 is the module itself, equal modules average to it, others to Σ w·θ."""
    one, two = case.module(1), case.module(2)
    try:
        alone = merge([one], [1.0]).module
        equal = merge([one, case.module(1)], [0.5, 0.5]).module
        mixed = merge([one, two], [0.25, 0.75]).module
    except MergeError as error:
        raise Aside("refused", str(error)) from error
    _require_same_parameters(alone, one.parameters(), within=0.0)
    _require_same_parameters(equal, one.parameters(), within=1e-6)
    theirs = two.aligned_to(one).parameters()
    _require_same_parameters(mixed, {k: 0.25 * v + 0.75 * theirs[k] for k, v in one.parameters().items()}, within=1e-6)
    require(all(merged.head is None for merged in (alone, equal, mixed)), "a task head was merged")
    expected = case.logits([one])
    computed = case.logits([alone.with_head(one.head)])
    require(torch.equal(computed, expected), "one module with weight 1 computes something else")
    close(case.logits([equal.with_head(one.head)]), expected, "the average of two equal modules")


def _three(case: Case) -> list[Module]:
    """Modules for a stack of three. Ends the check if the backbone has no pass for several modules."""
    if case.backbone.goes_alone:
        raise Aside("skipped", f"modules go one by one here: {case.backbone.goes_alone}")
    return case.several(1, 2, 3)


def _plain_logits(case: Case) -> Tensor:
    with torch.inference_mode():
        return case.backbone.target_logits(case.batch)


def _photograph(backbone: Backbone) -> dict[str, Any]:
    """Everything about a backbone that must stay the same: weights by value and identity, layers, attributes, flags."""
    model = backbone.model
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "parameters": {name: (id(value), value.requires_grad) for name, value in model.named_parameters()},
        "layers": {path: (type(layer), layer.training, sorted(vars(layer))) for path, layer in model.named_modules()},
        "hooks": {path: [len(getattr(layer, sort)) for sort in HOOKS] for path, layer in model.named_modules()},
        "configuration": model.config.to_dict(),
    }


def _require_untouched(backbone: Backbone, before: Mapping[str, Any], when: str) -> None:
    now = _photograph(backbone)
    for path, counts in before["hooks"].items():
        require(now["hooks"].get(path) == counts, f"{when}: a hook is left on {path or 'the model'}")
    for part in ("parameters", "layers", "configuration"):
        require(now[part] == before[part], f"{when}: the backbone's {part} differ from before")
    require(now["weights"].keys() == before["weights"].keys(), f"{when}: a weight came or went")
    for name, value in before["weights"].items():
        require(torch.equal(now["weights"][name], value), f"{when}: {name} changed")


@contextlib.contextmanager
def _failing(layer: nn.Module) -> Iterator[None]:
    def fail(*_: object) -> None:
        raise _Interruption

    handle = layer.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def _gradients(case: Case, parameters: Mapping[str, Tensor], stack: Any) -> dict[str, Tensor]:
    with stack.attach(case.backbone), stack.gradients():
        torch.autograd.backward(case.losses(len(stack)).sum())
        return {
            name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
            for name, value in parameters.items()
            if value.requires_grad
        }


def _difference(case: Case, stack: Any, name: str, *, position: int, step: float) -> float:
    """∂loss/∂θ of the last module's parameter at `position`: (8(f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h."""
    value = stack.parameters[name][-1].view(-1)
    start, losses = value[position].item(), {}
    with torch.no_grad(), stack.attach(case.backbone):
        for steps in (-2, -1, 1, 2):
            value[position] = start + steps * step
            losses[steps] = case.losses(len(stack))[-1].item()
        value[position] = start
    return (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * step)


def _some(names: Sequence[str], *, most: int) -> list[str]:
    """At most `most` of them, evenly spread, including the first."""
    return list(names[:: -(-len(names) // most)])


def _require_same_parameters(module: Module, expected: Mapping[str, Tensor], *, within: float) -> None:
    found = module.parameters()
    require(found.keys() == expected.keys(), "the names of the parameters differ")
    for name, value in expected.items():
        close(found[name], value, name, within=within)
