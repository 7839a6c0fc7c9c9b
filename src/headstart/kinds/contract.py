"""What every kind of parameter-efficient module can do: the contract between modules and everything above them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from headstart.backbones import Backbone, EncoderBackbone, Head, require_head
from headstart.errors import MergeError, ModuleError
from headstart.filenames import WEIGHTS_FILE
from headstart.formats import StoredModule, computing_fields
from headstart.kinds.history import History
from headstart.kinds.rows_by_layer import rows_by_layer
from headstart.kinds.updates import Update
from headstart.records import ModuleCard
from headstart.showing import line

__all__ = ["Module", "ParameterStack", "Stack", "ValuesModule", "as_fresh", "card_of", "require_backbone_of"]


@dataclass(frozen=True, eq=False)
class Module(ABC):
    """One parameter-efficient module in memory, on the CPU. Frozen: work returns a new module.

    A module equals only itself (`eq=False`, for subclasses too); `digest` says whether two modules compute the same.

    `card` says what it is and where it comes from; `config` is the configuration with which it is saved, PEFT's or, for
    adapters, AdapterHub's. `head` is the task head that was tuned with it on an encoder: it stays with the module, but
    is never merged or embedded. `history` is how it was tuned, if that is known; a module with other values has none.
    """

    kind: ClassVar[str]
    """The name users type."""

    weights_file: ClassVar[str] = WEIGHTS_FILE
    """Name of the file in which the tensors are saved."""

    head_prefix: ClassVar[str | None] = "base_model.model."
    """The beginning of the names of a head's tensors in that file; `None` if the head has a separate file."""

    unequal_remedy: ClassVar[str] = "leave one out"
    """The remedy in the error for merging modules of different shapes."""

    card: ModuleCard
    config: Mapping[str, Any]
    head: Head | None = field(default=None, kw_only=True)
    history: History | None = field(default=None, kw_only=True)

    def __init_subclass__(cls, **settings: Any) -> None:
        """Keep `dataclass` from writing a `repr` of every number into each kind."""
        super().__init_subclass__(**settings)
        cls.__repr__ = cls.__dict__.get("__repr__", Module.__repr__)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        head = "" if self.head is None else f"answers {self.head.card.words}"
        return line(type(self).__name__, self.card.words, head)

    @property
    def name(self) -> str:
        """The name on the card."""
        return self.card.name

    @property
    def family(self) -> type[Self]:
        """The class; a module that has not been read yet knows it too."""
        return type(self)

    def load(self) -> Self:
        """The module itself, because it is in memory."""
        return self

    @property
    def only_ranked(self) -> str | None:
        """Why this module can be ranked but neither merged nor tuned, or `None` if it can be."""
        return self.ranked_alone(self.card)

    @classmethod
    def ranked_alone(cls, card: ModuleCard) -> str | None:
        """Why a module with this card is `only_ranked`."""
        del card
        return None

    def with_head(self, head: Head | None) -> Self:
        """The same module with another task head, or with none."""
        card = self.card.model_copy(update={"head": None if head is None else head.card})
        return replace(self, card=card, head=head)

    settings: ClassVar[type]
    """The settings that shape a fresh module: a frozen dataclass with defaults, its fields named as in recipes."""

    @classmethod
    @abstractmethod
    def fresh(cls, backbone: Backbone, settings: Any, *, name: str, seed: int) -> Module:
        """An untuned module, which leaves the backbone's function as it is if the kind allows that.

        Raises `SettingError` if a module of this shape does not fit the backbone.
        """

    @classmethod
    @abstractmethod
    def from_stored(cls, stored: StoredModule) -> Module:
        """The module that a validated folder holds."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """The tensors under the names with which they are saved."""

    @abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """The tuned parameters by name, as space "parameters" averages them and embeddings read them."""

    @abstractmethod
    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        """The same module with other parameter values of the same names and shapes."""

    def origin(self, backbone: Backbone | None) -> dict[str, Tensor]:
        """The value of each of `parameters` that leaves the backbone as it is; what tuning added is measured from it.

        0 unless the kind says otherwise (1 for factors). Raises `MergeError` if only the backbone knows it.
        """
        del backbone
        return {name: torch.zeros_like(value) for name, value in self.parameters().items()}

    @abstractmethod
    def reset(self, *, seed: int) -> Module:
        """An untuned module of the same shape with fresh random parameters."""

    def untuned(self, backbone: Backbone, *, seed: int) -> Module:
        """The module that tuning from scratch begins from: `reset`, unless the kind starts at the backbone's values."""
        del backbone
        return self.reset(seed=seed)

    @abstractmethod
    def check(self, backbone: Backbone) -> None:
        """Raise `ModuleError` unless every part of this module fits a layer of `backbone` and has the right shape."""

    @property
    @abstractmethod
    def stack_key(self) -> Hashable:
        """Modules with equal keys share a stack."""

    @classmethod
    @abstractmethod
    def stack(cls, modules: Sequence[Self], backbone: Backbone, *, dtype: torch.dtype | None = None) -> Stack:
        """Hold N ≥ 1 modules of one `stack_key` as tensors with a leading dimension N on the backbone's device.

        `dtype` is that of the held tensors; `None` takes the one that suits the kind, mostly the backbone's.
        """

    def layer_vectors(self) -> tuple[Tensor, ...]:
        """All tuned parameters of each layer in one row, for task embeddings (Zhou et al., 2022, §3.2).

        One (L, D) for each stack of layers: one for most backbones, encoder and decoder for an encoder-decoder. Unless
        the kind says otherwise, `parameters` are named by a path in the backbone and a part; columns are the parts in
        order of path. Where a layer lacks a parameter that another one has at the same position and in the same shape,
        its columns are NaN. What is in no numbered layer (token embeddings, the last norm, heads) is left out, because
        it has no counterpart in the other layers. Raises `ModuleError` if no layer is numbered.
        """
        return rows_by_layer(self.parameters(), self.name)

    def updates(self) -> Mapping[str, Update]:
        """What the module adds at each layer, by path, as a linear map of what the bare backbone computes there.

        Raises `ModuleError` for a kind, or a variant, that adds something else.
        """
        raise ModuleError(
            f"what a {self.kind} module adds is not a linear map of the bare backbone's activations; "
            "use an indicator that runs the module"
        )

    @property
    def token_shape(self) -> tuple[int, int] | None:
        """How many virtual tokens there are, and the width of each, if the columns of `layer_vectors` are such tokens.

        Then each group of `length · width` columns holds the tokens one after the other. `None` if there are none.
        """
        return None

    def digest(self) -> str:
        """SHA-256 of kind, configuration and tensors: equal digests mean equal functions. For cache keys.

        What the configuration says about the module's origin does not count.
        """
        computing = json.dumps(computing_fields(self.config), sort_keys=True, default=str)
        whole = hashlib.sha256(computing.encode())
        answering = {} if self.head is None else {f"head {key}": value for key, value in self.head.tensors.items()}
        whole.update(b"" if self.head is None else self.head.card.to_json().encode())
        for name, value in sorted({**self.state_dict(), **answering}.items()):
            whole.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            whole.update(value.contiguous().view(torch.uint8).numpy().tobytes())
        return whole.hexdigest()

    def aligned_to(self, other: Module) -> Module:
        """The same function, written in `other`'s terms, so that their `parameters` can be averaged.

        Raises `MergeError` if kinds, names or shapes differ. Kinds with free factors (LoRA's scaling) extend this.
        """
        self.require_shapes_of(other)
        return self

    @property
    def exclude_hint(self) -> str:
        """How to leave this module out of what is made from a hub, for the end of an error."""
        return f"(--exclude {self.name}, or Hub.where(exclude=…))"

    def require_shapes_of(self, other: Module) -> None:
        """Raise `MergeError` unless both are of one kind, and their parameters have the same names and shapes."""
        mine = {name: tuple(value.shape) for name, value in self.parameters().items()}
        theirs = {name: tuple(value.shape) for name, value in other.parameters().items()}
        if self.kind != other.kind:
            raise MergeError(
                f"'{self.name}' is a {self.kind} and '{other.name}' a {other.kind}; merge modules of one kind"
            )
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise MergeError(
                    f"{name} is {_shape(mine.get(name))} in '{self.name}' and {_shape(theirs.get(name))} in "
                    f"'{other.name}'; {self.unequal_remedy} {self.exclude_hint}"
                )


