"""Why a call of an API came to no answer, in words that a policy, a report and a limiter can go by.

    rate limited    too many calls, or tokens; `Retry-After` says how long to wait      asked again
    server error    the provider's own fault                                            asked again
    timeout         no answer within the role's `deadline`                              asked again
    dropped         the connection broke, or the role's process died                    asked again
    malformed       an answer that is none: no JSON, no text in it                      asked again
    refused         the provider, or the model, will not answer this                    the case fails
    too long        more than the model's context holds                                 the case fails
    bad request     the provider does not take the request as it is                     the case fails
    unfilled        no record came of it, though it was shown what was wrong            the case fails
    unknown         an error that says none of these things                             the case fails
    authentication  the key is wrong, or may not do this                                the run ends
    no credit       the account has nothing left                                        the run ends
    not found       there is no such model, or no such server                           the run ends

Statuses and codes are those of OpenAI's and Anthropic's APIs, and of servers that imitate them. An exception of any
client is read by what clients have in common: a status, an answer with headers, or the name of its class.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from pydantic_core import from_json

from ..evals.redact import redacted

FaultKind = Literal[
    "rate limited",
    "server error",
    "timeout",
    "dropped",
    "malformed",
    "refused",
    "too long",
    "bad request",
    "unfilled",
    "unknown",
    "authentication",
    "no credit",
    "not found",
]
AGAIN = frozenset(("rate limited", "server error", "timeout", "dropped", "malformed"))
"""Another call may come to an answer."""
FATAL = frozenset(("authentication", "no credit", "not found"))
"""No call will."""
TOLD = 400
"""Characters of an error that are kept."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a call came to no answer."""

    kind: FaultKind
    why: str
    retry_after: float | None = None
    """Seconds, where the provider said so."""
    tokens_in: int = 0
    """As far as the provider said."""
    tokens_out: int = 0


class Unserved(RuntimeError):
    """The provider takes no call as things are. Says why, and what to do."""


_TOO_LONG = re.compile(r"context.{0,3}length|maximum context|too many tokens|prompt is too long", re.IGNORECASE)
_FILTERED = re.compile(r"content.?(filter|policy|management)|safety", re.IGNORECASE)
_SPENT = re.compile(r"insufficient_quota|insufficient.balance|credit balance|billing", re.IGNORECASE)


def of_status(status: int, body: str, headers: Mapping[str, str]) -> Fault:
    """From an answer over HTTP that is an error.

    >>> of_status(429, '{"error": {"message": "slow down"}}', {"Retry-After": "2"})
    Fault(kind='rate limited', why='429: slow down', retry_after=2.0, tokens_in=0, tokens_out=0)
    >>> of_status(400, "This model's maximum context length is 8192 tokens", {}).kind
    'too long'
    """
    return Fault(kind=_kind(status, body), why=_short(f"{status}: {_message(body)}"), retry_after=retry_after(headers))


def _kind(status: int, body: str) -> FaultKind:
    if status == 402 or (status == 429 and _SPENT.search(body)):
        return "no credit"
    if status in (401, 403):
        return "authentication"
    if status == 404 or status in range(300, 400):
        return "not found"
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(body)):
        return "too long"
    if status in (400, 422) and _FILTERED.search(body):
        return "refused"
    if status in (408, 504):
        return "timeout"
    if status == 429:
        return "rate limited"
    return "server error" if status >= 500 or status == 409 else "bad request"


def of_exception(error: BaseException) -> Fault:
    """From an error that some client has raised.

    >>> of_exception(TimeoutError()).kind, of_exception(ConnectionResetError("reset by peer")).kind
    ('timeout', 'dropped')
    """
    told = _short(f"{type(error).__name__}: {error}")
    response = getattr(error, "response", None)
    status = next((s for x in (error, response) for name in _STATUS if isinstance(s := getattr(x, name, None), int)), 0)
    if status >= 300:
        headers = {str(k): str(v) for k, v in dict(getattr(response, "headers", None) or {}).items()}
        whole = f"{error} {getattr(error, 'code', '')} {getattr(error, 'body', '')}"
        return Fault(kind=_kind(status, whole), why=told, retry_after=retry_after(headers))
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for kind, names in _CLASSES.items():
        if any(re.search(names, name) for name in kinds):
            return Fault(kind=kind, why=told)
    return Fault(kind="unknown", why=told)


_STATUS = ("status_code", "status", "code")
_CLASSES: Mapping[FaultKind, str] = {
    "authentication": r"Authentication|PermissionDenied|Unauthenticated",
    "rate limited": r"RateLimit|ResourceExhausted|Throttling|TooManyRequests",
    "too long": r"ContextOverflow|ContextLength",
    "timeout": r"Timeout|DeadlineExceeded",
    "dropped": r"Connection|Disconnected|ClientOSError|ClientPayloadError|Transport|RemoteProtocol|IncompleteRead",
    "server error": r"InternalServer|ServiceUnavailable|Overloaded",
    "malformed": r"JSONDecodeError|OutputParser|ValidationError|ContentTypeError",
    "bad request": r"BadRequest|InvalidRequest|InvalidArgument|UnprocessableEntity",
}
"""By what the name of an exception's class, or of one that it stands on, has in it; the first that fits."""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a provider wants one to wait; `None`: it does not say, or not so that it can be understood.

    >>> retry_after({"retry-after-ms": "250"}), retry_after({"Retry-After": "1.5"}), retry_after({})
    (0.25, 1.5, None)
    >>> moment = datetime(2026, 1, 1, tzinfo=UTC)
    >>> retry_after({"Retry-After": "Thu, 01 Jan 2026 00:00:07 GMT"}, moment)
    7.0
    """
    told = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if re.fullmatch(r"\d{1,9}(\.\d*)?", told.get(name, "")):
            return float(told[name]) * unit
    try:
        when = parsedate_to_datetime(told.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds()) if when.tzinfo else None


def _message(body: str) -> str:
    """What an error's body says, where it is JSON of the usual forms."""
    try:
        told: Any = from_json(body)
    except ValueError:
        return body
    for name in ("error", "message", "detail"):
        if isinstance(told, dict) and told.get(name):
            told = told[name]
    return told if isinstance(told, str) else body


def _short(text: str) -> str:
    return " ".join(redacted(text).split())[:TOLD]
