"""`headstart hub …`: none of these imports torch unless a backbone is given to check against."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from headstart.cli.options import (
    AsJson,
    DeviceOption,
    DtypeOption,
    ExcludeOption,
    IncludeOption,
    Options,
    command,
    load_backbone,
)
from headstart.cli.output import print_json, print_line, print_rows
from headstart.cli.progress import listening
from headstart.errors import HubError, SettingError
from headstart.hub.catalogue import CATALOGUE_FILE
from headstart.hub.folder import is_module, modules_in
from headstart.showing import plural

if TYPE_CHECKING:
    from headstart.hub import Hub
    from headstart.hub.admission import Admission, Stated
    from headstart.hub.query import Asked

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look after a hub of modules: add, edit, list, show, check, remove, push.")

ON_A_PAGE = 50

HubArgument = Annotated[Path, typer.Argument(help="Hub folder.")]
NameArgument = Annotated[str, typer.Argument(help="Module's name in the hub.")]


@dataclass(frozen=True)
class StatedOptions(Options):
    """What goes onto a module's card."""

    name: Annotated[str | None, typer.Option(help="The module's name in the hub.")] = None
    task: Annotated[str | None, typer.Option(help="The task that it was tuned on.")] = None
    family: Annotated[str | None, typer.Option(help="The task's family, such as reviews/films.")] = None
    license: Annotated[str | None, typer.Option(help="The module's licence, such as apache-2.0.")] = None
    metric: Annotated[str | None, typer.Option(help="The metric of its score.")] = None
    score: Annotated[
        float | None, typer.Option(help="Its dev score by that metric, as a fraction of 1.", min=-1.0, max=1.0)
    ] = None
    notes: Annotated[str | None, typer.Option(help="Whatever else a reader should know.")] = None

    def stated(self) -> "Stated":
        """The fields of the card."""
        return cast("Stated", {name: value for name, value in asdict(self).items() if name != "name"})


