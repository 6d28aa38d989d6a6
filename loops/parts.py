"""The parts of an experiment: what may be said of course, roles, update, budget, and in which form.

Not covered: whether parts fit one another (`fitting.py`), and whether a chat teacher is told well (`providers.py`).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..agents.roles import Engine
from ..policies.records import Price
from ..policies.rounds import Budget


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _on_devices(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError("a role takes whole GPUs, or a part of one")
    return gpus


Gpus = Annotated[float, Field(ge=0), AfterValidator(_on_devices)]


def _renamed(placement: Any) -> Any:
    """`ray` is what `separate` was called at first."""
    return "separate" if placement == "ray" else placement


Place = Literal["separate", "shared", "local"]
Placement = Annotated[Place, BeforeValidator(_renamed)]


def _teaches(engine: Engine) -> Engine:
    if engine == "replay":
        raise ValueError("recorded answers are a student's; a teacher is 'scripted', 'transformers', 'vllm' or 'chat'")
    return engine


def _learns(engine: Engine) -> Engine:
    if engine == "chat":
        raise ValueError("a chat model of a provider can teach and not be taught")
    return engine


class CourseConfig(Part):
    """What is asked."""

    kind: Literal["arithmetic", "gsm8k", "jsonl"] = "arithmetic"
    practice: int | str = 300
    """How many problems; for `gsm8k` and `jsonl` this may be a file of its own, all of it."""
    quiz: int | str = 300
    exam: int | str = 500
    twins: int = 8
    """arithmetic: probe problems for each need of the practice pool."""
    retention: int = 200
    """arithmetic: problems for each mastered skill."""
    path: str = ""
    """gsm8k, jsonl: a file of JSON lines from which pools are drawn; relative to the experiment's file."""
    hub: str = ""
    """gsm8k: name on the Hugging Face hub, when there is no `path`: openai/gsm8k."""
    split: str = "train"
    """gsm8k: of the hub's data set."""
    revision: str = ""
    """gsm8k: of the hub's data set; empty: the newest."""
    prompt: Literal["plain", "lm-eval"] = "plain"
    """gsm8k: the question as it is, or as the task `gsm8k` of lm-evaluation-harness puts it."""
    shots: int = Field(default=0, ge=0)
    """gsm8k, `lm-eval`: how many solved problems stand before each question: the first rows of `path` or `hub`, which
    are in no pool then."""
    answer: Literal["number", "choice", "boolean", "text"] = "number"
    """jsonl: what kind of answer is graded."""


