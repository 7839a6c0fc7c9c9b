"""Conformance suites for rules and merge spaces: do they keep the contract of `headstart.blending`?"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from headstart.backbones import Backbone
from headstart.blending import RULES, SPACES, Blend, Candidate, Learning, Request, Weights, merge
from headstart.blending.rules.contract import NEEDS, OPTIONS
from headstart.blending.spaces.contract import NEEDS as SPACE_NEEDS
from headstart.errors import HeadstartError, MergeError, SettingError
from headstart.kinds import LoraModule, Module, fresh_module
from headstart.testing.backbones import tiny_backbone
from headstart.testing.case import Aside, Outcome, Violation, close, require

__all__ = ["RULE_CHECKS", "SPACE_CHECKS", "check_rule", "check_space"]

SCORES = (0.2, 0.9, math.nan, 0.5, 0.9)
SHARES = (0.5, 0.2, 0.3)

# ---- rules


class Standing:
    """Held-out rows that prefer the second candidate: the loss is 1 minus its share of the weights' sizes."""

    def losses(self, tried: Sequence[Weights]) -> list[float]:
        """Between 0 and 1."""
        return [1 - abs(each.modules[1]) / math.fsum(map(abs, each.modules)) for each in tried]

    def learned(self, learning: Learning, positions: Sequence[int]) -> Weights:
        """The same for all."""
        count = len(positions)
        return Weights(modules=(1 / count,) * count, signed=learning.signed).spread(positions, len(SCORES))


def _asked(name: str, blend: Blend | None, order: Sequence[int] = range(len(SCORES))) -> Request:
    candidates = [
        Candidate(f"m{index}", "same" if index < 4 else "other", score, merges=not math.isnan(score))
        for index, score in enumerate(SCORES)
    ]
    chosen = [candidates[index] for index in order]
    return Request(blend or _usual(name), chosen, "same", Standing())


def _usual(name: str) -> Blend:
    """The rule with the options that it cannot do without."""
    for fields in ({}, {"top_k": 2}, {"members": ("m0", "m1")}):
        blend = Blend(rule=name, **fields)
        try:
            RULES[name].check(blend, family="same")
        except SettingError as error:
            refusal = error
        else:
            return blend
    raise Aside("skipped", f"it needs options that this suite does not know: {refusal}")


def _needs_are_known(name: str, blend: Blend | None) -> None:
    del blend
    rule = RULES[name]
    require(rule.name == name, f"it calls itself '{rule.name}'")
    require(bool(rule.source), "it states no source")
    require(rule.needs <= NEEDS, f"it needs {sorted(rule.needs - NEEDS)}; a rule may need {sorted(NEEDS)}")
    require(rule.reads <= {*OPTIONS}, f"it reads {sorted(rule.reads - {*OPTIONS})}, which are no options")


def _ignored_options_are_refused(name: str, blend: Blend | None) -> None:
    rule, usual = RULES[name], blend or _usual(name)
    values = {"temperature": 1.0, "effective": 2.0, "top_k": 2, "members": ("m0",), "weights": (1.0,), "signed": True,
              "l1": 0.1, "groups": 2, "split": "dev"}  # fmt: skip
    for option in {*OPTIONS} - rule.reads:
        try:
            rule.check(usual.change(**{option: values[option]}), family="same")
        except SettingError:
            continue
        raise Violation(f"it accepts {option}, which it does not read")


def _weights_are_sound(name: str, blend: Blend | None) -> None:
    found = RULES[name].weigh(_asked(name, blend)).weights
    found.check(len(SCORES))
    require(found.signed <= RULES[name].signs(blend or _usual(name)), "its weights are signed; let `signs` say so")
    require(found.modules[2] == 0, "a module that cannot be merged has a weight")
    most = RULES[name].most(blend or _usual(name))
    require(most is None or len(found.taking_part()) <= most, f"more than {most} modules have a weight")


def _weights_come_again(name: str, blend: Blend | None) -> None:
    first, second = (RULES[name].weigh(_asked(name, blend)) for _ in range(2))
    require(first == second, "a second call gives other weights")


def _refuses_an_empty_hub(name: str, blend: Blend | None) -> None:
    try:
        RULES[name].weigh(_asked(name, blend, order=()))
    except MergeError:
        return
    raise Violation("it weighs no modules; raise MergeError")


RULE_CHECKS: Mapping[str, Callable[[str, Blend | None], None]] = {
    "what it says of itself": _needs_are_known,
    "options that it ignores": _ignored_options_are_refused,
    "sound weights": _weights_are_sound,
    "the same again": _weights_come_again,
    "no modules": _refuses_an_empty_hub,
}
"""What `check_rule` checks, by name."""


def check_rule(name: str, *, blend: Blend | None = None) -> list[Outcome]:
    """Run every check on a rule, with made-up scores and held-out losses; a rule's mistakes become outcomes "failed".

    `blend`: with the options that the rule needs, if it needs some. Raises `SettingError` for an unknown rule.
    """
    RULES[name]  # an unknown one is the caller's mistake
    return [_outcome(name, "", check, partial(run, name, blend)) for check, run in RULE_CHECKS.items()]


