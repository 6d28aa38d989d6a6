"""Recipes: how examples become a new state. Training itself is `room.train`, one durable step each."""

from collections.abc import Sequence

from ..evals.records import State
from .records import Example
from .room import Trainer


def sft(examples: Sequence[Example], room: Trainer) -> State:
    """Supervised fine-tuning on the completions."""
    return room.train(examples, "sft", start=room.plan.start)


def sft_then_dpo(examples: Sequence[Example], room: Trainer) -> State:
    """SFT on all completions, then DPO of each correction over what it corrects (Rafailov et al. 2023).

    DPO compares with the reference that the plan names; by default the state that the SFT has left.
    """
    taught = sft(examples, room)
    pairs = [e for e in examples if e.rejected]
    if not pairs:
        return taught
    return room.train(pairs, "dpo", start=taught, reference=room.plan.reference or taught)


def rehearse_then_dpo(examples: Sequence[Example], room: Trainer) -> State:
    """SFT on what has no wrong answer beside it (the learner's own right ones), then DPO on the pairs.

    The right work of a pair is learnt from the contrast alone: DPO compares with what the rehearsal has left.
    """
    pairs, known = [e for e in examples if e.rejected], [e for e in examples if not e.rejected]
    rehearsed = sft(known, room) if known else room.plan.start
    if not pairs:
        return rehearsed
    return room.train(pairs, "dpo", start=rehearsed, reference=room.plan.reference or rehearsed)
