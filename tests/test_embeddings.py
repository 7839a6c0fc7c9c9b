"""Task embeddings, worked out by hand, against naive float64 references, and by what must not change them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.embeddings import (
    EMBEDDINGS,
    Subject,
    canonical_factors,
    centred,
    cosines,
    embed,
    flattened,
    make_embedding,
    mean_over,
)
from headstart.errors import ModuleError, SettingError
from headstart.formats import PrefixLayout
from headstart.indicators import WeightIndicator, make_indicator
from headstart.kinds import BitFitModule, LoraModule, Module, PrefixModule, PromptModule
from headstart.kinds.contract import card_of
from headstart.kinds.lora import Factors
from headstart.specs import Spec


def lora(layers: dict[str, tuple[list[list[float]], list[list[float]]]], scaling: float = 1.0) -> LoraModule:
    factors = {path: Factors(torch.tensor(a), torch.tensor(b), scaling) for path, (a, b) in layers.items()}
    return LoraModule.build(factors, name="m", backbone=None)


def values(name: str, module: Module) -> list[float]:
    found: list[float] = make_embedding(name).of(Subject(module)).tolist()
    return found


# By hand

TWO_LAYERS = lora({"layers.0.q": ([[1.0, 2.0]], [[3.0]]), "layers.1.q": ([[4.0, 5.0]], [[6.0]])})


def test_tupate_by_hand() -> None:
    # Rows (1 2 3) and (4 5 6), A before B.
    assert values("tupate", TWO_LAYERS) == [2.5, 3.5, 4.5]


def test_flat_by_hand() -> None:
    assert values("flat", TWO_LAYERS) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_canonical_by_hand() -> None:
    # ΔW = 3 · (1 2) has σ = 3√5, v = (1 2)/√5, u = 1, so A' = √σ·v and B' = √σ; and 6 · (4 5): σ = 6√41.
    found = [np.sqrt(s) * np.array([*v / np.linalg.norm(v), 1.0]) for s, v in (
        (3 * 5**0.5, np.array([1.0, 2.0])), (6 * 41**0.5, np.array([4.0, 5.0])))]  # fmt: skip
    assert values("canonical", TWO_LAYERS) == pytest.approx(((found[0] + found[1]) / 2).tolist())


def test_the_sign_is_that_of_the_largest_input_weight() -> None:
    # ΔW = (−1)·(1 −2) = (−1 2): v = (−1 2)/√5 with u = 1, not (1 −2)/√5 with u = −1.
    a, b = canonical_factors([[1.0, -2.0]], [[-1.0]])
    root = 5**0.25
    assert a.tolist() == [pytest.approx([-root / 5**0.5, 2 * root / 5**0.5])]
    assert b.tolist() == [[pytest.approx(root)]]


def test_pooled_by_hand() -> None:
    # Two tokens (1 2) and (3 6) of a prompt.
    rows = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    prompt = PromptModule(card_of("prompt", [rows], name="m", backbone=None), {}, {"prompt": rows})
    assert values("pooled", prompt) == [2.0, 4.0]
    assert values("tupate", prompt) == [1.0, 2.0, 3.0, 6.0]
    # One layer of a prefix of two tokens, one head of size 1: keys 1, 3 and values 2, 6.
    shape = PrefixLayout(None, 2, 1, 1, 1, False, None)
    prefix = PrefixModule(card_of("prefix", [rows], name="m", backbone=None), {}, {"prefix": rows}, shape)
    assert values("tupate", prefix) == [1.0, 3.0, 2.0, 6.0]
    assert values("pooled", prefix) == [2.0, 4.0]


def test_layers_with_unequal_parameters() -> None:
    # q is in both layers, v in layer 1 alone, and q has rank 2 in layer 2: a position with a shape of its own.
    one = ([[1.0]], [[2.0]])
    module = lora(
        {
            "layers.0.q": one, "layers.1.q": ([[3.0]], [[6.0]]), "layers.1.v": ([[5.0]], [[7.0]]),
            "layers.2.q": ([[8.0], [9.0]], [[10.0, 11.0]]),
        }
    )  # fmt: skip
    assert values("tupate", module) == [2.0, 4.0, 8.0, 9.0, 10.0, 11.0, 5.0, 7.0]
    assert sorted(values("flat", module)) == [1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]


# The dimensions of Zhou et al., 2022, table 1, on BERT-base


def bert_lora() -> Module:
    pair = Factors(torch.zeros(8, 768), torch.zeros(768, 8), 1.0)
    paths = [f"bert.encoder.layer.{n}.attention.self.{part}" for n in range(12) for part in ("query", "value")]
    return LoraModule.build(dict.fromkeys(paths, pair), name="m", backbone=None)


def bert_bitfit() -> Module:
    sizes = {
        "attention.self.query": 768, "attention.self.key": 768, "attention.self.value": 768,
        "attention.output.dense": 768, "attention.output.LayerNorm": 768, "intermediate.dense": 3072,
        "output.dense": 768, "output.LayerNorm": 768,
    }  # fmt: skip
    held = {f"bert.encoder.layer.{n}.{p}.bias": torch.zeros(size) for n in range(12) for p, size in sizes.items()}
    return BitFitModule(card_of("bitfit", held.values(), name="m", backbone=None), {}, held)


def bert_prefix() -> Module:
    held = torch.zeros(20, 12 * 2 * 768)
    shape = PrefixLayout(None, 20, 12, 12, 64, False, None)
    return PrefixModule(card_of("prefix", [held], name="m", backbone=None), {}, {"prefix": held}, shape)


@pytest.mark.parametrize(
    ("made", "dimension"), [(bert_lora, 24_576), (bert_bitfit, 8_448), (bert_prefix, 20 * 768 * 2)]
)
def test_dimensions_on_bert_base(made: Callable[[], Module], dimension: int) -> None:
    vector = embed(made(), store=False)
    assert vector.dimension == dimension
    assert (vector.method, vector.layers, vector.kind) == ("tupate", 12, made().kind)
    assert vector.digest == made().digest()


# The canonical form

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7), st.integers(0, 10_000))


@given(SIZES)
def test_the_canonical_form_does_not_see_the_factors(sizes: tuple[int, int, int, int]) -> None:
    rank, inputs, outputs, seed = sizes
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(rank, inputs)), draw.normal(size=(outputs, rank))
    change = draw.normal(size=(rank, rank)) + 3 * np.eye(rank)
    if abs(np.linalg.det(change)) < 0.1:
        change = np.eye(rank)
    first = canonical_factors(a, b, 2.0)
    second = canonical_factors(change @ a, b @ np.linalg.inv(change), 2.0)
    spread = np.linalg.svd(b @ a, compute_uv=False)[: min(rank, inputs, outputs)]
    assert first[1] @ first[0] == pytest.approx(2.0 * b @ a, abs=1e-9)
    if len(spread) < 2 or np.diff(spread).max() < -0.05:  # singular vectors are those of values that differ
        assert second[0] == pytest.approx(first[0], abs=1e-6)
        assert second[1] == pytest.approx(first[1], abs=1e-6)


def test_the_canonical_form_is_the_decomposition_of_the_update() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 5)), draw.normal(size=(4, 2))
    u, sizes, vt = np.linalg.svd(0.5 * b @ a)
    found_a, found_b = canonical_factors(a, b, 0.5)
    for n in range(2):
        sign = np.sign(vt[n][np.abs(vt[n]).argmax()])
        assert found_a[n] == pytest.approx(sign * sizes[n] ** 0.5 * vt[n])
        assert found_b[:, n] == pytest.approx(sign * sizes[n] ** 0.5 * u[:, n])


def test_a_module_that_does_nothing_has_a_canonical_form_of_zeros() -> None:
    a, b = canonical_factors([[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0]])
    assert not a.any()
    assert not b.any()


def test_a_direction_of_no_size_is_zero() -> None:
    # Both rows of A are one direction, so that ΔW has rank 1 and the second pair is rounding.
    a, b = canonical_factors([[1.0, 2.0], [2.0, 4.0]], [[0.3, 0.1], [0.7, 0.9]])
    assert a[0].any()
    assert not a[1].any()
    assert not b[:, 1].any()


def test_equal_singular_values_leave_a_rotation_open_but_not_the_update() -> None:
    # ΔW = the identity: any rotation of the factors is a form of it.
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    for a, b in ((np.eye(2), np.eye(2)), (turn, turn.T)):
        found = canonical_factors(a, b)
        assert found[1] @ found[0] == pytest.approx(np.eye(2), abs=1e-12)


def test_the_canonical_embedding_of_a_rewritten_module() -> None:
    draw = torch.Generator().manual_seed(0)
    paths = [f"layers.{n}.{part}" for n in range(3) for part in ("q", "v")]
    pairs = {p: (torch.randn(3, 6, generator=draw), torch.randn(5, 3, generator=draw)) for p in paths}
    change = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, 3.0]])
    one = LoraModule.build({p: Factors(a, b, 2.0) for p, (a, b) in pairs.items()}, name="one", backbone=None)
    other = LoraModule.build(
        {p: Factors(change @ a, b @ change.inverse(), 2.0) for p, (a, b) in pairs.items()}, name="other", backbone=None
    )
    assert values("canonical", other) == pytest.approx(values("canonical", one), abs=1e-4)
    tupate = np.array([values("tupate", one), values("tupate", other)])
    assert cosines(tupate[:1], tupate[1:])[0, 0] < 0.9, "the plain parameters differ"


def test_a_canonical_embedding_of_one_rank_compares_modules_of_several() -> None:
    draw = np.random.default_rng(0)
    u, v = np.linalg.qr(draw.normal(size=(5, 3)))[0], np.linalg.qr(draw.normal(size=(6, 3)))[0]
    sizes = np.array([9.0, 4.0, 1.0])

    def of_rank(kept: int, scale: float = 1.0) -> LoraModule:
        a, b = (v[:, :kept] * sizes[:kept]).T, scale * u[:, :kept]
        pair = Factors(torch.tensor(a), torch.tensor(b), 1.0)
        return LoraModule.build({"layers.0.q": pair}, name=f"r{kept}", backbone=None)

    two, three = values("canonical:rank=2", of_rank(2)), values("canonical:rank=2", of_rank(3))
    assert two == pytest.approx(three), "the third direction is cut"
    wide, widest = values("canonical:rank=4", of_rank(2)), values("canonical:rank=4", of_rank(3))
    assert len(wide) == len(widest) == 4 * (5 + 6)
    # Directions are orthonormal, and each has a share of twice its size in the squared length.
    assert cosines([wide], [widest])[0, 0] == pytest.approx(13 / (13 * 14) ** 0.5)
    assert cosines([wide], [values("canonical:rank=4", of_rank(2, -1.0))])[0, 0] == pytest.approx(0.0, abs=1e-9)


def test_a_canonical_embedding_of_no_rank_is_refused() -> None:
    with pytest.raises(SettingError, match="rank=0 keeps nothing; give 1 or more"):
        make_embedding("canonical:rank=0")


# Gram matrices of updates


def drawn_lora(seed: int, *, rank: int = 2, spans: np.ndarray | None = None) -> LoraModule:
    """A module of 20 layers (40 → 64) with a random A; with `spans` (20, 64, rank), the columns of B lie in these."""
    draw = np.random.default_rng(seed)
    pairs = {}
    for layer in range(20):
        b = draw.normal(size=(64, rank)) if spans is None else spans[layer] @ draw.normal(size=(rank, rank))
        pairs[f"layers.{layer}.q"] = Factors(torch.tensor(draw.normal(size=(rank, 40))), torch.tensor(b), 0.5)
    return LoraModule.build(pairs, name=f"m{seed}", backbone=None)


def gram_cosine(one: LoraModule, other: LoraModule) -> float:
    """Σ ⟨G, G'⟩ over layers, by forming ΔWΔWᵀ, divided by the lengths."""

    def product(a: LoraModule, b: LoraModule) -> float:
        found = 0.0
        for path in a.factors:
            grams = []
            for factors in (a.factors[path], b.factors[path]):
                update = factors.scaling * (factors.b @ factors.a).double().numpy()
                grams.append(update.T @ update if factors.embedding else update @ update.T)
            found += float((grams[0] * grams[1]).sum())
        return found

    return product(one, other) / (product(one, one) * product(other, other)) ** 0.5


