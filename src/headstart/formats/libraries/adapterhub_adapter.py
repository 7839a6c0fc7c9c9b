"""What a bottleneck adapter is, read from AdapterHub's configuration and its tensors' shapes; pure, without torch.

A bottleneck adapter (Houlsby et al., 2019, section 2.1) adds a(x) to a sublayer's output; see `Computation`. In
`adapters` 1.3, the fields about the model's own layer norm, before or after a sublayer, say what x is.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

from headstart.architectures import ARCHITECTURES, Architecture, SublayerName, architecture_of
from headstart.errors import ModuleError
from headstart.formats.layout import Layout
from headstart.formats.libraries.adapterhub_config import SAVE_AGAIN, method_fields, without_base
from headstart.formats.libraries.peft_config import LARGEST, Fields, require_matrix, require_shape

__all__ = [
    "ACTIVATIONS",
    "FIELDS",
    "NAMES",
    "PARTS",
    "AdapterLayout",
    "AdapterSite",
    "Computation",
    "adapter_layout",
    "bottleneck_size",
    "reduction_factor",
]

FIELDS = Fields(
    handled={
        "cross_adapter", "is_parallel", "leave_out", "mh_adapter", "non_linearity", "original_ln_after",
        "original_ln_before", "output_adapter", "reduction_factor", "residual_before_ln", "scaling",
        # Headstart's own field: false if no layer has any
        "biases",
    },
    harmless={
        # which method this is, and how the parameters were initialized
        "architecture", "init_weights", "init_weights_seed",
        # active only while a module is trained
        "dropout", "stochastic_depth",
        # without effect unless one of the refused fields is set
        "adapter_residual_before_ln", "factorized_phm_W", "factorized_phm_rule", "hypercomplex_nonlinearity",
        "inv_adapter_reduction_factor", "learn_phm", "phm_bias", "phm_c_init", "phm_dim", "phm_init_range", "phm_rank",
        "shared_W_phm", "shared_phm_rule",
    },
    refused={
        "inv_adapter": "it carries an invertible adapter behind the embeddings",
        "ln_after": "it carries a layer norm of its own behind each adapter",
        "ln_before": "it carries a layer norm of its own before each adapter",
        "phm_layer": "Compacter builds its layers from Kronecker products",
        "use_gating": "it carries a gate beside each adapter",
    },
)  # fmt: skip
"""The fields of the library's BnConfig."""

ACTIVATIONS = ("relu", "gelu", "gelu_new", "swish", "silu", "tanh", "leakyrelu")
"""Activations by AdapterHub's names; "swish" is "silu", "gelu_new" the approximation with tanh."""

PARTS: dict[SublayerName, str] = {
    "attention": "mh_adapter", "cross_attention": "cross_adapter", "feed_forward": "output_adapter",
}  # fmt: skip
"""AdapterHub's field that says whether a sublayer has adapters."""

NAMES = {
    "down": "adapter_down.0.weight", "down_bias": "adapter_down.0.bias", "up": "adapter_up.weight",
    "up_bias": "adapter_up.bias",
}  # fmt: skip
"""AdapterHub's names of an adapter's tensors D (size, width), d, U (width, size) and u, by our names."""


class Computation(NamedTuple):
    """a(x) = s·(U·act(D·x + d) + u), which is added to the sublayer's output h, with the residual stream e beside it.

    `reads` says what x is:

    * "output": x = h, and "residual": x = e;
    * "sum": x = h + e, in models that normalize before a sublayer;
    * "normed": x = N(h + e), in models that normalize after it, which then compute N(h + a(x) + e);
    * "behind": the same x, to which a(x) is added, so that the block's result is x + a(x).

    `activation`: act by AdapterHub's name; `factor`: s.
    """

    reads: str
    activation: str
    factor: float


@dataclass(frozen=True)
class AdapterSite:
    """One adapter: the names of its tensors, by our names in `NAMES`, without those of missing biases."""

    tensors: Mapping[str, str]
    size: int
    width: int


@dataclass(frozen=True)
class AdapterLayout(Layout):
    """The adapters by the path of the sublayer whose output each changes ("model.layers.0.mlp"), in order of name.

    They show the width of that output, not of the sublayer's input.
    """

    sites: dict[str, AdapterSite]
    computation: Computation


