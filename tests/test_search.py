"""Searching a hub: by a task, a module or words; exact, grouped, filtered, and from known vectors without torch."""

import json
import sqlite3
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.backbones import Backbone
from headstart.embeddings import cosines, embed, make_embedding
from headstart.errors import HubError, SettingError, TaskError
from headstart.events import Event, UnitEvent
from headstart.hub import Hub
from headstart.hub.vectors import VECTORS_FILE, VectorFile
from headstart.kinds import load_module, save_module
from headstart.ranking.nearest import Group, VectorIndex
from headstart.ranking.search import ANY_RANK, search
from headstart.ranking.wording import word_vectors
from program import Run
from small_hub import RECIPE, module, write_hub, write_task
from test_light import heavy_after

pytest_plugins = ["cli_helper"]

# The index


def test_the_nearest_by_hand() -> None:
    # cos with (3 4): (1 0) 0.6, (0 2) 0.8, (−1 0) −0.6; a vector of zeros has none.
    index = VectorIndex(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [-1.0, 0.0]]))
    found = index.nearest(np.array([3.0, 4.0]))
    assert [group.position for group in found] == [1, 0, 3]
    assert [group.similarity for group in found] == pytest.approx([0.8, 0.6, -0.6])


def test_near_duplicates_are_one_group() -> None:
    # 0, 1 and 3 point the same way up to a hair; the best of them stands for all.
    vectors = np.array([[1.0, 0.0], [5.0, 0.02], [0.0, 1.0], [2.0, 0.0], [-1.0, 0.0]])
    index = VectorIndex(vectors)
    assert index.nearest(np.array([1.0, 0.0])) == [Group(0, 1.0, (3, 1)), Group(2, 0.0), Group(4, -1.0)]
    assert [group.position for group in index.nearest(np.array([1.0, 0.0]), near=1.0)] == [0, 3, 1, 2, 4]
    assert index.nearest(np.array([1.0, 0.0]), limit=1) == [Group(0, 1.0, (3, 1))]
    assert [group.position for group in index.nearest(np.array([1.0, 0.0]), allowed=[4, 2])] == [2, 4]


def test_centring_by_hand() -> None:
    # The mean is (2 1): the vectors become (−1 0) and (1 0), the query (0 1) − (2 1) = (−2 0).
    vectors = np.array([[1.0, 1.0], [3.0, 1.0]])
    index = VectorIndex(vectors, mean=vectors.mean(0))
    assert [(group.position, group.similarity) for group in index.nearest(np.array([0.0, 1.0]))] == [
        (0, 1.0),
        (1, -1.0),
    ]


