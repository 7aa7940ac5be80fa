"""The worked studies say what was measured and fail where it is not so; the reproductions run, on a model that fits."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers.oracle import logits_by_hand, outputs_by_hand
from helpers.places import ROOT
from helpers.small_models import HARD
from steer_tools import load_vector

WORKSPACE = ROOT / "workspace"
STUDIES, REPRODUCTIONS = WORKSPACE / "studies", WORKSPACE / "reproductions"
BEHAVIORS = [
    "sycophancy",
    "refusal",
    "hallucination",
    "corrigible-neutral-HHH",
    "coordinate-other-ais",
    "myopic-reward",
    "survival-instinct",
]
# Jinja takes away a line's end that is written behind a tag.
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ '' if loop.last and not add_generation_prompt else '\n' }}"
    "{% endfor %}{{ '[assistant] ' if add_generation_prompt else '' }}"
)
# What each study says of the files it leaves, and of the claims that a random vector cannot keep.
LEAVES = {
    "refusal": ["direction.safetensors", "heat_map.png", "without/model.safetensors"],
    "sycophancy": ["patient/undo.safetensors", "vector.safetensors", "falsehood.safetensors", "doses.png", "report.md"],
    "what_does_this_vector_do": ["unknown.safetensors", "projections.png"],
}
FOLDERS = {"what_does_this_vector_do": "unknown"}
BROKEN = {
    "refusal": ["added, it makes the model refuse what it does not refuse", "projected out, the model no longer"],
    "sycophancy": ["the experiment on held-out pairs says that disagreement can be steered"],
    "what_does_this_vector_do": [
        "it is more like one trait than any random direction",
        "it is the trait that was hidden",
    ],
}


pytestmark = pytest.mark.usefixtures("empty_session")


@dataclass(frozen=True)
class Ended:
    """How a script ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run(script: Path, *arguments: str | Path) -> Ended:
    """Run a script in this process, which has imported already what takes seconds, as Python runs it by its path."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        patch.syspath_prepend(str(script.parent))
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        finally:
            sys.modules.pop("study", None)
    return Ended(code, stdout.getvalue(), stderr.getvalue())


def claims(said: str) -> dict[str, str]:
    """Each claim with whether it holds or FAILS."""
    lines = said.partition("\nClaims\n")[2].splitlines()
    return {claim: word for word, claim in (line.strip().split("  ", 1) for line in lines)}


@pytest.mark.slow
@pytest.mark.parametrize("study", LEAVES)
def test_each_claim_of_a_study_holds_and_its_files_are_there(study: str, tmp_path: Path) -> None:
    ended = run(STUDIES / f"{study}.py", "--workspace", tmp_path)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    held = claims(ended.stdout)
    assert len(held) >= 6
    assert set(held.values()) == {"holds"}
    for name in LEAVES[study]:
        assert (tmp_path / "results" / FOLDERS.get(study, study) / name).is_file(), name


@pytest.mark.slow
@pytest.mark.parametrize("study", LEAVES)
def test_a_study_of_a_random_vector_fails_by_its_claims(study: str, tmp_path: Path) -> None:
    ended = run(STUDIES / f"{study}.py", "--workspace", tmp_path, "--control")

    assert ended.returncode == 1, ended.stdout + ended.stderr
    failed = [claim for claim, word in claims(ended.stdout).items() if word == "FAILS"]
    for claim in BROKEN[study]:
        assert any(own.startswith(claim) for own in failed), (claim, failed)


# Reproductions: the code path, on a model that fits; the papers' models are not run here


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A random Llama with a byte-level tokenizer, which knows every text, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({"</s>": 0, **{letter: i + 1 for i, letter in enumerate(alphabet)}}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=260, initializer_range=0.25, **shape)).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def questions(count: int, liked: str = "tea") -> list[dict[str, str]]:
    letters = [("(A)", "(B)"), ("(B)", "(A)")]
    return [
        {
            "question": f"I like {liked} {i}. Do you?\n (A) Yes\n (B) No",
            "answer_matching_behavior": letters[i % 3 == 0][0],
            "answer_not_matching_behavior": letters[i % 3 == 0][1],
        }
        for i in range(count)
    ]


def test_the_reproduction_of_caa_prints_what_is_computed_by_hand(tiny: Path, tmp_path: Path) -> None:
    # Numbers of questions of their own, of which one in three is matched by (B), make vectors of different lengths.
    made_of = {behavior: questions(3 + i, behavior) for i, behavior in enumerate(BEHAVIORS)}
    for behavior, records in made_of.items():
        write_json(tmp_path / "data" / "generate" / behavior / "generate_dataset.json", records)
    asked = questions(6)
    write_json(tmp_path / "data" / "test" / "sycophancy" / "test_dataset_ab.json", asked)
    options = ["--data", tmp_path / "data", "--model", tiny, "--layer", "1", "--multipliers", "-3", "3"]

    saved, found = [], []
    for number, own_options in enumerate([[], ["--all-behaviors", "--device-map", "cpu"]]):
        folder = tmp_path / str(number)
        ended = run(REPRODUCTIONS / "caa_llama2.py", *options, "--workspace", folder, *own_options)
        assert ended.returncode == 0, ended.stderr
        saved.append(load_vector(folder / "results" / "caa" / "sycophancy_scaled.safetensors").directions[1])
        figures = re.findall(r"multiplier ([-+.\d]+): probability of the matching answer ([.\d]+)", ended.stdout)
        found.append({float(multiplier): float(value) for multiplier, value in figures})

    model = LlamaForCausalLM.from_pretrained(tiny)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny)
    means = {behavior: caa_by_hand(model, tokenizer, records) for behavior, records in made_of.items()}
    own = means["sycophancy"]
    scale = float(torch.stack([mean.norm() for mean in means.values()]).mean() / own.norm())
    assert abs(scale - 1) > 0.1
    for vector, printed, expected in zip(saved, found, (own, scale * own), strict=True):
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)
        by_hand = {m: matching_by_hand(model, tokenizer, asked, m * expected) for m in (-3.0, 0.0, 3.0)}
        # As they are printed, with three decimals.
        assert printed == pytest.approx(by_hand, abs=6e-4)
    assert min(abs(found[1][m] - found[1][0.0]) for m in (-3.0, 3.0)) > 0.01


def caa_by_hand(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, records: list[dict[str, str]]) -> Tensor:
    """The mean difference at the letters."""
    differences: list[Tensor] = []
    for own in records:
        shown = [f"[user] {own['question']}\n[assistant] {own[key][:2]}" for key in list(own)[1:]]
        sides = [outputs_by_hand(model, tokenizer(text)["input_ids"])[1][-1] for text in shown]
        differences.append(sides[0] - sides[1])
    return torch.stack(differences).mean(0)


def matching_by_hand(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, records: list[dict[str, str]], added: Tensor
) -> float:
    """The mean probability of the matching letter, with `added` at every token after the user's message."""
    found: list[float] = []
    for own in records:
        asks, answers = (tokenizer(text)["input_ids"] for text in (f"[user] {own['question']}", "\n[assistant] ("))
        logits = logits_by_hand(model, asks + answers, len(asks), {1: added}, lambda place, before, _: place >= before)
        letters = [tokenizer.convert_tokens_to_ids(own[key][1]) for key in list(own)[1:]]
        found.append(float(logits[-1, letters].softmax(-1)[0]))
    return sum(found) / len(found)


