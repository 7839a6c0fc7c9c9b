"""Modules of the user's own to alter: copies of those for which a tiny backbone can be built."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.corpus.case import Source
from tests.corpus.dimensions import LARGEST, backbone_of, dimensions_of

from headstart.errors import HeadstartError
from headstart.formats import read_module
from headstart.kinds import load_module
from headstart.records import CARD_FILE

__all__ = ["Given", "given_sources"]


class Given(NamedTuple):
    """The modules to alter, and a line about every folder that is left out."""

    sources: list[Source]
    left_out: list[str]


def given_sources(folders: Iterable[Path], folder: Path) -> Given:
    """Copies, in `folder`, of the modules in `folders` for which a tiny backbone can be built.

    A card is left behind: it names a backbone that is not here. What cannot be used is left out, and said.
    """
    sources, left_out = [], []
    for number, given in enumerate(folders):
        target = folder / f"given-{number}-{given.name}"
        try:
            stored = read_module(given)
            dims = dimensions_of(stored)
            if dims is None:
                left_out.append(f"{given}: no backbone of at most {LARGEST} units is built for it")
                continue
            shutil.copytree(given, target, ignore=shutil.ignore_patterns(CARD_FILE, "README.md"), symlinks=False)
            load_module(target).check(backbone_of(dims))
        except HeadstartError as error:
            shutil.rmtree(target, ignore_errors=True)
            left_out.append(f"{given}: {error}")
            continue
        sources.append(Source(target, dims))
    return Given(sources, left_out)
