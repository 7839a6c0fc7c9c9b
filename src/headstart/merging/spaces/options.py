"""What the merge spaces can be told; each reads what concerns it."""

from dataclasses import dataclass

from headstart.errors import SettingError

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """`rank`: what "svd" cuts to, `None` for the modules' largest. `density`: the share of each module's numbers that
    "ties" and "dare" keep, above 0 and at most 1. `seed`: of the draw of "dare"."""

    rank: int | None = None
    density: float = 0.5
    seed: int = 0

    def check(self, space: str) -> None:
        """Raise `SettingError` for a value out of range, or a rank that the space would ignore."""
        if self.rank is not None and space != "svd":
            raise SettingError(f"rank {self.rank} is for space 'svd'; leave it out, or merge in that space")
        if not 0 < self.density <= 1:
            raise SettingError(f"density {self.density} must be above 0 and at most 1")
