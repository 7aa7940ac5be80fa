"""The demo: what it claims is what was measured, on the bundled model and on one of which no truth is known."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from steer_tools.bundled_model.language import TRAITS, held_out_prompts, score
from steer_tools.cli import demo_report as report
from steer_tools.cli.app import app
from steer_tools.cli.demo_report import Findings
from steer_tools.engines import named_models
from steer_tools.figures.doses import Curve, DosePanel, dose_response
from steer_tools.figures.text_cards import Bar, Cards, text_cards
from steer_tools.session.session import Session, current_session
from steer_tools.tools import compare_generations


def size_of_png(content: bytes) -> tuple[int, int]:
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def run(patch: pytest.MonkeyPatch, *words: str) -> tuple[dict[str, Any], str]:
    """Run the demo without a network; return what it found out, and what people saw."""
    found: list[Findings] = []
    markdown = report.markdown
    patch.setattr(socket.socket, "connect", _no_network)
    patch.setattr(report, "markdown", lambda findings: found.append(findings) or markdown(findings))
    ended = CliRunner().invoke(app, ["demo", *words], env={"COLUMNS": "100"})
    assert ended.exit_code == 0, ended.stderr
    folder = Path(words[words.index("--workspace") + 1]) / "demo"
    document = report.document(found[0], folder / "report.md", folder / report.PICTURE)
    return json.loads(json.dumps(document)), ended.stdout


@pytest.fixture(scope="module")
def on_the_bundled_model(workspace: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The demo of a machine that has no SmolLM2, run once."""
    session = current_session()
    before = session.workspace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_models, "_SMOLLM2_PACKAGE", "no_such_package_here")
        yield run(patch, "--workspace", str(workspace))
    session.detach()
    session.workspace = before


Ran = tuple[dict[str, Any], str]


def test_without_smollm2_it_says_so_in_a_line_and_runs_on_the_bundled_model(on_the_bundled_model: Ran) -> None:
    findings, told = on_the_bundled_model

    assert "SmolLM2, a real model, is not installed" in told
    assert findings["model"]["name"] == "bundled"
    assert len(findings["vectors"]) == 3
    for vector in findings["vectors"]:
        low, unsteered, high = (dose["scores"][vector["name"]] for dose in vector["doses"])
        assert low <= -0.7
        assert abs(unsteered) <= 0.6
        assert high >= 0.7


