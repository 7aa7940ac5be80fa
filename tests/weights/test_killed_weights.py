"""A bake and an undo that are cut off at any step, or killed at any moment, leave one of both whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from helpers.crashes import Killing, cut, seconds
from helpers.edited_checkpoints import SHAPES, contents, edited_checkpoint
from helpers.kills import left_over
from helpers.small_models import make_model, make_tokenizer
from steer_tools import undo_edited_model
from steer_tools.session.session import Session
from steer_tools.weights.bakeable_plans import Baking, ablation_everywhere, writing_sites
from steer_tools.weights.saved_model import save_edited
from steer_tools.workspace import Workspace

KILLS = int(os.environ.get("KILLS", "20"))


def settled(folder: Path) -> dict[str, bytes]:
    """Return what lies there once a process has started that saves beside it."""
    with Workspace(folder.parent).settled(folder):
        return contents(folder)


def cut_at_each(stride: int, name: str, *, sharded: bool, root: Path) -> None:
    undone = edited_checkpoint(root / "kept", name, sharded=sharded)
    edited, folder = contents(root / "kept"), root / "w" / "baked"
    left: list[bool] = []
    shutil.copytree(root / "kept", folder)

    while cut(len(left) * stride + 1, undo_edited_model, str(folder)):
        there = settled(folder)
        assert there in (edited, undone)
        left.append(there == undone)
        if there == edited:
            undo_edited_model(folder)
        assert contents(folder) == undone
        assert left_over(folder.parent) == []
        shutil.rmtree(folder)
        shutil.copytree(root / "kept", folder)

    print(f"{name}: cut at {len(left)} steps, of which {sum(left)} left it undone")
    assert contents(folder) == undone
    assert len(left) * stride > 40
    assert left == sorted(left)
    assert {*left} == {False, True}


def test_an_undo_that_is_cut_at_a_step_leaves_one_of_both_and_is_run_again(tmp_path: Path) -> None:
    cut_at_each(6, "changed and added", sharded=True, root=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sharded"), SHAPES)
def test_an_undo_that_is_cut_at_any_step_leaves_one_of_both_and_is_run_again(
    name: str, sharded: bool, tmp_path: Path
) -> None:
    cut_at_each(1, name, sharded=sharded, root=tmp_path)


@pytest.mark.slow
def test_an_undo_that_is_killed_leaves_one_of_both_and_is_run_again(tmp_path: Path) -> None:
    undone = edited_checkpoint(tmp_path / "kept", "changed and added", sharded=True)
    edited, folder, done = contents(tmp_path / "kept"), tmp_path / "w" / "baked", 0
    shutil.copytree(tmp_path / "kept", folder)
    killing = Killing(0, seconds(undo_edited_model, str(folder)))
    shutil.rmtree(folder)

    for _ in range(KILLS):
        shutil.copytree(tmp_path / "kept", folder)
        killing.kill(undo_edited_model, str(folder))
        there = settled(folder)
        assert there in (edited, undone)
        done += there == undone
        if there == edited:
            undo_edited_model(folder)
        assert contents(folder) == undone
        assert left_over(folder.parent) == []
        shutil.rmtree(folder)

    print(f"undo: {KILLS} kills, {killing.at_work} of them at work, {done} left it undone")
    assert killing.at_work > KILLS / 4


def bake(root: Path, family: str) -> None:
    """Bake an ablation of a tiny model."""
    session = Session(Workspace(root))
    session.attach(make_model(family), make_tokenizer(), "tiny")
    engine = session.engine
    sites = writing_sites(engine.find_writers())  # type: ignore[attr-defined]  # a facet of this engine
    direction = engine.unembedding().matrix[7].float()
    save_edited(session, "baked", Baking(ablation_everywhere(direction, sites), "a test"))


@pytest.mark.slow
def test_a_bake_that_is_killed_leaves_the_old_or_the_new_checkpoint_whole(tmp_path: Path) -> None:
    whole = []
    for family in ("llama", "gpt2"):
        bake(tmp_path / family, family)
        whole.append(contents(tmp_path / family / "baked"))
    root, replaced = tmp_path / "w", 0
    shutil.copytree(tmp_path / "llama" / "baked", root / "baked")
    killing = Killing(1, seconds(bake, root, "llama"))

    for index in range(KILLS):
        new = index % 2
        before = contents(root / "baked")
        killing.kill(bake, root, ("llama", "gpt2")[new])
        there = settled(root / "baked")
        assert there in (before, whole[new])
        replaced += there != before
        assert left_over(root) == []

    print(f"bake: {KILLS} kills, {killing.at_work} of them at work, {replaced} left the new one")
    assert killing.at_work > KILLS / 4
