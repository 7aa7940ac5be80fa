"""No call of a tool, whatever its arguments, raises anything but an error of ours, or leaves anything behind."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import steer_tools
from helpers.hostile_values import Unwritten, hostile_values, small_calls
from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, make_model, make_tokenizer
from steer_tools.core.site import Site
from steer_tools.errors import ArgumentError, LayerError, SteeringError, StrengthError, quoted
from steer_tools.session.session import Session, current_session
from steer_tools.tools import TOOLS, Tool
from steer_tools.workspace import Workspace

# More than any error needs; what a caller gave is quoted in part.
MOST_CHARACTERS = 2_500
WAYS: dict[str, Callable[[Tool], Callable[..., Any]]] = {
    "bare": lambda tool: tool.function,
    "by hand": lambda tool: getattr(steer_tools, tool.name),
}
NAMES = [tool.name for tool in TOOLS]
BY_NAME = {tool.name: tool for tool in TOOLS}


@pytest.fixture(scope="module", autouse=True)
def tiny_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = current_session()
    before, session.workspace = session.workspace, Workspace(tmp_path_factory.mktemp("hostile") / "workspace")
    session.attach(make_model("llama"), make_tokenizer(), "tiny")
    for path in ("v", "w"):
        steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 1, path)
    yield session
    session.detach()
    session.workspace = before


def call_with(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """Call it, and return the name of the error of ours that came, if one did."""
    try:
        function(**arguments)
    except SteeringError as error:
        assert 0 < len(str(error)) <= MOST_CHARACTERS
        return type(error).__name__
    finally:
        steer_tools.remove_all_steering_vectors()
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_tool_answers_or_refuses_whatever_one_argument_is(name: str, way: str) -> None:
    function, small = WAYS[way](BY_NAME[name]), small_calls()[name]
    before = steer_tools.generate(PROMPTS, max_new_tokens=2)["texts"]

    for parameter in inspect.signature(BY_NAME[name].function).parameters:
        for value in hostile_values().values():
            # It is its caller's function that raises what a class raises, which is called with what it does not take.
            if not (value is object and parameter in ("pooling", "metric", "scorer")):
                call_with(function, {**small, parameter: value})

    assert steer_tools.generate(PROMPTS, max_new_tokens=2)["texts"] == before


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_tool_answers_or_refuses_whatever_several_arguments_are(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    parameters = [*inspect.signature(BY_NAME[name].function).parameters]
    values = hostile_values()
    del values["a class"]
    chosen = data.draw(st.dictionaries(st.sampled_from(parameters or [""]), st.sampled_from([*values]), max_size=6))

    call_with(BY_NAME[name].function, {**small_calls()[name], **{key: values[value] for key, value in chosen.items()}})


@pytest.mark.parametrize(
    ("parameter", "value", "kind", "text"),
    [
        ("strength", "1", StrengthError, "strength is '1'. Valid: a finite number;"),
        (
            "strength",
            10**400,
            StrengthError,
            "strength is <a whole number of 1329 bits>. Valid: a finite number; 0 changes",
        ),
        ("layer", [1, True], LayerError, "layer[1] is True. Valid: a whole number."),
        ("layer", "1", LayerError, "layer is '1'. Valid: a whole number or a list, each a whole number."),
        ("target", 2**63, ArgumentError, "target is 9223372036854775808. Valid: a finite number of at most 63 bits."),
        ("layer_weights", [1, "x"], ArgumentError, "layer_weights[1] is 'x'. Valid: a finite number."),
        ("allow_other_model", 1, ArgumentError, "allow_other_model is 1. Valid: true or false."),
        ("positions", "\ud800", ArgumentError, "Unicode text, without half a surrogate pair"),
        ("unit", "yards", ArgumentError, "unit is 'yards'. Valid: 'vector', 'contrast', 'residual'."),
        ("vector_path", [["v"]], ArgumentError, "Among the vectors is ['v']. Valid: files"),
        ("nothing", 1, ArgumentError, "unexpected keyword argument 'nothing'. Valid: vector_path, layer,"),
    ],
)
def test_what_is_of_another_type_is_refused_by_its_name_with_what_is_valid(
    parameter: str, value: Any, kind: type[SteeringError], text: str
) -> None:
    with pytest.raises(kind) as refused:
        BY_NAME["apply_steering_vector"].function(**{**small_calls()["apply_steering_vector"], parameter: value})

    assert text in str(refused.value)


@pytest.mark.parametrize("head", [0, 5])
def test_a_head_of_what_has_none_is_refused_and_the_model_is_read_as_before(head: int) -> None:
    made = small_calls()["create_steering_vector"]

    with pytest.raises(ArgumentError, match="heads of 'attention'"):
        steer_tools.create_steering_vector(**made, head=head)

    assert steer_tools.create_steering_vector(**made)["success"]


def test_a_site_is_one_that_a_model_can_have() -> None:
    assert Site(1, "attention", 0).part == "attention head 0"
    with pytest.raises(ArgumentError, match="component is 'nose'"):
        Site(1, "nose")  # pyright: ignore[reportArgumentType]  # That is what is refused.


@pytest.mark.parametrize("name", [*hostile_values()])
def test_any_value_is_quoted_in_few_characters(name: str) -> None:
    assert 0 < len(quoted(hostile_values()[name])) <= 80


def test_a_quotation_shows_what_is_short_as_it_is() -> None:
    assert quoted([1, "a", {"b": None}]) == "[1, 'a', {'b': None}]"
    assert quoted("\u202e\x1b") == r"'\u202e\x1b'"
    assert "Unwritten" in quoted(Unwritten())


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("not " * 500 + "v", "nested in 33 levels"),
        ("(" * 500 + "v" + ")" * 500, "nested in 33 levels"),
        (" and ".join(["v"] * 500), "names 33 files"),
        ("v" * 20_000, "has 20,000 characters. Valid: at most 10,000"),
    ],
)
def test_a_condition_without_bound_is_refused(condition: str, problem: str) -> None:
    steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 1, "v")  # A call before may have written there.
    with pytest.raises(ArgumentError, match=problem):
        steer_tools.apply_steering_vector("v", condition=condition)

    assert steer_tools.apply_steering_vector("v", condition="not (v and not v)", strength=0.1)["success"]
    steer_tools.remove_all_steering_vectors()
