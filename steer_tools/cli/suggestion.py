"""A vector that was just created → the command that tries it out. It must not know how it is shown."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli.work import Workbench
from steer_tools.prompts import PromptLike

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.tools.create_steering_vector import CreateResult

_NEUTRAL = "One day in spring"


@dataclass(frozen=True)
class Steering:
    """What a suggested command steers with, at both signs of a strength."""

    vector_path: str
    layer: int | None
    strength: float
    unit: str
    positions: str = "generated"
    allow_other_model: bool = False


def comparison_command(
    bench: Workbench, result: "CreateResult", prompts: Sequence[PromptLike], *, unit: str = "vector"
) -> str:
    """Return a `compare` command for a shell, on one of the prompts that do not show the behaviour."""
    layers = result["layer"]
    layer = layers[len(layers) // 2] if isinstance(layers, list) else None
    # Half a contrast leads the bundled model's answers to an end.
    strength = 0.5 if bench.model == BUNDLED else 1.0
    return steering_command(bench, Steering(result["vector_path"], layer, strength, unit), prompts)


def steering_command(bench: Workbench, steering: Steering, prompts: Sequence[PromptLike]) -> str:
    """Return a `compare` command for a shell, on one of the prompts."""
    options = ["--unit", steering.unit] if steering.unit != "vector" else []
    if steering.positions != "generated":
        options += ["--positions", steering.positions]
    if steering.allow_other_model:
        options.append("--allow-other-model")
    if bench.model != BUNDLED:
        options += ["--model", bench.model]
    if bench.workspace is not None:
        options += ["--workspace", bench.workspace]
    if bench.dtype != "auto":
        options += ["--dtype", bench.dtype]
    if bench.device_map is not None:
        options += ["--device-map", bench.device_map]
    if steering.layer is not None:
        options += ["--layer", str(steering.layer)]
    text, is_chat = _question_in(prompts)
    if is_chat:
        options.append("--chat")
    options += ["--strength", f"{-steering.strength:g}", "--strength", f"{steering.strength:g}"]
    if bench.model == BUNDLED:  # Its answers need so many tokens.
        options += ["--max-new-tokens", "128"]
    command = ["steer-tools", "compare", "--vector", steering.vector_path, *options]
    # After "--" a text may begin with a dash, but no option may follow.
    return shlex.join([*command, "--", text] if text.startswith("-") else [*command[:2], text, *command[2:]])


def _question_in(prompts: Sequence[PromptLike]) -> tuple[str, bool]:
    """Return a text to start from, and whether it is a user's message."""
    for prompt in prompts:
        if isinstance(prompt, str):
            return prompt, False
        for message in prompt:
            if not isinstance(message, int) and message["role"] == "user":
                return message["content"], True
    return _NEUTRAL, False