def test_the_cosine_of_gram_vectors_estimates_that_of_the_gram_matrices() -> None:
    one, noise = drawn_lora(0), drawn_lora(1)
    factors = {path: f._replace(b=one.factors[path].b + 0.4 * f.b) for path, f in noise.factors.items()}
    near = LoraModule.build(factors, name="near", backbone=None)
    expected = [gram_cosine(one, other) for other in (near, drawn_lora(2), drawn_lora(3, rank=4))]
    assert expected[0] > 0.6 > 0.1 > max(expected[1:])
    for projections, near_enough in ((24, 0.1), (150, 0.03)):
        spec = f"gram:projections={projections}"
        others = [values(spec, other) for other in (near, drawn_lora(2), drawn_lora(3, rank=4))]
        assert cosines([values(spec, one)], others)[0] == pytest.approx(expected, abs=near_enough)
    assert len(values("gram", one)) == 20 * 24 * 23 / 2


def test_gram_vectors_find_the_outputs_behind_other_random_inputs() -> None:
    """As in tuning: A is random and stays, and what B spans depends on the task."""
    task, another = (np.random.default_rng(number).normal(size=(20, 64, 2)) for number in (10, 11))
    modules = [drawn_lora(0, spans=task), drawn_lora(1, spans=task), drawn_lora(2, spans=another)]
    alike, unlike = cosines([values("gram", modules[0])], [values("gram", one) for one in modules[1:]])[0]
    assert alike > 0.5 > 0.1 > unlike
    by_tupate = cosines([values("tupate", modules[0])], [values("tupate", one) for one in modules[1:]])[0]
    assert abs(by_tupate).max() < 0.2


