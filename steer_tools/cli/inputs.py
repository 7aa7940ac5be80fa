"""What was typed or lies in files → prompts and a method's options for the tools. It must not know models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli import options as given
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.evaluation.behaviors.item_files import SUFFIXES
from steer_tools.prompts import PromptLike

if TYPE_CHECKING:  # At run time this would import numpy.
    from steer_tools.evaluation.judge import Judge
    from steer_tools.tools.arguments import TextScorer

_PAIRS_OF_A_TRAIT = 64


@dataclass(frozen=True)
class ContrastSource:
    """Where the contrast prompts come from; exactly one of texts, a file and a trait is given."""

    positive: given.Positive = None
    negative: given.Negative = None
    prompts: given.ContrastFile = None
    trait: given.Trait = None

    def read(self, model: str) -> tuple[list[PromptLike], list[PromptLike]]:
        """Return the positive and the negative prompts.

        Raises:
            ArgumentError: None or several sources are given, or a trait for another than the bundled model.
            PromptError: The file cannot be read or has another form.
        """
        named = {
            "--positive and --negative": bool(self.positive or self.negative),
            "--prompts": self.prompts is not None,
            "--trait": self.trait is not None,
        }
        sources = [name for name, is_given in named.items() if is_given]
        if len(sources) != 1:
            raise ArgumentError(
                f"{' as well as '.join(sources) or 'No source of contrast prompts'} was given",
                valid="exactly one of " + ", ".join(named),
            )
        if self.prompts is not None:
            return _contrast_in(self.prompts)
        if self.trait is not None:
            return _contrast_of(self.trait, model)
        return list(self.positive or ()), list(self.negative or ())


@dataclass(frozen=True)
class PromptSource:
    """Typed prompts and those of a file; `chat` makes each text a user's message."""

    prompts: given.Prompts = None
    prompts_file: given.PromptsFile = None
    chat: given.AsChat = False

    def read(self) -> list[PromptLike]:
        """Return the typed prompts and then those of the file.

        Raises:
            PromptError: The file cannot be read or holds no list.
        """
        listed = [] if self.prompts_file is None else _listed_in(self.prompts_file)
        prompts: list[PromptLike] = [*(self.prompts or ()), *listed]
        if not self.chat:
            return prompts
        return [[{"role": "user", "content": item}] if isinstance(item, str) else item for item in prompts]

    def read_any(self) -> list[PromptLike]:
        """Return them, at least one.

        Raises:
            PromptError: As `read` does, or there is none.
        """
        prompts = self.read()
        if not prompts:
            raise PromptError("No prompt was given", valid="texts as arguments, or --prompts-file FILE")
        return prompts


@dataclass(frozen=True)
class ScorerSource:
    """How texts are scored: by words, by a pattern, or by a judge, of which all three things are needed."""

    keyword: given.Keywords = None
    pattern: given.Pattern = None
    judge_endpoint: given.JudgeEndpoint = None
    judge_model: given.JudgeModel = None
    judge_question: given.JudgeQuestion = None

    def read(self) -> "TextScorer | Judge | None":
        """Return the scorer as the tool takes it; None where nothing was given.

        Raises:
            ArgumentError: Several were given, a part of a judge is missing, or a judge cannot be asked so.
        """
        judge = (self.judge_endpoint, self.judge_model, self.judge_question)
        named = {
            "--keyword": bool(self.keyword),
            "--pattern": self.pattern is not None,
            "--judge-endpoint, --judge-model and --judge-question": any(part is not None for part in judge),
        }
        sources = [name for name, is_given in named.items() if is_given]
        if len(sources) > 1:
            raise ArgumentError(f"{' as well as '.join(sources)} was given", valid="one of " + ", ".join(named))
        if self.keyword:
            return {"keywords": self.keyword}
        if self.pattern is not None:
            return {"pattern": self.pattern}
        if not sources:
            return None
        if self.judge_endpoint is None or self.judge_model is None or self.judge_question is None:
            raise ArgumentError("A judge was given by halves", valid=f"all of {sources[0]}")
        from steer_tools.evaluation.judge import judge_scorer

        return judge_scorer(self.judge_endpoint, self.judge_model, self.judge_question)


