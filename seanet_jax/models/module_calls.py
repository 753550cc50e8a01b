"""Lets a function see every call of a module of a network, for tables and pictures of what happens inside it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from flax import nnx


class Around(Protocol):
    """A function that is called in place of each module of a network."""

    def __call__(
        self, path: str, module: nnx.Module, call: Callable[..., Any], *arguments: Any, **keywords: Any
    ) -> Any:
        """Returns what the module returns, ``call(*arguments, **keywords)``.

        Args:
            path: The module's path in the network, for example ``stages.0.blocks.1.conv1``.
            module: The module.
            call: What calls the module itself.
            *arguments: The arguments of the call.
            **keywords: Its keyword arguments.
        """


@contextlib.contextmanager
def calls_go_through(around: Around, model: nnx.Module) -> Iterator[None]:
    """Inside the context, every call of a module of a network goes through a function.

    The network itself is left out. Modules are called as Python calls them, so that under ``jax.jit`` the function sees
    tracers, and only while the program is traced.

    Args:
        around: The function.
        model: The network.
    """
    paths = {id(module): ".".join(map(str, path)) for path, module in nnx.iter_modules(model) if path}
    types = {type(module) for _, module in nnx.iter_modules(model) if id(module) in paths and callable(module)}
    calls = {cls: cls.__call__ for cls in types}
    own = {cls: cls.__dict__.get("__call__") for cls in types}

    def replaced(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: nnx.Module, *arguments: Any, **keywords: Any) -> Any:
            if id(module) not in paths:  # of another network
                return original(module, *arguments, **keywords)
            return around(paths[id(module)], module, original.__get__(module), *arguments, **keywords)

        return call

    try:
        for cls, original in calls.items():
            cls.__call__ = replaced(original)  # type: ignore[method-assign]
        yield
    finally:
        for cls, method in own.items():
            if method is None:
                del cls.__call__
            else:
                cls.__call__ = method  # type: ignore[method-assign]
