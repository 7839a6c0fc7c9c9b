"""Scoring: every module reads every example once, and all requested indicators are computed from that."""

from collections.abc import Iterable, Mapping, Sequence

from headstart.backbones import Backbone, BackboneLike, Encoded, Head, TextFormat
from headstart.errors import SettingError, TaskError, of_type
from headstart.events import Listener
from headstart.hub import Hub
from headstart.indicators import (
    INDICATORS,
    FeatureIndicator,
    GradientIndicator,
    HiddenIndicator,
    Indicator,
    Need,
    OptionIndicator,
    ParameterIndicator,
    ProjectionIndicator,
    Spec,
    TokenIndicator,
    Trial,
    TuningIndicator,
    WeightIndicator,
    make_indicator,
)
from headstart.indicators.answers import Offered, classes_of, offered_options
from headstart.indicators.passes import Workload
from headstart.indicators.rows import RowWriter
from headstart.indicators.run import Answers, Run
from headstart.indicators.table import Scores, ScoreTable, check_reduction, require_distinct
from headstart.kinds import AnyModule, Module, ModuleLike, as_module, as_modules, backbone_for
from headstart.tasks import Example

__all__ = ["ANSWERS", "FAMILIES", "NO_DISTRIBUTION", "check_request", "chosen_indicators", "score", "score_table"]

NO_DISTRIBUTION = "it compares distributions over answers, and a regression answers with one number"
NO_CLASSES = "it compares classes of answers, and a regression answers with one number"
FAMILIES = (
    TokenIndicator, GradientIndicator, ProjectionIndicator, HiddenIndicator, FeatureIndicator, OptionIndicator,
    WeightIndicator, ParameterIndicator, TuningIndicator,
)  # fmt: skip
"""What an indicator can be derived from; the engine gives each family what it computes from."""
ANSWERS = frozenset({Need.PREDICTIONS, Need.GRADIENTS, Need.HIDDEN_STATES})
"""What an encoder's modules need a task head for."""


def score_table(
    modules: Iterable[ModuleLike] | ModuleLike | Hub,
    examples: Sequence[Example],
    backbone: BackboneLike | None = None,
    *,
    indicators: str | Sequence[str | Spec | Indicator] = ("cosine",),
    reference: ModuleLike | None = None,
    trials: Mapping[tuple[str, int], Trial | str] | None = None,
    among: Sequence[AnyModule] | None = None,
    text_format: TextFormat | None = None,
    budget: int | None = None,
    progress: Listener | None = None,
) -> ScoreTable:
    """Score every module on every example by every requested indicator, in one pass.

    Args:
        modules: modules that fit the backbone (see `Module.check`), of any shapes, with distinct names. Modules on the
            disk are read one stack at a time; one that cannot be read has no value, and the reason says why.
        examples: labelled examples of the new task; the first acceptable target is the gold one.
        backbone: the frozen model; `None` is the one that the modules name.
        indicators: specs, as in `make_indicator`, or a single one as text.
        reference: a module tuned on the new task, for indicators that need one.
        trials: by a module's name and the number of steps, what tuning made of it, for indicators that tune every
            module, or the reason why it cannot be tuned. `rank` makes them.
        among: the modules of the hub, for indicators by which a module's value depends on the others; `None` is
            `modules`.
        text_format: text layout and cut lengths.
        budget: tokens per forward pass; `None` takes what suits the device. Where memory runs out, it is halved.
        progress: hears how many examples are done, counted once for each module.

    Raises:
        SettingError: an unknown indicator, two modules with one name, or a missing reference that is needed.
        TaskError: no examples.
        TooLargeError: a single example under a single module does not fit into the device's memory.
    """
    chosen, examples = chosen_indicators(indicators), _as_examples(examples)
    check_request(chosen, examples)
    for indicator in chosen:
        if Need.REFERENCE in indicator.needs and reference is None:
            raise SettingError(f"'{indicator.name}' needs a reference module tuned on the task; give reference=")
        if Need.TUNING in indicator.needs and trials is None:
            raise SettingError(f"'{indicator.name}' tunes every module on the task; use rank, or give trials=")
    compared = None if reference is None else as_module(reference, parameter="reference").load()
    modules = as_modules(modules)
    backbone = backbone_for(modules, backbone)
    require_distinct([module.name for module in modules])
    head = _shared_head(chosen, backbone, compared)
    text_format = text_format or TextFormat()
    work = Workload(backbone, _read(examples, backbone, text_format, head=head), budget=budget)
    rows = RowWriter([module.name for module in modules], work.counted)
    answers = _answers(chosen, examples, work, text_format, head=head)
    defined = []
    for indicator in chosen:
        reason = _undefined(indicator, answers, head)
        if reason is None:
            defined.append(indicator)
        else:
            rows.missing(range(len(modules)), indicator, reason)
    answering = modules if head is None else [module.with_head(head) for module in modules]
    asked = any(isinstance(one, OptionIndicator) for one in defined)
    extra = answers.options.read if asked and isinstance(answers.options, Offered) else ()
    Run(work, answering, defined, compared, rows, answers, dict(trials or {}), extra=extra, among=among).all(progress)
    return rows.table([str(indicator.spec) for indicator in chosen], examples=len(examples))


