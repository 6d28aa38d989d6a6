"""Learners that note the loss of each step in their run folder, or die; for an actor, and the workers of Ray Train."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tutorloop.agents.ray_learner import RayLearner, Worker
from tutorloop.agents.roles import Job
from tutorloop.agents.trl_learner import TrlLearner


class Notes(TrainerCallback):  # type: ignore[misc]
    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.file.write_text(json.dumps([entry["loss"] for entry in state.log_history if "loss" in entry]))


class One(TrlLearner):
    def trainer(self, job: Job, rows: Any, args: Any, model: Any) -> Any:
        trainer = super().trainer(job, rows, args, model)
        trainer.add_callback(Notes(self.base.spec.root / "one.json"))
        return trainer


class Each(Worker):
    def trainer(self, job: Job, rows: Any, args: Any, model: Any) -> Any:
        trainer = super().trainer(job, rows, args, model)
        trainer.add_callback(Notes(self.base.spec.root / f"worker-{self.rank}.json"))
        return trainer


class Several(RayLearner):
    worker = Each


class Dies(Worker):
    """The second one, when it is about to train."""

    def trainer(self, job: Job, rows: Any, args: Any, model: Any) -> Any:
        if self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().trainer(job, rows, args, model)


class Lost(RayLearner):
    worker = Dies
