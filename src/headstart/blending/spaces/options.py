"""What the merge spaces can be told; each reads what concerns it."""

from dataclasses import dataclass

from headstart.errors import SettingError

__all__ = ["Options"]


WHOLE = frozenset({"parameters", "exact", "svd"})
"""Spaces that keep every number."""


@dataclass(frozen=True)
class Options:
    """`rank`: what "svd" cuts to, `None` for the modules' largest. `density`: the share of each module's numbers that
    "ties" and "dare" keep, above 0 and at most 1, `None` for a half. `seed`: of the draw of "dare"."""

    rank: int | None = None
    density: float | None = None
    seed: int = 0

    def check(self, space: str) -> None:
        """Raise `SettingError` for a value out of range, or one that the space would ignore."""
        if self.rank is not None and space != "svd":
            raise SettingError(f"rank {self.rank} is for space 'svd'; leave it out, or merge in that space")
        if self.density is not None and space in WHOLE:
            raise SettingError(
                f"density {self.density} is for spaces 'ties' and 'dare'; leave it out, or merge in one of them"
            )
        if not 0 < self.kept <= 1:
            raise SettingError(f"density {self.density} must be above 0 and at most 1")

    @property
    def kept(self) -> float:
        """The share of each module's numbers that is kept."""
        return 0.5 if self.density is None else self.density
