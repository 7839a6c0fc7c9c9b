"""The mutation corpus: no altered module loads silently wrong, and a reader that is lax is found out."""

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tests.corpus import FAMILIES, RESULTS, Corpus, __main__, run_corpus
from tests.corpus.case import Case, Dimensions, Source
from tests.corpus.dimensions import DIMENSIONS, backbone_of
from tests.corpus.given import given_sources
from tests.corpus.head_mutations import HEAD_MUTATIONS
from tests.corpus.page import page, table
from tests.corpus.run import another, draw_cases
from tests.corpus.sources import made_sources
from tests.corpus.worker import Reader, findings, verdict

from headstart.errors import ModuleError
from headstart.formats import read_module
from headstart.formats.libraries.own_prefix import BIASED_PREFIX, BIASED_TEXT
from headstart.kinds import LoraModule, Module, PeftModule, load_module
from headstart.kinds.prefix_attention import AttentionPrefixModule
from headstart.records import CARD_FILE
from headstart.testing.oracles import MeaninglessError, by_oracle
from headstart.testing.oracles.stored import config_path, load_tensors, save_tensors, write_config

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return run_corpus(cases=CASES, seed=3)


CASES = 130


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Every made module; tests leave them as they are."""
    return made_sources(tmp_path_factory.mktemp("sources"), seed=0)


def as_it_is(source: Source) -> Case:
    return Case(0, "none", "", "oracle", source.folder, source.folder, source.dims, source.dims)


def careless(folder: Path) -> Module:
    """Looks at no values and at no card."""
    (folder / CARD_FILE).unlink(missing_ok=True)
    return load_module(read_module(folder, check_values=False))


def trusting(folder: Path) -> Module:
    """Runs what a pickle says, hangs, ends, or fails, by the folder's name."""
    what = folder.name
    if what == "runs":
        (folder.parent / "marker").touch()
    elif what == "hangs":
        time.sleep(60)
    elif what == "ends":
        os._exit(1)
    elif what == "fails":
        raise KeyError("lora_A")
    elif what == "mumbles":
        raise ModuleError("something is wrong")
    return load_module(folder)


def test_no_altered_module_loads_silently_wrong_or_crashes(corpus: Corpus) -> None:
    assert [(f.case.family, f.case.what, f.case.original.name, f.detail) for f in corpus.faults] == []
    assert sum(corpus.counts.values()) == CASES
    assert corpus.counts["refused"] > 60
    assert corpus.counts["loaded_right"] > 10, "what changes nothing must load, or refusing everything would pass"


def test_every_family_is_drawn(corpus: Corpus) -> None:
    assert list(corpus.by_family) == list(FAMILIES)


def test_a_careless_reader_is_found_out() -> None:
    lax = run_corpus(cases=80, seed=3, reader=careless)
    families = {finding.case.family for finding in lax.faults}
    assert lax.counts["silent_wrong"] >= 2
    assert {"NaN or infinity planted", "card contradicts"} <= families


def test_sound_modules_of_every_kind_load_right(sources: list[Source]) -> None:
    found = {source.folder.name: verdict(as_it_is(source), load_module) for source in sources}
    assert {name: result for name, result in found.items() if result != ("loaded_right", "")} == {}
    cards = [(read_module(source.folder).card, source.dims.family) for source in sources]
    assert {card.kind for card, _ in cards} == {"lora", "ia3", "prompt", "prefix", "bitfit", "adapter"}
    for family in ("bert", "roberta"):
        kinds = {card.kind for card, dims in cards if dims == family}
        assert kinds == {"lora", "ia3", "prompt", "prefix", "bitfit", "adapter"}
    assert {card.head.task for card, _ in cards if card.head} == {"classification", "regression", "span"}


def moved(folder: Path) -> Module:
    """Every parameter a little off, the head as it is."""
    module = load_module(folder)
    return module.with_parameters({name: 1.05 * value + 0.01 for name, value in module.parameters().items()})


def other_head(folder: Path) -> Module:
    """Only the head a little off."""
    module = load_module(folder)
    assert module.head is not None
    changed = {name: value + 0.01 for name, value in module.head.tensors.items()}
    return module.with_head(replace(module.head, tensors=changed))


def without_head(folder: Path) -> Module:
    return load_module(folder).with_head(None)


