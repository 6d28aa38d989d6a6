"""Starts a run again and again, each time in a process of its own, and each but the last is killed. No test by itself.

    python driver.py EXPERIMENT.json RUN_DIR PAYMENTS how [how ...]

    line TEXT     SIGKILL when a line of the run's log begins with TEXT
    sync N        SIGKILL at the N-th time that something is to be made durable
    ask N         SIGKILL when the policy is about to ask for the N-th time
    after S       SIGKILL after S seconds, from outside
    finish        not killed
    in NAME       from here on, the run folder NAME in RUN_DIR

Prints a line for each start: how, and `killed` or the run's status. Every request that the teacher is given is one line
of the file PAYMENTS, written before it answers: what was really paid, whatever the journal says. The starts are forked,
so that each need not import everything anew; they are processes like any other.
"""

import faulthandler
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from tutorloop.agents.asking import ItemModel
from tutorloop.agents.hosts import InProcess
from tutorloop.loops.launch import launch, prepare
from tutorloop.tests.policies_for_tests import small


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dies(small.Log):
    """At the first line that begins so."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def __call__(self, name: str, done: int, total: int) -> None:
        super().__call__(name, done, total)
        self.look()

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        super().step(name, seconds, replayed)
        self.look()

    def look(self) -> None:
        if self.lines[-1] == self.at:
            die()


class Counted:
    """Calls `do`, and dies in place of the n-th time."""

    def __init__(self, do: Callable[..., Any], n: int = 0) -> None:
        self.do, self.n, self.times = do, n, 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.times += 1
        return die() if self.times == self.n else self.do(*args, **named)


def start(told: dict[str, Any], root: Path, payments: Path, how: str, what: str) -> str:
    answer = InProcess.call

    def paid(self: InProcess, method: str, *args: Any) -> Any:
        if self.spec.role == "teacher" and method == "generate":
            lines = [hashlib.sha256(to_json(r)).hexdigest() + "\n" for r in args[1]]
            with payments.open("a") as f:
                f.write("".join(lines))
        return answer(self, method, *args)

    InProcess.call = paid  # type: ignore[method-assign]
    # Nobody pulls the plug: what was written survives a kill, and need not wait for the disk.
    syncs = Counted(lambda descriptor: None, int(what) if how == "sync" else 0)
    os.fsync = syncs
    if how == "ask":
        asks = Counted(ItemModel.aask, int(what))
        ItemModel.aask = lambda *args, **named: asks(*args, **named)  # type: ignore[method-assign]
    tick = Dies(what) if how == "line" else small.Log()
    began = time.monotonic()
    status = launch(told, root, tick=tick).status
    if how == "finish":
        log = {"lines": tick.lines, "syncs": syncs.times, "seconds": time.monotonic() - began}
        (payments.parent / f"{root.name}.log").write_text(json.dumps(log))
    return status


def main() -> None:
    faulthandler.dump_traceback_later(200, repeat=True)  # a start that hangs says where
    told, root, payments = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Path(sys.argv[3])
    prepare(told)  # draws the course once, for all starts
    folder = root
    for word in sys.argv[4:]:
        how, _, what = word.partition(" ")
        if how == "in":
            folder = root / what
            continue
        child = os.fork()
        if not child:
            said = start(told, folder, payments, how, what)
            print(f"{word}: {said}", flush=True)
            os._exit(0)
        if how == "after":
            time.sleep(float(what))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print(f"{word}: killed by {os.WTERMSIG(status)}", flush=True)
        elif os.WEXITSTATUS(status):
            sys.exit(f"{word}: exit {os.WEXITSTATUS(status)}")


if __name__ == "__main__":
    main()
