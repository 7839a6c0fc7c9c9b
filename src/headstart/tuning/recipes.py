"""How a module is tuned: every number of the training in one frozen record, and the papers' own as named presets."""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from headstart.errors import SettingError, of_type
from headstart.kinds.settings import checked, kinds_with, names_of, refuse_truth
from headstart.records import Record, TextFormat, fault
from headstart.registry import Registry
from headstart.showing import cut, line, plural
from headstart.tuning.optimizers import OPTIMIZERS

__all__ = ["RECIPES", "SCHEDULES", "SELECTS", "Recipe", "as_recipe"]

SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
)  # fmt: skip
"""The schedules of transformers that need only the steps of the warm-up and of the whole run."""
SELECTS = ("score", "loss")
LAYOUT = ("suffix", "prefix", "chat_template")

Count = Annotated[int, Field(gt=0)]
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Least0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Recipe(Record):
    """Settings of one tuning run. Lengths are in tokens; everything called steps is in optimizer updates.

    `patience`: evaluations without a better dev score before the run stops early. `clip`: largest gradient norm, 0 for
    no limit. `select`: what makes a state the best, the dev "score" (ties: lower loss) or the dev "loss", which is the
    steadier of the two on a small or hard dev set. `max_dev`: dev examples used per evaluation, `None` for all.
    `dropout`: whether the backbone applies the dropout of its own configuration during tuning, as in both papers'
    code; without it, the backbone computes as it does when it is used.

    `early_steps` or `early_epochs`: after how much tuning the state is kept beside the best one, for the embedding
    `early`; Zhou et al. (2022) take 2 epochs. `None` for both keeps none.

    `suffix`, `prefix` and `chat_template` lay a prompt out (see `TextFormat`); `None` is as the start was tuned, else
    the standard.

    `kind` and `shape` make a fresh module; a given start keeps its own shape. `shape` holds settings of that kind by
    name: those that differ from the kind's defaults, or that are to stay if the defaults change; `settings` gives all.

    Raises `SettingError` at construction for a value that makes no sense or a setting that the kind does not have.

    >>> short = hs.RECIPES["quick"].change(max_steps=4, eval_every=2)
    >>> short
    Recipe('quick'; lora; lr 0.001; at most 4 steps of 8 rows)
    >>> short.settings
    LoraSettings(rank=8, ...)
    """

    name: str
    lr: Size
    batch_size: Count
    max_steps: Count
    eval_every: Count
    patience: Count
    optimizer: str = "adafactor"
    schedule: str = "constant_with_warmup"
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    clip: Least0 = 0.1
    weight_decay: Least0 = 0.0
    max_input: Count = 512
    max_target: Count = 64
    select: str = "score"
    max_dev: Count | None = None
    dropout: bool = False
    early_steps: Count | None = None
    early_epochs: Count | None = None
    suffix: str | None = None
    prefix: str | None = None
    chat_template: bool | None = None
    kind: str = "lora"
    shape: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, make: Callable[[Any], Self]) -> Self:
        if isinstance(data, Mapping):
            refuse_truth(cls, data)
        try:
            return make(data)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "extra_forbidden":
                raise SettingError(cls._unknown(str(first["loc"][0]), data.get("kind", "lora"))) from error
            raise SettingError(f"recipe setting {fault(error)}; correct it") from error

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for field, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("select", SELECTS)):
            if getattr(self, field) not in known:
                raise SettingError(_unknown(field, getattr(self, field), known))
        if self.warmup_steps > self.max_steps:
            raise SettingError(
                f"recipe setting warmup_steps={self.warmup_steps} is more than max_steps={self.max_steps}, so that the "
                "learning rate would never be reached; lower it (warmup_steps=0 is none)"
            )
        if self.early_steps is not None and self.early_epochs is not None:
            raise SettingError("recipe settings early_steps and early_epochs both say when; leave one out")
        whole = self.settings
        given = {name: getattr(whole, name) for name, value in self.shape.items() if value is not None}
        self.__dict__["shape"] = given  # as the kind reads it: "q,v" is two names
        return self

    @cached_property
    def settings(self) -> Any:
        """What shapes a fresh module: the kind's settings, with the kind's defaults where `shape` says nothing."""
        return checked(self.kind, self.shape)

    def __repr__(self) -> str:
        length = f"at most {plural(self.max_steps, 'step')} of {plural(self.batch_size, 'row')}"
        return line(type(self).__name__, f"'{cut(self.name)}'", self.kind, f"lr {self.lr:g}", length)

    def change(self, **settings: Any) -> "Recipe":
        """The same recipe with some settings changed: its own, or those of the kind, all by name.

        Another `kind` begins with that kind's own shape. If a recipe and a kind both have a setting called NAME,
        "shape.NAME" means the kind's. If only `max_steps` is changed, `warmup_steps` keeps its share of them. Raises
        `SettingError` for an unknown name, a bad value, or a setting of another kind.
        """
        own = {name: value for name, value in settings.items() if name in type(self).model_fields}
        kind = own.get("kind", self.kind)
        shape = dict(own.pop("shape", self.shape if kind == self.kind else {}))
        for name in settings.keys() - type(self).model_fields.keys():
            short = name.removeprefix("shape.")
            if short == name and not kinds_with(name, kind):
                raise SettingError(self._unknown(name, kind))
            shape[short] = settings[name]
        changed = {**self.model_dump(), **own, "shape": shape}
        if "max_steps" in own and "warmup_steps" not in own:
            return self._warmed_up(type(self).model_validate({**changed, "warmup_steps": 0}))
        return type(self).model_validate(changed)

    def _warmed_up(self, changed: "Recipe") -> "Recipe":
        """`changed`, with the ratio of warm-up steps to all steps that this recipe has, rounded down."""
        return changed.model_copy(update={"warmup_steps": self.warmup_steps * changed.max_steps // self.max_steps})

    def canonical(self, *, fresh: bool = True) -> dict[str, Any]:
        """The settings that change the result, as JSON values: without the name, and without defaults.

        `fresh`: whether `kind` and `shape` make the module; a given start has its own.
        """
        whole = self.model_dump(mode="json", exclude={"name", "kind", "shape"})
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        found = {name: value for name, value in whole.items() if value != defaults[name]}
        if not fresh:
            return found
        own = {
            field.name: _plain(getattr(self.settings, field.name))
            for field in fields(self.settings)
            if field.default is MISSING or getattr(self.settings, field.name) != field.default
        }
        return {**found, "kind": self.kind, "shape": own}

    @property
    def text_format(self) -> TextFormat:
        """The text layout and cut lengths; what the recipe leaves open is the standard."""
        given = {name: getattr(self, name) for name in LAYOUT if getattr(self, name) is not None}
        return TextFormat(max_input=self.max_input, max_target=self.max_target, **given)

    def laid_out_as(self, text_format: TextFormat | None) -> "Recipe":
        """The recipe with the layout of `text_format`, such as a start's, where it leaves its own open."""
        if text_format is None or any(getattr(self, name) is not None for name in LAYOUT):
            return self
        standard = TextFormat()
        own = {name: value for name in LAYOUT if (value := getattr(text_format, name)) != getattr(standard, name)}
        return self.change(**own) if own else self

    @classmethod
    def shapes(cls, name: str) -> bool:
        """Whether a setting of this name shapes a fresh module, rather than how any module is tuned."""
        return name in ("kind", "shape") or name not in cls.model_fields

    @classmethod
    def _unknown(cls, name: str, kind: str) -> str:
        known, own = [field for field in cls.model_fields if field != "shape"], names_of(kind)
        near = difflib.get_close_matches(name, [*known, *own], n=1)
        hint = f"did you mean '{near[0]}'?" if near else "leave it out"
        return (
            f"a recipe has no setting '{name}'; it has: {', '.join(known)}, in shape those of kind '{kind}': "
            f"{', '.join(own) or 'none'}; {hint}"
        )


def _plain(value: Any) -> Any:
    """A value of a kind's settings as a JSON value."""
    return list(value) if isinstance(value, tuple) else value


def _unknown(field: str, value: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown {field} '{value}'; choose one of: {', '.join(known)}{hint}"


RECIPES: Registry[Recipe] = Registry(
    "recipe", group="headstart.recipes", contract="headstart.tuning.recipes:Recipe", instances=True
)
for _recipe in (
    # Lv et al., 2023, §3.1 and appendix; optimizer, schedule and clipping from the authors' code.
    Recipe(
        name="few-shot", lr=5e-4, batch_size=8, max_steps=3000, eval_every=100, patience=10,
        shape={"rank": 10, "alpha": 16.0},
    ),
    Recipe(
        name="full", lr=5e-4, batch_size=16, max_steps=50000, eval_every=1000, patience=20,
        shape={"rank": 10, "alpha": 16.0},
    ),
    # Zhou et al., 2022, §4: LoRA r 8, α 8, batch 32, the state of epoch 2 kept; its 20 epochs are given as steps.
    Recipe(
        name="tupate", lr=5e-4, batch_size=32, max_steps=2000, eval_every=100, patience=20, optimizer="adamw",
        schedule="linear", warmup_steps=0, clip=1.0, early_epochs=2, shape={"rank": 8, "alpha": 8.0},
    ),
    # Our own: a small backbone on a laptop takes a minute or two.
    Recipe(
        name="quick", lr=1e-3, batch_size=8, max_steps=48, eval_every=8, patience=6, optimizer="adamw",
        schedule="linear", warmup_steps=4, clip=1.0, max_input=256, max_target=32, max_dev=64,
        shape={"rank": 8, "alpha": 16.0},
    ),
):  # fmt: skip
    RECIPES.add(_recipe.name, _recipe)


def as_recipe(given: Recipe | str) -> Recipe:
    """The recipe that a caller gave, or the one of that name. Raises `SettingError` for anything else."""
    if isinstance(given, Recipe):
        return given
    if isinstance(given, str):
        return RECIPES[given]
    raise SettingError(f"{of_type('recipe', given)}; give a Recipe, or the name of one: {', '.join(RECIPES)}")
