"""How a module is tuned: every number of the training in one frozen record, and the papers' own as named presets."""

import math

from pydantic import ValidationError, field_validator

from headstart.errors import SettingError
from headstart.records import Record
from headstart.registry import Registry

__all__ = ["RECIPES", "Recipe"]


POSITIVE = (
    "lr", "batch_size", "max_steps", "eval_every", "patience", "max_input", "max_target", "max_dev", "rank", "alpha",
)  # fmt: skip
SHAPES = {
    "lora": {"rank", "alpha", "targets"},
    "ia3": {"targets"},
    "bitfit": {"targets"},
    "prompt": {"length"},
    "prefix": {"length", "reparametrized", "bottleneck", "encoder", "cross_attention"},
    "adapter": {"placement", "bottleneck", "activation", "biases"},
}
"""What shapes a fresh module, by kind."""


class Recipe(Record):
    """Settings of one tuning run. Lengths are in tokens, everything called steps in optimizer updates.

    `patience`: evaluations without a better dev score before the run stops early. `clip`: largest gradient norm, 0 for
    none. `select`: what makes a state the best, the dev "score" (ties: lower loss) or the dev "loss", which is the
    steadier of the two on a small or hard dev set. `max_dev`: dev examples used per evaluation, `None` for all.

    `kind` and what follows it shape a fresh module; a given start keeps its own shape. Each kind reads the settings
    that it has and takes its own default where one is `None`: `rank`, `alpha` and `targets` (LoRA), `length` in tokens
    (prefix, prompt), `bottleneck` in units, `placement`, `activation` and `biases` (adapter), `reparametrized`,
    `encoder` and `cross_attention` (prefix).
    """

    name: str
    lr: float
    batch_size: int
    max_steps: int
    eval_every: int
    patience: int
    optimizer: str = "adafactor"
    schedule: str = "constant_with_warmup"
    warmup_steps: int = 200
    clip: float = 0.1
    weight_decay: float = 0.0
    max_input: int = 512
    max_target: int = 64
    select: str = "score"
    max_dev: int | None = None
    kind: str = "lora"
    rank: int = 10
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    length: int | None = None
    bottleneck: int | None = None
    placement: str | None = None
    activation: str | None = None
    biases: bool | None = None
    reparametrized: bool | None = None
    encoder: bool | None = None
    cross_attention: bool | None = None

    @field_validator("targets", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        """Names in one text, "query,value", as a list of names."""
        if not isinstance(value, str):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        if not names:
            raise ValueError("it names no layer")
        return names

    def change(self, **settings: object) -> "Recipe":
        """The same recipe with some settings changed.

        Raises `SettingError` for an unknown name, a bad value, or a setting of another kind than the recipe's.
        """
        unknown = settings.keys() - type(self).model_fields.keys()
        if unknown:
            known = ", ".join(type(self).model_fields)
            raise SettingError(f"a recipe has no setting '{min(unknown)}'; it has: {known}")
        try:
            changed = type(self).model_validate({**self.model_dump(), **settings})
        except ValidationError as error:
            first = error.errors()[0]
            raise SettingError(
                f"recipe setting {first['loc'][0]}={first['input']!r}: {first['msg']}; correct it"
            ) from error
        for field in POSITIVE:
            if not 0 < (1 if getattr(changed, field) is None else getattr(changed, field)) < math.inf:
                raise SettingError(f"recipe setting {field}={getattr(changed, field)} must be above 0; correct it")
        for field in ("clip", "warmup_steps", "weight_decay"):
            if not 0 <= getattr(changed, field) < math.inf:
                raise SettingError(f"recipe setting {field}={getattr(changed, field)} must be at least 0; correct it")
        shaping: set[str] = set().union(*SHAPES.values())
        own = SHAPES.get(changed.kind, shaping)  # what a plugin's kind reads is its own affair
        for field in sorted(settings.keys() & shaping):
            if field not in own and settings[field] != type(self).model_fields[field].default:
                raise SettingError(
                    f"recipe setting {field} is not for kind '{changed.kind}', which reads: {', '.join(sorted(own))}; "
                    "leave it out, or name the kind it is for (kind=…)"
                )
        if changed.select not in ("score", "loss"):
            raise SettingError(f"unknown select '{changed.select}'; choose one of: score, loss")
        return changed


RECIPES: Registry[Recipe] = Registry("recipe", group="headstart.recipes")
for _recipe in (
    # Lv et al., 2023, §3.1 and appendix; optimizer, schedule and clipping from the authors' code.
    Recipe(name="few-shot", lr=5e-4, batch_size=8, max_steps=3000, eval_every=100, patience=10),
    Recipe(name="full", lr=5e-4, batch_size=16, max_steps=50000, eval_every=1000, patience=20),
    # Zhou et al., 2022, §4: LoRA r 8, α 8, batch 32; its 20 epochs are given as steps by the caller.
    Recipe(
        name="tupate", lr=5e-4, batch_size=32, max_steps=2000, eval_every=100, patience=20, optimizer="adamw",
        schedule="linear", warmup_steps=0, clip=1.0, rank=8, alpha=8.0,
    ),
    # Ours: what a laptop does in a minute or two on a small backbone.
    Recipe(
        name="quick", lr=1e-3, batch_size=8, max_steps=48, eval_every=8, patience=6, optimizer="adamw",
        schedule="linear", warmup_steps=4, clip=1.0, max_input=256, max_target=32, max_dev=64, rank=8, alpha=16.0,
    ),
):  # fmt: skip
    RECIPES.add(_recipe.name, _recipe)