def unscaled(folder: Path) -> Module:
    """LoRA as if its factor were 1."""
    module = load_module(folder)
    assert isinstance(module, LoraModule)
    return replace(module, factors={path: f._replace(scaling=1.0) for path, f in module.factors.items()})


def counted_otherwise(folder: Path) -> Module:
    """A prefix whose relative positions are counted in the other way."""
    module = load_module(folder)
    assert isinstance(module, AttentionPrefixModule)
    other = BIASED_TEXT if module.shape.relative_positions == BIASED_PREFIX else BIASED_PREFIX
    return replace(module, shape=replace(module.shape, relative_positions=other))


def layers_exchanged(folder: Path) -> Module:
    """Every tensor of the first layer in the place of the second's, and the other way round."""
    module = load_module(folder)
    parameters = module.parameters()
    return module.with_parameters(
        {name: parameters.get(_other_layer(name), value) for name, value in parameters.items()}
    )


def _other_layer(name: str) -> str:
    return re.sub(r"\.([01])\.", lambda found: f".{1 - int(found[1])}.", name, count=1)


def test_a_reader_whose_parameters_are_off_is_found_out_on_every_module(sources: list[Source]) -> None:
    assert {s.folder.name for s in sources if verdict(as_it_is(s), moved)[0] != "silent_wrong"} == set()


@pytest.mark.parametrize("reader", [other_head, without_head])
def test_a_reader_whose_heads_are_off_is_found_out(sources: list[Source], reader: Reader) -> None:
    headed = [source for source in sources if read_module(source.folder).head]
    assert len(headed) > 30
    assert {s.folder.name for s in headed if verdict(as_it_is(s), reader)[0] != "silent_wrong"} == set()


@pytest.mark.parametrize(
    ("reader", "of", "least"),
    [
        (unscaled, LoraModule, 20),
        (counted_otherwise, AttentionPrefixModule, 6),
        (layers_exchanged, Module, 60),
    ],
)
def test_a_reader_that_computes_something_else_is_found_out(
    sources: list[Source], reader: Reader, of: type[Module], least: int
) -> None:
    looked, passed = 0, []
    for source in sources:
        module = load_module(source.folder)
        if not isinstance(module, of) or not differs(module, reader(source.folder)) or isinstance(module, PeftModule):
            continue
        looked += 1
        if verdict(as_it_is(source), reader)[0] != "silent_wrong":
            passed.append(source.folder.name)
    assert passed == []
    assert looked >= least


def differs(module: Module, other: Module) -> bool:
    """Whether the reader did anything: encoders have no relative positions, and a module of one layer no other."""
    if isinstance(module, LoraModule) and isinstance(other, LoraModule):
        factors = zip(module.factors.values(), other.factors.values(), strict=True)
        if any(one.scaling != two.scaling for one, two in factors):
            return True
    if isinstance(module, AttentionPrefixModule) and isinstance(other, AttentionPrefixModule):
        t5 = "decoder" in dict(module.shape.layers)
        if module.shape != other.shape:
            return t5
    mine, theirs = module.parameters(), other.parameters()
    return any(not torch.equal(value, theirs[name]) for name, value in mine.items())


@pytest.mark.parametrize("kind", ["own-4-lora-bert", "hub-13-prefix_tuning-bert", "delta-5-adapter-bert",
                                  "bare-28-prefix-bert", "bare-14-bitfit-bert", "hub-3-adapter-bert"])  # fmt: skip
def test_a_judge_wants_every_tensor_and_no_other(sources: list[Source], tmp_path: Path, kind: str) -> None:
    source = next((s for s in sources if s.folder.name == kind), None)
    assert source is not None, [s.folder.name for s in sources]
    for change in ("missing", "more", "shape"):
        folder = tmp_path / change
        shutil.copytree(source.folder, folder, ignore=shutil.ignore_patterns(CARD_FILE))
        tensors = load_tensors(folder)
        name = sorted(tensors)[0]
        made = {
            "missing": {key: value for key, value in tensors.items() if key != name},
            "more": tensors | {f"{name}.more": tensors[name].clone()},
            "shape": tensors | {name: tensors[name][None]},
        }[change]
        save_tensors(folder, made)
        with pytest.raises((MeaninglessError, KeyError)):
            by_oracle(folder, source.folder, backbone_of(source.dims))


