"""A hub: a folder of modules for one backbone. The folders are the truth, the catalogue a cache of it."""

from __future__ import annotations

import copy
import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from headstart.atomic import sweep
from headstart.errors import HeadstartError, HubError, Refused, of_type
from headstart.events import Listener
from headstart.filenames import CONFIG_FILE, near_path
from headstart.hub import removing
from headstart.hub.admission import Admission, Stated
from headstart.hub.catalogue import CATALOGUE_FILE
from headstart.hub.folder import is_hub
from headstart.hub.query import Asked, Filter, order_by, page_of
from headstart.hub.ref import ModuleRef
from headstart.hub.rows import Known, forget_gone, known_row, known_rows, stated_backbone
from headstart.hub.upkeep import Upkeep
from headstart.showing import html_table, line, plural

if TYPE_CHECKING:
    import pandas as pd

    from headstart.formats import StoredModule
    from headstart.records import Fingerprint, ModuleCard

__all__ = ["Hub", "as_hub"]

USABLE = "reason IS NULL"

PAGE = 50
"""How many modules a notebook shows of a hub."""

FACTS = (
    "kind", "variant", "rank", "parameters", "task", "family", "metric", "score", "license", "base_model", "origin",
    "notes",
)  # fmt: skip
"""The fields of the cards that `Hub.frame` shows."""


