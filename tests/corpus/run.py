"""A run of the mutation corpus: cases drawn, run and counted."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from tests.corpus.case import Case, Dimensions, Expectation, Finding, Mutation, Result, Source
from tests.corpus.config_mutations import CONFIG_MUTATIONS
from tests.corpus.dimensions import DIMENSIONS
from tests.corpus.file_mutations import FILE_MUTATIONS
from tests.corpus.given import Given, given_sources
from tests.corpus.head_mutations import HEAD_MUTATIONS
from tests.corpus.header_mutations import HEADER_MUTATIONS
from tests.corpus.limit_mutations import LIMIT_MUTATIONS
from tests.corpus.pickle_mutations import PICKLE_MUTATIONS
from tests.corpus.sources import made_sources
from tests.corpus.tensor_mutations import TENSOR_MUTATIONS
from tests.corpus.worker import Reader, findings

from headstart.kinds import load_module

__all__ = ["FAMILIES", "RESULTS", "Corpus", "another", "draw_cases", "run_corpus"]


def _other_backbone(folder: Path, rng: Random) -> tuple[str, Expectation]:
    del folder, rng
    return "as it was", "oracle"


OTHER = "another backbone"
FAMILIES: dict[str, tuple[Mutation, ...]] = {
    **TENSOR_MUTATIONS, **HEADER_MUTATIONS, **PICKLE_MUTATIONS, **CONFIG_MUTATIONS, **HEAD_MUTATIONS, **FILE_MUTATIONS,
    **LIMIT_MUTATIONS,
    OTHER: (_other_backbone,),
}  # fmt: skip
"""By name: the mutations of one family; one listed twice is drawn twice as often."""

RESULTS: tuple[Result, ...] = ("loaded_right", "refused", "silent_wrong", "crashed")


@dataclass(frozen=True)
class Corpus:
    """What a run found, one finding for each case; `left_out`: about each given folder that was not altered, why."""

    seed: int
    found: tuple[Finding, ...]
    left_out: tuple[str, ...] = ()

    @cached_property
    def counts(self) -> dict[Result, int]:
        """How many cases ended in each of `RESULTS`."""
        counter = Counter(finding.result for finding in self.found)
        return {name: counter[name] for name in RESULTS}

    @cached_property
    def by_family(self) -> dict[str, dict[Result, int]]:
        """The same by family of mutations, in the order of `FAMILIES`."""
        counter = Counter((finding.case.family, finding.result) for finding in self.found)
        families = [name for name in FAMILIES if any(counter[name, result] for result in RESULTS)]
        return {name: {result: counter[name, result] for result in RESULTS} for name in families}

    @property
    def faults(self) -> list[Finding]:
        """The cases that loaded silently wrong, crashed, hung or ran code."""
        return [finding for finding in self.found if finding.result in ("silent_wrong", "crashed")]


def run_corpus(
    *, cases: int = 1000, seed: int = 0, folders: Sequence[Path] = (), reader: Reader = load_module
) -> Corpus:
    """Alter modules in `cases` ways and load every one of them.

    Args:
        cases: how many altered copies.
        seed: of the made modules and the mutations.
        folders: modules to alter; without any, tiny ones of every kind are made.
        reader: what is tested; importable by name, since it runs in another process.

    Raises:
        ValueError: none of the folders holds a module that Headstart reads and for which a tiny backbone is built.
    """
    with tempfile.TemporaryDirectory(prefix="corpus-") as name:
        dims = Path(name).resolve()
        (dims / "sources").mkdir()
        (dims / "cases").mkdir()
        where = dims / "sources"
        sources, left_out = given_sources(folders, where) if folders else Given(made_sources(where, seed=seed), [])
        if not sources:
            raise ValueError(
                "no module in the given folders can be used as it is; name folders that Headstart reads\n"
                + "\n".join(left_out)
            )
        made = draw_cases(sources, dims / "cases", cases=cases, seed=seed)
        found = tuple(findings(made, reader=reader, marker=dims / "cases" / "marker"))
    return Corpus(seed, found, tuple(left_out))


def draw_cases(sources: Sequence[Source], folder: Path, *, cases: int, seed: int) -> Iterator[Case]:
    """Every family in turn; one that applies to no source is passed over, and a case is gone when the next is drawn."""
    rng, left = Random(seed), list(FAMILIES)
    number = 0
    while number < cases:
        family = left.pop(0)
        case = _case(family, sources, folder / str(number), rng=rng, number=number)
        if case is not None:
            left.append(family)
            yield case
            number += 1
            _remove(case.folder)


def _case(family: str, sources: Sequence[Source], folder: Path, *, rng: Random, number: int) -> Case | None:
    for source in rng.sample(list(sources), len(sources)):
        mutations = list(FAMILIES[family])
        rng.shuffle(mutations)
        for mutation in mutations:
            shutil.copytree(source.folder, folder)
            made = mutation(folder, rng)
            if made is not None:
                dims = another(source.dims, rng) if family == OTHER else source.dims
                return Case(number, family, made[0], made[1], folder, source.folder, dims, source.dims)
            _remove(folder)
    return None


def another(dims: Dimensions, rng: Random) -> Dimensions:
    """A backbone with more or fewer layers, other widths, other weights, or of another architecture."""
    others = (
        dims._replace(layers=dims.layers + rng.choice((1, 2))), dims._replace(layers=max(dims.layers - 1, 1)),
        dims._replace(width=dims.width * 2, head=dims.head * 2, inner=dims.inner * 2),
        dims._replace(inner=dims.inner + 8), dims._replace(heads=dims.heads * 2, head=dims.head // 2 or 1),
        dims._replace(seed=dims.seed + 1), *(dims._replace(family=rng.choice(sorted(DIMENSIONS))) for _ in range(2)),
    )  # fmt: skip
    sound = [o for o in others if o != dims and o.head % 2 == 0 and o.heads % o.key_heads == 0]
    chosen = rng.choice(sound)
    narrow = chosen.family not in ("llama", "t5")
    return chosen._replace(width=chosen.heads * chosen.head) if narrow else chosen


def _remove(folder: Path) -> None:
    for path in folder.parent.glob(f"{folder.name}*"):
        if path.name == folder.name or path.name.startswith(f"{folder.name}-"):
            shutil.rmtree(path)