def test_gram_does_not_see_how_an_update_is_written() -> None:
    module = bert_lora()
    change = torch.tensor(np.random.default_rng(0).normal(size=(8, 8)))
    rewritten = LoraModule.build(
        {
            path: f._replace(a=change @ f.a.double(), b=f.b.double() @ torch.linalg.inv(change), scaling=f.scaling)
            for path, f in module.factors.items()
        },
        name="rewritten", backbone=None,
    )  # fmt: skip
    assert values("gram", rewritten) == pytest.approx(values("gram", module), rel=1e-5, abs=1e-9)


def test_gram_of_an_embedding_layer_is_that_of_its_tokens() -> None:
    pair = Factors(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[3.0], [4.0]]), 1.0)
    of_tokens = values("gram", LoraModule.build({"layers.0.e": pair._replace(embedding=True)}, name="e", backbone=None))
    turned = Factors(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0], [2.0]]), 1.0)
    assert of_tokens == pytest.approx(values("gram", LoraModule.build({"layers.0.e": turned}, name="t", backbone=None)))


def test_gram_needs_two_projections() -> None:
    with pytest.raises(SettingError, match="projections=1 makes no pair; give 2 or more"):
        make_embedding("gram:projections=1")


@pytest.mark.parametrize(
    ("name", "module"), [("canonical", bert_bitfit()), ("pooled", bert_lora()), ("gram", bert_bitfit())]
)
def test_what_is_not_defined_says_so(name: str, module: Module) -> None:
    with pytest.raises(ModuleError, match=r"; use tupate$"):
        make_embedding(name).of(Subject(module))


