"""Modules from and to the Hugging Face Hub, or another server that speaks its protocol (`HF_ENDPOINT`).

The login is huggingface_hub's own: `hf auth login` once, or the environment variable HF_TOKEN.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: the HTTP library changed its name
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from headstart.errors import HubError
from headstart.filenames import CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_FILES
from headstart.formats import PICKLES, StoredModule, read_module, regular_file
from headstart.hub.folder import KEPT
from headstart.hub.model_card import readme, stated_license
from headstart.hub.reference import RemoteModule, parse_reference
from headstart.hub.snippet import snippet
from headstart.records import CARD_FILE, ModuleCard

__all__ = ["fetch", "push"]

README_FILE = "README.md"


def fetch(reference: str, folder: Path, *, cache: Path | None = None) -> RemoteModule:
    """Download a module into `folder`, with a card that says where it came from.

    Only the files of a module are downloaded, first into huggingface_hub's cache: files that an interrupted download
    completed are not fetched again, and without a network, a copy in the cache is enough. The card's `origin` is the
    reference pinned to the commit; if the module has no card, its `license` is the one in the README's metadata.

    Args:
        reference: "hf://owner/name", or "hf://owner/name@revision" with a branch, tag or commit.
        folder: where to put the module; it is created and must not exist.
        cache: where downloads are kept instead of in huggingface_hub's own cache.

    Returns:
        The reference, pinned to the commit.

    Raises:
        HubError: malformed reference; repository or revision not found or not open to this login; no module in it,
            or only pickles; no network.
        ModuleError: what was downloaded is broken or of an unsupported kind.
    """
    module = parse_reference(reference)
    with _errors_named(module, "fetch"), _no_progress_bars():
        snapshot = Path(
            snapshot_download(module.repo, revision=module.revision, cache_dir=cache, allow_patterns=list(KEPT))
        )
        pinned = dataclasses.replace(module, revision=snapshot.name)
        wanted = ((CONFIG_FILE,), WEIGHTS_FILES)
        missing = [names[0] for names in wanted if not any((snapshot / name).is_file() for name in names)]
        if missing:
            _refuse(pinned, missing[0], HfApi().list_repo_files(pinned.repo, revision=pinned.revision))
        folder.mkdir()
        for name in KEPT:
            # The cache consists of links to its own store; a module's folder holds plain files.
            if (snapshot / name).is_file():
                shutil.copyfile(snapshot / name, folder / name)
    card = read_module(folder, check_values=False).card
    stated = {"origin": str(pinned), "license": card.license or stated_license(folder)}
    card.model_copy(update=stated).write(folder / CARD_FILE)
    return pinned


def push(
    module: StoredModule, repo: str, *, license_id: str = "", private: bool = False, branch: str | None = None
) -> RemoteModule:
    """Upload a module in one commit: its files, its card, and a README.md written from the card.

    The repository and the branch are created if they do not exist; other files there stay.

    Args:
        module: as read by `read_module` or `Hub.read`, so validated.
        repo: "owner/name".
        license_id: the licence for a module whose card states none.
        private: make the repository private; an existing public repository is refused.
        branch: the branch to push to; `None` is the default branch.

    Returns:
        The reference of what was uploaded, pinned to the commit.

    Raises:
        HubError: the module has no licence; the repository's name is malformed; no login, or one that may not write
            there; the server refused the upload; no network.
    """
    target = parse_reference(f"hf://{repo.removeprefix('hf://')}")
    if target.revision is not None:
        raise HubError(
            f"'{repo}' names a revision; give the branch to push to on its own: --revision {target.revision}"
        )
    card = _licensed(module.card, license_id)
    files = _files(module.folder, card, target.repo)
    with _errors_named(target, "push to"), _no_progress_bars():
        api = HfApi()
        api.create_repo(target.repo, private=private or None, exist_ok=True)
        if private and not api.model_info(target.repo).private:
            raise HubError(f"{target} exists already and is public; push without --private, or to another repository")
        if branch is not None:
            api.create_branch(target.repo, branch=branch, exist_ok=True)
        # upload_folder may split its work into several commits, and a module without its card is not the same module.
        commit = api.create_commit(
            target.repo,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=f"Upload {card.name} with Headstart",
            revision=branch,
        )
    return dataclasses.replace(target, revision=commit.oid)


def _files(folder: Path, card: ModuleCard, repo: str) -> dict[str, Path | bytes]:
    """What a module consists of on a remote hub: its files, and its card and README as they should be there."""
    files: dict[str, Path | bytes] = {name: path for name in KEPT if (path := regular_file(folder, name)) is not None}
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if Path(str(config.get("base_model_name_or_path"))).is_absolute():
        # A path on somebody's machine says nothing elsewhere, and is nobody's business.
        config["base_model_name_or_path"] = card.base_model or None
        files["adapter_config.json"] = (json.dumps(config, indent=1, sort_keys=True) + "\n").encode()
    text = readme(card, loading=snippet(card, config, folder=repo))
    return files | {CARD_FILE: card.to_json().encode(), README_FILE: text.encode()}


def _licensed(card: ModuleCard, license_id: str) -> ModuleCard:
    """The card with a licence on it; raises `HubError` if no licence is known, or two are."""
    if card.license and license_id and license_id != card.license:
        raise HubError(
            f"the card of module '{card.name}' states the licence '{card.license}', not '{license_id}'; "
            "leave out --license, or correct the card"
        )
    if not (card.license or license_id):
        raise HubError(
            f"module '{card.name}' has no licence on its card, and without one nobody may use it; "
            "state it with --license, for instance --license apache-2.0"
        )
    return card.model_copy(update={"license": card.license or license_id})


def _refuse(module: RemoteModule, missing: str, files: list[str]) -> None:
    """Raise `HubError` that says why `files` are not a module."""
    pickle = next((name for name in sorted(files) if "/" not in name and name.endswith(PICKLES)), None)
    if missing == WEIGHTS_FILE and pickle is not None:
        raise HubError(
            f"{module} holds its weights only as the pickle {pickle}, and pickle files can run code; "
            f"ask its owner for {WEIGHTS_FILE} (PEFT writes it with safe_serialization=True)"
        )
    raise HubError(f"{module} has no {missing}, so it is no PEFT module; name a repository that holds one at its top")


@contextlib.contextmanager
def _errors_named(module: RemoteModule, doing: str) -> Iterator[None]:
    """Turn whatever the network library raises into a `HubError` with the remedy."""
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        # The cache's own error says less than the failed request that caused it.
        hidden = isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, (HTTPError, OSError))
        raise HubError(f"cannot {doing} {module}: {_reason(error.__cause__ if hidden else error, module)}") from error


def _reason(error: BaseException | None, module: RemoteModule) -> str:
    login = "log in with `hf auth login` (or set HF_TOKEN)"
    match error:
        case GatedRepoError():
            return f"it is gated; accept its terms at {constants.ENDPOINT}/{module.repo}, then {login}"
        case RepositoryNotFoundError():
            return f"there is no such repository, or it is private; correct the name, or {login}"
        case RevisionNotFoundError():
            return "there is no such revision; name a branch, tag or commit of the repository"
        case OfflineModeIsEnabled():
            return "offline mode is on and the cache has no copy; unset HF_HUB_OFFLINE"
        case HfHubHTTPError(response=response) if response.status_code in (401, 403):
            return f"this login has no right to do so; {login} with a token that has"
        case HfHubHTTPError(response=response) if response.status_code >= 500 or response.status_code == 429:
            return f"the server answered with {response.status_code}; run the same command again later"
        case HfHubHTTPError() | ValueError():
            return f"the server refused it ({_one_line(error)}); correct that and try again"
        case HTTPError() | ConnectionError():
            return (
                f"the connection to {constants.ENDPOINT} failed ({_one_line(error)}); check the network and run "
                "the same command again, which fetches only what is missing"
            )
        case _:
            return f"{_one_line(error)}; correct that and run the same command again"


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence the network library's own progress bars, which would write across ours."""
    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            enable_progress_bars()
