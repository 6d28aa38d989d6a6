"""A training on several devices: one process each, side by side, through Ray Train.

    learner ── Ray Train ──┬── worker 0    its slice of every batch; writes the state
                           └── worker 1    another slice

Each worker builds a `TrlLearner` of its own and trains as that does; torch averages the gradients (gloo on CPUs, NCCL
on GPUs). A batch holds the rows that it holds for one worker, in the same order, cut into equal slices, so it is the
same training up to the order in which floating point adds. `per_device_train_batch_size` is of the whole batch.

The learner's own process reads log-probabilities, on the CPU: the devices are the workers'.

A last batch that cannot be cut evenly goes to every worker, which comes to the same; if that is more than a slice is
otherwise, rows are left out of it instead, fewer than there are workers, and counted (`uneven_rows`).

Not covered: models that do not fit on one device (FSDP, DeepSpeed); another order than the job's.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from torch.utils.data import DataLoader

from ..evals.records import State
from .roles import Job, RoleDied, RoleSpec, Trained
from .trl_learner import TrlLearner
from .trl_rows import LENGTHS, TokenRows

PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN")
"""What this process was told of the hub, a worker is told."""


CORE = 0.01
"""Of each worker. Roles take no cores, as there may be more of them; Ray Train wants something to count."""


class RayLearner(TrlLearner):
    """Implements `Learner` with `spec.workers` processes. It lives in a Ray actor."""

    worker: type["Worker"]

    def __init__(self, spec: RoleSpec) -> None:
        self.whole = spec
        super().__init__(replace(spec, gpus=0.0))

    def train(self, job: Job) -> Trained:
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        self._trained = ("", None)
        spec = self.whole
        told = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        notes = spec.root / "states" / f".{job.name}.train"  # Ray Train's own; all nodes must see it
        trainer = TorchTrainer(
            _work,
            train_loop_config={"kind": self.worker, "spec": spec, "job": job},
            scaling_config=ScalingConfig(
                num_workers=spec.workers, use_gpu=bool(spec.gpus), resources_per_worker={"CPU": CORE, "GPU": spec.gpus}
            ),
            torch_config=TorchConfig(backend="nccl" if spec.gpus else "gloo", timeout_s=int(spec.deadline)),
            run_config=RunConfig(
                name="run",
                storage_path=str(notes),
                failure_config=FailureConfig(max_failures=0),
                worker_runtime_env={"env_vars": {**told, "OMP_NUM_THREADS": str(spec.threads)}},
            ),
        )
        try:
            trained: Any = trainer.fit().return_value  # the first worker's
        except TrainingFailedError as e:
            # Where one dies the others find nobody to talk to: what a worker has against its job is said by that alone.
            raised = getattr(e, "worker_failures", {}).values()
            for why in raised:
                if not isinstance(why, RuntimeError) and not type(why).__module__.startswith("ray."):
                    raise why from None
            raise RoleDied(f"a training on {spec.workers} workers was lost: {e}") from None
        finally:
            shutil.rmtree(notes, ignore_errors=True)
        return cast(Trained, trained)


def _work(told: dict[str, Any]) -> Trained:
    trained: Trained = told["kind"](told["spec"]).train(told["job"])
    return trained


class Worker(TrlLearner):
    """In one of the processes: trains on its slice of every batch."""

    def __init__(self, spec: RoleSpec) -> None:
        super().__init__(spec)
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def train(self, job: Job) -> Trained:
        trained = super().train(job)
        slices: Slices = self.slices
        notes = {**trained.notes, "workers": self.world, "uneven_rows": slices.left_out}
        return replace(trained, tokens=trained.tokens - slices.repeated * (self.world - 1) * self.length, notes=notes)

    def trainer(self, job: Job, rows: TokenRows, args: dict[str, Any], model: Any) -> Any:
        batch = args["per_device_train_batch_size"]
        self.slices = Slices(len(rows), batch, self.rank, self.world, bool(args.get("dataloader_drop_last")))
        last = rows.dataset.select(self.slices.everybodys)
        self.length = sum(len(row[key]) for row in last for keys in LENGTHS[job.loss] for key in keys)
        args = {**args, "per_device_train_batch_size": batch // self.world, "ddp_find_unused_parameters": False}
        trainer = super().trainer(job, rows, args, model)
        trainer.get_train_dataloader = lambda: DataLoader(
            rows.dataset, batch_sampler=self.slices, collate_fn=trainer.data_collator
        )
        return trainer

    def _save(self, job: Job, model: Any) -> State:
        return super()._save(job, model) if self.rank == 0 else job.start


RayLearner.worker = Worker


class Slices:
    """The rows of each batch that are one worker's: batch after batch, in order.

    >>> [list(Slices(7, 4, rank, 2)) for rank in (0, 1)]
    [[[0, 1], [4]], [[2, 3], [5]]]
    >>> [list(Slices(5, 4, rank, 2)) for rank in (0, 1)]
    [[[0, 1], [4]], [[2, 3], [4]]]
    """

    def __init__(self, rows: int, batch: int, rank: int, world: int, drop_last: bool = False) -> None:
        """
        Args:
            batch: Rows in a whole one.
            drop_last: Leave out a batch that is not whole.

        Raises:
            ValueError: a batch cannot be cut into equal slices.
        """
        if batch % world:
            raise ValueError(f"a batch of {batch} rows cannot be cut into {world} equal slices.")
        begins, size = range(0, rows - batch + 1, batch), batch // world
        self.told = [[*range(at + rank * size, at + (rank + 1) * size)] for at in begins]
        self.everybodys: list[int] = []
        """Rows of a last batch that every worker has."""
        self.left_out = self.repeated = 0
        whole, last = rows - rows % batch, 0 if drop_last else rows % batch
        if last % world and (last < world or last <= size):
            self.everybodys = [*range(whole, rows)]
            self.told.append(self.everybodys)
        elif last:
            each, self.left_out = divmod(last, world)
            self.told.append([*range(whole + rank * each, whole + (rank + 1) * each)])

    def __iter__(self) -> Iterator[list[int]]:
        for some in self.told:
            self.repeated += some is self.everybodys
            yield some

    def __len__(self) -> int:
        return len(self.told)
