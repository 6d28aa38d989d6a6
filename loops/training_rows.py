"""A few training rows of a run as they were trained on: at the end of `--quick`, and on a run's page.

Where the student has no tokens (a scripted one), or its model is not on this machine, there is the text alone. Nothing
is fetched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..agents.chat import Chat, Rendered, render
from ..agents.models import model_folder, placed
from ..agents.roles import WITH_MODEL
from ..evals.rows import Rows
from ..policies.records import Example
from .documents import home
from .show import RunFolder

SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """One of them."""

    example: Example
    pieces: Sequence[tuple[str, float]]
    """Text and its weight in the loss; 0: it is in view and not learnt."""
    rejected: str = ""
    """What DPO puts below the completion."""
    rendered: Rendered | None = None
    """`None`: there are no tokens."""


def shown_rows(run: RunFolder) -> tuple[Sequence[ShownRow], int]:
    """Some rows of the last training, of as many origins as there are, and how many rows it had."""
    learnt = (r.tables for r in reversed(run.reports) if r.proof is not None and r.proof.status != "unchanged")
    examples = next((tables.examples for tables in learnt if tables and len(tables.examples)), None)
    if examples is None:
        return [], 0
    chat = chat_of(run.record)
    return [shown(example, chat) for example in different(examples)], len(examples)


def shown(example: Example, chat: Chat | None) -> ShownRow:
    if chat is None:
        pieces = [(f"{example.prompt[-1].content}\n", 0.0), (example.completion, example.weight)]
        return ShownRow(example=example, pieces=pieces, rejected=example.rejected)
    row = render(example, chat)
    rejected = chat.text(row.rejected, special=True) if row.rejected else ""
    return ShownRow(example=example, pieces=row.pieces(chat), rejected=rejected, rendered=row)


def chat_of(record: Mapping[str, Any]) -> Chat | None:
    """How the student of a run writes; `None`: it has no tokens, or its model is not here."""
    student = record["config"]["student"]
    if student["engine"] not in WITH_MODEL:
        return None
    model = placed(home(record), student["model"])
    try:
        if (folder := model_folder(model)) is None:
            from huggingface_hub import snapshot_download

            revision = student["revision"] or None
            folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
        return Chat.of(folder)
    except (ValueError, OSError):  # it was here when the run was made
        return None


def different(examples: Rows[Example]) -> Sequence[Example]:
    """A few, of as many origins as there are; those with a rejected answer first."""
    found = dict[tuple[str, bool], Example]()
    others = list[Example]()
    for example in examples:
        kind = (example.origin, bool(example.rejected))
        if kind in found:
            others.append(example)
        else:
            found[kind] = example
    return list(islice([*sorted(found.values(), key=lambda e: not e.rejected), *others], SHOWN))