# Arrays


def test_prompts_that_are_no_modules() -> None:
    # Three prompts of two tokens, as a file of arrays holds them.
    prompts = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    assert mean_over(prompts).tolist() == [[1.0, 2.0], [5.0, 6.0], [9.0, 10.0]]
    assert flattened(prompts)[1].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert centred(mean_over(prompts)).mean(0).tolist() == [0.0, 0.0]
    assert mean_over(torch.from_numpy(prompts)).tolist() == mean_over(prompts).tolist()


def test_cosines_are_those_of_a_loop() -> None:
    draw = np.random.default_rng(0)
    queries, vectors = draw.normal(size=(3, 5)), draw.normal(size=(4, 5))
    found = cosines(queries, vectors)
    for i, query in enumerate(queries):
        for j, vector in enumerate(vectors):
            expected = sum(query * vector) / sum(query**2) ** 0.5 / sum(vector**2) ** 0.5
            assert found[i, j] == pytest.approx(expected)


def test_vectors_of_unlike_length_have_no_cosine() -> None:
    with pytest.raises(SettingError, match="vectors of 3 numbers cannot be compared with 2; embed both by one method"):
        cosines([[1.0, 2.0]], [[1.0, 2.0, 3.0]])


# Asking for them


@pytest.mark.parametrize("name", list(EMBEDDINGS))
def test_an_embedding_is_asked_for_by_its_name(name: str) -> None:
    made = make_embedding(name)
    assert made.name == name
    assert made.spec == Spec(name)
    assert made == EMBEDDINGS[name]()
    assert made.needs
    assert made.source