@dataclass(frozen=True, eq=False)
class ValuesModule(Module):
    """A module whose tuned parameters are all its tensors: `values` by name, float32 on the CPU."""

    stack_family: ClassVar[type[ParameterStack[Any]]]
    """The class that `stack` makes."""

    stack_dtype: ClassVar[torch.dtype | None] = None
    """The dtype of a stack unless another is asked for; `None` is the backbone's."""

    values: Mapping[str, Tensor]

    def parameters(self) -> dict[str, Tensor]:
        """The values."""
        return dict(self.values)

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        """The same module with other values of the same names and shapes."""
        return replace(self, values={name: parameters[name] for name in self.values}, history=None)

    def begun(self, values: Mapping[str, Tensor]) -> Self:
        """The untuned module with these values; its card says nothing that came from tuning."""
        return replace(self, values=values, card=as_fresh(self.card), head=None, history=None)

    @property
    def stack_key(self) -> Hashable:
        """Names and shapes of the values."""
        return tuple((name, tuple(value.shape)) for name, value in sorted(self.values.items()))

    @classmethod
    def stack(cls, modules: Sequence[Self], backbone: Backbone, *, dtype: torch.dtype | None = None) -> Stack:
        """Hold the modules' values side by side on the backbone's device."""
        held = dtype or cls.stack_dtype or backbone.dtype
        return cls.stack_family(modules, device=backbone.device, dtype=held)


