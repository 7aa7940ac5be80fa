"""How a direction is found: activations of two classes → one direction, with figures that say how well it tells them.

A new method is one frozen class in `estimators`: METHODS finds it, and `make generate` tells the tools. Length, sign,
figures and streaming are settled once for all. It must not know models, prompts or files.
"""

from collections.abc import Mapping
from dataclasses import fields

from steer_tools.directions.methods import estimators
from steer_tools.directions.methods.base import Method, describe_options
from steer_tools.errors import ArgumentError, quoted

# In the order of the classes in their module.
METHODS: dict[str, Method] = {
    kind.name: kind()
    for kind in vars(estimators).values()
    if isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == estimators.__name__
}

__all__ = ["METHODS", "Method", "method_named"]


def method_named(name: object, options: Mapping[str, object] | None = None) -> Method:
    """Return the method called `name`, with `options` in place of its defaults.

    Raises:
        ArgumentError: There is none, or it has no such option, or an option's value is out of range.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ArgumentError(f"method is {quoted(name)}", valid=", ".join(map(repr, METHODS)))
    kind = type(METHODS[name])
    given = dict(options or {})
    if strangers := given.keys() - {option.name for option in fields(kind)}:
        raise ArgumentError(
            f"The method {name!r} has no option {', '.join(sorted(map(quoted, strangers)))}",
            valid=describe_options(kind),
        )
    return kind(**given)