class Hub:
    """Modules by name, in alphabetical order. Use `Hub.open` or `Hub.create`; the constructor only stores.

    All but `read` answer from the catalogue and open no module. Folders that cannot be used are in `problems`. A view
    (`where`, `of_kind`) is the same hub without the other modules, but with problems whose content could not be read.

    >>> hs.Hub.open("my-hub")["ada"]
    ModuleRef(ada, lora of rank 2, 448 parameters; in my-hub/ada)
    """

    def __init__(self, path: Path | str) -> None:
        self.path = _folder(path)
        self._upkeep = Upkeep(self.path)
        self._view = Filter()

    @classmethod
    def open(cls, path: Path | str, *, progress: Listener | None = None) -> Self:
        """The hub at `path`, its catalogue brought in step with the folders (only what changed is read).

        A missing or damaged catalogue is built again; if it cannot be written, as in a read-only folder, one in the
        user's cache folder is used. Raises `HubError` if `path` is not a hub.
        """
        hub = cls(path)
        hub._require_folder()
        if (hub.path / CONFIG_FILE).exists():
            raise HubError(f"{path} is a module, not a hub; name the folder that holds it")
        if not (hub.path / CATALOGUE_FILE).exists() and not is_hub(hub.path):
            raise HubError(f"{path} is not a hub: no folder in it is a module; make one with Hub.create").with_options(
                {"Hub.create": "`headstart hub add`"}
            )
        hub._upkeep.sync(progress=progress)
        return hub

    @classmethod
    def create(cls, path: Path | str) -> Self:
        """The hub at `path`, which is made if nothing is there yet. Raises `HubError` if it cannot be made."""
        try:
            _folder(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HubError(f"cannot make a hub at {path}: {error.strerror}; choose another place") from error
        return cls.open(path)

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> ModuleRef:
        return self.ref(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (known := self._seen(name)) is not None and known.reason is None

    def __repr__(self) -> str:
        try:
            held = plural(len(self), "module")
        except HeadstartError:
            held = "cannot be read now"
        return line(type(self).__name__, f"'{self.path}'", held, f"{'only ' if str(self._view) else ''}{self._view}")

    def _repr_html_(self) -> str:
        title = f"{self.path}: {plural(len(self), 'module')}"
        return html_table(self.frame(limit=PAGE), title=title, rows=PAGE)

    def frame(
        self, *, sort: str = "name", limit: int | None = None, offset: int = 0, **asked: Unpack[Asked]
    ) -> pd.DataFrame:
        """A row for each usable module that matches all conditions; see `find` for these and the errors.

        Columns: module, kind, variant, rank, parameters, task, family, metric, score, license, base_model, origin and
        notes, as on the cards.
        """
        import pandas as pd  # which looking at a hub does without

        rows = [ref.facts() for ref in self.find(sort=sort, limit=limit, offset=offset, **asked)]
        frame = pd.DataFrame(rows, columns=["name", *FACTS]).rename(columns={"name": "module"})
        return frame.astype({"rank": "Int64", "score": "float64"})

    def where(self, **asked: Unpack[Asked]) -> Hub:
        """A view of the hub with only the matching modules; see `find`.

        Raises `HubError` if no module is left, or if a pattern of names fits none.
        """
        wanted = Filter.of(asked)
        for pattern in (*(one for group in wanted.include for one in group), *wanted.exclude):
            self._require_some(pattern)
        narrowed = self._view.narrowed(wanted)
        view = copy.copy(self)
        view._view = narrowed or wanted
        if not str(wanted) and not len(view):
            raise HubError(f"the hub {self.path} has no modules yet; add some with `headstart hub add`")
        if narrowed is None or not len(view):
            raise HubError(f"the hub {self.path} has no module of {wanted}; see `headstart hub list`")
        return view

    def _require_some(self, pattern: str) -> None:
        """Raise `HubError` if a pattern fits no name, which is then mistyped."""
        condition, values = Filter.of({"include": pattern}).name_condition()
        if not self._upkeep.ask(lambda c: known_rows(c, condition, values, order="name LIMIT 1")):
            raise self._unknown(pattern)

    def of_kind(self, kind: str) -> Hub:
        """A view of the hub with only the modules of one kind ("lora").

        Raises `HubError` if there are none; it names the kinds that the hub has.
        """
        try:
            return self.where(kind=kind)
        except HubError as error:
            kinds = Counter(card.kind for card in self.cards())
            there = ", ".join(f"{count} {name}" for name, count in kinds.most_common()) or "none"
            raise HubError(
                f"the hub {self.path} has no module of kind '{kind}' (it has: {there}); choose one of these"
            ) from error

    def find(
        self, *, sort: str = "name", limit: int | None = None, offset: int = 0, **asked: Unpack[Asked]
    ) -> list[ModuleRef]:
        """The usable modules that match all conditions, one page of them.

        Args:
            sort: "name", "kind", "variant", "family", "task", "metric", "license", "rank", "parameters", "score" or
                "added"; "-score" puts the highest first. Unknown values come last, equal ones in order of name.
            limit: how many at most; `None` is all.
            offset: how many to skip.
            asked: the conditions; capital letters do not matter. `kind`, `license`, `task` and `metric` as on the
                card; `variant`, one that the module has, such as "DoRA", or "" for none; `family`, the whole path
                ("reviews/films") or whole parts of it ("reviews", "films"); `text`, words that must all occur, perhaps
                inside longer ones, in name, kind, task, family, base model, notes or origin; `include` and `exclude`,
                one or several patterns of names ("paws", "glue-*", "[a-m]*"), of which any or none must fit.

        Raises:
            SettingError: an unknown order, a limit or offset below 0 or beyond 2**63 - 1, a family, variant or text of
                more than 1,000 characters, or a text of more than 32 words.
        """
        order = f"{order_by(sort)} {page_of(limit, offset)}"
        narrowed = self._view.narrowed(Filter.of(asked))
        if narrowed is None:
            return []
        condition, values = narrowed.condition()
        rows = self._upkeep.ask(lambda c: known_rows(c, f"{USABLE} AND {condition}", values, order=order))
        return [self._ref(known) for known in rows]

    def count(self, **asked: Unpack[Asked]) -> int:
        """How many usable modules match all conditions; see `find`."""
        narrowed = self._view.narrowed(Filter.of(asked))
        if narrowed is None:
            return 0
        condition, values = narrowed.condition()
        query = f"SELECT count(*) FROM modules WHERE {USABLE} AND {condition}"
        return self._upkeep.ask(lambda c: int(c.execute(query, values).fetchone()[0]))

    def refs(self) -> list[ModuleRef]:
        """The usable modules; their tensors are read when they are needed."""
        return self.find()

    def names(self) -> list[str]:
        """Names of the usable modules."""
        condition, values = self._view.condition()
        query = f"SELECT name FROM modules WHERE {USABLE} AND {condition} ORDER BY name"
        return self._upkeep.ask(lambda c: [str(name) for (name,) in c.execute(query, values)])

    def cards(self) -> list[ModuleCard]:
        """Cards of the usable modules."""
        return [ref.card for ref in self.find()]

    def problems(self) -> list[Refused]:
        """Folders that could not be used when they were last read."""
        (condition, values), (named, patterns) = self._view.condition(), self._view.name_condition()
        condition = f"reason IS NOT NULL AND {named} AND (card IS NULL OR {condition})"
        rows = self._upkeep.ask(lambda c: known_rows(c, condition, [*patterns, *values]))
        return [Refused(known.name, known.reason or "") for known in rows]

    def ref(self, name: str) -> ModuleRef:
        """Module `name` without its tensors; `hub[name]` is the same.

        Raises `HubError` if the hub lacks it or cannot use it.
        """
        if not isinstance(name, str):
            raise HubError(f"{of_type('name', name)}; give the name of a module, as `Hub.names` lists them")
        known = self._seen(name)
        if known is None:
            raise self._unknown(name)
        if known.reason is not None:
            raise HubError(f"module '{name}' of the hub {self.path} cannot be used: {known.reason}")
        return self._ref(known)

    def card(self, name: str) -> ModuleCard:
        """The card of module `name`. Raises `HubError` if the hub lacks it or cannot use it."""
        return self.ref(name).card

    def folder(self, name: str) -> Path:
        """The folder of module `name`. Raises `HubError` if the hub lacks it or cannot use it."""
        return self.ref(name).path

    def read(self, name: str) -> StoredModule:
        """Read and validate module `name`.

        Raises `HubError` if the hub lacks it, `ModuleError` if it is broken or not what was catalogued.
        """
        return self.ref(name).read()

    def backbone(self) -> Fingerprint | None:
        """The backbone that the modules state, or `None` if no module states one."""
        stated = self._upkeep.ask(stated_backbone)
        return None if stated is None else stated[1]

    def add(
        self,
        source: Path | str,
        *,
        name: str | None = None,
        check: Callable[[StoredModule], None] | None = None,
        **stated: Unpack[Stated],
    ) -> ModuleCard:
        """Validate a module and copy it into the hub; the same module under the same name stays as it is.

        Args:
            source: a PEFT folder, which stays as it is, or a remote module, "hf://owner/name[@revision]", whose commit
                is noted on the card as its `origin`.
            name: its name in the hub; by default the folder's name, or the last part of the remote one.
            check: raises `ModuleError` if the module does not fit, for instance, a given backbone.
            stated: fields of the card in the hub: `task`, `family`, `license`, `metric`, `score`, `notes`.

        Raises:
            HubError: there is no hub here, the name is taken or impossible, or the remote module cannot be fetched.
            ModuleError: the module is broken, unsupported, in the hub already or made for another backbone.
            OutputError: the hub cannot be written.
            SettingError: a card cannot hold what is stated.
        """
        from headstart.hub.adding import Intake, name_of  # NumPy, which looking at a hub does without

        self._require_folder()
        name = name_of(source) if name is None else name
        (result,) = Intake(self.path, self._upkeep, check=check, stated=stated).results([(source, name)])
        if isinstance(result, HeadstartError):
            raise result
        return result.card

    def add_all(
        self,
        sources: Iterable[Path | str],
        *,
        name: str | None = None,
        check: Callable[[StoredModule], None] | None = None,
        progress: Listener | None = None,
        **stated: Unpack[Stated],
    ) -> list[Admission]:
        """Add every folder or remote module, as `add` does; one that is refused does not stop the rest.

        A folder that is no module stands for the modules in it, down to three levels below. Many are read and copied in
        parallel, then entered together. Returns one `Admission` for each module, in the given order. `name` is for a
        single one, `stated` for all.
        """
        from headstart.hub.adding import admit  # NumPy, which looking at a hub does without

        self._require_folder()
        return admit(self.path, self._upkeep, sources, name=name, check=check, stated=stated, progress=progress)

    def edit(self, module: str, /, *, name: str | None = None, **stated: Unpack[Stated]) -> ModuleCard:
        """Change a module's name in the hub, or fields of its card: `task`, `family`, `license`, `metric`, `score` and
        `notes`. "" empties a text.

        What it computes stays, and so does its digest. Readers see the old state or the new one. Returns the card.
        Raises `HubError` if the hub lacks the module or the name is taken or impossible, `ModuleError` if it is broken.
        """
        from headstart.hub.editing import edit  # NumPy, which looking at a hub does without

        return edit(self.path, self._upkeep, self.ref(module), name=module if name is None else name, stated=stated)

    def remove(self, *names: str, dry_run: bool = False) -> None:
        """Delete modules, usable or not. If a removal of the same modules was killed, it is completed.

        With `dry_run`, nothing is deleted, and what would be refused is refused.

        Raises `HubError` if the hub lacks one, and then removes none, or if one cannot be deleted.
        """
        under_way = removing.leaving(self.path)
        for name in names:
            if name not in under_way and self._seen(name) is None:
                raise self._unknown(name, then="nothing was removed; ")
        if dry_run:
            return
        removing.remove(
            self.path, names, forget=lambda: self._upkeep.change(lambda c: forget_gone(c, self.path, names))
        )

    def check(self, progress: Listener | None = None) -> list[Refused]:
        """Read every module again and compare it with the catalogue; return what cannot be used, and why.

        This finds broken files, tensors or configurations that changed since they were added, missing folders, and
        folders that are not modules. A folder that became sound again, or was put into the hub by hand, is taken in.
        What killed processes left in the hub is deleted.
        """
        if not self._upkeep.sound():
            self._upkeep.rebuild()
        self._upkeep.sync(everything=True, progress=progress)
        sweep(self.path)
        removing.sweep_removals(self.path)
        return self.problems()

    def rebuild(self, progress: Listener | None = None) -> list[Refused]:
        """Forget the catalogue and take the folders as they are now; return those that cannot be used, and why."""
        self._upkeep.rebuild()
        self._upkeep.sync(progress=progress)
        return self.problems()

    def _require_folder(self) -> None:
        if not self.path.is_dir():
            near = near_path(self.path, folders=True)
            raise HubError(f"there is no hub at {self.path}{near}; make one with Hub.create").with_options(
                {"Hub.create": "`headstart hub add`"}
            )

    def _seen(self, name: str) -> Known | None:
        """The row of `name`, if it is in this view."""
        known = self._upkeep.ask(lambda c: known_row(c, name))
        if known is None or known.written is None or self._view == Filter():
            return known
        condition, values = self._view.condition()
        within = self._upkeep.ask(lambda c: known_rows(c, f"name = ? AND {condition}", (name, *values)))
        return known if within else None

    def _unknown(self, name: str, *, then: str = "") -> HubError:
        view = f" of {self._view}" if str(self._view) else ""
        close = difflib.get_close_matches(name, self.names(), n=3)
        hint = f"did you mean: {', '.join(close)}?" if close else "see `headstart hub list`"
        return HubError(f"the hub {self.path} has no module '{name}'{view}; {then}{hint}")

    def _ref(self, known: Known) -> ModuleRef:
        assert known.written is not None  # as in every usable row
        return ModuleRef(known.name, self.path / known.name, known.digest or "", known.shape or "", known.written)


def _folder(path: Path | str) -> Path:
    if not isinstance(path, str | Path):
        raise HubError(f"{of_type('path', path)}; give the path of the hub's folder")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # "~name" without such a user
        raise HubError(f"there is no hub at {path}: {error}; check the path") from error


def as_hub(given: Hub | str | Path) -> Hub:
    """The hub that a caller gave, or the one at the path that was given.

    Raises `HubError` for a value of another type, and whatever `Hub.open` raises.
    """
    if isinstance(given, Hub):
        return given
    if isinstance(given, str | Path):
        return Hub.open(given)
    raise HubError(f"{of_type('hub', given)}; give a Hub, the path of its folder, or a list of modules")
