"""Embedding as a unit of work."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from headstart.backbones import BackboneInput, BackboneLike, as_backbone, backbone_loaders
from headstart.backbones.source import RESOURCE
from headstart.embeddings.contract import Embedding, Need, Subject
from headstart.embeddings.parsing import make_embedding
from headstart.embeddings.registry import EMBEDDINGS
from headstart.errors import ModuleError, SettingError
from headstart.events import Listener
from headstart.kinds import ModuleLike, as_module
from headstart.kinds.contract import Module
from headstart.kinds.unit import given_module
from headstart.records import ModuleCard, TextFormat
from headstart.specs import Spec
from headstart.tasks import Example, TaskLike, as_task
from headstart.tasks.content import rows_read
from headstart.units import AnyStore, Content, Context, Result, Store, Unit, run
from headstart.vectors import Vector

__all__ = ["DIRECT", "EmbedUnit", "Embeddable", "backbone_of", "embed", "vector_of"]


DIRECT = frozenset({Need.HISTORY, Need.CARD, Need.OTHERS})
"""What is not part of a module's digest, so that an embedding of it is computed anew each time; it takes no time."""


class Embeddable(Protocol):
    """A module, or what reads one: `Module`, `LazyModule`, or a module of a hub."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def card(self) -> ModuleCard:
        """What it is and where it comes from."""

    def digest(self) -> str:
        """A hash: equal digests mean equal functions."""

    def load(self) -> Module:
        """The module itself."""


@dataclass(frozen=True, eq=False)
class EmbedUnit(Unit):
    """The embedding of one module, or of the module that a unit makes. The module's name does not count.

    `embedding`: the canonical spec. `examples`, `backbone` and `text_format`: for an embedding that reads the task's
    rows.
    """

    type: ClassVar[str] = "embed"
    version: ClassVar[int] = 3
    together: ClassVar[int] = 64

    module: Embeddable | Unit
    embedding: str = "tupate"
    examples: Content[Sequence[Example]] | None = None
    backbone: BackboneInput | None = None
    text_format: TextFormat | None = None

    @property
    def label(self) -> str:
        """Which module is embedded."""
        given = self.module
        return f"embedding {f'what comes of {given.label}' if isinstance(given, Unit) else given.name}"

    @property
    def versions(self) -> dict[str, int]:
        """The embedding's."""
        name = Spec.parse(self.embedding).name
        found = {f"embedding {name}": EMBEDDINGS[name].version}
        head = None if self.examples is None or isinstance(self.module, Unit) else self.module.card.head
        # Spans beyond what is read of an input counted as wrong answers once.
        return {**found, "spans": 2} if head is not None and head.task == "span" else found

    def batch_key(self) -> Hashable:
        """Many modules go to one worker, because handing over a module takes longer than embedding it."""
        return ()

    def compute(self, context: Context) -> Result:
        """Embed it. Raises `ModuleError` where the embedding is not defined."""
        given = self.module
        module = given_module(given, context) if isinstance(given, Unit) else given.load()
        assert module is not None
        digest = (module if isinstance(given, Unit) else given).digest()
        subject = Subject(module)
        if self.examples is not None:
            subject = Subject(
                module, (), self.examples.value, context.resource(RESOURCE), self.text_format or TextFormat()
            )
        found = vector_of(subject, make_embedding(self.embedding), digest=digest)
        facts = {name: getattr(found, name) for name in ("method", "kind", "backbone", "layers", "digest")}
        return Result(facts, tensors={"embedding": found.values}, device="cpu")

    def vector(self, result: Result) -> Vector:
        """What `embed` returns."""
        found = Vector(values=result.tensors["embedding"], **result.facts)
        # A given module's card, which the key does not count, may name the backbone since.
        return found if isinstance(self.module, Unit) else replace(found, backbone=backbone_of(self.module.card))


def vector_of(subject: Subject, embedding: Embedding, *, digest: str | None = None) -> Vector:
    """The vector of a task, without a store. Raises `ModuleError` where the embedding is not defined.

    `digest`: the module's, if it is known.
    """
    module = subject.module
    values = embedding.of(subject)
    return Vector(
        method=str(embedding.spec),
        kind=module.kind,
        backbone=backbone_of(module.card),
        layers=_layers(module),
        digest=module.digest() if digest is None else digest,
        values=values,
    )


def embed(
    module: ModuleLike,
    method: str | Spec | Embedding = "tupate",
    *,
    others: Sequence[ModuleLike] = (),
    task: TaskLike | None = None,
    backbone: BackboneLike | None = None,
    text_format: TextFormat | None = None,
    store: AnyStore = None,
    progress: Listener | None = None,
) -> Vector:
    """The embedding of a module.

    Args:
        module: the module whose task is embedded. If the store has the embedding, the tensors of a hub's module are not
            read, only its digest.
        method: an embedding by its spec, as `headstart list embeddings` names them.
        others: modules of other kinds tuned on the same task, for `3e`.
        task: the task itself, for an embedding that reads its training rows.
        backbone: the frozen model, for the same.
        text_format: how the rows are laid out; `None` is as on the module's card, else the standard.
        store: where it is kept; `None` is the user's store, `False` keeps nothing. What follows from the module's card
            or history is not kept, because these are not part of a module's digest.
        progress: hears whether it was computed or reused.

    Raises:
        ModuleError: the embedding is not defined for this module.
        SettingError: an unknown method, or rows that are needed and not given.
        StoreError: the store cannot be written.
    """
    given, embedding = as_module(module, parameter="module"), make_embedding(method)
    if embedding.needs & DIRECT:
        beside = [as_module(other, parameter="a module in others").load() for other in others]
        return vector_of(Subject(given.load(), beside), embedding, digest=given.digest())
    unit = EmbedUnit(given, str(embedding.spec))
    loaders = {}
    if Need.DATA in embedding.needs:
        if task is None or backbone is None:
            raise SettingError(f"'{embedding.name}' reads the task's own rows; give task= and backbone=")
        rows, run_on = as_task(task).train, as_backbone(backbone)
        text_format = text_format or given.card.text_format or TextFormat()
        unit = replace(
            unit, examples=rows_read(rows), backbone=BackboneInput.of(run_on, text_format), text_format=text_format
        )
        loaders = dict(backbone_loaders(run_on))
    with Store.opened(store) as kept:
        found = run([unit], store=kept, loaders=loaders, raising=False, listener=progress)
        return unit.vector(found.or_raise().of(unit))


def backbone_of(card: ModuleCard) -> str:
    """`Vector.backbone` of a module with this card."""
    return "" if card.backbone is None else card.backbone.weights


def _layers(module: Module) -> int:
    try:
        return sum(len(rows) for rows in module.layer_vectors())
    except ModuleError:
        return 0
