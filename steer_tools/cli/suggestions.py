"""What a command found → the commands that one may want next. It must not know how they are shown."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli.workbench import Workbench
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.prompts import PromptLike, plain

_NEUTRAL = "One day in spring"
_TRY, _SEE = "Try it:", "See its texts:"


@dataclass(frozen=True)
class Steering:
    """What a suggested command steers with, at both signs of a strength."""

    vector_path: str
    layer: int | None
    strength: float
    unit: str
    positions: str = "generated"
    allow_other_model: bool = False


def suggestions(
    tool: str, bench: Workbench, arguments: Mapping[str, Any], result: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return intentions with their commands, for a shell."""
    match tool:
        case "create_steering_vector":
            return [(_TRY, _trial(bench, arguments, result))]
        case _ if "apply" in result:
            return [(_SEE, steering_command(bench, Steering(**result["apply"]), [_question(arguments)]))]
        case "save_edited_model":
            in_llama_cpp = "The same in llama.cpp, on the unedited model:", result["llama_cpp"]
            return [("Take it out again:", result["undo"]), *([in_llama_cpp] if result["llama_cpp"] else [])]
        case _:
            return []


def steering_command(bench: Workbench, steering: Steering, prompts: Sequence[PromptLike]) -> str:
    """Return a `compare` command for a shell, on one of the prompts."""
    text, is_chat = _question_in(prompts)
    options = (
        (steering.unit != "vector", ["--unit", steering.unit]),
        (steering.positions != "generated", ["--positions", steering.positions]),
        (steering.allow_other_model, ["--allow-other-model"]),
        (True, bench.flags()),
        (steering.layer is not None, ["--layer", str(steering.layer)]),
        (is_chat, ["--chat"]),
        (True, ["--strength", f"{-steering.strength:g}", "--strength", f"{steering.strength:g}"]),
        (bench.model == BUNDLED, ["--max-new-tokens", "128"]),  # Its answers need so many.
    )
    said = [word for is_said, words in options if is_said for word in words]
    command = ["steer-tools", "compare", "--vector", steering.vector_path, *said]
    # After "--" a text may begin with a dash, but no option may follow.
    return shlex.join([*command, "--", text] if text.startswith("-") else [*command[:2], text, *command[2:]])


def _trial(bench: Workbench, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return what tries a new vector out on one of the prompts that do not show the behaviour."""
    layers = result["layer"]
    layer = layers[len(layers) // 2] if isinstance(layers, list) else None
    # Half a contrast leads the bundled model's answers to an end.
    strength = 0.5 if bench.model == BUNDLED else 1.0
    unit = "contrast" if arguments["normalize"] else "vector"
    steering = Steering(result["vector_path"], layer, strength, unit)
    behavior = arguments.get("behavior")
    if behavior is not None:
        prompts = [_held_out(behavior)]
    elif (prompts := arguments["negative_prompts"]) is None:
        pairs = arguments["positive_prompts"]
        prompts = [pair["negative"] if pair["prompt"] is None else pair["prompt"] for pair in pairs]
    return steering_command(bench, steering, prompts)


def _held_out(behavior: str) -> PromptLike:
    """Return the prompt of an item that a behaviour's vector is not made of."""
    from steer_tools.experiments.evaluation_set import behavior_named
    from steer_tools.session.session import current_session

    return _asked(behavior_named(current_session(), behavior).items)


def _question(arguments: Mapping[str, Any]) -> PromptLike:
    """Return the prompt of an item that did not choose."""
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.session.session import current_session

    session = current_session()
    name = arguments.get("behavior_name", arguments.get("dataset"))
    if name is None:
        return plain(session.engine.neutral_prompts[0])
    lists = (arguments.get(key) for key in ("positive", "negative"))
    splits = evaluation_set_named(session, str(name), *lists, seed=arguments["seed"]).splits
    return _asked(splits.judging)


def _asked(items: Sequence[Item]) -> PromptLike:
    """Return the first item's prompt, as the model is asked it."""
    from steer_tools.evaluation.questions import questions
    from steer_tools.session.session import current_session

    return plain(questions(current_session().engine, items[:1])[0].prompt)


def _question_in(prompts: Sequence[PromptLike]) -> tuple[str, bool]:
    """Return a text to start from, and whether it is a user's message."""
    for prompt in prompts:
        if isinstance(prompt, str):
            return prompt, False
        for message in prompt:
            if not isinstance(message, int) and message["role"] == "user":
                return message["content"], True
    return _NEUTRAL, False
