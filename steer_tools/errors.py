"""Every error that a caller can act on, as one tree. Each says what was given, what is valid and what to do.

SteeringError
├── NoModelError              nothing to steer is attached
├── UnsupportedModelError     this model cannot be steered, with what was found in it
├── UnsupportedCallError      the model was called in a way whose token positions cannot be known
├── UnsupportedFeatureError   the engine, file format or installation lacks what was asked for
├── PromptError               prompts that are empty, one-sided, unequal or too long
├── ArgumentError             another argument that is out of range or of the wrong kind
│   ├── LayerError
│   └── StrengthError
├── DirectionError            a direction that is zero, not finite or of the wrong shape
├── VectorFileError           a vector file that is missing, malformed or forged
├── ForeignVectorError        a vector that was made on another model
├── UnverifiedVectorError     a vector whose certificate is missing, broken, or of something else
├── WorkspacePathError        a path outside the workspace
├── UnknownSteeringIdError    no such thing is applied
├── OutOfMemoryError          what one row takes is more than the device has free
├── BakingError               what weights cannot hold, or do not hold as was proved
└── Cancelled                 the caller stopped the work; nothing was left behind
"""

import reprlib

from steer_tools.foreign_text import visible

# What was given may be anything, and a text of megabytes helps nobody; what to do stands at its end.
MOST_CHARACTERS = 4_000


class SteeringError(Exception):
    """Base of all errors of this package; its text, one line, is `problem`, then what is valid, then what to do.

    Of a text above MOST_CHARACTERS the middle is left out.
    """

    def __init__(self, problem: str, *, valid: str = "", fix: str = "") -> None:
        parts = [problem if problem.endswith(".") else f"{problem}."]
        if valid:
            parts.append(f"Valid: {valid}.")
        if fix:
            parts.append(fix if fix.endswith((".", "!", "?")) else f"{fix}.")
        # What is made visible takes more characters than it did.
        super().__init__(_without_middle(visible(_without_middle(" ".join(parts)))))


def _without_middle(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} [...] {text[7 - half :]}"


class _Quoting(reprlib.Repr):
    """Shortens what is long or deep, and names what cannot write itself by its type."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 4, 200, 200, 60
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = 40

    def repr1(self, x: object, level: int) -> str:
        """Write a value of any type; the inherited one goes by the type's name, which is anybody's to choose."""
        if isinstance(x, int) and int.bit_length(x) > _MOST_BITS:
            return f"<a whole number of {int.bit_length(x)} bits>"  # Python writes none of more than 4,300 digits.
        return super().repr1(x, level) if type(x).__module__ == "builtins" else self.repr_instance(x, level)


_MOST_BITS = 256
_QUOTING = _Quoting()


def quoted(value: object, most: int = 80) -> str:
    """Return a value as an error quotes it: in at most so many characters, whatever it is and does."""
    return _QUOTING.repr(value)[:most]


class NoModelError(SteeringError):
    """No model is attached to the session."""


class UnsupportedModelError(SteeringError):
    """The model cannot be steered; the text names what was found."""


class UnsupportedCallError(SteeringError):
    """The steered model was called in a way that hides which position each token has."""


class UnsupportedFeatureError(SteeringError):
    """The engine, file format or installation lacks what was asked for."""


class PromptError(SteeringError):
    """Prompts that cannot be used."""


class ArgumentError(SteeringError):
    """An argument that is out of range or of the wrong kind."""


class LayerError(ArgumentError):
    """A layer that the model or the file does not have."""


class StrengthError(ArgumentError):
    """A strength that is not a finite number."""


class DirectionError(SteeringError):
    """A direction that is zero, not finite, or of the wrong shape."""


class VectorFileError(SteeringError):
    """A vector file that is missing, malformed or forged."""


class ForeignVectorError(SteeringError):
    """A vector that was made on another model."""


class UnverifiedVectorError(SteeringError):
    """A vector without a certificate, or with one that does not hold for how it is used."""


class WorkspacePathError(SteeringError):
    """A path that lies outside the workspace."""


class UnknownSteeringIdError(SteeringError):
    """A steering id that is not applied."""


class OutOfMemoryError(SteeringError):
    """One row alone takes more memory than the device has free."""


class BakingError(SteeringError):
    """What is applied cannot be held by weights, a checkpoint cannot be edited, or the proof failed."""


class Cancelled(SteeringError):  # noqa: N818  # The name says what happened; nothing went wrong.
    """The caller cancelled the work."""