def test_what_is_no_embedding_is_refused() -> None:
    with pytest.raises(SettingError, match=r"unknown embedding 'tupat'; .*did you mean 'tupate'\?"):
        make_embedding("tupat")
    with pytest.raises(SettingError, match=r"an embedding is None; give its name, such as 'tupate'"):
        make_embedding(None)  # type: ignore[arg-type]


def test_similarity_by_hand() -> None:
    # flat: (1 0 3 0) and (0 1 2 3) have cosine 6 / (√10·√14); tupate: (2 0) and (1 2), 2 / (2·√5).
    def pairs(*layers: tuple[float, float]) -> LoraModule:
        return lora({f"layers.{n}.q": ([[a]], [[b]]) for n, (a, b) in enumerate(layers)})

    reference, module = pairs((1, 0), (3, 0)), pairs((0, 1), (2, 3))
    for spec, expected in (
        ("similarity:embedding=flat", 6 / 140**0.5), ("similarity", 1 / 5**0.5), ("tupate", 1 / 5**0.5),
    ):  # fmt: skip
        indicator = make_indicator(spec)
        assert isinstance(indicator, WeightIndicator)
        assert indicator.from_modules([module], reference) == pytest.approx([expected])


def test_centred_similarity_by_hand() -> None:
    # One layer each: (1 0), (0 1) and (2 2) have the mean (1 1). Less the mean, the modules are (0 −1), (−1 0) and
    # (1 1), and the reference (1 3) is (0 2): cosines −1, 0 and 1/√2.
    modules = [lora({"layers.0.q": ([[a]], [[b]])}) for a, b in ((1.0, 0.0), (0.0, 1.0), (2.0, 2.0))]
    reference = lora({"layers.0.q": ([[1.0]], [[3.0]])})
    indicator = make_indicator("similarity:centre=true")
    assert isinstance(indicator, WeightIndicator)
    assert str(indicator.spec) == "similarity:centre=True"
    assert indicator.relative
    found = indicator.among(modules).from_modules(modules[:1], reference)
    assert found == pytest.approx([-1.0]), "the mean is that of all, not of those in one stack"
    assert indicator.from_modules(modules, reference) == pytest.approx([-1.0, 0.0, 0.5**0.5])
