"""Results → what people read, as rich renderables. Pure: it must not know terminals, files or models."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from steer_tools.cli.marking import chosen, marked, shown
from steer_tools.cli.wording import figure, known, layer_names, signed, span, warning_lines
from steer_tools.figures.strips import readable
from steer_tools.prompts import PromptLike

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.cli.local_models import LocalModels
    from steer_tools.tools.check_steering import CheckResult
    from steer_tools.tools.compare_generations import CompareResult, VariantTexts
    from steer_tools.tools.compare_next_tokens import NextTokensResult
    from steer_tools.tools.generate import GenerateResult
    from steer_tools.tools.show_tokens import PromptTokensStatus, TokensResult
    from steer_tools.tools.steering_status import StatusResult

_BREAKING = (
    "perplexity is under the unsteered model. Far above the baseline's, or distinct_2 far below: the text is breaking, "
    "so lower the strength."
)
_ADDED = " residual is what is added, in the model's typical norms there."


def comparison(result: "CompareResult", *, is_plain: bool) -> RenderableType:
    """Render one table a prompt, the baseline first and then the strengths in order, and one of the figures.

    Words that the baseline does not have there are marked, in plain text by {+ +}.
    """
    variants = sorted(result["variants"], key=lambda variant: variant["strength"] or 0.0)
    parts: list[RenderableType] = []
    for i, prompt in enumerate(result["prompts"]):
        baseline = result["baseline"]["texts"][i]
        table = _text_table(prompt)
        table.add_row("baseline", shown(baseline))
        for variant in variants:
            table.add_row(_strength(variant["strength"]), marked(variant["texts"][i], baseline, is_plain=is_plain))
        parts += [table, Text()]
    residuals = [_residual(variant["residual_strength"]) for variant in variants]
    explained = f" words differ from the baseline's. {_BREAKING}{_ADDED if any(residuals) else ''}"
    legend = Text.assemble(marked("Marked", "", is_plain=is_plain), (explained, "dim"))
    return Group(*parts, _figures(result, variants, residuals), legend, *warning_lines(result["warnings"]))


def next_tokens(prompts: Sequence[PromptLike], result: "NextTokensResult") -> RenderableType:
    """Render one table a prompt: the likeliest next tokens with their probability, unsteered and at each strength."""
    parts: list[RenderableType] = []
    for prompt, found in zip(prompts, result["prompts"], strict=True):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("next token", no_wrap=True)
        for name in ("baseline", *map(_strength, result["strengths"])):
            table.add_column(name, justify="right")
        for token, probabilities in found["tokens"].items():
            table.add_row(shown(readable(token)), *(f"{probability:.1%}" for probability in probabilities))
        table.add_row(Text("KL, nats", style="dim"), "", *map(figure, found["kl"]))
        parts += [prompt_text(prompt), table]
    return Group(*parts, *warning_lines(result["warnings"]))


def tokens(result: "TokensResult", *, is_plain: bool) -> RenderableType:
    """Render each prompt's tokens in their order, those that would be steered marked."""
    lines = [Text(" ").join(_tokens_of(prompt, is_plain=is_plain)) for prompt in result["prompts"]]
    new = "every new token, too" if result["new_tokens_steered"] else "no new token"
    legend = Text.assemble(chosen("Marked", is_plain=is_plain), (f" tokens would be steered, and {new}.", "dim"))
    return Group(*(part for line in lines for part in (line, Text())), legend)


def generation(prompts: Sequence[PromptLike], result: "GenerateResult") -> RenderableType:
    """Render one table a prompt."""
    parts: list[RenderableType] = []
    for prompt, text, ended in zip(prompts, result["texts"], result["ended"], strict=True):
        table = _text_table(prompt)
        table.add_row("text" if ended else "text (cut)", shown(text))
        parts.append(table)
    return Group(*parts)


