"""What a merge space cannot do, known before any pass: options that it ignores, modules that cannot be merged."""

from collections.abc import Sequence

from headstart.blending.spaces import SPACES
from headstart.blending.spaces.contract import Options, Space
from headstart.errors import SettingError
from headstart.kinds import AnyModule

__all__ = ["check_space", "fitting_space"]


def check_space(space: str, *, rank: int | None, density: float | None) -> None:
    """Raise `SettingError` for a space, or options of that space, that `merge` would refuse."""
    chosen = SPACES[space]
    for option, value in (("rank", rank), ("density", density)):
        if value is not None and option not in chosen.reads:
            readers = [f"'{name}'" for name, known in SPACES.items() if option in known.reads and name != "auto"]
            several = len(readers) > 1
            listed = f"{', '.join(readers[:-1])} and {readers[-1]}" if several else readers[0]
            raise SettingError(
                f"{option} {value} is for space{'s' if several else ''} {listed}; leave it out, "
                f"or merge in {'one of them' if several else 'that space'}"
            )
    chosen.check(Options(rank, density))


def fitting_space(space: str, modules: Sequence[AnyModule], *, rank: int | None = None) -> Space:
    """The space in which these modules, all of one kind, are merged: the named one, or the one that "auto" chooses.

    At most one module of each shape is read. Raises `MergeError` if the modules cannot be merged in that space.
    """
    return SPACES[space].fitting(modules, rank=rank)
