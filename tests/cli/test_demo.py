"""The demo: what it claims is what was measured, on the bundled model and on one of which no truth is known."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from steer_tools.bundled_model.language import TRAITS, held_out_prompts, score
from steer_tools.cli import demo_report as report
from steer_tools.cli.app import app
from steer_tools.cli.demo import TOGETHER, applied, study_together, study_trait
from steer_tools.cli.demo_report import Findings, Part
from steer_tools.figures.doses import Curve, DosePanel, dose_response
from steer_tools.session.session import Session, current_session
from steer_tools.tools import compare_generations, steering_status


def size_of_png(content: bytes) -> tuple[int, int]:
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def findings(workspace: Path) -> Iterator[dict[str, Any]]:
    """What the demo on the bundled model says to people and as JSON; it is run once, without a network."""
    session = current_session()
    before = session.workspace
    found: list[Findings] = []
    markdown = report.markdown
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _no_network)
        patch.setattr(report, "markdown", lambda findings: found.append(findings) or markdown(findings))
        ended = CliRunner().invoke(app, ["demo", "--workspace", str(workspace)], env={"COLUMNS": "100"})
    assert ended.exit_code == 0, ended.stderr
    folder = workspace / "demo"
    document = report.document(found[0], folder / "report.md", folder / report.PICTURE)
    told = {"told": ended.stdout, "applied afterwards": steering_status()["applied"]}
    yield {**json.loads(json.dumps(document)), **told}
    session.detach()
    session.workspace = before


def test_each_vector_leads_from_the_middle_to_both_ends(findings: dict[str, Any]) -> None:
    assert len(findings["vectors"]) == 3
    for vector in findings["vectors"]:
        by_strength = {dose["strength"]: dose["scores"][vector["name"]] for dose in vector["doses"]}
        assert list(by_strength) == sorted(by_strength)
        assert by_strength[-0.5] <= -0.8
        assert abs(by_strength[0.0]) <= 0.5
        assert by_strength[0.5] >= 0.8


def test_a_vector_that_the_demo_left_does_again_what_the_demo_says(
    findings: dict[str, Any], empty_session: Session, workspace: Path
) -> None:
    vector = findings["vectors"][0]
    empty_session.load("bundled", "huggingface", "auto", None)

    compared = compare_generations(
        held_out_prompts(vector["name"], vector["prompts"]),
        vector["vector_path"],
        strengths=[-0.25],
        unit="contrast",
        max_new_tokens=128,
    )

    texts = compared["variants"][0]["texts"]
    scored = [score(prompt, text) for prompt, text in zip(compared["prompts"], texts, strict=True)]
    (claimed,) = [dose["scores"] for dose in vector["doses"] if dose["strength"] == -0.25]
    assert {trait: fmean(one[trait] for one in scored) for trait in TRAITS} == pytest.approx(claimed, abs=1e-3)


def test_two_vectors_at_once_move_both_scores_to_their_sides(findings: dict[str, Any]) -> None:
    combined = findings["combined"]

    assert combined["strengths"] == TOGETHER
    for name, strength in TOGETHER.items():
        moved = combined["steered"]["scores"][name] - combined["baseline"]["scores"][name]
        assert moved * strength > 0.3


def test_what_is_applied_is_never_taken_for_the_baseline_not_even_one_vector_of_negative_strength(
    empty_session: Session,
) -> None:
    empty_session.load("bundled", "huggingface", "auto", None)
    prompts = held_out_prompts("sentiment", 2)
    part = Part(study_trait("sentiment", 1, "sentiment", [0.5], prompts), -0.5)

    with applied([part]):
        together = study_together([part], prompts)

    assert together.baseline.scores == part.study.baseline.scores
    assert together.steered.mean("sentiment") < -0.5
    assert steering_status()["applied"] == []


def test_the_proof_is_passed_and_nothing_stays_applied(findings: dict[str, Any]) -> None:
    assert findings["proof"]["passed"]
    assert findings["proof"]["warnings"] == []
    assert findings["applied afterwards"] == []


def test_the_report_shows_the_picture_the_scores_and_the_texts(findings: dict[str, Any], workspace: Path) -> None:
    report = Path(findings["report_path"]).read_text(encoding="utf-8")
    picture = Path(findings["picture_path"])

    assert picture.parent == Path(findings["report_path"]).parent == workspace / "demo"
    assert f"![dose response]({picture.name})" in report
    assert min(size_of_png(picture.read_bytes())) > 400
    for vector in findings["vectors"]:
        assert f"## {vector['name']}" in report
        for dose in vector["doses"]:
            assert f"| {dose['scores'][vector['name']]:+.2f} |" in report
    assert report.count("| yes |") == len(findings["proof"]["checks"])


def test_people_see_the_scores_the_texts_the_proof_and_where_the_report_is(findings: dict[str, Any]) -> None:
    told = findings["told"]

    for vector in findings["vectors"]:
        assert f"{vector['doses'][-1]['scores'][vector['name']]:+.2f}" in told
    assert "laws hold" in told
    assert "report.md" in told.replace("\n", "")
    assert max(map(len, told.splitlines())) <= 100


def test_another_model_is_judged_by_the_log_odds_of_held_out_completions(
    tmp_path: Path, empty_session: Session
) -> None:
    folder = tmp_path / "model"
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=260, initializer_range=0.25, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    _tokenizer_of_english().save_pretrained(folder)

    ended = CliRunner().invoke(app, ["demo", "--model", str(folder), "--workspace", str(tmp_path / "w"), "--json"])

    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    (vector,) = found["vectors"]
    assert found["combined"] is None
    assert found["proof"]["passed"]
    means = [dose["scores"]["sentiment"] for dose in vector["doses"]]
    assert len(set(means)) == len(means)
    assert all(dose["grammatical"] is None for dose in vector["doses"])
    assert min(size_of_png(Path(found["picture_path"]).read_bytes())) > 400


def test_the_picture_has_a_panel_a_vector_and_shows_its_curves() -> None:
    curve = Curve("score", [-1, 0, 1], [-1, 0, 1], [(-1.1, -0.9), (-0.1, 0.1), (0.9, 1.1)])
    flat = Curve("score", [-1, 0, 1], [0, 0, 0])

    def draw(*panels: DosePanel) -> bytes:
        return dose_response(panels, title="t", score_label="y", strength_label="x")

    one, two = draw(DosePanel("a", curve)), draw(*[DosePanel(name, curve) for name in "abc"])

    assert size_of_png(two)[0] > size_of_png(one)[0]
    assert one == draw(DosePanel("a", curve))
    assert len({one, draw(DosePanel("a", flat)), draw(DosePanel("a", curve, [flat]))}) == 3


def _no_network(own: socket.socket, address: object) -> None:
    raise AssertionError(f"a connection to {address}")


def _tokenizer_of_english() -> Any:
    """A byte-level tokenizer, which knows every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({"</s>": 0, **{letter: i + 1 for i, letter in enumerate(alphabet)}}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")