def proof(result: "CheckResult") -> RenderableType:
    """Render each law with its figure."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("law", overflow="fold")
    table.add_column("figure", justify="right")
    table.add_column("expected", overflow="fold")
    table.add_column("ok")
    for check in result["checks"]:
        verdict = Text("yes", style="green") if check["passed"] else Text("NO", style="bold red")
        table.add_row(check["name"].replace("_", " "), figure(check["figure"]), Text(check["expected"]), verdict)
    broken = sum(not check["passed"] for check in result["checks"])
    summary = (
        Text(f"All {len(result['checks'])} laws hold.", style="bold green")
        if result["passed"]
        else Text(f"{broken} of {len(result['checks'])} laws are broken.", style="bold red")
    )
    return Group(table, summary, *warning_lines(result["warnings"]))


def standing(result: "StatusResult") -> RenderableType:
    """Render the model, the workspace and the saved vectors."""
    model = result["model"]
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("model", shown(f"{model['name']} ({model['family']}, {model['engine']})"))
    facts.add_row("size", f"{model['layers']} layers, hidden size {model['hidden_size']}")
    facts.add_row("runs in", f"{model['dtype']} on {model['device']}")
    facts.add_row("chat", "has a chat template" if model["chat_template"] else "no chat template")
    facts.add_row("context", "no limit" if (limit := model["context_length"]) is None else f"{limit} tokens")
    facts.add_row("workspace", shown(result["workspace"]))
    if not result["saved"]:
        return Group(facts, Text(), Text("No vectors are saved there; `steer-tools create` makes one."))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("vector", overflow="fold")
    table.add_column("layer")
    table.add_column("method")
    for saved in result["saved"]:
        if saved["problem"] is not None:
            table.add_row(shown(saved["vector_path"]), "", Text(saved["problem"], style="red"))
        else:
            table.add_row(shown(saved["vector_path"]), layer_names(saved["layer"]), saved["method"] or "")
    rest = result["saved_total"] - len(result["saved"])
    return Group(facts, table, *([Text(f"and {rest} more")] if rest else []))


def local_models(result: "LocalModels") -> RenderableType:
    """Render one line a model."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("what it is", overflow="fold")
    table.add_column("MB", justify="right")
    for model in result["models"]:
        size = model["megabytes"]
        table.add_row(Text(model["name"]), Text(model["about"]), "" if size is None else f"{size:,.1f}")
    return table


def prompt_text(prompt: PromptLike) -> Text:
    """Render a prompt: of a chat, each message in a line of its own."""
    if isinstance(prompt, str):
        return shown(prompt)
    lines = [f"{item['role']}: {item['content']}" for item in prompt if not isinstance(item, int)]
    return shown("\n".join(lines)) if lines else Text(str(prompt))


def _tokens_of(prompt: "PromptTokensStatus", *, is_plain: bool) -> list[Text]:
    steered = set(prompt["steered"])
    return [chosen(t, is_plain=is_plain) if i in steered else shown(t) for i, t in enumerate(prompt["tokens"])]


def _text_table(prompt: PromptLike) -> Table:
    """Return a table of labels and texts that is headed by a prompt."""
    table = Table(box=box.ROUNDED, show_header=False, show_lines=True, expand=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_row("prompt", prompt_text(prompt), style="bold")
    return table


def _figures(result: "CompareResult", variants: "Sequence[VariantTexts]", residuals: Sequence[str]) -> Table:
    """Return the figures of each strength, without a column for what is added where nothing is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("strength", *(["residual"] if any(residuals) else []), "perplexity", "distinct_2", "changed"):
        table.add_column(column, justify="right")
    own = result["baseline"]["metrics"]
    rows = [["baseline", "", figure(own["perplexity"]), figure(own["distinct_2"]), ""]]
    for variant, residual in zip(variants, residuals, strict=True):
        metrics = variant["metrics"]
        told = (metrics["perplexity"], metrics["distinct_2"], metrics["changed"])
        rows.append([_strength(variant["strength"]), residual, *map(figure, told)])
    for label, residual, *figures in rows:
        table.add_row(label, *([residual] if any(residuals) else []), *figures)
    return table


def _strength(strength: float | None) -> str:
    return "applied" if strength is None else signed(strength)


def _residual(added: float | list[float | None] | None) -> str:
    """Return what is added at a layer, or its range over several layers; nothing where nothing is."""
    return span(sorted(known(added), key=abs), signed)