def test_a_judge_wants_repeats_to_be_the_same(sources: list[Source], tmp_path: Path) -> None:
    for source in sources:
        if "prefix_tuning" not in source.folder.name:
            continue
        folder = tmp_path / source.folder.name
        shutil.copytree(source.folder, folder)
        tensors = load_tensors(folder)
        name = next(name for name in tensors if ".pool." in name)
        save_tensors(folder, tensors | {name: tensors[name] + 1e-6})
        with pytest.raises(MeaninglessError, match="not the same as the others"):
            by_oracle(folder, source.folder, backbone_of(source.dims))


@pytest.mark.parametrize("family", HEAD_MUTATIONS)
def test_heads_are_altered(sources: list[Source], tmp_path: Path, family: str) -> None:
    drawn: set[str] = set()
    headed = [source for source in sources if read_module(source.folder).head or "adapter-bert" in source.folder.name]
    for number, source in enumerate(headed):
        for mutation in set(HEAD_MUTATIONS[family]):
            folder = tmp_path / f"{number}-{mutation.__name__}"
            shutil.copytree(source.folder, folder)
            made = mutation(folder, Random(number))
            if made is not None:
                drawn.add(mutation.__name__)
                case = Case(0, family, *made, folder, source.folder, source.dims, source.dims)
                assert verdict(case, load_module)[0] in ("loaded_right", "refused"), made
    assert drawn == {mutation.__name__ for mutation in HEAD_MUTATIONS[family]}


def test_code_that_runs_hangs_and_ends_is_seen(
    sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.corpus.worker.SECONDS", 2.0)
    source = sources[0]
    cases = []
    for number, name in enumerate(("sound", "runs", "fails", "mumbles", "hangs", "ends")):
        sound = tmp_path / "sound"
        shutil.copytree(source.folder, sound) if name == "sound" else (tmp_path / name).symlink_to(sound)
        cases.append(Case(number, "none", "", "oracle", tmp_path / name, sound, source.dims, source.dims))
    found = [(f.result, f.detail) for f in findings(cases, reader=trusting, marker=tmp_path / "marker")]
    assert [result for result, _ in found] == ["loaded_right", *["crashed"] * 5]
    wanted = ("", "code from the module was run", "KeyError: 'lora_A'", "names nothing: something is wrong", "hung")
    for (_, detail), words in zip(found, (*wanted, "ended"), strict=True):
        assert words in detail


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        (
            "bare-14-bitfit-bert",
            "modules_to_save",
            ["classifier", "value"],
            "names 'value', with tensor '.*value.bias'",
        ),
        ("bare-4-lora-bert", "modules_to_save", ["er"], "names 'er' but no tensor of it is there"),
        ("delta-0-lora-bert", "unfrozen_modules", ["deltas", "classifier"], "names the task head 'classifier' but no"),
    ],
)
def test_what_the_corpus_once_found_is_refused(
    sources: list[Source], tmp_path: Path, name: str, field: str, value: list[str], message: str
) -> None:
    source = next(source for source in sources if source.folder.name == name)
    shutil.copytree(source.folder, tmp_path / "m")
    write_config(tmp_path / "m", json.loads(config_path(source.folder).read_text()) | {field: value})
    with pytest.raises(ModuleError, match=message):
        load_module(tmp_path / "m")


def test_a_bias_that_lies_in_a_named_layer_and_is_missing_is_refused(sources: list[Source], tmp_path: Path) -> None:
    source = next(source for source in sources if source.folder.name == "delta-12-bitfit-bert")
    assert verdict(as_it_is(source), load_module)[0] == "loaded_right"
    shutil.copytree(source.folder, tmp_path / "m")
    kept = {name: value for name, value in load_tensors(source.folder).items() if ".query." not in name}
    save_tensors(tmp_path / "m", kept)
    with pytest.raises(ModuleError, match=r"attention\.self\.query"):
        load_module(tmp_path / "m").check(backbone_of(source.dims))


