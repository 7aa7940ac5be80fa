"""What an experiment proved is proved again from its vector's file alone, and nothing else passes for it."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from steer_tools import (
    apply_steering_vector,
    load_model,
    load_vector,
    loaded_model,
    remove_all_steering_vectors,
    save_vector,
    steering_experiment,
    steering_status,
    verify_steering_vector,
)
from steer_tools.bundled_model.language import TRAITS
from steer_tools.cli import main
from steer_tools.core.vectors import certified, proof_of
from steer_tools.engines.fake import FakeEngine
from steer_tools.errors import ArgumentError, ForeignVectorError, SteeringError, UnverifiedVectorError
from steer_tools.evaluation.behaviors.behavior_json import behavior_document
from steer_tools.evaluation.behaviors.behavior_loading import read_behavior
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.experiments.certificates import data_digest
from steer_tools.prompts import ChatPrompt
from steer_tools.session.session import Session, current_session
from steer_tools.workspace import Workspace

# One cell, so that no more is written than is judged.
ONE_CELL: dict[str, Any] = {"layers": [1], "strengths": [0.1], "positions": "all", "controls": 9, "max_new_tokens": 64}


@pytest.fixture
def bundled(empty_session: Session) -> Session:
    load_model("bundled")
    return empty_session


def liking(*, pairs: int, items: int) -> str:
    """Return a trait of the bundled language as a file, in which every item is by itself."""
    document: dict[str, Any] = behavior_document(trait_behavior("sentiment", pairs=pairs, items=items))
    for part in ("pairs", "items"):
        document[part] = [{**item, "group": f"{part} {i}"} for i, item in enumerate(document[part])]
    return json.dumps({**document, "questions": document["questions"][:9]})


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of one experiment whose data are a file."""
    folder = tmp_path_factory.mktemp("proved")
    session = current_session()
    before, session.workspace = session.workspace, Workspace(folder)
    load_model("bundled")
    (folder / "liking.json").write_text(liking(pairs=40, items=12), encoding="utf-8")
    steering_experiment("liking.json", save_folder="found", **ONE_CELL)
    session.detach()
    session.workspace = before
    return folder


@pytest.fixture
def vector(bundled: Session, proved: Path) -> str:
    """The vector of the experiment, beside a copy of its data that a test may change."""
    for name in ("liking.json", "found/vector.safetensors"):
        bundled.workspace.write(name, (proved / name).read_bytes())
    return "found/vector.safetensors"


def test_verifying_finds_every_figure_and_every_text_again_and_applies_nothing(bundled: Session, vector: str) -> None:
    found = verify_steering_vector(vector)

    assert found["passed"]
    assert found["same_texts"]
    assert found["now"] == found["certified"]
    assert found["verdict"] == "works"
    assert found["warnings"] == found["differences"] == []
    assert (found["badge"] or "").startswith("verified: works, +")
    assert found["dataset"] == "liking.json"
    assert not bundled.registry.entries()


def test_the_certificate_is_the_experiments_result_and_its_cell_is_applied(
    bundled: Session, vector: str, proved: Path
) -> None:
    report = json.loads((proved / "found/report.json").read_text(encoding="utf-8"))
    proof = proof_of(load_vector(vector))
    assert proof is not None
    texts = proof.certificate.texts
    assert texts is not None
    assert texts.controls is not None

    applied = apply_steering_vector(vector)
    (entry,) = steering_status()["applied"]
    remove_all_steering_vectors()

    told = report["texts"]
    assert (proof.certificate.verdict, texts.effect, texts.own_effect) == (
        report["verdict"],
        told["effect"],
        told["own_effect"],
    )
    assert list(texts.interval or ()) == told["interval"]
    assert (texts.controls.count, texts.controls.reached) == (told["controls"]["count"], told["controls"]["reached"])
    assert proof.certificate.d_prime == report["detector"]["d_prime"]
    chosen = report["chosen"]
    assert (applied["layer"], applied["strength"]) == (chosen["layer"], chosen["strength"])
    assert (entry["badge"] or "").startswith("verified: works, +")
    assert "steer-tools verify" in (proved / "found/report.md").read_text(encoding="utf-8")


def test_what_the_certificate_says_otherwise_than_is_found_is_told(bundled: Session, vector: str) -> None:
    known = load_vector(vector)
    certificate = known.info.certificate
    assert certificate is not None
    assert certificate.texts is not None
    boasting = certificate.texts.model_copy(
        update={
            "effect": -0.5,
            "interval": (-0.6, -0.4),
            "failures": ("broken",),
            "controls": None,
            "digest": "another",
        }
    )
    claimed = certificate.model_copy(
        update={"texts": boasting, "verdict": "breaks the model", "d_prime": 3.0, "versions": {}, "asked": "another"}
    )
    save_vector(certified(known, claimed), bundled.workspace.root / "boasting.safetensors")

    found = verify_steering_vector("boasting")

    assert not found["passed"]
    assert not found["same_texts"]
    told = " ".join(found["differences"])
    for part in (
        "The effect was -0.500 (-0.600 to -0.400), and is +0.",
        "texts that are broken, and now nothing wrong",
        "Controls were needed in one",
        "Held-out answers were 3.00",
        "The verdict was 'breaks the model', and now texts prove that it works.",
    ):
        assert part in told
    assert len(found["differences"]) == 5
    assert len(found["warnings"]) == 2
    assert "other tokens" in found["warnings"][0]


