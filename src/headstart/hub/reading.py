"""Reading and copying module folders for a hub; the one part that needs NumPy, so it is imported when needed."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headstart.atomic import write_text
from headstart.errors import CardError, HeadstartError, ModuleError
from headstart.events import Listener, Progress
from headstart.filenames import ADAPTERHUB_WEIGHTS, CONFIG_FILE, WEIGHTS_FILE
from headstart.formats import (
    StoredModule,
    computing_fields,
    read_module,
    read_opendelta,
    regular_file,
    safetensors_bytes,
)
from headstart.hub.folder import KEPT, stamp
from headstart.hub.model_card import readme
from headstart.hub.ref import Entry
from headstart.hub.snippet import snippet
from headstart.records import CARD_FILE, ModuleCard

__all__ = [
    "WORKERS",
    "copy_module",
    "copy_unchanged",
    "entry_of",
    "read_entries",
    "read_entry",
    "read_stamped",
    "write_card",
]

WORKERS = min(8, os.cpu_count() or 1)
"""How many threads read modules in parallel."""

COARSE_SECONDS = 2.0
"""Two writes that are closer together than this may leave a file with the same times."""


def entry_of(module: StoredModule, name: str) -> Entry:
    """The entry of `module` under the hub's name for it; raises `ModuleError` if its card cannot be written back."""
    card = module.card.model_copy(update={"name": name})
    try:
        kept = ModuleCard.model_validate_json(card.model_dump_json()) == card
    except ValueError:
        kept = False
    if not kept:
        raise ModuleError(
            f"{module.folder}: the card of '{name}' holds a text or a number that cannot be written back; correct it"
        )
    head = "" if card.head is None else card.head.to_json()
    computing = [card.kind, computing_fields(module.config), head]
    # A module that repeats the backbone's own weights only fits a backbone with these values.
    tensors: object = card.tensor_hash
    if not module.layout.holds_backbone:
        tensors = sorted((name, t.dtype, t.shape) for name, t in {**module.tensors, **module.head}.items())
    return Entry(card, module.layout.widths, _hash([*computing, card.tensor_hash]), _hash([*computing, tensors]))


def read_entry(hub: Path, name: str) -> Entry | str | None:
    """The entry of the module in folder `name` of a hub, or why there is none, or `None` if the folder is gone."""
    folder = hub / name
    try:
        return entry_of(read_module(folder), name)
    except HeadstartError as error:
        reason = str(error)
    except Exception as error:  # whatever one folder holds, the others must stay usable
        reason = f"cannot read {folder}: {type(error).__name__} {error}; remove it from the hub, or download it again"
    return reason if os.path.lexists(folder) else None


def read_entries(
    hub: Path, names: Sequence[str], progress: Listener | None
) -> Iterator[tuple[str, Entry | str | None]]:
    """`read_entry` of each name; hashing and file access run in parallel threads."""
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        found = pool.map(lambda name: read_entry(hub, name), names)
        for done, (name, reading) in enumerate(zip(names, found, strict=True), start=1):
            yield name, reading
            if progress is not None:
                progress(Progress("reading the hub", done, len(names)))


def read_stamped(folder: Path) -> tuple[StoredModule, str]:
    """A module, and the stamp of its files while it was read. Raises `ModuleError`."""
    before = stamp(folder)
    try:
        return read_module(folder), before
    except OSError as error:
        raise ModuleError(f"cannot read {folder}: {error.strerror or error}; check it and its permissions") from error


def copy_unchanged(module: StoredModule, read_at: str, target: Path) -> None:
    """Copy the folder of a module that was read when its stamp was `read_at`.

    Raises `ModuleError` if it has changed since.
    """
    copy_module(module.folder, target)
    same = stamp(module.folder) == read_at
    if same and not _written_lately(read_at):
        return
    copied = read_module(target, check_values=False)
    if copied.config != module.config or copied.card.tensor_hash != module.card.tensor_hash:
        raise ModuleError(f"{module.folder} changed while it was copied; add it again when it is complete")


def copy_module(source: Path, target: Path) -> None:
    """Copy the files that make a module from `source` into the folder `target`, and nothing else.

    A module of OpenDelta becomes one of PEFT or AdapterHub; its own two files, which have the same names as those of a
    whole model, are not copied.
    """
    for name in KEPT:
        path = regular_file(source, name)
        if path is not None:
            shutil.copyfile(path, target / name)
    plain = read_opendelta(source)
    if plain is not None:
        (target / CONFIG_FILE).write_text(json.dumps(plain.config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        weights = WEIGHTS_FILE if "peft_type" in plain.config else ADAPTERHUB_WEIGHTS[0]
        (target / weights).write_bytes(safetensors_bytes(plain.tensors))


def write_card(folder: Path, card: ModuleCard, config: Mapping[str, object], *, former: str) -> None:
    """Write a module's card into its folder, and its README anew if Headstart wrote that for the old card.

    `former` is the name of the folder in which it was saved.
    """
    page = folder / "README.md"
    try:
        old, text = ModuleCard.read(folder / CARD_FILE), page.read_text(encoding="utf-8")
        loadings = [[], *(snippet(old, config, folder=name) for name in {former, old.name})]
        own = text in [readme(old, loading=lines) for lines in loadings]
    except (CardError, OSError, UnicodeDecodeError):
        own = False
    card.write(folder / CARD_FILE)
    if own:
        write_text(page, readme(card, loading=snippet(card, config, folder=card.name)))


def _written_lately(mark: str) -> bool:
    """Whether a file of a stamp is so new that a later write might not change its times."""
    times = [int(time) for time, _, _ in (part.partition("+") for part in mark.split(" ")[1:]) if time.isdigit()]
    return any(one / 1e9 > time.time() - COARSE_SECONDS for one in times)


def _hash(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode(errors="surrogatepass")).hexdigest()