def adapter_layout(config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> AdapterLayout:
    """The layout of a bottleneck adapter; see `FolderReader.layout`."""
    architecture = architecture_of(config.get("model_type"))
    if architecture is None:
        raise ModuleError(
            f"field 'model_type' is {config.get('model_type')!r}; bottleneck adapters are read for: "
            f"{', '.join(ARCHITECTURES)}"
        )
    method = method_fields(config)
    FIELDS.check(method)
    parts = frozenset(field for field in PARTS.values() if method.get(field))
    grouped = _grouped(shapes, str(config.get("name")), architecture)
    sites = {}
    for path in sorted(grouped):
        part, names = grouped[path]
        if part not in parts:
            raise ModuleError(
                f"field '{part}' is not set but tensor '{next(iter(names.values()))}' is there; {SAVE_AGAIN}"
            )
        sites[path] = _site(names, shapes, biases=method.get("biases") is not False)
        _check_size(sites[path], config, method)
    _check_left_out(method)
    computation = Computation(_reads(method, architecture), _activation(method), _factor(method))
    return AdapterLayout(
        None,
        sites,
        computation,
        widths={path: (None, site.width) for path, site in sites.items()},
        rank=max((site.size for site in sites.values()), default=None),
        scaling=computation.factor,
    )


def bottleneck_size(width: int, reduction: float) -> int:
    """The bottleneck that AdapterHub makes from a reduction factor."""
    return max(int(width // reduction), 1)


def reduction_factor(width: int, size: int) -> float:
    """The reduction factor that AdapterHub turns into exactly this bottleneck."""
    factor = width / size
    while bottleneck_size(width, factor) < size:
        factor = math.nextafter(factor, 0.0)
    return factor


def _grouped(
    shapes: Mapping[str, tuple[int, ...]], name: str, architecture: Architecture
) -> dict[str, tuple[str, dict[str, str]]]:
    """By path: the field that enables the site, and the names of the tensors by their end."""
    ends = "|".join(map(re.escape, NAMES.values()))
    sites = {
        blocks.path: {sublayer.adapters: sublayer for sublayer in blocks.sublayers} for blocks in architecture.blocks
    }
    grouped: dict[str, tuple[str, dict[str, str]]] = {}
    for tensor in shapes:
        found = re.fullmatch(rf"(.+)\.adapters\.{re.escape(name)}\.({ends})", without_base(tensor))
        located = None if found is None else architecture.locate(found[1])
        sublayer = None if located is None else sites[located[0].path].get(located[2])
        if found is None or located is None or sublayer is None:
            raise ModuleError(f"tensor '{tensor}' is not part of the bottleneck adapter '{name}'")
        blocks, number, _ = located
        path, end = f"{architecture.base}{blocks.path}.{number}.{sublayer.output}", found[2]
        _, names = grouped.setdefault(path, (PARTS[sublayer.name], {}))
        if end in names:
            raise ModuleError(f"tensors '{names[end]}' and '{tensor}' stand for the same parameter; {SAVE_AGAIN}")
        names[end] = tensor
    return grouped


def _site(names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], *, biases: bool) -> AdapterSite:
    some = next(iter(names.values()))
    for end in NAMES.values():
        if (end in names) != (biases or end.endswith("weight")):
            wrong = "is there although field 'biases' is false" if end in names else "is missing"
            raise ModuleError(f"beside tensor '{some}' its '{end}' {wrong}; {SAVE_AGAIN}")
    tensors = {part: names[end] for part, end in NAMES.items() if end in names}
    require_matrix(tensors["down"], shapes[tensors["down"]], remedy=SAVE_AGAIN)
    size, width = shapes[tensors["down"]]
    for part, wanted in (("up", (width, size)), ("down_bias", (size,)), ("up_bias", (width,))):
        if part in tensors:
            require_shape(tensors[part], shapes[tensors[part]], wanted, remedy=SAVE_AGAIN)
    return AdapterSite(tensors, size, width)


def _check_size(site: AdapterSite, config: Mapping[str, object], method: Mapping[str, object]) -> None:
    if config.get("hidden_size") != site.width:
        raise ModuleError(
            f"tensor '{site.tensors['down']}' is {site.width} wide but field 'hidden_size' is "
            f"{config.get('hidden_size')!r}; {SAVE_AGAIN}"
        )
    stated = method.get("reduction_factor")
    sizes = set()
    for factor in stated.values() if isinstance(stated, Mapping) else [stated]:
        if not _is_number(factor) or factor <= 0 or math.isinf(site.width / factor):
            raise ModuleError(f"field 'reduction_factor' is {stated!r}, not a number above 0; correct it")
        sizes.add(bottleneck_size(site.width, factor))
    if site.size not in sizes:
        raise ModuleError(
            f"tensor '{site.tensors['down']}' has a bottleneck of {site.size} but field 'reduction_factor' makes "
            f"{' or '.join(map(str, sorted(sizes)))}; {SAVE_AGAIN}"
        )


def _reads(method: Mapping[str, object], architecture: Architecture) -> str:
    """What the adapter reads, if the model still adds h and the residual stream exactly once."""
    before, after = bool(method.get("original_ln_before")), bool(method.get("original_ln_after", True))
    around = method.get("residual_before_ln", True)
    parallel = bool(method.get("is_parallel"))
    if not (after if parallel or around is True else not around and before != after):
        raise ModuleError(
            f"fields original_ln_before={before}, original_ln_after={after} and residual_before_ln={around!r}"
            " drop the residual stream or add it twice, which Headstart does not compute"
        )
    if parallel or not before:
        return "residual" if parallel else "output"
    return "sum" if not architecture.norm_behind else "normed" if after else "behind"


def _activation(method: Mapping[str, object]) -> str:
    name = str(method.get("non_linearity")).lower()
    if name not in ACTIVATIONS:
        raise ModuleError(
            f"field 'non_linearity' is {method.get('non_linearity')!r}; Headstart computes: {', '.join(ACTIVATIONS)}"
        )
    return name


def _factor(method: Mapping[str, object]) -> float:
    factor = method.get("scaling", 1.0)
    if not _is_number(factor):
        raise ModuleError(f"field 'scaling' is {factor!r}; Headstart computes constant factors only")
    return float(factor)


def _check_left_out(method: Mapping[str, object]) -> None:
    listed = method.get("leave_out") or []
    if not isinstance(listed, list) or not all(type(item) is int for item in listed):
        raise ModuleError(f"field 'leave_out' is {listed!r}, not a list of layer numbers; correct it")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
