"""Write docs/recipes.md from the recipes and the kinds themselves: `python docs/write_recipes.py`. A test checks it."""

from dataclasses import fields
from pathlib import Path

from headstart.kinds.settings import SETTINGS
from headstart.tuning.recipes import RECIPES, Recipe

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).with_name("recipes.md")

BEGIN = """\
# Recipes and settings

A recipe holds every number of a tuning run. `--recipe NAME` chooses one, and `--set name=value`, repeated, changes it;
in Python `headstart.Recipe` is such a record, and `RECIPES["quick"].change(max_steps=100, lr=5e-4)` gives another one.

```sh
headstart tune TASK --backbone B -o module/ --recipe quick --set max_steps=200
headstart tune TASK --backbone B -o module/ --set kind=prefix --set encoder=true --set reparametrized=true
headstart tune TASK --backbone B -o module/ --set targets=q_proj,v_proj,embed_tokens --set rank=16
```

A setting that the recipe's kind does not read is refused, and so is a value that makes no sense. Lengths are in
tokens, steps are optimizer updates; the best state on the dev rows is kept, and `patience` evaluations without a
better one end the run. If `max_steps` is changed and `warmup_steps` is not, the warm-up keeps its share of the steps,
rounded down: `few-shot` with `max_steps=100` warms up for 6 steps, because it has 200 of 3000.

![Which settings act where in a tuning run](images/recipes.svg)

`suffix`, `prefix` and `chat_template` lay the prompt out, and are options of their own: `--suffix`, `--prefix` and
`--chat`. What is not set is as the start was tuned; a fresh module reads the input, then `\\nAnswer:`. See
[Use the result elsewhere](use.md#the-layout-of-prompts).

## Recipes

`few-shot` and `full` are those of Lv et al., 2023, `tupate` that of Zhou et al., 2022; `quick` takes a laptop a
minute or two on a small backbone. `--set select=loss` keeps the state with the lowest dev loss instead of the best
score, and `max_dev` limits the dev rows of an evaluation.

"""

SHAPE = """
## Shapes of a fresh module

`--set kind=…` chooses the kind. Each kind has its own settings for the shape of a module, and `--set rank=16` or
`--set shape.rank=16` changes one, also for a plug-in's kind. `headstart list kinds NAME` shows them. A module given
with `--start` keeps its own shape, so these settings are then refused. The table shows the kinds' defaults;
[Methods](methods.md#kinds) says what they mean.

"""

END = """
[PEWE] tunes LoRA with rank 10 and alpha 16, adapters with placement `pewe` (size 12), and a prefix with
`encoder=true reparametrized=true length=120`; [TuPaTE] LoRA with rank and alpha 8, a prefix of length 20 without
projection, and BitFit.
"""


def page() -> str:
    """The page as it should be."""
    names = [name for name in Recipe.model_fields if name not in {"name", "kind", "shape"}]
    lines = [f"| setting | {' | '.join(f'`{name}`' for name in RECIPES)} |", f"|---|{'---|' * len(RECIPES)}"]
    for name in names:
        values = (_text(name, getattr(recipe, name)) for recipe in RECIPES.values())
        lines.append(f"| `{name}` | {' | '.join(values)} |")
    shapes = ["| kind | settings and their defaults |", "|---|---|"]
    for kind, family in SETTINGS.items():
        own = {field.name: field.default for field in fields(family)}
        if kind == "bitfit":
            own |= {"targets": "every bias"}
        shapes.append(f"| `{kind}` | {', '.join(f'`{name}`: {_text(name, value)}' for name, value in own.items())} |")
    note = "\nRank and alpha of LoRA in the recipes: "
    note += ", ".join(f"`{n}` {r.settings.rank} and {r.settings.alpha:g}" for n, r in RECIPES.items()) + ".\n"
    return BEGIN + "\n".join(lines) + "\n" + SHAPE + "\n".join(shapes) + "\n" + note + END


UNSET = {
    "max_dev": "all",
    "early_steps": "none",
    "early_epochs": "none",
    "targets": "PEFT's for the architecture",
    "feedforward": "those of them that PEFT counts as such",
    "suffix": "the start's",
    "prefix": "the start's",
    "chat_template": "the start's",
    "activation": "the placement's",
    "biases": "the placement's",
}


def _text(name: str, value: object) -> str:
    match value:
        case None:
            return UNSET[name]
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
    return str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
