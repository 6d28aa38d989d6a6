"""A provider of chat completions on this machine, over real HTTP: the scripted teacher behind the interface of OpenAI.

    python -m tutorloop.tests.provider            # prints its port; ends when its standard input does

It answers after a set latency, with set shares of faults, and counts what was delivered: so duplicates and losses are
seen where they would be paid for. `Provider` starts it in a process of its own and asks it for its counts.
"""

import asyncio
import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from tutorloop.agents.roles import Request, RoleSpec
from tutorloop.agents.scripted import ScriptedTeacher
from tutorloop.evals.records import Turn


@dataclass
class Manner:
    """How the provider behaves."""

    latency: float = 0.002
    """Seconds to an answer."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Shares of the deliveries that go wrong: `429`, `500` or another status; `malformed` JSON; `slow`; `dropped`;
    `refused`; `length`; `prose` in place of a record."""
    retry_after: str = "0.05"
    slow: float = 60.0
    """Seconds of an answer that is slow."""
    key: str = ""
    """What must stand behind `Bearer`; a 401 says what stood there. Empty: anything."""
    metered: bool = True
    """Whether it says how many tokens."""
    model: str = ""
    """Who it says has answered; empty: who was asked."""
    schemas: bool = True
    """Whether it goes by `response_format`."""
    error: str = "as it was told to"
    """What an error's body says, beside its code."""
    code: str = ""
    burst: int = 0
    """So many deliveries at most, from when this was set; then it answers nobody, and no more is delivered. 0: all."""


@dataclass
class Delivered:
    """What the provider has seen since it was told how to behave."""

    deliveries: dict[str, int] = field(default_factory=dict)
    """By a request's digest: how often it came."""
    answered: dict[str, int] = field(default_factory=dict)
    """The same of those that were answered well, to the last byte."""
    faults: Mapping[str, int] = field(default_factory=dict)
    most: int = 0
    """Of the requests that were in flight at one time."""
    last: Mapping[str, Any] = field(default_factory=dict)
    """The last request's body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The last request's."""

    @property
    def calls(self) -> int:
        return sum(self.deliveries.values())


# ---- in the process


class _Server:
    def __init__(self) -> None:
        self.teacher = ScriptedTeacher(RoleSpec(role="teacher", engine="scripted", root=Path()))
        self.behave(Manner())

    def behave(self, manner: Manner) -> None:
        self.manner, self.seen = manner, Delivered()
        self.faults = Counter[str]()
        self.flying = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").strip().split("\r\n")
                headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split(" ")
                if path == "/told":
                    writer.write(_answer(200, asdict(self.seen) | {"faults": dict(self.faults)}))
                elif path == "/behave":
                    self.behave(Manner(**json.loads(body)))
                    writer.write(_answer(200, {}))
                elif (method, path) == ("POST", "/v1/chat/completions"):
                    await self.complete(body, headers, writer)
                else:
                    writer.write(_answer(404, {"error": {"message": f"there is no {path} here"}}))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # it has gone, or we go
        finally:
            writer.close()

    async def complete(self, body: bytes, headers: Mapping[str, str], writer: asyncio.StreamWriter) -> None:
        manner, seen = self.manner, self.seen
        request = json.loads(body)
        digest = sha256(body).hexdigest()[:16]
        nth = seen.deliveries[digest] = seen.deliveries.get(digest, 0) + 1
        seen.last, seen.headers = request, dict(headers)
        if 0 < manner.burst < sum(seen.deliveries.values()):
            await asyncio.sleep(3600)
        self.flying += 1
        seen.most = max(seen.most, self.flying)
        try:
            if manner.key and headers.get("authorization") != f"Bearer {manner.key}":
                told = f"Incorrect API key provided: {headers.get('authorization')}"
                writer.write(_answer(401, {"error": {"message": told, "code": "invalid_api_key"}}))
                return
            fault, came = self._fault(digest, nth), asyncio.get_running_loop().time()
            self.faults[fault] += bool(fault)
            good = _answer(200, self._reply(request, fault))
            took = asyncio.get_running_loop().time() - came
            await asyncio.sleep((manner.slow if fault == "slow" else manner.latency) - took)
            if fault.isdigit():
                error = {"error": {"message": manner.error, "code": manner.code}}
                after = [f"retry-after: {manner.retry_after}"] if fault in ("429", "503") and manner.retry_after else []
                writer.write(_answer(int(fault), error, after))
            elif fault == "dropped":
                writer.close()
            elif fault == "malformed":
                writer.write(_answer(200, '{"choices": [{"mess'))
            else:
                writer.write(good)
                await writer.drain()
                seen.answered[digest] = seen.answered.get(digest, 0) + (not writer.is_closing())
        finally:
            self.flying -= 1

    def _fault(self, digest: str, nth: int) -> str:
        drawn = Random(f"{digest} {nth}").random()
        for kind, share in self.manner.faults.items():
            if drawn < share:
                return kind
            drawn -= share
        return ""

    def _reply(self, asked: Mapping[str, Any], fault: str) -> dict[str, Any]:
        turns = tuple(Turn(role=m["role"], content=m["content"]) for m in asked["messages"])
        form = asked.get("response_format") if self.manner.schemas else None
        schema = form["json_schema"]["name"] if form and fault != "prose" else ""
        (reply,) = self.teacher.generate(self.teacher.me.base, [Request(messages=turns, schema=schema)])
        finish = {"refused": "content_filter", "length": "length"}.get(fault, "stop")
        told = {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 0,
            "model": self.manner.model or asked["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": finish}],
        }
        if self.manner.metered:
            n, m = reply.tokens_in, reply.tokens_out
            told["usage"] = {"prompt_tokens": n, "completion_tokens": m, "total_tokens": n + m}
        return told


def _answer(status: int, told: object, headers: Sequence[str] = ()) -> bytes:
    body = (told if isinstance(told, str) else json.dumps(told)).encode()
    head = [f"HTTP/1.1 {status} OK", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


async def _main() -> None:
    server = await asyncio.start_server(_Server().serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=wait, daemon=True).start()
    await over.wait()


# ---- from outside


@dataclass
class Provider:
    """A running one."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def behave(self, **manner: Any) -> None:
        """From now on; counts begin anew."""
        self._call("behave", json.dumps(asdict(Manner(**manner))).encode())

    def told(self) -> Delivered:
        return Delivered(**self._call("told"))

    def _call(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", body) as answer:
            return json.loads(answer.read())


@contextmanager
def running() -> Iterator[Provider]:
    """A provider in a process of its own, which ends with this one, whatever happens."""
    command = [sys.executable, "-m", "tutorloop.tests.provider"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            yield Provider(int(process.stdout.readline()), process.pid)
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_main())