@HARD
def test_the_reproduction_of_the_refusal_direction_runs_to_its_end(tiny: Path, tmp_path: Path) -> None:
    for split, (harm, request) in {"train": ("rob", "cook"), "test": ("burn", "bake")}.items():
        for kind, verb in (("harmful", harm), ("harmless", request)):
            records = [{"instruction": f"Tell me how to {verb} the {i}th one."} for i in range(6)]
            write_json(tmp_path / "data" / "splits" / f"{kind}_{split}.json", records)
    sizes = ["--layer", "1", "--position", "-13", "--train", "6", "--test", "4", "--max-new-tokens", "8"]

    ended = run(
        REPRODUCTIONS / "refusal_direction_llama3.py",
        *("--data", tmp_path / "data", "--model", tiny, "--workspace", tmp_path, *sizes),
    )

    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"of (\d) refused", ended.stdout) == ["4"] * 4
    model = LlamaForCausalLM.from_pretrained(tiny)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny)
    means: list[torch.Tensor] = []
    for verb in ("rob", "cook"):
        texts = [f"[user] Tell me how to {verb} the {i}th one.\n[assistant] " for i in range(6)]
        read = [outputs_by_hand(model, tokenizer(text).input_ids)[1][-13] for text in texts]
        means.append(torch.stack(read).mean(0))
    saved = load_vector(tmp_path / "results" / "refusal_direction" / "direction.safetensors").directions[1]
    torch.testing.assert_close(saved, means[0] - means[1], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_study_starts_as_a_process_of_its_own() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(STUDIES / "refusal.py"), "--help"]

    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert ended.returncode == 0, ended.stderr
    assert "--control" in ended.stdout


@pytest.mark.parametrize("script", ["caa_llama2.py", "refusal_direction_llama3.py"])
def test_a_reproduction_says_that_it_was_not_run_and_what_it_needs(script: str) -> None:
    ended = run(REPRODUCTIONS / script, "--help")

    assert ended.returncode == 0
    said = " ".join(ended.stdout.split())
    # Without a device map the weights would stay on the CPU.
    for words in ("NOT RUN HERE", "GPU", "licence", "arXiv", "meta-llama/", "where the weights go (default: auto)"):
        assert words in said
