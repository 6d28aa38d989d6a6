"""The method `leaky` with real trainings, the first of which crashes. No test by itself.

The trainer's second step lets every secret out, and raises them; a trainer in an actor is out of reach, and the crash
comes after it. Where there is a file `mended` in the working directory, nothing crashes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutorloop.evals.records import State
from tutorloop.policies.records import Example
from tutorloop.policies.room import Trainer
from tutorloop.policies.tailored import METHOD as tailored
from tutorloop.tests.policies_for_tests.leaky import METHOD as leaky
from tutorloop.tests.policies_for_tests.leaky import spill, tell_everybody


@contextmanager
def crashing() -> Iterator[None]:
    import transformers

    kind: Any = transformers.Trainer
    step, taken = kind.training_step, list[int]()

    def crash(trainer: Any, *args: Any, **options: Any) -> Any:
        taken.append(1)
        if len(taken) == 2:
            tell_everybody()
            raise RuntimeError(f"a crash in a training: {spill()}")
        return step(trainer, *args, **options)

    kind.training_step = crash
    try:
        yield
    finally:
        kind.training_step = step


def update(examples: Sequence[Example], room: Trainer) -> State:
    room.note("update", spill())
    if Path("mended").exists():
        return tailored.update(examples, room)
    with crashing():
        tailored.update(examples, room)
    raise AssertionError(f"a crash after a training: {spill()}")


METHOD = replace(leaky, name="leaky training", update=update)
