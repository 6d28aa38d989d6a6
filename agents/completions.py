"""A client of chat completions as OpenAI's API has them, and many servers beside it, a `vllm serve` among them.

One `complete` is one call over HTTP: nothing is tried again here, no redirect is followed, and what goes wrong comes
back as a `Fault`.

Why it is our own: 500 calls, 64 in flight, against a server on the same two busy cores cost LangChain's `ChatOpenAI`
2.5 ms of CPU each, httpx 4 ms, and aiohttp 0.25 ms (`benchmarks/teacher.py` measures it again: 2 ms and 0.6 ms with
what is around them). At 320 calls a second, what 64 calls in flight of 0.2 s each come to, that is the difference
between most of a core and a fifth of one.

Not covered: streaming; tools; images; several choices; the beginning of a reply (`prefix`), for which providers have no
common form.
"""

import os
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from .faults import Fault, of_exception, of_status
from .roles import Reply, Request, RoleSpec

OURS = ("model", "messages", "response_format", "stream", "n")
"""Fields of a request that are no options."""
CONNECT = 30.0
"""Seconds to get a connection."""


class Completions:
    """One model of one server. Made on the event loop on which it is used.

    Raises:
        ValueError: the address is none, `options` say what is not theirs to say, or the key's variable is not set.
    """

    def __init__(self, spec: RoleSpec) -> None:
        try:
            import aiohttp
            from yarl import URL
        except ImportError:
            raise ValueError("a `teacher.url` needs aiohttp, which is not here: pip install 'tutorloop[api]'") from None
        self.spec = spec
        self.url = URL(spec.url.rstrip("/") + "/chat/completions")
        headers = {"authorization": f"Bearer {key_of(spec)}"} if spec.key else {}
        self.session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=spec.deadline, sock_connect=min(CONNECT, spec.deadline)),
            connector=aiohttp.TCPConnector(limit=0),  # the limiter counts
            trust_env=True,  # proxies
        )

    async def complete(self, request: Request) -> Reply | Fault:
        """Ask once."""
        if request.prefix:
            return Fault(kind="bad request", why="a chat model cannot be given the beginning of its reply (`prefix`)")
        try:
            async with self.session.post(self.url, json=self._body(request), allow_redirects=False) as answer:
                text = await answer.text(encoding="utf-8", errors="replace")
                if answer.status != 200:
                    return of_status(answer.status, text, answer.headers)
        except Exception as e:  # whatever a client may raise is a call without an answer
            return of_exception(e)
        return reply_of(text)

    async def close(self) -> None:
        await self.session.close()

    def _body(self, request: Request) -> dict[str, Any]:
        spec, options = self.spec, dict(self.spec.options)
        body: dict[str, Any] = {
            "model": spec.model,
            "messages": turns(request, in_words=spec.records == "prompt"),
            "max_tokens": None if "max_completion_tokens" in options else spec.max_tokens,
            "temperature": spec.temperature,
            **options,
        }
        if isinstance(body.get("seed"), int):
            body["seed"] += request.sample
        if request.schema and spec.records == "schema":
            form = {"name": request.schema, "schema": from_json(request.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return {name: value for name, value in body.items() if value is not None}


def reply_of(text: str) -> Reply | Fault:
    """What a provider's answer says.

    >>> reply_of('{"choices": [{"message": {"content": "34"}, "finish_reason": "stop"}]}').metered
    False
    """
    try:
        told: Any = from_json(text)
        choice = told["choices"][0]
        message = choice["message"]
        said, refusal = message.get("content"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Fault(kind="malformed", why=f"no chat completion, but: {text[:80]!r}")
    counted = _counted(told.get("usage"))
    finish = choice.get("finish_reason")
    if refusal or finish == "content_filter":
        return Fault(kind="refused", why=f"the provider's filter: {str(refusal or said or '')[:200]}", **counted)
    if not isinstance(said, str):
        return Fault(kind="malformed", why=f"an answer without text (finish reason {finish!r})", **counted)
    model = told.get("model")
    return Reply(
        text=said,
        finish="length" if finish == "length" else "stop",
        metered=bool(counted),
        model=model if isinstance(model, str) else "",
        **counted,
    )


def _counted(usage: Any) -> dict[str, Any]:
    """What a provider says of tokens, under our names; empty: it does not say."""
    names = {"tokens_in": "prompt_tokens", "tokens_out": "completion_tokens"}
    found = {ours: usage.get(name) for ours, name in names.items()} if isinstance(usage, Mapping) else {}
    return found if found and all(isinstance(n, int) for n in found.values()) else {}


def key_of(spec: RoleSpec) -> str:
    """The provider's key, from the environment.

    Raises:
        ValueError: it is not there.
    """
    if not (key := os.environ.get(spec.key, "").strip()):
        raise ValueError(f"`teacher.key` names the environment variable {spec.key}, which is not set. Set it.")
    return key


def turns(request: Request, *, in_words: bool) -> list[dict[str, str]]:
    """The conversation, as providers take it.

    Args:
        in_words: The form of the record that is wanted is told at the end of the last user's turn.
    """
    told = [{"role": turn.role, "content": turn.content} for turn in request.messages]
    if request.schema and in_words:
        last = max(i for i, turn in enumerate(told) if turn["role"] == "user")
        told[last]["content"] += f"\n\n{FORM.format(schema=request.json_schema)}"
    return told


FORM = "Answer with one JSON object of this schema, and nothing else:\n{schema}"
