"""What is to be said of a training that went through and may not have done what was wanted, with its figures."""

from collections.abc import Iterator

from .roles import Job, Trained

ALOUD = 0.1
"""Nats by which right answers may become less likely under DPO before it is said: some do in any batch."""


def doubts(job: Job, trained: Trained, tolerance: float) -> Iterator[str]:
    """
    Args:
        tolerance: Nats by which two honest readings of one token may differ.
    """
    told = {name: float(str(value)) for name, value in trained.notes.items() if isinstance(value, int | float)}
    rows, dropped = told.get("rows", 0), told.get("dropped_rows", 0)
    if dropped:
        yield (
            f"{dropped:.0f} of {rows + dropped:.0f} rows ({dropped / (rows + dropped):.1%}) were longer than "
            f"`update.{job.loss}.max_length` and were not trained on."
        )
    chosen, rejected = told.get("logp_chosen_change"), told.get("logp_rejected_change")
    if chosen is None or rejected is None:
        return
    most = told.get("logp_largest_change", tolerance + 1)
    if most <= tolerance:
        yield (
            f"this DPO moved nothing: no answer's log-probability by more than {most:.1e} nats, and two readings of "
            f"one state may differ by {tolerance:.1e}. Raise `update.dpo.learning_rate` ({told['learning_rate']:g})."
        )
    elif chosen < -ALOUD:
        yield (
            f"this DPO made the right answers less likely, by {-chosen:.2f} nats each (the wrong ones: "
            f"{rejected:+.2f}). It pushes both away. Lower `update.dpo.learning_rate`, raise `update.dpo.beta`, or add "
            "'sft' to `update.dpo.loss_type`."
        )
