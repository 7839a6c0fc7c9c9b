"""Where a backbone is: a folder, a GGUF file, or an id of the Hugging Face Hub; torch is not needed for that."""

import difflib
import json
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from headstart.errors import BackboneError
from headstart.extras import require
from headstart.filenames import near_path

__all__ = ["first_line", "located", "name_of", "place_of", "possible"]


def name_of(source: str | Path) -> str:
    """A backbone's name on cards: its hub id, or the last part of a local path, to reveal nothing else."""
    path = Path(source).expanduser()
    return (path.resolve().stem if path.suffix == ".gguf" else path.resolve().name) if path.exists() else str(source)


def place_of(source: str | Path) -> str:
    """Where other libraries find a backbone from any folder: the absolute path of what exists here, else the text."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else str(source)


def possible(source: str | Path, revision: str | None = None) -> str | None:
    """How a backbone that may exist is called: a folder or file that is here, or an id of the Hugging Face Hub.

    `None` for an id that is not in the cache, which the hub has to be asked for. Raises `BackboneError` for what cannot
    be any of these.
    """
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BackboneError(f"no GGUF file at {path}; give the path of an existing file")
        return str(path)
    if path.is_dir():
        return str(path)
    if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
        raise BackboneError(f"no backbone at {source}; give an existing folder, a .gguf file or a hub id")
    if isinstance(try_to_load_from_cache(str(source), "config.json", revision=revision), str):
        return str(source)
    if path.parent != Path() and (near := near_path(path)):  # "models/lama" beside "models/llama", not an owner's model
        raise BackboneError(f"no backbone at {source}{near}; give an existing folder, a .gguf file or another hub id")
    if "/" not in str(source):
        raise BackboneError(_unknown_name(str(source)))
    return None


def located(source: str | Path, revision: str | None) -> tuple[str, dict[str, str]]:
    """Where transformers finds the backbone, and the further arguments that it needs.

    Raises `BackboneError` if it is nowhere, or its folder is not a backbone's.
    """
    place = possible(source, revision)
    if place is None:
        _ask_for(str(source), revision)
    path = Path(place or "")
    if path.suffix == ".gguf":
        require("gguf", for_what=f"reading {path}")
        return str(path.parent), {"gguf_file": path.name}
    if place is not None and path.is_dir():
        _check_folder(path)
        return place, {}
    return str(source), {"revision": revision} if revision else {}


def _ask_for(name: str, revision: str | None) -> None:
    """Raise `BackboneError` unless the Hugging Face Hub knows the model: one question, where loading asks six times."""
    nowhere = f"no backbone at {name}: it is no folder here, and"
    hint = "".join(f"did you mean {near}, or " for near in _like(name)[:1])
    try:
        HfApi().model_info(name, revision=revision, timeout=PATIENCE_SECONDS)
    except OfflineModeIsEnabled as error:
        raise BackboneError(f"{nowhere} HF_HUB_OFFLINE keeps it from being fetched; {hint}unset that") from error
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"{nowhere} the Hugging Face Hub shows no such model; {hint}check the name, or log in with `hf auth login` "
            "if the model is private"
        ) from error
    except RevisionNotFoundError as error:
        raise BackboneError(f"{name} has no revision '{revision}'; name a branch, tag or commit of it") from error
    except (HfHubHTTPError, ValueError) as error:
        raise BackboneError(
            f"{nowhere} the Hugging Face Hub refused it: {first_line(error)}; {hint}check the name"
        ) from error
    except Exception as error:  # whatever its network library raises
        raise BackboneError(
            f"{nowhere} the Hugging Face Hub cannot be reached ({first_line(error)}); {hint}check the network"
        ) from error


PATIENCE_SECONDS = 10.0
"""How long the Hugging Face Hub is waited for before it counts as out of reach."""

MOST_FOLDERS = 200
"""How many folders of models are searched for a name similar to a mistyped one."""


def _unknown_name(source: str) -> str:
    """The error for a name that is not a folder here and cannot be one on the Hugging Face Hub."""
    near = " or ".join(str(folder) for folder in _like(source)[:3])
    return (
        f"no backbone at {source}: there is no such folder here, and a model on the Hugging Face Hub is called "
        f"owner/name; {f'did you mean {near}?' if near else 'give an existing folder, a .gguf file or a hub id'}"
    )


def _like(source: str) -> list[Path]:
    """Folders of models below this one whose names are like the last part of `source`, most alike first."""
    name = source.rpartition("/")[2]
    folders = {
        found.parent.name: found.parent
        for pattern in ("*/config.json", "*/*/config.json", "*/*/*/config.json")
        for found in islice(Path().glob(pattern), MOST_FOLDERS)
    }
    near = difflib.get_close_matches(name, folders, n=3, cutoff=0.5)
    return [folders[one] for one in [*near, *(other for other in folders if name in other and other not in near)]]


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # For a bad field of a configuration, the first line names the field and the second says what is wrong.
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


def _check_folder(path: Path) -> None:
    if (path / "adapter_config.json").exists():
        raise BackboneError(f"{path} holds a PEFT module, not a backbone; give the model that it was tuned on")
    if not (path / "config.json").exists():
        raise BackboneError(f"{path} has no config.json; give a folder written by save_pretrained")
    for file in path.iterdir():
        # Reading a named pipe or a device may never end.
        if not (file.is_file() or file.is_dir() or file.is_symlink()):
            raise BackboneError(f"{file} is not a regular file; replace it with the file itself")
    index = path / "model.safetensors.index.json"
    if index.exists():
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        outside = next((part for part in parts if Path(part).name != part), None)
        if outside is not None:
            raise BackboneError(f"{index} names the file {outside}, which is not in its folder; copy the model again")