# ---- spaces


def _modules(kind: str, backbone: Backbone) -> list[Module]:
    made = []
    for seed in range(3):
        fresh = fresh_module(kind, backbone, {}, name=f"m{seed}", seed=seed)
        generator = torch.Generator().manual_seed(seed)
        drawn = {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in fresh.parameters().items()}
        made.append(fresh.with_parameters(drawn))
    return made


def _computed(module: Module) -> dict[str, Tensor]:
    """ΔW of a LoRA, whatever its factors; else the parameters."""
    if isinstance(module, LoraModule):
        return {path: f.scaling * (f.b.double() @ f.a.double()) for path, f in module.factors.items()}
    return module.parameters()


def _same(found: Module, wanted: Module, what: str, *, within: float = 1e-5) -> None:
    own, other = _computed(found), _computed(wanted)
    require(own.keys() == other.keys(), f"{what}: other layers")
    for path, value in other.items():
        close(own[path], value, f"{what}, {path}", within=within)


def _one_is_itself(space: str, modules: Sequence[Module], backbone: Backbone) -> None:
    merged = merge(modules, (0.0, 1.0, 0.0), space=space, backbone=backbone).module
    _same(merged, modules[1], "one module with weight 1")


def _order_does_not_matter(space: str, modules: Sequence[Module], backbone: Backbone) -> None:
    if "seed" in SPACES[space].reads:
        raise Aside("skipped", "it draws, module by module")
    one = merge(modules, SHARES, space=space, backbone=backbone).module
    other = merge(modules[::-1], SHARES[::-1], space=space, backbone=backbone).module
    _same(other, one, "the modules in another order", within=1e-4)


def _no_weight_is_no_part(space: str, modules: Sequence[Module], backbone: Backbone) -> None:
    one = merge(modules, (0.5, 0.5, 0.0), space=space, backbone=backbone).module
    _same(one, merge(modules[:2], (0.5, 0.5), space=space, backbone=backbone).module, "without a module of weight 0")


def _scale_is_a_factor(space: str, modules: Sequence[Module], backbone: Backbone) -> None:
    one, two = (merge(modules, SHARES, space=space, backbone=backbone, scale=scale).module for scale in (1.0, 2.0))
    origin = {} if isinstance(one, LoraModule) else modules[0].origin(backbone)
    for path, value in _computed(one).items():
        start = origin.get(path, torch.zeros_like(value))
        close(_computed(two)[path] - start, 2 * (value - start), f"twice the scale, {path}")


def _signs_work_where_it_is_linear(space: str, modules: Sequence[Module], backbone: Backbone) -> None:
    signed = Weights(modules=(1.5, -0.5, 0.0), signed=True)
    if SPACES[space].linear:
        merge(modules, signed, space=space, backbone=backbone)
        return
    try:
        merge(modules, signed, space=space, backbone=backbone)
    except MergeError:
        return
    if space != "auto":
        raise Violation("it is not linear, and takes weights with signs")


def _says_what_it_needs(space: str, modules: Sequence[Module], backbone: Backbone) -> None:
    del modules, backbone
    known = SPACES[space]
    require(known.name == space and bool(known.source), "its name is another, or it states no source")
    require(known.needs <= SPACE_NEEDS, f"it needs {sorted(known.needs - SPACE_NEEDS)}, which nobody provides")


SPACE_CHECKS: Mapping[str, Callable[[str, Sequence[Module], Backbone], None]] = {
    "what it says of itself": _says_what_it_needs,
    "one module": _one_is_itself,
    "another order": _order_does_not_matter,
    "no weight": _no_weight_is_no_part,
    "scale": _scale_is_a_factor,
    "signs": _signs_work_where_it_is_linear,
}
"""What `check_space` checks, by name."""


def check_space(name: str, *, kinds: Sequence[str] = ("lora", "ia3", "bitfit")) -> list[Outcome]:
    """Run every check on a merge space with modules of these kinds on a tiny GPT-2; mistakes become outcomes "failed".

    A kind that the space refuses gives one outcome, "refused". Raises `SettingError` for an unknown space.
    """
    SPACES[name]  # an unknown one is the caller's mistake
    backbone, found = tiny_backbone("gpt2"), []
    for kind in kinds:
        modules = _modules(kind, backbone)
        try:
            SPACES[name].fitting(modules)
        except MergeError as error:
            found.append(Outcome(name, kind, "fits", "refused", str(error)))
            continue
        for check, run in SPACE_CHECKS.items():
            found.append(_outcome(name, kind, check, partial(run, name, modules, backbone)))
    return found


def _outcome(name: str, subject: str, check: str, run: Callable[[], None]) -> Outcome:
    try:
        run()
    except Aside as aside:
        return Outcome(name, subject, check, aside.result, str(aside))
    except (Violation, HeadstartError) as error:
        return Outcome(name, subject, check, "failed", str(error))
    except Exception as error:
        return Outcome(name, subject, check, "failed", f"{type(error).__name__}: {error}")
    return Outcome(name, subject, check, "passed")
