"""A training on several workers is the training of one, up to the order in which floating point adds.

Ray Train on two CPU processes with gloo, the tiny student; half a minute for each training, most of it imports.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tutorloop.agents import placement
from tutorloop.agents.devices import devices
from tutorloop.agents.hosts import InProcess
from tutorloop.agents.placement import Actor
from tutorloop.agents.ray_learner import Slices
from tutorloop.agents.roles import Diverged, Job, RoleDied, RoleSpec
from tutorloop.evals.records import State
from tutorloop.loops.config import ConfigError
from tutorloop.loops.launch import launch, prepare, role_specs
from tutorloop.policies.rounds import Proof
from tutorloop.tests.drivers.trainers import Lost, One, Several
from tutorloop.tests.policies_for_tests import small

CLOSE = 1e-5
"""Relative, of losses, and absolute, of an adapter's tensors, whose largest entries are near 0.3. A float32 sum in
another order is off by some 1e-7 of it, and Adam divides a gradient by its own size, so that some steps later a tensor
is off by up to a thousandth of a step (the learning rate, 1e-3). What goes wrong in fact is a thousand times larger."""


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    placement.start(1)  # fewer cores than workers
    yield
    placement.stop()


def tensors(root: Path, state: State) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(root / state.weights / "adapter_model.safetensors"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "weighted", "rows_", "settings"),
    [
        ("sft", False, 37, {}),  # the last batch, of 5, is everybody's
        ("sft", True, 48, {"gradient_accumulation_steps": 2, "num_train_epochs": 1}),
        ("dpo", False, 46, {"num_train_epochs": 2}),
    ],
)
def test_two_workers_train_what_one_does_with_the_same_batches(
    loss: Any,
    weighted: bool,
    rows_: int,
    settings: dict[str, Any],
    ray: None,
    spec: Callable[..., RoleSpec],
    lessons: Callable[..., Any],
    rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    here = InProcess(spec("learner", root=tmp_path / "one"), factory=One)
    there = Actor(spec("learner", root=tmp_path / "two", workers=2), factory=Several)
    for folder in ("one", "two", "rows"):
        (tmp_path / folder).mkdir(exist_ok=True)
    base = here.call("hello").base
    assert there.call("hello").base == base
    examples = [replace(e, weight=0.5 if weighted and i % 3 else 1.0) for i, e in enumerate(lessons(rows_))]
    job = Job(
        loss=loss,
        start=base,
        reference=base if loss == "dpo" else None,
        examples=rows(tmp_path / "rows", examples),
        name=f"student-r0001-{loss}",
        settings={"per_device_train_batch_size": 16, **settings},
    )
    one, two = here.call("train", job), there.call("train", job)
    curves = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("*/*.json"))]
    assert len(curves) == 3 and len(curves[0]) == one.steps == two.steps > 1
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=CLOSE)
    assert curves[0][-1] < curves[0][0]
    assert two.tokens == one.tokens and two.notes["workers"] == 2 and two.notes["uneven_rows"] == 0
    a, b = tensors(tmp_path / "one", one.state), tensors(tmp_path / "two", two.state)
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < CLOSE
    # Written once, whole, and nothing beside it; and the learner's own process reads it.
    assert [p.name for p in (tmp_path / "two/states").iterdir()] == [two.state.name]
    there.call("read", two.state, ())
    there.close()


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_worker_raises_is_what_the_learner_raises_and_a_dead_worker_is_a_dead_learner(
    ray: None, spec: Callable[..., RoleSpec], lessons: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    host = Actor(spec("learner", workers=2))
    base = host.call("hello").base
    job = Job(loss="sft", start=base, reference=None, examples=rows(tmp_path, lessons()), name="student-r0001-sft")
    with pytest.raises(Diverged, match="the training of student-r0001-sft diverged"):
        host.call("train", replace(job, settings={"learning_rate": 1e30}))
    host.close()
    host = Actor(spec("learner", workers=2), factory=Lost)
    with pytest.raises(RoleDied, match="a training on 2 workers was lost"):
        host.call("train", job)
    host.close()


@pytest.mark.ray
@pytest.mark.slow
def test_what_two_workers_trained_is_proven_and_published_and_no_process_is_left(tmp_path: Path) -> None:
    told = {
        "rounds": 1,
        "method": "gold",
        "course": {"practice": 40, "quiz": 20, "exam": 10, "twins": 0, "retention": 0},
        "schedule": {"rows": 16},
        "placement": "shared",
        "learner": {"workers": 2},
    }
    assert launch(told, tmp_path / "run").status == "finished"
    proof = small.value(tmp_path / "run", "1/publish", Proof)
    assert proof.status == "published" and proof.effect > proof.noise
    states = sorted(p.name for p in (tmp_path / "run/states").iterdir())
    assert states[-1] == proof.state.name and [name[:17] for name in states] == [
        "student-r0001-1-s",
        "student-r0001-2-d",
    ]
    assert not [p for p in psutil.Process().children(recursive=True) if "ray" in p.name()]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("rows_", [1, 3, 4, 8, 13, 15, 16, 31])
def test_every_row_is_in_its_batch_and_in_equal_slices(rows_: int, world: int) -> None:
    slices = [Slices(rows_, 8, rank, world) for rank in range(world)]
    for first, *told in zip(range(0, rows_, 8), *slices, strict=True):
        batch = [*range(first, min(first + 8, rows_))]
        assert (len({len(rows) for rows in told}) == 1 and len(told[0]) <= 8 // world) or len(batch) < world
        if told[0] == batch:
            assert all(rows == batch for rows in told)
        else:
            joined = [row for rows in told for row in rows]
            assert joined == batch[: len(joined)] and len(batch) - len(joined) < world
    assert len({s.left_out for s in slices}) == 1 and slices[0].left_out < world
    assert [*Slices(rows_, 8, 0, world, drop_last=True)] == [*Slices(rows_ - rows_ % 8, 8, 0, world)]


# ---- what is said


def test_workers_have_the_devices_and_the_learner_none(tmp_path: Path) -> None:
    spec = RoleSpec(role="learner", engine="transformers", root=tmp_path, gpus=1, workers=4)
    assert spec.own_gpus == 0 and devices([spec]) == 4
    assert replace(spec, workers=1).own_gpus == 1


def test_workers_that_cannot_share_a_batch_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    told = small.experiment(tmp_path / "home", placement="separate", learner__workers=3)
    with pytest.raises(ConfigError, match=r"`learner.workers` is 3, and a batch of 32 rows .* cannot be cut"):
        launch(told, tmp_path / "run")
    told = small.experiment(tmp_path / "home", placement="local", learner__workers=2)
    with pytest.raises(ConfigError, match=r"`learner.workers` is 2, and with `placement: local` there is one process"):
        launch(told, tmp_path / "run")
    random = {"sft": {"train_sampling_strategy": "random"}}
    told = small.experiment(tmp_path / "home", placement="separate", learner__workers=2, update=random)
    with pytest.raises(ConfigError, match=r"`sft.train_sampling_strategy`: several workers train in the order"):
        launch(told, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_at_toy_scale_one_process_trains(tmp_path: Path) -> None:
    told = small.experiment(tmp_path / "home", placement="separate", learner__workers=2)
    assert role_specs(prepare({**told, "limit": 8}), tmp_path)["learner"].workers == 2  # it is the experiment's