def test_an_altered_vector_is_refused(bundled: Session, vector: str) -> None:
    known = load_vector(vector)
    layer = known.layers[0]
    nudged = replace(known, directions={**known.directions, layer: known[layer] * 1.001})
    save_vector(nudged, bundled.workspace.root / "nudged.safetensors")

    with pytest.raises(UnverifiedVectorError, match=r"altered, its direction at layer 1 .* Get the file again"):
        verify_steering_vector("nudged")


def test_a_vector_without_a_certificate_is_refused(bundled: Session, vector: str) -> None:
    save_vector(2.0 * load_vector(vector), bundled.workspace.root / "twice.safetensors")

    with pytest.raises(UnverifiedVectorError, match=r"has no certificate.*steering_experiment"):
        verify_steering_vector("twice")


@pytest.mark.parametrize("part", ["pairs", "items"])
def test_edited_data_are_refused_and_the_unchanged_file_may_lie_elsewhere(
    bundled: Session, vector: str, part: str
) -> None:
    unchanged = bundled.workspace.read("liking.json")
    document = json.loads(unchanged)
    document[part][0]["positive"] += " Indeed."
    bundled.workspace.write("liking.json", json.dumps(document).encode())
    bundled.workspace.write("kept/liking.json", unchanged)

    with pytest.raises(ArgumentError, match=r"'liking.json' are not those of the certificate.*dataset"):
        verify_steering_vector(vector)
    with pytest.raises(ArgumentError, match="'sentiment' are not those of the certificate"):
        verify_steering_vector(vector, "sentiment")


def test_missing_data_are_told(bundled: Session, vector: str) -> None:
    (bundled.workspace.root / "liking.json").unlink()

    with pytest.raises(SteeringError, match=r"liking\.json"):
        verify_steering_vector(vector)


def test_another_model_is_refused(bundled: Session, vector: str, tmp_path: Path) -> None:
    model, tokenizer = loaded_model()
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] += 1.0
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    load_model(str(tmp_path / "tuned"))

    with pytest.raises(ForeignVectorError, match=r"another model, and nothing is proved on .*tuned.*fingerprint"):
        verify_steering_vector(vector)
    bundled.attach_engine(FakeEngine())
    with pytest.raises(ForeignVectorError):
        verify_steering_vector(vector)


def test_an_experiment_that_texts_could_not_decide_is_verified_as_that(bundled: Session) -> None:
    bundled.workspace.write("few.json", liking(pairs=6, items=12).encode())
    made = steering_experiment("few.json", **ONE_CELL)

    found = verify_steering_vector(made["vector_path"])

    assert made["verdict"] == found["verdict"] == "cannot tell"
    assert made["badge"] == found["badge"] == "not verified: cannot tell, texts could not decide"
    assert found["without_texts"] == made["reasons"][0]
    assert (found["passed"], found["certified"], found["now"], found["detector_d_prime"]) == (True, None, None, None)


def test_the_command_tells_whether_the_certificate_holds_by_its_exit_code(
    bundled: Session, vector: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = load_vector(vector)
    certificate = known.info.certificate
    assert certificate is not None
    few = liking(pairs=6, items=12)
    bundled.workspace.write("few.json", few.encode())
    digest = data_digest(read_behavior(BytesIO(few.encode()), "few.json"))
    undecided = {"dataset": "few.json", "data": digest, "verdict": "cannot tell", "d_prime": None}
    for name, texts in (("holds", None), ("boasts", certificate.texts)):
        claimed = certificate.model_copy(update={**undecided, "texts": texts})
        save_vector(certified(known, claimed), bundled.workspace.root / f"{name}.safetensors")
    save_vector(2.0 * known, bundled.workspace.root / "twice.safetensors")

    codes = {
        name: main(["verify", name, "--workspace", str(bundled.workspace.root)])
        for name in ("holds", "boasts", "twice")
    }
    told = capsys.readouterr()

    assert codes == {"holds": 0, "boasts": 3, "twice": 1}
    assert "The certificate: agrees" in told.out
    assert "The certificate: differs" in told.out
    assert "Then texts could decide, and now it is the other way" in " ".join(told.out.split())
    assert "twice.safetensors has no certificate" in told.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trait", "direction", "seed"),
    [
        *((trait, "more", 1) for trait in TRAITS),
        *((trait, "less", 2) for trait in ("sentiment", "refusal", "formality")),
    ],
)
def test_every_experiment_on_the_bundled_model_is_verified(
    bundled: Session, trait: str, direction: Any, seed: int
) -> None:
    made = steering_experiment(trait, direction=direction, quick=True, seed=seed)

    found = verify_steering_vector(made["vector_path"])

    assert found["differences"] == []
    assert found["same_texts"]
    assert found["certified"] == found["now"]
    assert found["verdict"] == made["verdict"]
    assert (found["badge"] or "").startswith("verified: " if made["verdict"] == "works" else "not verified: ")


@pytest.mark.slow
def test_lists_of_ones_own_are_verified_by_the_file_that_the_experiment_wrote(bundled: Session) -> None:
    sides: list[list[list[dict[str, str]]]] = [[], []]
    for pair in trait_behavior("confidence", pairs=40).pairs:
        assert isinstance(pair.prompt, ChatPrompt)
        for side, text in zip(sides, (pair.positive, pair.negative), strict=True):
            question, answer = pair.prompt.messages[0][1], {"role": "assistant", "content": text}
            side.append([{"role": "user", "content": question}, answer])
    made = steering_experiment("mine", *sides, quick=True)

    assert verify_steering_vector(made["vector_path"])["differences"] == []
