"""Whether a chat teacher can be reached as an experiment says, as far as that shows before anybody is called."""

import re
from urllib.parse import parse_qsl, urlsplit

from ..agents import completions, langchain_model
from .config import SECRET, VARIABLE, ConfigError
from .parts import TeacherConfig


def taken(teacher: TeacherConfig) -> None:
    """
    Raises:
        ConfigError: it is not said whom to ask, or in a way that would store a secret with the run.
    """
    if teacher.key and not VARIABLE.fullmatch(teacher.key):  # it is not shown: it may be the key itself
        raise ConfigError(
            "`teacher.key` is the NAME of the environment variable that holds the key, in capital letters, e.g. "
            "OPENAI_API_KEY. A key itself would be stored with the run."
        )
    if bool(teacher.url) == bool(teacher.chat):
        raise ConfigError(
            "a teacher of the engine 'chat' has either a `teacher.url` (of a server that speaks as OpenAI's does) or a "
            "`teacher.chat` (import path of a LangChain chat model). docs/teachers.md shows both."
        )
    if teacher.url:
        _reachable(teacher)
    elif not re.fullmatch(r"[\w.]+:\w+", teacher.chat):
        raise ConfigError(f"`teacher.chat` is {teacher.chat!r}; it is module:Class, e.g. langchain_openai:ChatOpenAI.")
    ours = completions.OURS if teacher.url else langchain_model.OURS
    if found := sorted({*teacher.options} & {*ours}):
        raise ConfigError(
            f"`teacher.options.{found[0]}` is not for an experiment to set: calls are counted, limited and tried again "
            "in one place (`teacher.limits`). Leave it out."
        )


def _reachable(teacher: TeacherConfig) -> None:
    if not teacher.model:
        raise ConfigError("`teacher.model` is empty; with a `teacher.url` it is the provider's name of the model.")
    try:
        url = urlsplit(teacher.url)
    except ValueError as e:
        raise ConfigError(f"`teacher.url` is none: {e}.") from None
    if url.password or url.username or any(SECRET.search(name) or name == "key" for name, _ in parse_qsl(url.query)):
        raise ConfigError(
            "`teacher.url` holds a secret, and would be stored with the run. Put the secret into an environment "
            "variable, and its name into `teacher.key`."
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"`teacher.url` is {teacher.url!r}; it is like https://api.openai.com/v1.")
