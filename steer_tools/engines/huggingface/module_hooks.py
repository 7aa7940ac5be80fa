"""Hooks on modules that all come off again: each is noted here before torch is given it.

An interrupt may come between torch's noting a hook and the handle by which it would be taken off. It must not know what
the hooks do.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

# As torch keeps them on a module.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_NOTES = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")


class ModuleHooks:
    """The hooks that one owner has put on modules."""

    def __init__(self) -> None:
        self._noted: list[tuple[nn.Module, Callable[..., Any]]] = []

    def before(
        self, module: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False, prepend: bool = False
    ) -> None:
        """Call the hook before the module."""
        self._noted.append((module, hook))
        module.register_forward_pre_hook(hook, with_kwargs=with_kwargs, prepend=prepend)

    def behind(
        self,
        module: nn.Module,
        hook: Callable[..., Any],
        *,
        with_kwargs: bool = False,
        prepend: bool = False,
        always_call: bool = False,
    ) -> None:
        """Call the hook behind the module."""
        self._noted.append((module, hook))
        module.register_forward_hook(hook, with_kwargs=with_kwargs, prepend=prepend, always_call=always_call)

    def are_on(self) -> bool:
        """Return whether every one is on its module."""
        return all(
            any(hook is own for hooks in _hooks_of(module)[: len(_HOOKS)] for hook in hooks.values())
            for module, own in self._noted
        )

    def take_off(self) -> None:
        """Take all off their modules; one that an interrupt has ended can be run again."""
        for module, own in self._noted:
            kinds = _hooks_of(module)
            for key in [key for hooks in kinds[: len(_HOOKS)] for key, hook in list(hooks.items()) if hook is own]:
                for hooks in kinds:
                    hooks.pop(key, None)


@contextmanager
def passing_hooks() -> Generator[ModuleHooks]:
    """Give hooks that are on their modules until the block ends, however it does."""
    hooks = ModuleHooks()
    try:
        yield hooks
    finally:
        try:
            hooks.take_off()
        finally:
            hooks.take_off()  # An interrupt may have ended the first.


def _hooks_of(module: nn.Module) -> list[dict[int, Any]]:
    """Return torch's hooks by key, then what it notes of some of them."""
    return [vars(module)[name] for name in (*_HOOKS, *_NOTES)]
