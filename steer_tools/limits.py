"""The most that files and arguments may ask for, in one place: held against them before work or memory is taken.

The manual's table of limits is made from LIMITS. It must not know what is limited.
"""

import json
import os
import re
from dataclasses import dataclass

from steer_tools.errors import MOST_CHARACTERS, ArgumentError, SteeringError, quoted


@dataclass(frozen=True)
class Limit:
    """The most of something; `variable` is the environment variable that sets another number, "" where none may.

    Attributes:
        most_by_default: Counted in `unit`.
        of: What is counted, as the manual's table says it.
        reason: Why anybody keeps to it.
    """

    most_by_default: int
    unit: str
    of: str
    reason: str
    variable: str = ""

    @property
    def most(self) -> int:
        """What holds now.

        Raises:
            ArgumentError: The environment variable holds something else than a number.
        """
        given = os.environ.get(self.variable, "").strip() if self.variable else ""
        if not given:
            return self.most_by_default
        if not re.fullmatch(r"[0-9]{1,18}", given) or int(given) == 0:
            raise ArgumentError(
                f"The environment variable {self.variable} is {quoted(given, 40)}",
                valid=f"a whole number of {self.unit}, from 1",
                fix=f"Unset it for {self.most_by_default:,}.",
            )
        return int(given)

    def require(
        self, count: int, what: str, kind: type[SteeringError] = ArgumentError, *, valid: str = "", fix: str = ""
    ) -> None:
        """Refuse more than the most by an error of a `kind`; `what` begins its text: "v.npy has".

        `valid` says more than the number, and `fix` what to do instead.
        """
        if count > (most := self.most):
            raised = f"Whoever starts this process may set {self.variable}." if self.variable else ""
            raise kind(
                f"{what} {count:,} {self.unit}",
                valid=f"at most {most:,} {self.unit}{valid and f': {valid}'}",
                fix=f"{fix} {raised}".strip(),
            )


FILE_BYTES = Limit(
    256 * 2**20,
    "bytes",
    "a file that is read whole: a vector, a list, a report",
    "a steering vector of 128 layers and width 16,384 takes 8 MiB",
    "STEER_TOOLS_MAX_FILE_BYTES",
)
PATH_CHARACTERS = Limit(1_000, "characters", "a path", "what is longer names nothing that anybody keeps")
FOLDERS = Limit(32, "folders", "a path below the workspace", "what is deeper is walked for ever")
ARRAYS = Limit(1_000, "arrays", "a vector's .npz or .pt file", "each takes half a kilobyte before it is read")
UNPACKED_BYTES = Limit(
    16 * 2**20,
    "bytes",
    "a vllm-lens file, and what it or a vector's .npz unpacks to, or as much as an .npz itself has",
    "a steering vector of 128 layers and width 16,384 takes 8 MiB",
)
PICKLE_BYTES = Limit(16 * 2**20, "bytes", "the pickle in a .pt file, which is followed and never run", "as above")
PICKLE_STEPS = Limit(2**16, "steps", "the pickle in a .pt file", "a tensor takes 30")
PICKLE_VALUES = Limit(10_000, "values", "what a .pt file holds in its lists and dicts", "a vector has a few a layer")
PICKLE_LEVELS = Limit(8, "levels", "lists and dicts of a .pt file in each other", "readers of it recurse")
GGUF_HEADER_BYTES = Limit(2**20, "bytes", "the header of a control vector in GGUF", "128 layers take 6 kB")
PAIR_BYTES = Limit(2**20, "bytes", "the description of a rotalabs pair or set", "they take a few hundred")
AUTOENCODER_WIDTH = Limit(2**24, "features", "a sparse autoencoder, and the width of one", "none has as many")
AUTOENCODER_ARCHIVE_BYTES = Limit(
    2**20, "bytes", "the table of arrays of a sparse autoencoder's .npz file", "each array takes some 100"
)
TENSORS = Limit(
    100_000,
    "tensors",
    "a safetensors file",
    "a tensor takes 1.4 kB of memory before any of its numbers are read",
    "STEER_TOOLS_MAX_TENSORS",
)
JSON_BYTES = Limit(
    64 * 2**20,
    "bytes",
    "a JSON document: an index, a safetensors header, a config, a behaviour",
    "a checkpoint's index of 100,000 tensors takes 10 MB",
    "STEER_TOOLS_MAX_JSON_BYTES",
)
JSON_VALUES = Limit(
    2_000_000,
    "values",
    "a JSON document, counted by its commas, colons and opening brackets",
    "each takes some 100 bytes of memory",
    "STEER_TOOLS_MAX_JSON_VALUES",
)
JSON_LEVELS = Limit(100, "levels", "lists and objects of a JSON document in each other", "readers of it recurse")
PROMPTS = Limit(
    10_000, "prompts", "a list of prompts", "each keeps what is read of it in memory", "STEER_TOOLS_MAX_PROMPTS"
)
CHARACTERS_PER_TOKEN = Limit(
    100,
    "characters",
    "a prompt, for each token of the model's context",
    "no language comes near it, and tokenising more takes minutes",
    "STEER_TOOLS_MAX_CHARACTERS_PER_TOKEN",
)
TEMPLATE_SOURCE = Limit(500_000, "characters", "a chat template itself", "the longest that are known have 30,000")
TEMPLATE_STEPS = Limit(
    1_000_000,
    "steps",
    "a chat template at work: its lines and calls",
    "a chat of 2,000 messages takes 50,000, and each a few microseconds",
    "STEER_TOOLS_MAX_TEMPLATE_STEPS",
)
TEMPLATE_CHARACTERS = Limit(
    2**26,
    "characters",
    "what a chat template writes, and each text that it holds",
    "it is what all messages have, and a little more",
    "STEER_TOOLS_MAX_TEMPLATE_CHARACTERS",
)
STRENGTHS = Limit(
    1_000, "strengths", "a call", "every prompt is continued, or scored, at each", "STEER_TOOLS_MAX_STRENGTHS"
)
CELLS = Limit(
    10_000,
    "cells",
    "a sweep: its layers times its strengths",
    "each takes a pass over every item, and is kept",
    "STEER_TOOLS_MAX_CELLS",
)
ROWS = Limit(
    100_000,
    "rows",
    "a comparison: its prompts, unsteered and at each strength",
    "the text of each is kept",
    "STEER_TOOLS_MAX_ROWS",
)
CONDITION_CHARACTERS = Limit(10_000, "characters", "a condition", "nobody has written a longer one")
CONDITION_FILES = Limit(32, "files", "a condition", "each is read")
CONDITION_LEVELS = Limit(32, "levels", "parentheses and nots of a condition in each other", "its reader recurses")
STEPS = Limit(10_000, "steps", "a trained direction", "each runs the model there and back", "STEER_TOOLS_MAX_STEPS")
CONTROLS = Limit(10_000, "controls", "an experiment", "p gets no smaller than is of use", "STEER_TOOLS_MAX_CONTROLS")
ERROR_CHARACTERS = Limit(
    MOST_CHARACTERS, "characters", "an error's text, whose middle is left out", "what was given may be anything"
)
RECORDS = Limit(
    100_000,
    "rows",
    "a data file: prompts, or items of a behaviour",
    "2,000 of a behaviour's items are kept, and reading 100,000 takes a second",
    "STEER_TOOLS_MAX_RECORDS",
)
RECORD_BYTES = Limit(
    2**17, "bytes", "a row of a data file, of however many lines", "about 30,000 tokens, more than one record asks"
)