class Stack(ABC):
    """N modules of one kind and shape, attached to a backbone together; one module is a stack of one.

    `parameters` holds leaf tensors with a leading dimension N.
    """

    concurrent: bool = False
    """Whether several threads may run the backbone at once while it is attached; hooks then keep no state of a pass."""

    def __init__(self, size: int, parameters: dict[str, Tensor]) -> None:
        self.size = size
        self.parameters = parameters

    def __len__(self) -> int:
        return self.size

    @abstractmethod
    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Let the backbone compute with these modules inside the block; rows of a batch are module-major.

        When the block ends, however it ends, the backbone is bit-identical to what it was.
        """

    @abstractmethod
    def module(self, index: int) -> Module:
        """The module at `index`, with the parameters' current values."""

    @contextlib.contextmanager
    def gradients(self) -> Iterator[None]:
        """Collect gradients of the parameters inside the block; there are none at its start, and its end drops them."""
        for value in self.parameters.values():
            value.requires_grad_(True)
        try:
            yield
        finally:
            for value in self.parameters.values():
                value.grad = None
                value.requires_grad_(False)

    def squared_gradients(self) -> dict[str, Tensor]:
        """For every parameter, the sum of its squared gradient per module, (N,), in float32."""
        return {
            name: torch.zeros(self.size) if value.grad is None else value.grad.float().flatten(1).pow(2).sum(1).cpu()
            for name, value in self.parameters.items()
        }


Held = TypeVar("Held", bound=Module)


class ParameterStack(Stack, Generic[Held]):
    """A stack whose parameters are the modules' `parameters`, side by side on one device and in one dtype.

    `like` is the first module; all modules of the stack have its shape.
    """

    def __init__(self, modules: Sequence[Held], *, device: torch.device, dtype: torch.dtype) -> None:
        self._modules = tuple(modules)
        self.like = modules[0]
        held = [module.parameters() for module in modules]
        parameters = {name: torch.stack([own[name] for own in held]).to(device, dtype) for name in held[0]}
        super().__init__(len(modules), parameters)

    def module(self, index: int) -> Held:
        """The module at `index`, in float32 on the CPU."""
        parameters = {name: value[index].detach().float().cpu().clone() for name, value in self.parameters.items()}
        return self._modules[index].with_parameters(parameters)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape))


def require_backbone_of(card: ModuleCard, backbone: Backbone) -> None:
    """Raise `ModuleError` if the card states another backbone than this one, or a task head that does not fit it.

    A card that states no backbone is not refused.
    """
    if card.backbone is not None and not card.backbone.same_as(backbone.fingerprint):
        raise ModuleError(
            f"module '{card.name}' was made for another backbone "
            f"({card.backbone.name or card.backbone.architecture}, weights {card.backbone.weights[:12]}) "
            f"than {backbone.name} (weights {backbone.fingerprint.weights[:12]}); "
            "load the backbone it was tuned on, or leave it out"
        )
    if card.head is not None:
        if not isinstance(backbone, EncoderBackbone):
            raise ModuleError(
                f"module '{card.name}' has a task head for {card.head.task}, and {backbone.name} is a language model; "
                "load the encoder it was tuned on, or leave it out"
            )
        require_head(card.head, backbone.head_shapes(card.head), name=card.name, backbone=backbone.name)


def card_of(kind: str, held: Iterable[Tensor], *, name: str, backbone: Backbone | None, **shape: Any) -> ModuleCard:
    """The card of an untuned module, which is saved as the tensors `held`.

    `shape`: the card's rank, scaling and targets, if the kind has them.
    """
    return ModuleCard(
        name=name,
        kind=kind,
        parameters=sum(value.numel() for value in held),
        tensor_hash="",
        backbone=None if backbone is None else backbone.fingerprint,
        base_model="" if backbone is None else backbone.name,
        **shape,
    )


def as_fresh(card: ModuleCard) -> ModuleCard:
    """The card of an untuned module of the same shape: without task, score, licences and donors."""
    own = {"name": card.name, "kind": card.kind, "parameters": card.parameters, "tensor_hash": ""}
    shape = {field: getattr(card, field) for field in ("rank", "scaling", "targets", "backbone", "base_model")}
    return ModuleCard(**own, **shape)
