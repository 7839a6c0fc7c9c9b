"""What became of a module that was to be added to a hub, and what a hub may state on a module's card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from headstart.errors import SettingError

if TYPE_CHECKING:
    from headstart.records import ModuleCard

__all__ = ["Admission", "Stated", "stated_card"]


@dataclass(frozen=True)
class Admission:
    """What became of one folder or reference that was to be added: its card, or the reason for refusing it.

    `new`: whether it was added now, rather than being in the hub already.
    """

    path: Path | str
    name: str
    card: ModuleCard | None
    reason: str | None
    new: bool = False

    @property
    def result(self) -> str:
        """One word or a few: "accepted", "already there" or "refused"."""
        if self.card is None:
            return "refused"
        return "accepted" if self.new else "already there"


class Stated(TypedDict, total=False):
    """What the owner of a hub states on a module's card; `None` leaves a field as it is, and "" empties it."""

    task: str | None
    family: str | None
    license: str | None
    metric: str | None
    score: float | None
    notes: str | None


def stated_card(card: ModuleCard, name: str, stated: Stated) -> ModuleCard:
    """The card under a name, with what is stated. Raises `SettingError` for a value that a card cannot hold."""
    from pydantic import ValidationError  # which looking at a hub does without

    from headstart.records import fault

    given: dict[str, Any] = {field: value for field, value in stated.items() if value is not None}
    try:
        return type(card).model_validate(card.model_dump() | given | {"name": name})
    except ValidationError as error:
        raise SettingError(f"the card of '{name}': {fault(error)}; correct it") from error
