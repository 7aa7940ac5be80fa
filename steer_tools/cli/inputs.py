"""What nobody can type as one argument: lists of prompts, contrasts, scorers; typed or read from files.

Each group of options makes the parameters of a tool that it names. It must not know models.
"""

from abc import abstractmethod
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import typer

from steer_tools.data_files import SUFFIXES, DataFile, Entry
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.prompts import PromptLike, parse_prompt, plain

if TYPE_CHECKING:  # At run time these would import numpy.
    from steer_tools.evaluation.judge import Judge
    from steer_tools.tools.arguments import TextScorer

_CONTRAST, _SCORER = "Contrast prompts, from one of these", "Scores of texts, from one of these"
_PAIRS = "a file of pairs as of steer-tools experiment, or of JSON with the lists 'positive' and 'negative'."
# What a file calls a prompt.
_PROMPT_COLUMNS = ("prompt", "text", "question", "messages")
_LISTED = "a text or chat messages each in .json and .jsonl, a column 'prompt' in .csv and .tsv, or else a text a line."


def _option(flag: str, metavar: str, said: str, heading: str | None = None) -> Any:
    return typer.Option(flag, metavar=metavar, help=said, rich_help_panel=heading)


AsChat = Annotated[bool, typer.Option("--chat", help="Send each text as a user's message, by the chat template.")]


@dataclass(frozen=True)
class Source:
    """A group of options, its fields, that makes some parameters of a tool.

    Attributes:
        makes: Those parameters.
    """

    makes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def arguments(self, typed: Mapping[str, Any], told: list[str], *, is_required: bool) -> dict[str, object]:
        """Return what the tool is given, after all that was typed; None of parameters that nothing was typed for.

        What was left out of files is appended to `told`.

        Raises:
            ArgumentError: None or several of what excludes each other were given, or something by halves.
            PromptError: A file cannot be read or has another form, or there must be prompts and are none.
        """


@dataclass(frozen=True)
class PromptSource(Source):
    """Typed prompts and those of a file; `chat` makes each text a user's message."""

    makes: ClassVar[tuple[str, ...]] = ("prompts",)

    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPTS", help="Texts.")] = None
    prompts_file: Annotated[
        str | None,
        _option(
            "--prompts-file",
            "FILE",
            f"More prompts: {_LISTED}",
        ),
    ] = None
    chat: AsChat = False

    def arguments(self, typed: Mapping[str, Any], told: list[str], *, is_required: bool) -> dict[str, object]:
        """Return the typed prompts and then those of the file."""
        listed = [] if self.prompts_file is None else _listed_in(self.prompts_file, told)
        prompts = [as_prompt(item, self.chat) for item in (*(self.prompts or ()), *listed)]
        return {"prompts": _some(prompts) if is_required else prompts or None}


@dataclass(frozen=True)
class TriedPromptSource(Source):
    """Prompts to test on."""

    makes: ClassVar[tuple[str, ...]] = ("test_prompts",)

    prompts_file: Annotated[
        str | None,
        _option(
            "--prompts-file",
            "FILE",
            f"Prompts to test on, before the completions of the dataset; its held-out prompts if omitted: {_LISTED}",
        ),
    ] = None

    def arguments(self, typed: Mapping[str, Any], told: list[str], *, is_required: bool) -> dict[str, object]:
        """Return the prompts of the file."""
        return {"test_prompts": None if self.prompts_file is None else _some(_listed_in(self.prompts_file, told))}