def score(
    modules: Iterable[ModuleLike] | ModuleLike | Hub,
    examples: Sequence[Example],
    backbone: BackboneLike | None = None,
    *,
    indicators: str | Sequence[str | Spec | Indicator] = ("cosine",),
    reduction: str = "mean",
    reference: ModuleLike | None = None,
    trials: Mapping[tuple[str, int], Trial | str] | None = None,
    text_format: TextFormat | None = None,
    budget: int | None = None,
    progress: Listener | None = None,
) -> Scores:
    """One value per module and indicator: `score_table`, reduced over target tokens.

    `reduction` is "mean", or "sum" as [PEWE] writes it, which makes a softmax nearly one-hot. The other arguments and
    the errors are those of `score_table`.

    >>> hs.score(hub, task.dev, backbone, indicators="loss")
    Scores(3 modules by loss; mean over ... tokens of 6 examples)
    """
    check_reduction(reduction)
    table = score_table(
        modules, examples, backbone, indicators=indicators, reference=reference, trials=trials,
        text_format=text_format, budget=budget, progress=progress,
    )  # fmt: skip
    return table.reduce(reduction)


def chosen_indicators(asked: str | Iterable[str | Spec | Indicator]) -> list[Indicator]:
    """The indicators that are asked for, each once; a text may name several, separated by commas.

    Raises `SettingError`: see `make_indicator`.

    >>> [str(one.spec) for one in chosen_indicators("loss,cosine")]
    ['loss', 'cosine']
    """
    several = [asked] if isinstance(asked, str | Spec | Indicator) else asked
    if not isinstance(several, Iterable):
        raise SettingError(f"{of_type('indicators', asked)}; give names, such as {', '.join(INDICATORS)}")
    given: list[str | Spec | Indicator] = []
    for one in several:
        given += Spec.parse_several(one) if isinstance(one, str) else [one]
    return list(dict.fromkeys(map(make_indicator, given)))


def _read(
    examples: Sequence[Example], backbone: Backbone, text_format: TextFormat, *, head: Head | None
) -> list[Encoded]:
    """The examples as token ids; on an encoder without a head only what is read, since nothing can be answered."""
    if backbone.is_encoder and head is None:
        return [backbone.encoder.read(example.text, text_format) for example in examples]
    pairs = [(example.text, example.target) for example in examples]
    return backbone.encode(pairs, text_format, head=None if head is None else head.card)


def _answers(
    chosen: Sequence[Indicator],
    examples: Sequence[Example],
    work: Workload,
    text_format: TextFormat,
    *,
    head: Head | None,
) -> Answers:
    """What the examples ask for, as far as an indicator reads it."""
    classes = options = None
    if any(isinstance(one, FeatureIndicator) for one in chosen):
        numbers = [item.value for item in work.items if item.value is not None]
        classes = classes_of(examples, values=numbers or None)
    if any(isinstance(one, OptionIndicator) for one in chosen):
        options = offered_options(examples, work.backbone, text_format, head=head)
    return Answers(classes, options)


def _undefined(indicator: Indicator, answers: Answers, head: Head | None) -> str | None:
    """Why no module has a value of this indicator on these examples, or `None` if they may have one."""
    if head is not None and head.card.task == "regression" and indicator.distribution:
        return NO_CLASSES if isinstance(indicator, FeatureIndicator) else NO_DISTRIBUTION
    missing = {FeatureIndicator: answers.classes, OptionIndicator: answers.options}
    found = next((why for family, why in missing.items() if isinstance(indicator, family)), None)
    return found if isinstance(found, str) else None


def _as_examples(given: Sequence[Example]) -> Sequence[Example]:
    """The examples as they were given; raises `TaskError` for anything else."""
    remedy = "give a list of Example, such as the rows of task.dev"
    if not isinstance(given, Sequence):
        raise TaskError(f"{of_type('examples', given)}; {remedy}")
    for one in given:
        if not isinstance(one, Example):
            raise TaskError(f"{of_type('one of the examples', one)}; {remedy}")
    return given


def check_request(chosen: Sequence[Indicator], examples: Sequence[Example]) -> None:
    """Raise `SettingError` or `TaskError`, before any work, for what cannot be scored."""
    if not chosen:
        raise SettingError(f"no indicator was asked for; choose from: {', '.join(INDICATORS)}")
    if not examples:
        raise TaskError("there are no examples to score on; give the task a dev split or more rows")
    for indicator in chosen:
        if not isinstance(indicator, FAMILIES):
            raise SettingError(
                f"'{indicator.name}' is of no family that scoring computes; derive it from one of: "
                f"{', '.join(family.__name__ for family in FAMILIES)}"
            )


def _shared_head(chosen: Sequence[Indicator], backbone: Backbone, reference: Module | None) -> Head | None:
    """The head through which every module answers on an encoder: the reference module's, tuned on the new task.

    Raises `SettingError` if predictions are needed and there is no such head.
    """
    if not backbone.is_encoder or not any(indicator.needs & ANSWERS for indicator in chosen):
        return None
    if reference is None or reference.head is None:
        raise SettingError(
            f"on the encoder {backbone.name} modules answer through a task head that was tuned on the new task; "
            "give reference=, a module tuned on it"
        )
    return reference.head