def read_behavior_name(typed: str) -> str:
    """Return a behaviour's name as it is, and a file's relative path as one from the current folder."""
    is_file = Path(typed).suffix.lower() in SUFFIXES and not typed.startswith("~")
    return str(Path.cwd() / typed) if is_file else typed


def read_behavior(name: str, prompts: str | None) -> tuple[str, list[PromptLike] | None, list[PromptLike] | None]:
    """Return a behaviour as the tools take it: its name or file, or a name with the two lists of a file of prompts.

    Raises:
        PromptError: The file of prompts cannot be read or has another form.
    """
    return (read_behavior_name(name), None, None) if prompts is None else (name, *_contrast_in(prompts))


def read_labels(
    name: str | None, labelled: str | None
) -> tuple[str | None, list[PromptLike] | None, list[PromptLike] | None]:
    """Return a behaviour as `read_behavior` does, the two lists of a file, or nothing; what is wrong the tool refuses.

    Raises:
        PromptError: The file cannot be read or has another form.
    """
    behavior = None if name is None else read_behavior_name(name)
    return (behavior, None, None) if labelled is None else (behavior, *_contrast_in(labelled))


def read_options(typed: Sequence[str] | None) -> dict[str, object] | None:
    """Return NAME=VALUE texts as a mapping, or None of none; a value that is not JSON is a text.

    Raises:
        ArgumentError: There is no name or no value, or a name comes twice.
    """
    options: dict[str, object] = {}
    for text in typed or ():
        name, sign, value = text.partition("=")
        if not name or not sign or not value:
            raise ArgumentError(f"--option {text!r} has no name or no value", valid="NAME=VALUE, such as seed=3")
        if name in options:
            raise ArgumentError(f"--option {name} was given twice", valid="one value for each name")
        options[name] = _json_or_text(value)
    return options or None


def _listed_in(file: str) -> list[PromptLike]:
    if Path(file).suffix.lower() != ".json":
        return [line for line in _text_of(file).splitlines() if line.strip()]
    items = _json_of(file)
    if not isinstance(items, list):
        raise PromptError(f"The file {file!r} holds no list", valid="a JSON list of texts or chats", fix="")
    return cast(list[PromptLike], items)


def _contrast_in(file: str) -> tuple[list[PromptLike], list[PromptLike]]:
    sides = _json_of(file)
    if not isinstance(sides, dict) or not all(isinstance(sides.get(side), list) for side in ("positive", "negative")):
        raise PromptError(
            f"The file {file!r} does not hold two sides", valid='{"positive": [...], "negative": [...]}', fix=""
        )
    return sides["positive"], sides["negative"]


def _contrast_of(trait: str, model: str) -> tuple[list[PromptLike], list[PromptLike]]:
    if model != BUNDLED:
        raise ArgumentError(
            f"--trait was given for the model {model!r}, and traits are of the bundled model's language",
            valid="--trait with --model bundled, or prompts of your own",
        )
    from steer_tools.bundled_model.language import contrast_pairs

    positive: list[PromptLike] = []
    negative: list[PromptLike] = []
    for prompt, shown, opposite in contrast_pairs(trait, n=_PAIRS_OF_A_TRAIT, seed=0):
        positive.append([*prompt, {"role": "assistant", "content": shown}])
        negative.append([*prompt, {"role": "assistant", "content": opposite}])
    return positive, negative


def _json_or_text(value: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _json_of(file: str) -> Any:
    try:
        return json.loads(_text_of(file))
    except (ValueError, RecursionError) as error:
        raise PromptError(f"The file {file!r} is not JSON ({error})", fix="Correct it.") from error


def _text_of(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"The file {file!r} is not UTF-8 text", fix="Save it as UTF-8.") from error
    except (OSError, RuntimeError, ValueError) as error:
        # An unknown user's ~ is a RuntimeError, and a NUL in the name a ValueError.
        reason = error.strerror if isinstance(error, OSError) else error
        raise PromptError(f"The file {file!r} cannot be read ({reason})", fix="Choose another path.") from error