def test_a_vector_that_the_demo_left_does_again_what_the_demo_says(
    on_the_bundled_model: Ran, empty_session: Session
) -> None:
    vector = on_the_bundled_model[0]["vectors"][0]
    empty_session.load("bundled")
    prompts = held_out_prompts(vector["name"], len(vector["prompts"]))

    compared = compare_generations(
        prompts, vector["vector_path"], strengths=[-0.5], unit="contrast", max_new_tokens=128
    )

    texts = compared["variants"][0]["texts"]
    assert texts == vector["doses"][0]["texts"]
    scored = [score(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    claimed = vector["doses"][0]["scores"]
    assert {trait: fmean(one[trait] for one in scored) for trait in TRAITS} == pytest.approx(claimed, abs=1e-3)


@pytest.mark.slow
def test_smollm2_writes_as_the_vector_says_more_than_under_random_directions(
    smollm2: Any, empty_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings, told = run(monkeypatch, "--workspace", str(tmp_path))

    assert findings["model"]["name"] == "smollm2"
    assert [vector["name"] for vector in findings["vectors"]] == ["formality", "sentiment", "refusal"]
    for vector in findings["vectors"]:
        against, unsteered, towards = vector["doses"]
        assert (vector["layer"], unsteered["strength"], unsteered["interval"]) == (15, 0.0, None)
        # Each interval is clear of 0 on its own side, and each mean of every random direction.
        assert against["interval"][1] < 0 < towards["interval"][0]
        assert against["scores"][vector["name"]] < min(vector["controls"])
        assert towards["scores"][vector["name"]] > max(vector["controls"])
        assert against["scores"] != towards["scores"]
        for texts in zip(against["texts"], unsteered["texts"], towards["texts"], strict=True):
            assert len(set(texts)) == 3
        assert max(against["metrics"]["perplexity"], towards["metrics"]["perplexity"]) < 8
    casual, _, formal = (dose["texts"][0] for dose in findings["vectors"][0]["doses"])
    assert "'s" in casual
    assert "!" in casual
    assert "'s" not in formal.replace("Earth's", "")
    assert "sorry" in findings["vectors"][2]["doses"][-1]["texts"][0]
    for own in findings["calibration"]:
        assert own["doses"][0]["scores"][own["name"]] < -0.7 < 0.7 < own["doses"][-1]["scores"][own["name"]]
    assert findings["proof"]["passed"]
    assert "calibration" in told
    assert told.index("Why is the sky blue?") < told.index("calibration") < told.index("Proof, on SmolLM2")


def test_the_proof_is_passed_and_nothing_stays_applied(on_the_bundled_model: Ran) -> None:
    findings, _ = on_the_bundled_model

    assert findings["proof"]["passed"]
    assert findings["proof"]["warnings"] == []


def test_the_report_shows_the_picture_the_scores_and_the_texts(on_the_bundled_model: Ran, workspace: Path) -> None:
    findings, _ = on_the_bundled_model
    written = Path(findings["report_path"]).read_text(encoding="utf-8")
    picture = Path(findings["picture_path"])

    assert picture.parent == Path(findings["report_path"]).parent == workspace / "demo"
    assert f"![texts and effects]({picture.name})" in written
    drawn = "".join(ElementTree.fromstring(picture.read_text(encoding="utf-8")).itertext())
    for vector in findings["vectors"]:
        assert f"## {vector['name']}" in written
        assert f"{vector['name']}, layer" in drawn
        for dose in vector["doses"]:
            assert f" {dose['scores'][vector['name']]:+.3g}" in written.replace("| ", " ")
    assert written.count("| yes |") == len(findings["proof"]["checks"])


def test_people_see_the_scores_the_texts_the_proof_and_where_the_report_is(on_the_bundled_model: Ran) -> None:
    findings, told = on_the_bundled_model

    for vector in findings["vectors"]:
        assert f"{vector['doses'][-1]['scores'][vector['name']]:+.3g}" in told
    assert "laws hold" in told
    assert "report.md" in told.replace("\n", "")
    assert max(map(len, told.splitlines())) <= 100


def test_any_other_model_is_judged_by_the_log_odds_of_held_out_completions(
    tmp_path: Path, empty_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=260, initializer_range=0.25, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    _tokenizer_of_english().save_pretrained(folder)

    findings, _ = run(monkeypatch, "--model", str(folder), "--workspace", str(tmp_path / "w"))

    assert findings["proof"]["passed"]
    for vector in findings["vectors"]:
        assert (vector["measure"], len(vector["controls"])) == ("effect", 5)
        assert len({dose["scores"][vector["name"]] for dose in vector["doses"]}) == 3
        assert vector["doses"][1]["scores"][vector["name"]] == 0
        assert all(dose["grammatical"] is None for dose in vector["doses"])


def test_cards_show_every_text_with_what_is_new_and_survive_what_models_write() -> None:
    texts = [("-1", "one \x00 <two>\u2028 three"), ("unsteered", "one two"), ("+1", "word " * 400)]
    bars = [Bar("-1", -2.0, (-3.0, -1.0)), Bar("+1", 0.0, None)]
    panel = Cards("a & b", "<prompt>", texts, "nats", bars, [0.1, -0.2])

    picture = text_cards([panel, panel], title="<title>")

    root = ElementTree.fromstring(picture)
    drawn = ["".join(part.itertext()) for part in root.iter("{http://www.w3.org/2000/svg}text")]
    assert drawn.count("one two") == 2
    assert any(r"\x00 <two>" in line for line in drawn)
    assert "-1: -2 (-3 to -1)" in drawn
    assert picture.count("<circle") == 2 * (2 + 2)
    assert picture != text_cards([panel], title="<title>")


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
