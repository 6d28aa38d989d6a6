"""Secrets of the environment, kept out of everything that is written.

A secret is the value of a variable that is named so (OPENAI_API_KEY, HF_TOKEN, DB_PASSWORD ...) or was declared to hold
one, or the password in an address that a variable holds (`postgres://me:PASSWORD@host`). Wherever something is written,
the value is replaced by the name: `$OPENAI_API_KEY`. So what is on disk does not depend on the value, and another key
changes no digest.

Not covered: a secret in another form than as it is or as JSON and Python quote it (base64, %XX, a part of it); one
below eight characters, or a plain word or number, which would be found where nobody meant it; one that comes from a
file and not from the environment; files that a user's own code writes.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import AnyStr

_NAMED = re.compile(
    r"(KEY|TOKEN|PASS|AUTH|COOKIE|JWT)S?(_|$)|(^|_)PAT(_|$)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|WEBHOOK", re.IGNORECASE
)
_IN_ADDRESS = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_NUMBER = re.compile(r"[\d\s.,:_+-]+")
_WORD = 16
"""Letters alone are a word up to this length."""

_known: dict[str, str] = {}
"""Names of the variables by their secrets; for good, as a policy may take its key out of `os.environ`."""


_declared = set[str]()


def declare(name: str) -> None:
    """This variable holds a secret, however it is named."""
    global _read
    if name not in _declared:
        _declared.add(name)
        _read = None, {}  # look again


def secrets() -> Mapping[str, str]:
    """The environment's secrets, each with the name of its variable."""
    global _read
    # Every line that is written asks, and `os.environ` decodes all of its variables for each look at them; the
    # dictionary behind it, which is private and may be missing one day, tells whether any has changed.
    raw = getattr(os.environ, "_data", None)
    seen, found = _read
    if raw is None or raw != seen:
        seen = dict(raw or {})
        held = [(part, name) for name, value in os.environ.items() for part in _held(name, value, name in _declared)]
        found = dict(sorted(held, reverse=True))  # of two names for one value the first counts
        _known.update(found)
        _read = seen, found
    return found


_read: tuple[Mapping[bytes, bytes] | None, Mapping[str, str]] = (None, {})
"""The environment when it was last looked through, and its secrets."""


def redacted(text: AnyStr) -> AnyStr:
    """The text without secrets; bytes are UTF-8.

    >>> os.environ["OPENAI_API_KEY"] = "sk-1234-abcd"
    >>> redacted("401: sk-1234-abcd is not valid")
    '401: $OPENAI_API_KEY is not valid'
    >>> del os.environ["OPENAI_API_KEY"]
    """
    secrets()
    for secret in sorted(_known, key=len, reverse=True):  # one may hold another
        for form in _forms(secret):
            if isinstance(text, bytes):
                text = text.replace(form.encode(errors="surrogateescape"), f"${_known[secret]}".encode())
            else:
                text = text.replace(form, f"${_known[secret]}")
    return text


def public() -> dict[str, str]:
    """The environment without secrets, for a process that needs none."""
    hidden = {*secrets().values()}
    return {name: value for name, value in os.environ.items() if name not in hidden}


@contextmanager
def without_secrets() -> Iterator[None]:
    """The same where a library starts the processes. No thread of this process sees a secret meanwhile."""
    taken = {name: os.environ.pop(name) for name in {*secrets().values()}}
    try:
        yield
    finally:
        os.environ.update(taken)


@cache
def _held(name: str, value: str, declared: bool) -> tuple[str, ...]:
    parts = _IN_ADDRESS.findall(value)
    if declared or _NAMED.search(name):
        parts += [value.strip(), *map(str.strip, value.splitlines())]  # an error may be shortened to its first line
    return tuple(part for part in parts if _telling(part))


def _telling(value: str) -> bool:
    """Whether a value would not be found by chance, and does not only say where something lies.

    >>> [_telling(x) for x in ("sk-1234-abcd", "true", "tailored", "1700000000", "/etc/passwd")]
    [True, False, False, False, False]
    """
    chance = len(value) < 8 or _NUMBER.fullmatch(value) or (value.isalpha() and len(value) < _WORD)
    return not chance and not (os.path.isabs(value) and os.path.exists(value))


@cache
def _forms(secret: str) -> tuple[str, ...]:
    """As it is, as JSON (ASCII or not) and Python quote it, and each of these within JSON; the longest first."""
    once = {secret, repr(secret)[1:-1]} | {json.dumps(secret, ensure_ascii=a)[1:-1] for a in (True, False)}
    twice = {json.dumps(form, ensure_ascii=a)[1:-1] for form in once for a in (True, False)}
    return tuple(sorted(once | twice, key=len, reverse=True))