def test_the_width_of_a_projection_is_asked_of_projected_prefixes_only(sources: list[Source], tmp_path: Path) -> None:
    for source in sources:
        if "prefix_tuning" not in source.folder.name:
            continue
        config = json.loads(config_path(source.folder).read_text())
        folder = tmp_path / source.folder.name
        shutil.copytree(source.folder, folder)
        del config["config"]["bottleneck_size"]
        write_config(folder, config)
        case = Case(0, "none", "", "oracle", folder, source.folder, source.dims, source.dims)
        assert verdict(case, load_module)[0] == ("loaded_right" if config["config"]["flat"] else "refused")


def test_a_bottleneck_that_is_not_what_its_own_layer_s_factor_says_is_refused(
    sources: list[Source], tmp_path: Path
) -> None:
    source = next(source for source in sources if source.folder.name == "hub-5-adapter-bert")
    config = json.loads(config_path(source.folder).read_text())
    for number, (factor, result) in enumerate((({"default": 8}, "loaded_right"), ({"1": 4, "default": 8}, "refused"))):
        folder = tmp_path / str(number)
        shutil.copytree(source.folder, folder)
        write_config(folder, config | {"config": config["config"] | {"reduction_factor": factor}})
        case = Case(0, "none", "", "oracle", folder, source.folder, source.dims, source.dims)
        assert verdict(case, load_module)[0] == result


def test_modules_of_your_own(sources: list[Source], tmp_path: Path) -> None:
    broken, wide = tmp_path / "broken", tmp_path / "wide"
    shutil.copytree(sources[0].folder, broken)
    config_path(broken).unlink()
    big = next(source for source in sources if source.folder.name == "bare-18-prompt-bert")
    shutil.copytree(big.folder, wide)
    tensors = load_tensors(wide)
    save_tensors(wide, tensors | {"prompt_embeddings": torch.cat([tensors["prompt_embeddings"]] * 3, dim=1)})
    write_config(wide, json.loads(config_path(wide).read_text()) | {"token_dim": 96})
    copies = [s for s in sources if any(".base_layer.weight" in name for name in load_tensors(s.folder))]
    given = given_sources([broken, wide, *(source.folder for source in sources)], tmp_path)
    assert [line.partition(":")[0] for line in given.left_out] == [
        *map(str, (broken, wide)), *(str(source.folder) for source in copies)
    ], "a copy of one backbone's embeddings fits no other"  # fmt: skip
    assert len(given.sources) == len(sources) - len(copies)
    assert "no adapter_config.json" in given.left_out[0]
    assert "no backbone of at most 64 units" in given.left_out[1]
    for source in given.sources:
        load_module(source.folder).check(backbone_of(source.dims))


def test_what_is_left_out_is_said(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = Corpus(corpus.seed, corpus.found, ("somewhere: too wide",))
    monkeypatch.setattr(__main__, "run_corpus", lambda **_: left)
    monkeypatch.setattr("sys.argv", ["corpus", "--json", "--folders", "somewhere"])
    assert __main__.main() == 0
    said = capsys.readouterr()
    assert said.err == "not altered: somewhere: too wide\n"
    assert json.loads(said.out)["cases"] == CASES


def test_a_mistake_is_said_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["corpus", "--folders", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    assert f"{tmp_path} has no adapter_config.json" in capsys.readouterr().err


def test_another_backbone_is_of_any_family() -> None:
    drawn = [another(DIMENSIONS[family], Random(seed)) for family in ("bert", "llama") for seed in range(99)]
    assert {dims.family for dims in drawn[:99]} == {dims.family for dims in drawn[99:]} == set(DIMENSIONS)
    assert not {Dimensions("bert", key_heads=4), Dimensions("llama")} & set(drawn)
    for dims in set(drawn):
        assert backbone_of(dims).model.config.num_hidden_layers == dims.layers


def test_one_seed_is_one_run(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    sources = made_sources(tmp_path, seed=3)
    again = [case.what for case in draw_cases(sources, tmp_path / "cases", cases=CASES, seed=3)]
    assert again == [finding.case.what for finding in corpus.found]
    assert not list((tmp_path / "cases").iterdir())


def test_the_page(corpus: Corpus) -> None:
    lines = table(corpus).splitlines()
    assert len(lines) == 2 + len(FAMILIES) + 1
    total = [int(cell.replace(",", "")) for cell in lines[-1].split("|")[2:-1]]
    assert total == [CASES, *(corpus.counts[name] for name in RESULTS)]
    assert f"--seed 3 --cases {CASES}" in page(corpus)
    assert json.dumps(corpus.counts)
