"""A command that takes dataclasses of options → one that takes each option, as Typer wants it."""

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command`, called by keyword alone, with the fields of each dataclass among its parameters in its place.

    Raises:
        ValueError: Two of them share a name.
    """
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters: list[Parameter] = []
    for parameter in signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and is_dataclass(kind):
            own = list(signature(kind, eval_str=True).parameters.values())
            groups[parameter.name] = kind, [field.name for field in own]
            parameters += own
        else:
            parameters.append(parameter)

    @wraps(command)
    def call(**options: object) -> None:
        grouped = {name: kind(**{own: options.pop(own) for own in names}) for name, (kind, names) in groups.items()}
        command(**grouped, **options)

    # By keyword, since an option that must be given may follow one that need not.
    call.__signature__ = Signature([p.replace(kind=Parameter.KEYWORD_ONLY) for p in parameters])  # pyright: ignore[reportAttributeAccessIssue]  # What `inspect` reads.
    return call