@dataclass(frozen=True)
class ContrastSource(Source):
    """Where the contrast prompts come from; exactly one of texts, a file and a behaviour is given."""

    makes: ClassVar[tuple[str, ...]] = ("positive_prompts", "negative_prompts", "behavior")

    positive: Annotated[
        list[str] | None,
        _option("--positive", "TEXT", "A prompt that shows the behaviour. Repeat it; at least 8 are good.", _CONTRAST),
    ] = None
    negative: Annotated[
        list[str] | None,
        _option(
            "--negative",
            "TEXT",
            "A prompt that shows its absence or opposite, otherwise like a positive one. Repeat it.",
            _CONTRAST,
        ),
    ] = None
    prompts: Annotated[str | None, _option("--prompts", "FILE", f"Both: {_PAIRS}", _CONTRAST)] = None
    behavior: Annotated[
        str | None,
        _option(
            "--behavior",
            "NAME",
            "A built-in behaviour (of the bundled model a trait), or a file of pairs, as of steer-tools experiment.",
            _CONTRAST,
        ),
    ] = None

    def arguments(self, typed: Mapping[str, Any], told: list[str], *, is_required: bool) -> dict[str, object]:
        """Return both sides, or the behaviour."""
        named = {
            "--positive and --negative": bool(self.positive or self.negative),
            "--prompts": self.prompts is not None,
            "--behavior": self.behavior is not None,
        }
        sources = [name for name, is_given in named.items() if is_given]
        if len(sources) != 1:
            raise ArgumentError(
                f"{' as well as '.join(sources) or 'No source of contrast prompts'} was given",
                valid="exactly one of " + ", ".join(named),
            )
        if self.behavior is not None:
            return {"behavior": from_current_folder(self.behavior)}
        if self.prompts is not None:
            sides = _contrast_in(self.prompts, told)
        else:
            sides = self.positive or [], self.negative or []
        return dict(zip(("positive_prompts", "negative_prompts"), sides, strict=True))


@dataclass(frozen=True)
class OwnBehaviorSource(Source):
    """Prompts of one's own, which the behaviour's name then only names."""

    makes: ClassVar[tuple[str, ...]] = ("positive", "negative")

    prompts: Annotated[
        str | None, _option("--prompts", "FILE", f"Prompts of your own, which BEHAVIOR then only names: {_PAIRS}")
    ] = None

    def arguments(self, typed: Mapping[str, Any], told: list[str], *, is_required: bool) -> dict[str, object]:
        """Return both lists and the name as it was typed, or nothing."""
        return {} if self.prompts is None else _own_behavior(typed["behavior"], self.prompts, told)


@dataclass(frozen=True)
class LabelSource(Source):
    """Labelled prompts, where the prompts that are typed are others."""

    makes: ClassVar[tuple[str, ...]] = ("positive", "negative")

    labelled: Annotated[str | None, _option("--labelled", "FILE", f"Instead of a behaviour: {_PAIRS}")] = None

    def arguments(self, typed: Mapping[str, Any], told: list[str], *, is_required: bool) -> dict[str, object]:
        """Return both lists, or nothing; what is wrong beside a behaviour the tool refuses."""
        if self.labelled is None:
            return {}
        arguments = _own_behavior(typed["behavior"], self.labelled, left_out := list[str]())
        if arguments["negative"] is not None:
            told += left_out
            return arguments
        if typed["behavior"] is not None:
            raise ArgumentError("--labelled as well as --behavior was given", valid="one of them")
        # Pairs with questions, which the tool holds out as those of a behaviour, and counts what it leaves out.
        return {"behavior_name": from_current_folder(self.labelled)}


@dataclass(frozen=True)
class ScorerSource(Source):
    """How texts are scored: by words, by a pattern, or by a judge, of which all three things are needed."""

    makes: ClassVar[tuple[str, ...]] = ("scorer",)

    keyword: Annotated[
        list[str] | None, _option("--keyword", "WORD", "1 where a text holds it, or another one. Repeat it.", _SCORER)
    ] = None
    pattern: Annotated[
        str | None, _option("--pattern", "REGEX", "1 where a text holds a match of this regular expression.", _SCORER)
    ] = None
    judge_endpoint: Annotated[
        str | None,
        _option(
            "--judge-endpoint",
            "URL",
            "Ask another model there, by chat completions; prompts and texts are sent to it. Its key is read from "
            "STEER_TOOLS_JUDGE_KEY.",
            _SCORER,
        ),
    ] = None
    judge_model: Annotated[str | None, _option("--judge-model", "NAME", "The judge's name there.", _SCORER)] = None
    judge_question: Annotated[
        str | None,
        _option("--judge-question", "TEXT", "What it is asked of each text, to be answered from 0 to 100.", _SCORER),
    ] = None

    def arguments(self, typed: Mapping[str, Any], told: list[str], *, is_required: bool) -> dict[str, object]:
        """Return the scorer."""
        return {"scorer": self.read()}

    def read(self) -> "TextScorer | Judge | None":
        """Return the scorer as the tool takes it; None where nothing was given; raises as `arguments` does."""
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


