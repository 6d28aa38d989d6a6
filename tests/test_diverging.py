"""A DPO whose numbers run away, on the shipped student: it ends the run by name, and nobody is served what it left.

SFT and single trainings: `test_bad_input.py`, `test_trl_learner.py`.
"""

import os
from pathlib import Path

import pytest
import yaml

from tutorloop.loops.journal import read_status
from tutorloop.tests.test_cli import Shell

WILD = "update.dpo.learning_rate=1e30"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """One real round with four pairs, on the fewest rows that leave so many."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    told = {
        "rounds": 1,
        "placement": "local",
        "course": {"practice": 100, "quiz": 20, "exam": 10, "twins": 0, "retention": 0},
        "schedule": {"rows": 64},
    }
    (tmp_path / "real.yaml").write_text(yaml.dump(told))
    return Shell(tmp_path)


def served(root: Path) -> list[str]:
    """Tables of what a trained state has answered, and steps that let it answer."""
    return [*map(str, root.glob("rows/sheets/*/*-r0001-*")), *map(str, root.glob("steps/1/publish*"))]


def test_a_dpo_that_diverges_ends_the_run_by_name_and_publishes_nothing(shell: Shell) -> None:
    args = ["run", "real.yaml", "-q", WILD, "update.dpo.per_device_train_batch_size=1"]
    root = shell.folder / "runs" / "real"
    for _ in range(2):  # what came before is not done again, and the same training comes to the same
        done = shell(*args)
        assert done.code == 2 and done.err.count("\n") == 1, done.err
        assert "the training of student-r0001-2-dpo diverged" in done.err
        assert "Nothing was published. Lower `update.dpo.learning_rate` (1e+30)" in done.err
        (kept,) = (root / "states").iterdir()
        assert kept.name.startswith("student-r0001-1-sft-"), "the SFT before it was sound"
        assert (root / "steps/1/train-1-sft.json").exists() and not (root / "steps/1/train-2-dpo.json").exists()
        assert read_status(root)[0] == "failed" and served(root) == []


def test_a_dpo_of_one_step_whose_loss_cannot_show_it_is_not_served_either(shell: Shell) -> None:
    """The loss is that before the step; the weights after it are enormous, and the answers no numbers."""
    done = shell("run", "real.yaml", "-q", WILD)
    root = shell.folder / "runs" / "real"
    assert done.code == 2 and done.err.count("\n") == 1
    assert "the training of student-r0001-2-dpo diverged" in done.err and "after 1 steps" in done.err
    assert "answers that were read afterwards it gives no finite log-probability. Nothing was published." in done.err
    assert not (root / "steps/1/train-2-dpo.json").exists()
    assert read_status(root)[0] == "failed" and served(root) == []
