"""The command line, in processes of its own."""

from __future__ import annotations

import subprocess
import sys

import steer_tools


def steer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steer_tools.cli", *arguments], check=False, capture_output=True, text=True
    )


def test_the_version_is_told_without_loading_anything() -> None:
    done = steer("--version")

    assert (done.returncode, done.stdout) == (0, f"steer-tools {steer_tools.__version__}\n")


def test_serve_is_the_server_with_its_own_options() -> None:
    help_text, unusable = steer("serve", "--help"), steer("serve")

    assert help_text.returncode == 0
    assert "--workspace" in help_text.stdout
    assert unusable.returncode == 2
    assert "--model" in unusable.stderr
    assert unusable.stdout == ""


def test_an_unknown_command_is_refused_with_the_known_ones() -> None:
    done = steer("sing")

    assert done.returncode == 2
    assert "serve" in done.stderr