@app.command()
@command
def add(
    hub: HubArgument,
    sources: Annotated[
        list[str],
        typer.Argument(help="PEFT folders, folders of such folders, or remote modules: hf://owner/name[@revision]."),
    ],
    stated: StatedOptions,
    backbone: Annotated[str | None, typer.Option("--backbone", "-b", help="Check against this backbone too.")] = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Validate modules and add them to HUB, which is created if necessary. Exits with code 1 if any was refused."""
    from headstart.hub import Hub

    _refuse_swapped(hub, sources)
    check = None
    if backbone is not None:
        model = load_backbone(backbone, device, dtype)
        from headstart.ranking.rank import fits

        check = fits(model)
    with listening("adding modules", kept="what was added stays, and the same command adds the rest") as listener:
        opened = Hub.create(hub)
        admissions = opened.add_all(sources, name=stated.name, check=check, progress=listener, **stated.stated())
    rows = [{"module": a.name, "result": a.result, "reason": a.reason, "folder": str(a.path)} for a in admissions]
    refused = sum(row["result"] == "refused" for row in rows)
    if as_json:
        print_json(rows)
    else:
        for row, admission in zip(rows, admissions, strict=True):
            row["reason"] = row["reason"] or _only_ranked(admission)
        print_rows(rows, ("module", "result", "reason"), whole=("module", "result"))
        left = f"; {plural(refused, 'folder')} refused" if refused else ""
        print_line(f"{hub} has {plural(len(opened), 'module')}{left}.")
    if refused:
        raise typer.Exit(1)


def _only_ranked(admission: "Admission") -> str | None:
    """What cannot be done with a variant that was taken in."""
    variant = admission.card.variant if admission.card else ""
    return f"{variant}: it can be ranked, but not merged or tuned" if variant else None


def _refuse_swapped(hub: Path, sources: Sequence[str]) -> None:
    """Raise `HubError` for a hub that was named after the modules."""
    last = Path(sources[-1])
    is_hub = (last / CATALOGUE_FILE).exists()
    loose = hub.is_dir() and not (hub / CATALOGUE_FILE).exists() and modules_in(hub) != [hub]
    if is_module(hub) or (loose and (is_hub or not last.exists())):
        what = "is a module" if is_module(hub) else "is a folder of modules"
        swapped = " ".join(["headstart hub add", str(last), str(hub), *sources[:-1]])
        raise HubError(f"{hub} {what}, and the hub comes first; did you mean {swapped}?")


@app.command()
@command
def edit(hub: HubArgument, module: NameArgument, changes: StatedOptions, as_json: AsJson = False) -> None:
    """Change a module's name in HUB, or what its card says; an empty text empties a field."""
    from headstart.hub import Hub

    opened = Hub.open(hub)
    before, stated = opened.card(module), changes.stated()
    if changes.name is None and all(value is None for value in stated.values()):
        raise SettingError("nothing to change; give --name, --task, --family, --license, --metric, --score or --notes")
    card = opened.edit(module, name=changes.name, **stated)
    if as_json:
        print_json(card.model_dump(mode="json"))
        return
    found = [(field, getattr(before, field), getattr(card, field)) for field in ("name", *stated)]
    changed = [f"{field} {old!r} → {new!r}" for field, old, new in found if old != new]
    print_line(f"{module}: {', '.join(changed) or 'nothing changed; its card says so already'}")


@dataclass(frozen=True)
class FilterOptions(Options):
    """Which modules a command shows."""

    kind: Annotated[str | None, typer.Option(help="Only this kind, such as lora.")] = None
    variant: Annotated[str | None, typer.Option(help="Only this variant, such as DoRA.")] = None
    family: Annotated[str | None, typer.Option(help="Only this family, or part of its path.")] = None
    license: Annotated[str | None, typer.Option(help="Only this licence.")] = None
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None
    metric: Annotated[str | None, typer.Option(help="Only this metric.")] = None
    text: Annotated[
        str | None, typer.Option(help="Only with these words in name, task, family, base model, notes or origin.")
    ] = None
    include: IncludeOption = None
    exclude: ExcludeOption = None

    def asked(self) -> "Asked":
        """The choices as keyword arguments of `Hub.find`."""
        return cast("Asked", asdict(self))


@app.command("list")
@command
def list_(
    hub: HubArgument,
    filters: FilterOptions,
    sort: Annotated[
        str,
        typer.Option(
            help="Column to sort by: name, kind, variant, family, task, metric, license, rank, parameters, score or "
            "added; -score puts the highest first."
        ),
    ] = "name",
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Modules on a page. Default: {ON_A_PAGE}; all of them with --json.")
    ] = None,
    page: Annotated[int, typer.Option(min=1, help="Which page to show.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show the modules in HUB, or those that match every option given."""
    from headstart.hub import Hub

    opened, asked = Hub.open(hub), filters.asked()
    length = limit or (None if as_json and page == 1 else ON_A_PAGE)
    first = 0 if length is None else (page - 1) * length
    cards = [ref.facts() for ref in opened.find(**asked, sort=sort, limit=length, offset=first)]
    if as_json:
        print_json(cards)
        return
    whole = length is None or 0 < len(cards) < length
    total = first + len(cards) if whole else opened.count(**asked)
    if cards:
        _print_cards(cards)
    else:
        print_line(_nothing(hub, total=total, page=page, empty=len(opened) == 0))
    if 0 < len(cards) < total:
        more = f"; --page {page + 1} shows the next" if first + len(cards) < total else ""
        print_line(f"{first + 1:,}–{first + len(cards):,} of {total:,}{more}", error=True)
    _warn(opened.problems())


def _nothing(hub: Path, *, total: int, page: int, empty: bool) -> str:
    """Why a page of the list is empty."""
    if empty:
        return f"{hub} has no modules yet; add some with `headstart hub add`"
    return f"{hub} has {total:,} such modules, none of them on page {page}" if total else "no such module"


def _print_cards(cards: Sequence[dict[str, Any]]) -> None:
    rows = [
        card
        | {"score": "" if card["score"] is None else f"{card['score']:.3f}", "parameters": f"{card['parameters']:,}"}
        | {"family": card["family"].rsplit("/", 1)[-1].strip()}
        for card in cards
    ]
    shown = ("name", "kind", "variant", "rank", "parameters", "task", "family", "metric", "score")
    known = [column for column in shown if any(row[column] not in (None, "") for row in rows)]
    if all(row["task"] in ("", row["name"]) for row in rows) and "task" in known:
        known.remove("task")  # the names say it
    print_rows(rows, known, whole=("kind", "rank", "parameters", "score"))
    if any(row["variant"] for row in rows):
        print_line("Variants can be ranked, but not merged or tuned.", error=True)
    if not any(row["task"] or row["family"] for row in rows):
        print_line(
            "No card says what its module was tuned on. If you know it: headstart hub edit HUB MODULE --task TASK "
            "--family FAMILY --license LICENCE", error=True,
        )  # fmt: skip


@app.command()
def show(hub: HubArgument, name: NameArgument, as_json: AsJson = False) -> None:
    """Show one module's card."""
    from headstart.hub import Hub

    found = Hub.open(hub).card(name)
    card = found.model_dump(mode="json")
    if as_json:
        print_json(card)
        return
    facts = card | {
        "targets": _shortened(card["targets"]),
        "donors": ", ".join(f"{donor['name']} {donor['weight']:.3f}" for donor in card["donors"]),
        "backbone": _identity(card["backbone"]),
        "head": found.head and found.head.words,
        "calibration": found.calibration and found.calibration.method,
        "text_format": found.text_format and found.text_format.words,
    }
    rows = [{"field": key, "value": value} for key, value in facts.items() if value not in (None, "")]
    print_rows(rows, ("field", "value"), whole=("field",))


@app.command()
def check(
    hub: HubArgument, include: IncludeOption = None, exclude: ExcludeOption = None, as_json: AsJson = False
) -> None:
    """Read every module of HUB again and compare it with the catalogue. Exits with code 1 if anything is wrong.

    With --include or --exclude, what is wrong with others is not shown, and does not count.
    """
    from headstart.hub import Hub

    opened = Hub.open(hub).where(include=include, exclude=exclude)
    with listening("checking") as listener:
        problems = opened.check(listener)
    rows = [{"module": problem.name, "problem": problem.reason} for problem in problems]
    if as_json:
        print_json({"modules": len(opened), "problems": rows})
    elif rows:
        print_rows(rows, ("module", "problem"), whole=("module",))
    else:
        print_line(
            "Every module is as catalogued." if len(opened) == 1 else f"All {len(opened)} modules are as catalogued."
        )
    if rows:
        raise typer.Exit(1)


@app.command()
def remove(
    hub: HubArgument,
    names: Annotated[list[str] | None, typer.Argument(help="Modules to remove.")] = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove modules: their folders and their entries in the catalogue.

    Either they are named, or --include says which, less those that --exclude names.
    """
    from headstart.hub import Hub

    opened = Hub.open(hub)
    wanted = _to_remove(opened, names or [], include or [], exclude or [])
    opened.remove(*wanted, dry_run=dry_run)
    remaining = len(set(opened.names()).difference(wanted))
    if as_json:
        print_json({"removed": wanted, "left": remaining} | ({"dry_run": True} if dry_run else {}))
        return
    left = f"{remaining:,} module{'' if remaining == 1 else 's'}"
    if dry_run:
        print_line(f"Would remove {', '.join(wanted)}; {left} would be left.")
    else:
        print_line(f"Removed {', '.join(wanted)}; {left} {'is' if remaining == 1 else 'are'} left.")


def _to_remove(hub: "Hub", names: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """The modules that are named or fit the patterns, unusable ones too."""
    if names and (include or exclude):
        raise SettingError("modules are either named or chosen by --include and --exclude; leave out one of the two")
    if exclude and not include:
        raise SettingError("--exclude alone would remove every other module; if that is meant, add --include '*'")
    if not names and not include:
        raise SettingError("nothing says what to remove; name modules, or give --include 'PATTERN'")
    if names:
        return list(dict.fromkeys(names))
    chosen = hub.where(include=include, exclude=exclude)
    return sorted([*chosen.names(), *(problem.name for problem in chosen.problems())])


@app.command()
def push(
    hub: HubArgument,
    name: NameArgument,
    repo: Annotated[
        str, typer.Argument(help="Repository on the Hugging Face Hub, as owner/name; created if necessary.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; created if necessary.")] = None,
    license_id: Annotated[
        str, typer.Option("--license", help="Licence of a module whose card states none, such as apache-2.0.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Upload one module with its card and a README. Log in first with `hf auth login`, or set HF_TOKEN."""
    from headstart.hub import Hub
    from headstart.hub.remote import push as upload

    module = Hub.open(hub).read(name)
    with listening("pushing"):
        pushed = upload(module, repo, license_id=license_id, private=private, branch=revision)
    if as_json:
        print_json({"module": name, "repo": pushed.repo, "commit": pushed.revision, "reference": str(pushed)})
    else:
        print_line(f"Pushed {name}; others add it with headstart hub add HUB {pushed}")


def _warn(problems: Sequence[object]) -> None:
    if problems:
        print_line(f"{len(problems)} more cannot be used; see headstart hub check", error=True)


def _shortened(targets: list[str]) -> str:
    """The layers that a module changes; of many, what they are called within a block, and how many there are."""
    if len(targets) <= 6:
        return ", ".join(targets)
    names = list(dict.fromkeys(re.sub(r".*\.\d+\.", "", target) for target in targets))
    return f"{', '.join(names[:6])}{' …' * (len(names) > 6)}, {len(targets)} in all"


def _identity(backbone: dict[str, str] | None) -> str:
    if backbone is None:
        return ""
    return f"{backbone['name']} ({backbone['architecture']}, weights {backbone['weights'][:12]})"