class RoleConfig(Part):
    """One role: its engine, and its place."""

    engine: Annotated[Engine, AfterValidator(_learns)] = "transformers"
    model: str = ""
    """Path (relative to the experiment's file) or hub name; empty: the student that comes with the package. `replay`: a
    file of recorded answers."""
    revision: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_tokens: int = Field(default=160, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    threads: int = Field(default=1, ge=1)
    gpus: Gpus = 0.0
    """Of each replica: whole ones, or a part of one."""
    replicas: int = Field(default=1, ge=1)
    """How many answer side by side."""
    deadline: float = Field(default=600.0, gt=0)
    """Seconds that one call may take."""
    options: dict[str, Any] = {}
    """The engine's own: `error_rate` of the scripted teacher, `max_model_len` of vLLM."""
    python: str = ""
    """On Ray: the interpreter of an environment of its own, e.g. `.venv-vllm/bin/python` (a path is relative to the
    experiment's file), where the engine's pins and the trainer's disagree. Empty: the driver's."""


class StudentConfig(RoleConfig):
    publish: Literal["adapter", "merged"] = "adapter"
    """vllm: a round's state is an adapter beside the base, or one model with it."""


class LimitsConfig(Part):
    """How hard a provider may be pressed by all replicas together."""

    concurrency: int = Field(default=64, ge=1, le=4096)
    """Calls in flight."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """In and out."""
    tries: int = Field(default=6, ge=1)
    """Calls for one ask, the first included."""


CHAT_TOKENS = 1024
"""`max_tokens` of a chat teacher that nobody set."""


class PriceConfig(Part):
    """Dollars for a million tokens. Cost is reckoned from what is on record, so a price may change from start to start;
    without one it is unknown, and never zero.
    """

    input: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    output: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _both(self) -> "PriceConfig":
        if (self.input is None) != (self.output is None):
            raise ValueError("a price has both `input` and `output`, in dollars for a million tokens")
        return self

    def value(self) -> Price | None:
        return None if self.input is None or self.output is None else Price(input=self.input, output=self.output)


class TeacherConfig(RoleConfig):
    """`chat`: `model` is the provider's name of it, and `options` are fields of the request, or of the class."""

    engine: Annotated[Engine, AfterValidator(_teaches)] = "scripted"
    url: str = ""
    """chat: of a server that speaks as OpenAI's does: https://api.openai.com/v1, http://localhost:8000/v1."""
    chat: str = ""
    """chat: import path of a LangChain chat model, in place of `url`: `langchain_anthropic:ChatAnthropic`."""
    key: str = ""
    """chat: name of the environment variable that holds the provider's key. Never the key."""
    records: Literal["schema", "prompt"] = "schema"
    """chat: how the form of a record that is to be filled is told: by the provider's own means (`response_format`), or
    in words, for providers that have none."""
    limits: LimitsConfig = LimitsConfig()
    price: PriceConfig = PriceConfig()
    policy: str = ""
    """`my_course:first_error`: a file beside the experiment (or an installed module) and a name in it. Takes the place
    of the method's own teaching."""
    policy_options: dict[str, Any] = {}
    """Options of a policy that is a dataclass."""

    @model_validator(mode="before")
    @classmethod
    def _longer(cls, told: Any) -> Any:
        if isinstance(told, Mapping) and told.get("engine") == "chat":
            return {"max_tokens": CHAT_TOKENS, **told}
        return told


class PlaceConfig(Part):
    """Where a role that shares the student's model lives."""

    threads: int = Field(default=1, ge=1)
    gpus: Gpus = 0.0
    deadline: float = Field(default=3600.0, gt=0)


class LearnerConfig(PlaceConfig):
    workers: int = Field(default=1, ge=1)
    """Processes that train side by side through Ray Train, each with `gpus`, each on its part of every batch. It is the
    same training up to the order in which floating point adds, so it is no free choice once a run has begun."""


class EvaluatorConfig(PlaceConfig):
    replicas: int = Field(default=1, ge=1)


class UpdateConfig(Part):
    """Fields of the libraries under their own names."""

    sft: dict[str, Any] = {}
    dpo: dict[str, Any] = {}
    lora: dict[str, Any] = {}


def _host_and_port(address: str) -> str:
    if address and not re.fullmatch(r"([^\s/:]+|\[[0-9a-fA-F:]+\]):\d+", address):
        raise ValueError("the cluster's HOST:PORT is wanted, as `ray start --head` tells it; not `auto`, not ray://")
    return address


class ClusterConfig(Part):
    """An existing Ray cluster of which this machine is a node."""

    address: Annotated[str, AfterValidator(_host_and_port)] = ""
    """HOST:PORT of its head; empty: Ray is started on this machine. RAY_ADDRESS is not looked at: whether a run goes to
    other machines is said, not inherited."""
    insecure: bool = False
    """Join it though it asks nobody for a token: who reaches it can run programs as you."""


class BudgetConfig(Part):
    """What a run may spend on its teacher, all rounds together. Each may grow."""

    teacher_tokens: int | None = Field(default=None, ge=1)
    """In and out."""
    teacher_calls: int | None = Field(default=None, ge=1)
    """Those that came to no answer too."""
    teacher_dollars: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """At `teacher.price`."""

    def value(self, price: Price | None) -> Budget:
        return Budget(**self.model_dump(), price=price)
