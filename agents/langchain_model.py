"""Any chat model of LangChain, by import path: `langchain_openai:ChatOpenAI`, `my_models:Mine`.

One `complete` is one `ainvoke`, with the model's own retries, cache, rate limiter and tracing off: calls are counted,
limited and tried again in one place, and a cached answer would be none of several samples. A model without an
asynchronous call of its own is called in a thread.

Not covered: a model that retries under another name than `max_retries`; prices and headers of providers.
"""

import asyncio
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from pydantic_core import from_json, to_json

from .completions import key_of, turns
from .faults import Fault, of_exception
from .roles import Reply, Request, RoleSpec

OURS = ("cache", "rate_limiter", "max_retries", "callbacks", "disable_streaming")
"""Arguments of a chat model that are no options."""


class LangChainModel:
    """One chat model. Made on the event loop on which it is used.

    Raises:
        ValueError: there is none under this name, or it cannot be made with these options.
    """

    def __init__(self, spec: RoleSpec) -> None:
        self.spec = spec
        self.model = _made(spec)
        self.forms: dict[str, Any] = {}
        """Models that fill records, by JSON schema; `None` where the model cannot."""

    async def complete(self, request: Request) -> Reply | Fault:
        """Ask once."""
        from langsmith import tracing_context

        if request.prefix:
            return Fault(kind="bad request", why="a chat model cannot be given the beginning of its reply (`prefix`)")
        filling = self._filling(request)
        messages = turns(request, in_words=filling is None)
        try:
            with tracing_context(enabled=False):
                asked = (filling or self.model).ainvoke(messages)
                return _reply(await asyncio.wait_for(asked, self.spec.deadline))
        except Exception as e:  # whatever a client may raise is a call without an answer
            return of_exception(e)

    async def close(self) -> None:
        return None

    def _filling(self, request: Request) -> Any:
        """The model as it fills this record by its provider's own means; `None`: it is told in words."""
        if not request.schema or self.spec.records == "prompt":
            return None
        if request.json_schema not in self.forms:
            form = {"description": f"The {request.schema} that is asked for.", **from_json(request.json_schema)}
            try:
                self.forms[request.json_schema] = self.model.with_structured_output(form, include_raw=True)
            except (NotImplementedError, ValueError, TypeError):
                self.forms[request.json_schema] = None
        return self.forms[request.json_schema]


def _made(spec: RoleSpec) -> Any:
    from langchain_core.language_models import BaseChatModel

    module, _, name = spec.chat.partition(":")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise ValueError(f"`teacher.chat` is {spec.chat!r}, and there is no such class here: {e}") from None
    if not (isinstance(kind, type) and issubclass(kind, BaseChatModel)):
        raise ValueError(f"`teacher.chat` is {spec.chat!r}, which is no chat model of LangChain (`BaseChatModel`).")
    told: dict[str, Any] = {"cache": False, **spec.options}
    ours: dict[str, Any] = {"max_retries": 0, "max_tokens": spec.max_tokens, "temperature": spec.temperature}
    if spec.model:
        ours["model"] = spec.model
    if spec.key:
        ours["api_key"] = key_of(spec)  # a class that takes none reads the variable by itself
    told |= {name: value for name, value in ours.items() if name not in told and _takes(kind, name)}
    try:
        return kind(**told)
    except Exception as e:
        raise ValueError(f"{spec.chat} cannot be made with these options: {e}") from None


def _takes(kind: Any, name: str) -> bool:
    return any(name in (field, found.alias) for field, found in kind.model_fields.items())


def _reply(came: Any) -> Reply | Fault:
    """Of a message, or of what `with_structured_output(include_raw=True)` gives."""
    parsed = came.get("parsed") if isinstance(came, Mapping) else None
    message = came["raw"] if isinstance(came, Mapping) else came
    usage, told = message.usage_metadata or {}, message.response_metadata or {}
    counted = {"tokens_in": usage["input_tokens"], "tokens_out": usage["output_tokens"]} if usage else {}
    finish = str(told.get("finish_reason") or told.get("stop_reason") or told.get("done_reason") or "")
    if finish in ("content_filter", "refusal", "SAFETY") or message.additional_kwargs.get("refusal"):
        return Fault(kind="refused", why=f"the provider's filter: {_text(message.content)[:200]}", **counted)
    return Reply(
        text=to_json(parsed).decode() if parsed is not None else _text(message.content),
        finish="length" if finish in ("length", "max_tokens", "MAX_TOKENS") else "stop",
        metered=bool(usage),
        model=str(told.get("model_name") or told.get("model") or ""),
        **counted,
    )


def _text(content: str | Sequence[Any]) -> str:
    """The words of a message, of whatever blocks it is made."""
    if isinstance(content, str):
        return content
    texts = (block if isinstance(block, str) else block.get("text", "") for block in content)
    return "".join(texts)