SOURCES: tuple[type[Source], ...] = (PromptSource, TriedPromptSource, ContrastSource, OwnBehaviorSource, ScorerSource)


def silence_of(scorer: object) -> list[str]:
    """Say how many answers of a judge are missing and why, if any are."""
    failures = cast(Mapping[str, int], getattr(scorer, "failures", {}))
    reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(failures.items(), key=lambda own: -own[1]))
    return [f"The judge gave no score to {sum(failures.values())} texts: {reasons}."] if reasons else []


def from_current_folder(behavior: str | None) -> str | None:
    """Return a behaviour's name as it is, and a file's relative path as one from the current folder."""
    if behavior is None:
        return None
    is_file = Path(behavior).suffix.lower() in SUFFIXES and not behavior.startswith("~")
    return str(Path.cwd() / behavior) if is_file else behavior


def as_prompt(item: PromptLike, chat: bool) -> PromptLike:
    """Return a text as a user's message where it is to be sent as a chat; anything else as it is."""
    return [{"role": "user", "content": item}] if chat and isinstance(item, str) else item


def _some(prompts: list[PromptLike]) -> list[PromptLike]:
    if not prompts:
        raise PromptError("No prompt was given", valid="texts as arguments, or --prompts-file FILE")
    return prompts


def _listed_in(file: str, told: list[str]) -> list[PromptLike]:
    with readable(file) as path, path.open("rb") as opened:
        data = DataFile(opened, path.name, _PROMPT_COLUMNS, _prompt_column)
        found = data.read()
        if isinstance(found, Mapping):
            raise PromptError(f"{path.name} holds no list", valid="a JSON list of texts or chats")
        prompts = [plain(parse_prompt(_prompt_in(entry), entry.where)) for entry in found]
    told += data.notes
    return prompts


def _prompt_in(entry: Entry) -> object:
    if not isinstance(entry.value, Mapping):
        return entry.value
    record = cast(Mapping[str, object], entry.value)
    try:
        return record[_prompt_column(record.keys())]
    except PromptError as error:
        raise PromptError(f"{entry.where}: {error}") from error


def _prompt_column(columns: Collection[str]) -> str:
    named = [name for name in _PROMPT_COLUMNS if name in columns]
    if len(named) != 1:
        raise PromptError(
            f"the columns are {', '.join(map(repr, columns)):.200}",
            valid=f"one of {', '.join(_PROMPT_COLUMNS)}, which holds the prompt; others say nothing",
            fix="Name the columns in the first row, or name a file of one text a line .txt.",
        )
    return named[0]


def _contrast_in(file: str, told: list[str]) -> "tuple[list[PromptLike] | list[dict[str, object]], object]":
    """Return both lists that a file holds; or its pairs in one, and None."""
    from steer_tools.evaluation.behaviors.behavior_json import record_of
    from steer_tools.evaluation.behaviors.item_files import file_of_items, read_contrast

    with readable(file) as path, path.open("rb") as opened:
        data = file_of_items(opened, path.name)
        found = read_contrast(data)
    told += data.notes
    if isinstance(found, list):
        return [record_of(item) for item in found], None
    positive, negative = ([*map(plain, side)] for side in found)
    return positive, negative


def _own_behavior(name: str | None, file: str, told: list[str]) -> dict[str, object]:
    positive, negative = _contrast_in(file, told)
    return {"behavior_name": name, "positive": positive, "negative": negative}


@contextmanager
def readable(file: str) -> Generator[Path]:
    """Give the path of a file that was typed, to be read within a `with` block.

    Raises:
        PromptError: It cannot be read.
    """
    try:
        yield Path(file).expanduser()
    except (OSError, RuntimeError, ValueError) as error:
        # An unknown user's ~ is a RuntimeError, and a NUL in the name a ValueError.
        reason = error.strerror if isinstance(error, OSError) else error
        raise PromptError(f"The file {file!r} cannot be read ({reason})", fix="Choose another path.") from error
