"""From a `RoleSpec` to the object that plays the role. Imports an engine only when one is asked for."""

from typing import Any

from .roles import RoleSpec


def build(spec: RoleSpec) -> Any:
    """The role: a `Server`, an `Examiner` or a `Learner`.

    Raises:
        ValueError: it cannot be built as it is specified; says why.
    """
    role: Any
    if spec.engine == "scripted":
        from . import scripted as engine

        kinds: dict[str, Any] = {"learner": engine.ScriptedLearner, "teacher": engine.ScriptedTeacher}
        role = kinds.get(spec.role, engine.ScriptedStudent)(spec)
    elif spec.engine == "replay":
        from .replay import ReplayLearner, ReplayStudent

        role = (ReplayLearner if spec.role == "learner" else ReplayStudent)(spec)
    elif spec.engine == "chat":
        from .chat_teacher import ChatTeacher

        role = ChatTeacher(spec)
    elif spec.role == "learner" and spec.workers > 1:
        from .ray_learner import RayLearner

        role = RayLearner(spec)
    elif spec.role == "learner":
        from .trl_learner import TrlLearner

        role = TrlLearner(spec)
    elif spec.engine == "vllm":
        from .vllm_server import MergedServer, VllmServer

        role = (MergedServer if spec.publish == "merged" else VllmServer)(spec)
    else:
        from .transformers_server import TransformersServer

        role = TransformersServer(spec)
    if spec.role == "evaluator":
        from .evaluator import Evaluator

        return Evaluator(role)
    return role
