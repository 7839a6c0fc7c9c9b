"""Hooks that last as long as a block, for one thread or for each of several."""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Hook", "HookPerThread", "attached", "hooked", "named_inputs"]

T = TypeVar("T")


@contextlib.contextmanager
def attached(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Keep hooks for the block. None is left when it ends, however it ends, or when making one of them fails.

    `handles` is a generator that makes one hook after the other.
    """
    with contextlib.ExitStack() as removals:
        for handle in handles:
            removals.callback(handle.remove)
        yield


@dataclass(frozen=True)
class Hook:
    """Where to hook: `before` changes the inputs of `layer` by name, `after` its output, given the changed inputs."""

    layer: nn.Module
    before: Callable[[dict[str, Any]], dict[str, Any]]
    after: Callable[[dict[str, Any], Any], Any] | None = None


def hooked(*hooks: Hook) -> AbstractContextManager[None]:
    """Attach every hook for the block; none is left when it ends, however it ends."""
    return attached(handle for hook in hooks for handle in _handles(hook))


def _handles(hook: Hook) -> Iterator[RemovableHandle]:
    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        return (), hook.before(named_inputs(layer, args, kwargs))

    yield hook.layer.register_forward_pre_hook(before, with_kwargs=True)
    after = hook.after
    if after is not None:
        yield hook.layer.register_forward_hook(lambda _, __, kwargs, output: after(kwargs, output), with_kwargs=True)


def named_inputs(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a call by name, including those given by position."""
    return {**dict(zip(inspect.signature(layer.forward).parameters, args, strict=False)), **kwargs}


class HookPerThread(Generic[T]):
    """One hook on a layer that several threads run at once, each with its own value.

    Args:
        register: registers a hook and returns its handle.
        hook: called with the running thread's value, followed by the arguments that the layer passes to a hook.
    """

    def __init__(self, register: Callable[[Callable[..., Any]], RemovableHandle], hook: Callable[..., Any]) -> None:
        self._register = register
        self._hook = hook
        self._values: dict[int, T] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def of(self, value: T) -> Iterator[None]:
        """Let this thread's passes through the layer see `value` inside the block.

        The hook stays while any thread is in such a block, so that the layer's hooks do not change during a pass.
        """
        with self._lock:
            if not self._values:
                self._handle = self._register(self._run)
            self._values[threading.get_ident()] = value
        try:
            yield
        finally:
            with self._lock:
                del self._values[threading.get_ident()]
                if not self._values:
                    self._handle.remove()

    def _run(self, *given: Any) -> Any:
        mine = threading.get_ident()
        return self._hook(self._values[mine], *given) if mine in self._values else None