def test_the_index_is_exact() -> None:
    draw = np.random.default_rng(0)
    vectors, queries = draw.normal(size=(700, 16)), draw.normal(size=(5, 16))
    index = VectorIndex(vectors)
    expected = cosines(queries, vectors)
    for query, values in zip(queries, expected, strict=True):
        found = index.nearest(query, limit=600, near=1.0)
        assert [group.position for group in found] == np.argsort(-values)[:600].tolist()
        assert [group.similarity for group in found] == pytest.approx(np.sort(values)[::-1][:600], abs=1e-6)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([1.0, 2.0, 3.0], "the query has 3 numbers and the vectors have 2; embed both by one method"),
        ([0.0, 0.0], "the query's vector is all zeros; give a module that was tuned"),
    ],
)
def test_queries_that_cannot_be_compared(query: list[float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        VectorIndex(np.eye(2)).nearest(np.array(query))


def test_words_by_hand() -> None:
    # "film" is in one of two texts, "review" in both: log(3/2) + 1 and log(3/3) + 1.
    vectors, query = word_vectors(["Film reviews", "reviews, a review"], "film review")
    assert query == pytest.approx([np.log(1.5) + 1, 1.0])
    assert vectors == pytest.approx(np.array([[np.log(1.5) + 1, 1.0], [0.0, 1 + np.log(2)]]))


def test_small_words_count_only_alone() -> None:
    # "of" stands in both texts and says nothing; a query of nothing else still finds it.
    vectors, query = word_vectors(["reviews of films", "best of 150"], "a review of films")
    assert (vectors > 0).tolist() == [[True, True], [False, False]]
    assert len(query) == 2
    assert (word_vectors(["reviews of films", "best"], "of the")[0] > 0).tolist() == [[True, False], [False, False]]


# A hub


@pytest.fixture
def hub(llama: Backbone, tmp_path: Path) -> Hub:
    return write_hub(tmp_path / "hub", llama)


@pytest.mark.parametrize("embedding", [None, "tupate"])
def test_like_a_module_of_the_hub(hub: Hub, embedding: str | None, tmp_path: Path) -> None:
    found = hs.search(None, hub, like="ada", embedding=embedding, store=tmp_path / "store")
    assert found.method == (embedding or "gram"), "the default for LoRA"
    vectors = {name: embed(load_module(hub[name]), found.method, store=False).values for name in hub}
    expected = {name: float(cosines([vectors["ada"]], [vectors[name]])[0, 0]) for name in hub if name != "ada"}
    rows = {row["module"]: row["similarity"] for row in found.rows()}
    assert rows == pytest.approx(expected, abs=1e-6)
    assert list(rows) == sorted(expected, key=lambda name: -expected[name])
    assert found.frame()["module"].tolist() == list(rows)
    assert repr(found).startswith("SearchResult(")


def test_known_vectors_are_not_computed_again(hub: Hub, tmp_path: Path) -> None:
    first = search(None, hub, like="ada", store=False)
    heard: list[Event] = []
    assert search(None, hub, like="ada", store=tmp_path / "unused", progress=heard.append).rows() == first.rows()
    assert not [event for event in heard if isinstance(event, UnitEvent)]
    assert set(VectorFile(hub.path).read("gram", version=1)) == {hub[name].digest for name in hub}
    assert VectorFile(hub.path).read("gram", version=2) == {}
    assert VectorFile(hub.path).read("flat", version=1) == {}


def test_the_file_of_vectors_is_a_cache(hub: Hub) -> None:
    first = search(None, hub, like="ada", store=False).rows()
    path = hub.path / VECTORS_FILE
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE vectors SET numbers = zeroblob(length(numbers)) WHERE digest = ?", (hub["bob"].digest,)
        )
    connection.close()
    assert search(None, hub, like="ada", store=False).rows() == first, "a damaged row is computed again"
    path.write_bytes(b"no database" * 500)
    assert search(None, hub, like="ada", store=False).rows() == first, "a damaged file is begun anew"
    path.unlink()
    path.mkdir()
    assert search(None, hub, like="ada", store=False).rows() == first, "a file that cannot be written is done without"


def test_vectors_of_modules_that_are_gone_are_forgotten(hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    search(None, hub, like="ada", store=False)
    gone = hub["bob"].digest
    hub.remove("bob")
    save_module(module(llama, "eve", seed=9), tmp_path / "eve")
    hub.add(tmp_path / "eve")
    search(None, hub, like="ada", store=False)
    known = VectorFile(hub.path).read("gram", version=1)
    assert gone not in known
    assert hub["eve"].digest in known


def test_like_a_module_from_elsewhere(hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    twin = module(llama, "twin", seed=1)  # the parameters of ada, which stays in the list
    found = search(None, hub, like=twin, store=False)
    assert found.rows()[0]["module"] == "ada"
    assert found.rows()[0]["similarity"] == pytest.approx(1.0)
    assert found.query == "the module given"


def test_a_task_is_tuned_for_its_query(hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    task = hs.Task.load(write_task(tmp_path / "reviews"))
    heard: list[Event] = []
    found = search(task, hub, llama, embedding="tupate", recipe=RECIPE, store=tmp_path / "store", progress=heard.append)
    computed = [event.type for event in heard if isinstance(event, UnitEvent) and event.state == "computed"]
    assert sorted(computed) == ["embed"] * (len(hub) + 1) + ["tune"]
    assert len(found.rows()) == len(hub)
    ranking = hs.rank(task, hub, llama, indicators="tupate", recipe=RECIPE, store=tmp_path / "store")
    values = dict(zip((m.name for m in ranking.modules), ranking.scores.values["tupate"], strict=True))
    assert {row["module"]: row["similarity"] for row in found.rows()} == pytest.approx(values, abs=1e-5)


def test_centred_values_are_those_of_the_search(hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    task = hs.Task.load(write_task(tmp_path / "reviews"))
    asked = {"recipe": RECIPE, "store": tmp_path / "store"}
    spec = "similarity:centre=true"
    ranking = hs.rank(task, hub, llama, indicators=[spec, "tupate"], **asked)
    values = dict(zip(ranking.scores.names, ranking.scores.values["similarity:centre=True"], strict=True))
    found = search(task, hub, llama, embedding="tupate", centre=True, **asked)
    assert {row["module"]: row["similarity"] for row in found.rows()} == pytest.approx(values, abs=1e-5)
    some = hs.rank(task, hub.where(include=["ada", "bob"]), llama, indicators=spec, **asked)
    assert some.scores.values["similarity:centre=True"][0] != pytest.approx(values["ada"]), "among other modules"


def test_filters_and_what_is_left_out(hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    save_module(module(llama, "fat", seed=8, rank=3), tmp_path / "fat")
    hub.add(tmp_path / "fat")
    found = search(None, hub, like="ada", embedding="tupate", store=False)
    (left,) = (one for one in found.left_out if one.name == "fat")
    assert left.reason.startswith("its embedding has ")
    assert left.reason.endswith("; --embedding gram compares LoRA of any rank")
    assert "fat" in [row["module"] for row in search(None, hub, like="ada", embedding=ANY_RANK, store=False).rows()]
    assert [row["module"] for row in search(None, hub, like="ada", family="reviews", store=False).rows()] == ["bob"]
    assert [row["module"] for row in search(None, hub, like="ada", exclude=["b*", "f*"], limit=1, store=False).rows()]
    with pytest.raises(HubError, match="no module of family 'poems'"):
        search(None, hub, like="ada", family="poems", store=False)


def test_a_mean_is_that_of_the_hub_whichever_modules_are_looked_at(hub: Hub) -> None:
    # Only ada and bob are reviews of films; the mean that is taken off is of cyd and dan, too.
    everything = {row["module"]: row["similarity"] for row in search_all(hub, centre=True)}
    for found in (
        search(None, hub, like="ada", centre=True, family="reviews", store=False),
        search(None, hub.where(include=["ada", "bob"]), like="ada", centre=True, store=False),
    ):
        assert {row["module"]: row["similarity"] for row in found.rows()} == {"bob": pytest.approx(everything["bob"])}
        assert [ref.name for ref in found.modules] == ["bob"], "a module is not compared with itself"
        assert found.left_out == ()
    assert everything["bob"] != pytest.approx(-1.0), "with a mean of the two, each is the other's opposite"


def search_all(hub: Hub, **asked: Any) -> list[dict[str, Any]]:
    return search(None, hub, like="ada", store=False, **asked).rows()


def test_other_kinds_and_backbones_are_left_out_even_where_vectors_are_as_long(hub: Hub) -> None:
    search_all(hub)
    kept = VectorFile(hub.path)
    known = kept.read("gram", version=1)
    other = {"bob": {"kind": "prefix"}, "cyd": {"backbone": "another"}, "dan": {"backbone": ""}}
    kept.write(
        [replace(known[hub[name].digest], **facts) for name, facts in other.items()], version=1, keep=list(known)
    )
    found = search(None, hub, like="ada", store=False)
    assert [row["module"] for row in found.rows()] == ["dan"], "a backbone that is not stated may be the same"
    assert {one.name: one.reason for one in found.left_out} == {
        "bob": "its kind is prefix, the query's lora",
        "cyd": "its backbone is another one than the query's",
    }


def test_a_module_of_another_backbone_is_compared_with_nothing(hub: Hub, llama: Backbone) -> None:
    other = llama.fingerprint.model_copy(update={"weights": "others"})
    twin = module(llama, "twin", seed=1)
    stranger = replace(twin, card=twin.card.model_copy(update={"backbone": other}))
    with pytest.raises(
        HubError, match=r"its backbone is another one than the query's; .* or a query of the hub's kind"
    ):
        search(None, hub, like=stranger, store=False)


def test_what_ranks_alone_is_compared_whatever_the_kind() -> None:
    for name, expected in (("data_size", ""), ("textemb", ""), ("tupate", "its kind is prefix, the query's lora")):
        assert make_embedding(name).unlike(("prefix", "a"), ("lora", "a"), whose="the query's") == expected
    for name, differs in (("data_size", False), ("textemb", True), ("tupate", True)):
        assert bool(make_embedding(name).unlike(("lora", "a"), ("lora", "b"), whose="the query's")) == differs


def test_words_of_cards(hub: Hub) -> None:
    found = search(None, hub, text="reviews")
    assert {row["module"] for row in found.rows()} == {"ada", "bob", "dan"}
    assert [one.name for one in found.left_out if one.reason == "none of the words stands on its card"] == ["cyd"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing to look for was given; give one of task, like= and text="),
        ({"like": "ada", "text": "x"}, "like and text were given; give one of task, like= and text="),
        ({"like": "adda"}, "has no module 'adda'; did you mean: ada"),
        ({"like": "ada", "embedding": "tupat"}, "unknown embedding 'tupat'"),
        ({"text": "bridges"}, "has a word of 'bridges'; give other words, or look for modules like= one of the hub"),
        ({"like": "ada", "limit": 0}, "limit=0 asks for no module; give limit=1 or more"),
        ({"like": "ada", "include": "ada"}, "to compare ada with but itself; add modules with `headstart hub add`"),
        ({"text": "-"}, "'-' holds no word; give words"),
        ({"like": "ada", "embedding": "pooled"}, "has no virtual tokens; use tupate"),
        (
            {"like": "ada", "embedding": "3e"},
            "modules of other kinds tuned on the same task, which '3e' reads.*others=",
        ),
        (
            {"like": "ada", "embedding": "taskemb"},
            "rows of the modules' own tasks, which 'taskemb' reads, are not there",
        ),
    ],
)
def test_mistakes(hub: Hub, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(hs.HeadstartError, match=message):
        search(None, hub, store=False, **asked)


def test_a_module_of_its_own_shape_alone_says_why_nothing_is_near(llama: Backbone, tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    for seed, (name, rank) in enumerate((("ada", 2), ("bob", 2), ("odd", 3))):
        hs.save_module(module(llama, name, seed=seed, rank=rank), tmp_path / name)
        hub.add(tmp_path / name)
    why = "with but itself: ada is left out, because its embedding has .*; choose another embedding, or add modules"
    with pytest.raises(HubError, match=why):
        search(None, hub, like="odd", embedding="tupate", store=False)
    assert len(search(None, hub, like="odd", store=False).rows()) == 2, "gram compares all ranks"


def test_an_empty_hub(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="has no modules yet; add some with `headstart hub add`"):
        search(None, Hub.create(tmp_path / "empty"), text="reviews")


def test_a_task_is_read_before_vectors_are_computed(hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,answer\na,b\n")
    with pytest.raises(TaskError, match="there are no columns 'input' and 'output'"):
        search(tmp_path / "rows.csv", hub, llama, store=tmp_path / "store")
    assert not (hub.path / VECTORS_FILE).exists()


# The command


def test_the_command(hub: Hub, run: Run, tmp_path: Path) -> None:
    found = run("search", "--hub", str(hub.path), "--like", "ada", "--store", str(tmp_path / "store"), "--json").data
    assert found["units"]["computed"] == {"embed": len(hub)}
    assert [row["module"] for row in found["modules"]] == [
        row["module"] for row in search(None, hub, like="ada", store=False).rows()
    ]
    shown = run("search", "--hub", str(hub.path), "--text", "reviews").out
    assert "3 modules by similarity to 'reviews' (words)" in shown
    assert json.loads(json.dumps(found)) == found


def test_a_search_that_finds_nothing_says_so(hub: Hub, run: Run, tmp_path: Path) -> None:
    asked = ["search", "--hub", str(hub.path), "--store", str(tmp_path / "store")]
    assert "give other words, or look for modules --like one of the hub" in run(*asked, "--text", "bridges").err
    assert "give --limit 1 or more" in run(*asked, "--like", "ada", "--limit", "0").err


def test_known_vectors_need_no_torch(hub: Hub) -> None:
    search(None, hub, like="ada", store=False)
    argv = ["headstart", "search", "--hub", str(hub.path), "--like", "ada", "--json"]
    assert heavy_after(f"sys.argv = {argv}\nfrom headstart.cli import main\nmain()") == []


# LanceDB


def test_an_index_that_is_not_known(hub: Hub) -> None:
    with pytest.raises(SettingError, match="unknown index 'faiss'; choose one of: exact, lancedb"):
        search(None, hub, like="ada", index="faiss", store=False)


def test_lancedb_is_an_extra(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.extras.find_spec", lambda package: None)
    with pytest.raises(SettingError, match=r"the index lancedb needs the package lancedb.*'headstart\[lancedb\]'"):
        search(None, hub, like="ada", index="lancedb", store=False)


@pytest.mark.skipif(find_spec("lancedb") is None, reason="LanceDB is not installed")
def test_lancedb_finds_what_the_exact_search_finds(hub: Hub, tmp_path: Path) -> None:
    from headstart.ranking.lance import LanceIndex

    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(300, 16))
    exact, index = VectorIndex(vectors), LanceIndex(vectors, tmp_path / "lance")
    half = np.arange(0, 300, 2)
    for query in draw.normal(size=(4, 16)):
        assert [g.position for g in index.nearest(query)] == [g.position for g in exact.nearest(query)]
        expected = [g.position for g in exact.nearest(query, allowed=half)]
        assert [g.position for g in index.nearest(query, allowed=half)] == expected
    for _ in range(2):  # written, then opened
        found = search(None, hub, like="ada", index="lancedb", store=False)
        assert [row["module"] for row in found.rows()] == [
            row["module"] for row in search(None, hub, like="ada", store=False).rows()
        ]


@pytest.mark.skipif(find_spec("lancedb") is None, reason="LanceDB is not installed")
def test_lancedb_keeps_one_table_of_a_method(hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    def tables() -> set[Path]:
        return {path.parent for path in (hub.path / ".vectors.lance").glob("*/done")}

    def both(**asked: Any) -> None:
        exact, found = (search_all(hub, index=index, **asked) for index in ("exact", "lancedb"))
        assert [row["module"] for row in found] == [row["module"] for row in exact]
        assert [row["similarity"] for row in found] == pytest.approx([row["similarity"] for row in exact], abs=1e-6)

    both()
    (table,) = tables()
    written = (table / "done").stat().st_mtime_ns
    both(family="reviews")
    both(exclude="b*", limit=1)
    assert tables() == {table}
    assert (table / "done").stat().st_mtime_ns == written, "a filter writes no table"
    hub.remove("dan")
    save_module(module(llama, "eve", seed=9), tmp_path / "eve")
    hub.add(tmp_path / "eve")
    both()
    assert tables() == {table}, "of another hub, it is replaced"
    assert (table / "done").stat().st_mtime_ns != written
    both(centre=True, family="reviews")
    assert len(tables()) == 2
