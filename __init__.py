"""Teach one language model with another, in rounds.

    report = tutorloop.launch("examples/scripted.yaml", run_dir="runs/a", overrides=["rounds=2"])
    for round in report.rounds:
        print(round.number, round.quiz.accuracy, round.quiz.interval, round.kept)

The public names are resolved lazily: `import tutorloop` loads neither torch nor ray. It does turn off what libraries
report to their makers (`QUIET`), before any of them is imported; a variable that is set already keeps its value.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evals.graders import grade as grade
    from .evals.records import Attempt as Attempt
    from .evals.records import Failure as Failure
    from .evals.records import Gold as Gold
    from .evals.records import Problem as Problem
    from .evals.records import State as State
    from .evals.records import Turn as Turn
    from .evals.records import Verdict as Verdict
    from .evals.records import user as user
    from .loops.chat_model import StudentChatModel as StudentChatModel
    from .loops.compare import Comparison as Comparison
    from .loops.compare import compare as compare
    from .loops.config import ConfigError as ConfigError
    from .loops.documents import JournalError as JournalError
    from .loops.fork import fork as fork
    from .loops.history import History as History
    from .loops.history import read_history as read_history
    from .loops.launch import Interrupted as Interrupted
    from .loops.launch import launch as launch
    from .loops.live import Live as Live
    from .loops.live import Refused as Refused
    from .loops.live import Taught as Taught
    from .loops.live import open as open
    from .loops.plan import plan as plan
    from .loops.report import write_report as write_report
    from .loops.show import RunView as RunView
    from .loops.show import read_run as read_run
    from .policies.records import Case as Case
    from .policies.records import Cost as Cost
    from .policies.records import Example as Example
    from .policies.records import Lesson as Lesson
    from .policies.room import Model as Model
    from .policies.room import Room as Room
    from .policies.room import Trainer as Trainer
    from .policies.rounds import Budget as Budget
    from .policies.rounds import Plan as Plan
    from .policies.rounds import Proof as Proof
    from .policies.rounds import Report as Report
    from .policies.rounds import RoundReport as RoundReport
    from .policies.rounds import Rounds as Rounds
    from .policies.rounds import Sheet as Sheet
    from .policies.slots import Method as Method

__version__ = "0.1.0"

QUIET = {
    "DISABLE_KUBEFLOW_INTEGRATION": "TRUE",  # transformers reports to a Kubeflow server, whatever `report_to` says
    "DO_NOT_TRACK": "1",  # huggingface_hub, vLLM
    "HF_HUB_DISABLE_TELEMETRY": "1",  # its user agent; TRL's ping from each trainer
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets, at each load
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

_WHERE = {
    "Attempt": ".evals.records",
    "Budget": ".policies.rounds",
    "Case": ".policies.records",
    "Comparison": ".loops.compare",
    "ConfigError": ".loops.config",
    "Cost": ".policies.records",
    "Example": ".policies.records",
    "Failure": ".evals.records",
    "Gold": ".evals.records",
    "History": ".loops.history",
    "Interrupted": ".loops.launch",
    "JournalError": ".loops.documents",
    "Lesson": ".policies.records",
    "Live": ".loops.live",
    "Method": ".policies.slots",
    "Model": ".policies.room",
    "Plan": ".policies.rounds",
    "Problem": ".evals.records",
    "Proof": ".policies.rounds",
    "Refused": ".loops.live",
    "Report": ".policies.rounds",
    "Room": ".policies.room",
    "RoundReport": ".policies.rounds",
    "Rounds": ".policies.rounds",
    "RunView": ".loops.show",
    "Sheet": ".policies.rounds",
    "State": ".evals.records",
    "StudentChatModel": ".loops.chat_model",
    "Taught": ".loops.live",
    "Trainer": ".policies.room",
    "Turn": ".evals.records",
    "Verdict": ".evals.records",
    "compare": ".loops.compare",
    "fork": ".loops.fork",
    "grade": ".evals.graders",
    "launch": ".loops.launch",
    "open": ".loops.live",
    "plan": ".loops.plan",
    "read_history": ".loops.history",
    "read_run": ".loops.show",
    "user": ".evals.records",
    "write_report": ".loops.report",
}
"""Where each public name lives; the imports above say the same to a type checker."""
__all__ = [*_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
