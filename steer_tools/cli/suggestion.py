"""A vector that was just created → the command that tries it out. It must not know how it is shown."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli.work import Workbench
from steer_tools.prompts import PromptLike

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.parameters import CreateResult

_NEUTRAL = "One day in spring"


def comparison_command(
    bench: Workbench, result: "CreateResult", prompts: Sequence[PromptLike], *, unit: str = "vector"
) -> str:
    """Return a `compare` command for a shell, on one of the prompts that do not show the behaviour."""
    options = ["--unit", unit] if unit != "vector" else []
    if bench.model != BUNDLED:
        options += ["--model", bench.model]
    if bench.workspace is not None:
        options += ["--workspace", bench.workspace]
    if bench.dtype != "auto":
        options += ["--dtype", bench.dtype]
    if bench.device_map is not None:
        options += ["--device-map", bench.device_map]
    if isinstance(layers := result["layer"], list):
        options += ["--layer", str(layers[len(layers) // 2])]
    text, is_chat = _question_in(prompts)
    if is_chat:
        options.append("--chat")
    # Half a contrast leads the bundled model's answers to an end, and they need this many tokens.
    small = ["--strength", "-0.5", "--strength", "0.5", "--max-new-tokens", "128"]
    options += small if bench.model == BUNDLED else ["--strength", "-1", "--strength", "1"]
    command = ["steer-tools", "compare", "--vector", result["vector_path"], *options]
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
