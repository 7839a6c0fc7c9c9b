"""Alterations that exceed a limit: patterns, numbers of names, sizes of files."""

import os
from pathlib import Path
from random import Random

from tests.corpus.case import Expectation, Mutation

from headstart.testing.oracles.stored import config_of, config_path, write_config

__all__ = ["LIMIT_MUTATIONS"]

Made = tuple[str, Expectation] | None

PATTERNS = ("a{4294967294}", ".*|a{2,101}", "a{,5000}", "x" * 10_001, ".*|" + "a{99}b" * 100, "(.*|x)" + "y" * 10**6)


def _pattern(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    if config.get("peft_type") not in ("LORA", "IA3"):
        return None
    field, pattern = rng.choice(("target_modules", "exclude_modules")), rng.choice(PATTERNS)
    write_config(folder, config | {field: pattern})
    return f"'{field}' is {pattern[:24]!r} of {len(pattern)} characters", "refused"


def _pattern_keys(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    if config.get("peft_type") != "LORA":
        return None
    field, rank = rng.choice(("rank_pattern", "alpha_pattern")), config["r"]
    table = rng.choice(
        [
            {f"q|v{number}": rank for number in range(1001)}, {str(number): rank for number in range(100_001)},
            {f"({'x' * 9000}{number})": rank for number in range(12)}, {"a{200}": rank},
        ]
    )  # fmt: skip
    write_config(folder, config | {field: table})
    return f"'{field}' has {len(table)} keys, the first {next(iter(table))[:20]!r}", "refused"


def _names(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    targets = config.get("target_modules")
    if "peft_type" not in config or not isinstance(targets, list):
        return None
    count = rng.randrange(100_001, 150_000)
    write_config(folder, config | {"target_modules": [*targets, *map(str, range(count))]})
    return f"{count} more names in 'target_modules'", "refused"


def _configuration(folder: Path, rng: Random) -> Made:
    path = config_path(folder)
    size = rng.randrange(17, 64) << 20
    with path.open("ab") as stream:
        stream.write(b" " * size)
    return f"{size} spaces behind the configuration", "refused"


def _tensors(folder: Path, rng: Random) -> Made:
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    name, size = rng.choice(names), rng.randrange(1 << 30, 9 << 30)
    os.truncate(folder / name, size)
    return f"{name} ends with a hole up to {size} bytes", "refused"


LIMIT_MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "beyond a limit": (_pattern, _pattern, _pattern_keys, _names, _configuration, _tensors),
}
"""By the family's name in the table."""