LIMITS: tuple[Limit, ...] = (
    PATH_CHARACTERS,
    FOLDERS,
    FILE_BYTES,
    ARRAYS,
    UNPACKED_BYTES,
    PICKLE_BYTES,
    PICKLE_STEPS,
    PICKLE_VALUES,
    PICKLE_LEVELS,
    GGUF_HEADER_BYTES,
    PAIR_BYTES,
    AUTOENCODER_WIDTH,
    AUTOENCODER_ARCHIVE_BYTES,
    TENSORS,
    JSON_BYTES,
    JSON_VALUES,
    JSON_LEVELS,
    PROMPTS,
    CHARACTERS_PER_TOKEN,
    TEMPLATE_SOURCE,
    TEMPLATE_STEPS,
    TEMPLATE_CHARACTERS,
    STRENGTHS,
    CELLS,
    ROWS,
    CONDITION_CHARACTERS,
    CONDITION_FILES,
    CONDITION_LEVELS,
    STEPS,
    CONTROLS,
    ERROR_CHARACTERS,
    RECORDS,
    RECORD_BYTES,
)

# A text is passed over as one, since brackets in it open nothing; `*+` keeps no way back, which would take memory.
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def require_json(document: bytes, name: str, kind: type[SteeringError] = ArgumentError) -> None:
    """Refuse a JSON document that takes too much to be parsed; whether it is one at all, its reader says.

    Raises:
        SteeringError: Of the `kind`: it has too many bytes, values or levels.
    """
    JSON_BYTES.require(len(document), f"{name} has", kind)
    opened = document.count(b"[") + document.count(b"{")
    # Signs in texts count, too: to tell them apart takes longer than to parse them.
    JSON_VALUES.require(opened + document.count(b",") + document.count(b":"), f"{name} has", kind)
    if opened <= JSON_LEVELS.most:
        return
    depth = 0
    for token in _TOKENS.finditer(document):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > JSON_LEVELS.most:
            JSON_LEVELS.require(depth, f"{name} is nested in", kind)


def parsed_json(
    document: bytes, name: str, kind: type[SteeringError] = ArgumentError, fix: str = "Get it again."
) -> object:
    """Return what a JSON document of anybody's holds.

    Raises:
        SteeringError: Of the `kind`: it is none, or takes too much to be parsed.
    """
    require_json(document, name, kind)
    try:
        return json.loads(document)
    except (ValueError, RecursionError) as error:
        raise kind(f"{name} is no JSON ({error})", fix=fix) from error
