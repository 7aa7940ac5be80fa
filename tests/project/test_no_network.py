"""Nothing of the package opens a connection: only loading a model from the hub and a judge that the caller names do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.small_models import make_model, make_tokenizer

# An audit hook cannot be taken off, so it gets a process of its own. It sees what C code opens through Python, too.
WATCHED = """
import sys
opened = []
CALLS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind",
         "urllib.Request", "http.client.connect"}
sys.addaudithook(lambda event, args: opened.append((event, args)) if event in CALLS else None)
"""
USE = """
from steer_tools import (apply_steering_vector, check_steering, compare_generations, create_steering_vector, generate,
                         find_best_layer, load_model, save_edited_model, steering_status, remove_all_steering_vectors)
from steer_tools.cli.app import main
load_model(sys.argv[1])
create_steering_vector(["baba keke lili", "baba mora seti"], ["zuzu keke lili", "zuzu mora seti"], 1, "v")
apply_steering_vector("v", strength=0.1, positions="all")
generate(["keke"], max_new_tokens=2)
check_steering()
save_edited_model("baked")
remove_all_steering_vectors()
compare_generations(["keke"], "v", strengths=[0.1], max_new_tokens=2)
words = ["ba", "ke", "li", "mo"]
pairs = [(f"{a}{b} {c}{a} lili", f"{a}{b} {c}{a} zuzu") for a in words for b in words for c in words]
find_best_layer(pairs, layers=[1], strengths=[0.1])
steering_status()
main(["status", "--model", sys.argv[1]])
main(["models"])
import mcp_server.server
print("opened", opened)
"""
HUB = """
from steer_tools import SteeringError, load_model
try:
    load_model("nobody/nothing")
except SteeringError:
    print("opened", opened[:1])
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_model("llama").save_pretrained(tmp_path / "checkpoint")
    make_tokenizer().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def opened_by(code: str, folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED + code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.rpartition("opened ")[2].strip()


@pytest.mark.slow
def test_the_whole_job_on_a_model_of_this_machine_opens_no_connection(checkpoint: Path, tmp_path: Path) -> None:
    assert opened_by(USE, tmp_path, str(checkpoint)) == "[]"


@pytest.mark.slow
def test_a_model_of_the_hub_is_asked_for_there(tmp_path: Path) -> None:
    assert "huggingface.co" in opened_by(HUB, tmp_path)
