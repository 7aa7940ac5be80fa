"""SKILL.md as its readers take it: a loader of preloaded skills, a validator, and somebody who copies the example."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest
import yaml

import steer_tools
from helpers.skill import DEFINITIONS, EXAMPLES, SKILL, preload
from helpers.small_models import make_model
from steer_tools.bundled_model.language import score
from steer_tools.session.session import Session
from steer_tools.tools import TOOLS


def test_the_frontmatter_has_what_loaders_and_the_specification_want() -> None:
    _, frontmatter, body = SKILL.split("---\n", 2)
    fields = yaml.safe_load(frontmatter)

    assert fields["name"] == "steering-vectors"
    assert fields["preload"] is True
    assert 0 < len(fields["description"]) <= 1024
    assert set(fields) <= {"name", "description", "license", "compatibility", "metadata", "allowed-tools", "preload"}
    assert body.count("\n") < 500


@pytest.mark.parametrize("block", DEFINITIONS, ids=lambda block: block.split("(")[0])
def test_each_block_is_one_self_contained_definition_that_returns(block: str) -> None:
    (definition,) = ast.parse(block).body

    assert isinstance(definition, ast.FunctionDef)
    assert isinstance(definition.body[-1], ast.Return)
    assert ast.get_docstring(definition)
    names = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
    arguments = {argument.arg for argument in definition.args.args}
    assert names - arguments == {"steer_tools", "model", "tokenizer"}


def test_every_tool_but_the_loading_of_models_is_there_with_the_codes_own_signature() -> None:
    namespace = preload({})
    expected = {tool.name: tool.function for tool in TOOLS if tool.name != "load_model"}

    assert {name for name in namespace if name != "__builtins__"} == set(expected)
    for name, function in expected.items():
        ours = [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
        skills = [(p.name, p.default) for p in inspect.signature(namespace[name]).parameters.values()]
        assert skills == ours, name


def test_every_argument_arrives_at_the_tool(llama_session: Session) -> None:
    for block in DEFINITIONS:
        (definition,) = ast.parse(block).body
        assert isinstance(definition, ast.FunctionDef)
        call = definition.body[-1].value  # type: ignore[attr-defined]  # the test above saw a return
        passed = [argument.id for argument in call.args]
        assert passed == [argument.arg for argument in definition.args.args]
        assert call.func.attr == definition.name


def test_the_worked_example_runs_as_it_stands_on_the_bundled_model(empty_session: Session) -> None:
    (example,) = EXAMPLES
    (loading,) = re.findall(r"`(import steer_tools; .*)`", SKILL)
    kernel = preload({})

    exec(loading, kernel)
    exec(example, kernel)

    assert kernel["created"]["success"]
    assert kernel["created"]["separation"] is not None
    compared = kernel["compared"]
    assert [variant["strength"] for variant in compared["variants"]] == [-0.5, -0.25, 0.25, 0.5]
    sentiment = [
        [score(prompt, text)["sentiment"] for prompt, text in zip(kernel["fresh"], side["texts"], strict=True)]
        for side in (compared["variants"][0], compared["baseline"], compared["variants"][3])
    ]
    assert max(sentiment[0]) < min(sentiment[1]) <= max(sentiment[1]) < min(sentiment[2])
    assert kernel["applied"]["active"] == 1
    assert kernel["proof"]["passed"], kernel["proof"]
    assert kernel["removed"] == {"removed": 1, "active": 0}


def test_rebinding_the_kernels_model_steers_the_new_one(empty_session: Session, tokenizer: Any) -> None:
    kernel = preload({"model": make_model("llama"), "tokenizer": tokenizer})
    assert kernel["steering_status"]()["model"]["family"] == "llama"

    kernel["model"] = make_model("gpt2")

    assert kernel["steering_status"]()["model"]["family"] == "gpt2"
    assert steer_tools.steering_status()["model"]["family"] == "gpt2"
