"""The corpus of altered modules, made of folders of your own."""

from pathlib import Path

import pytest
from tests.corpus import run_corpus
from tests.corpus.given import given_sources
from tests.corpus.worker import verdict

from headstart.kinds import load_module
from test_corpus import SHARED, as_it_is


@pytest.mark.skipif(not SHARED.is_dir(), reason="modules that PEFT and AdapterHub really saved are not at hand")
def test_every_real_folder_is_altered(tmp_path: Path) -> None:
    folders = sorted(SHARED.iterdir())
    given = given_sources(folders, tmp_path)
    assert given.left_out == []
    assert len(given.sources) == len(folders) == 18
    assert {verdict(as_it_is(source), load_module) for source in given.sources} == {("loaded_right", "")}


def test_folders_without_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"can be used as it is(?s:.*){tmp_path}: {tmp_path} has no adapter_config"):
        run_corpus(cases=1, folders=[tmp_path])
