"""What a teacher has cost, reckoned from the record: tokens at the price that is set now."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..policies.records import Cost, Price
from .asks import tally
from .parts import PriceConfig


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What was asked of the teacher. Nothing of it is asked again when the price changes."""

    calls: int = 0
    """That were answered."""
    tokens_in: int = 0
    """As `tokens_out`, with those that the provider told of calls without an answer."""
    tokens_out: int = 0
    reused: int = 0
    """Asks that cost nothing, as the answer was on record: in no other figure."""
    unmetered: int = 0
    """Calls of which the provider did not say the tokens: the cost is at least so much."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Calls that came to no answer, by kind of fault."""
    dollars: float | None = None
    """`None`: unknown, as no price is set."""

    @property
    def cost(self) -> str:
        return money(self.dollars, self.unmetered)


def billed(cost: Cost, failed: Mapping[str, int], price: Price | None) -> Bill:
    return Bill(
        calls=cost.calls,
        tokens_in=cost.tokens_in,
        tokens_out=cost.tokens_out,
        reused=cost.reused,
        unmetered=cost.unmetered,
        failed=dict(sorted(failed.items())),
        dollars=price.of(cost.tokens_in, cost.tokens_out) if price else None,
    )


def price_of(config: Mapping[str, Any]) -> Price | None:
    """By a run's stored config."""
    return PriceConfig.model_validate(config["teacher"].get("price", {})).value()


def bills(root: Path, run: str, rounds: int, price: Price | None) -> Iterator[Bill]:
    """Of each round from 1 on, one that is still open the last. Reads of the asks no texts.

    Args:
        run: Identity of the run.
        rounds: How many may have asked.
    """
    for number in range(1, rounds + 1):
        cost, failed = Cost(), Counter[str]()
        for path in sorted((root / "asks").glob(f"{number}-*")):
            if path.suffix == ".jsonl" and path.with_suffix(".parquet").exists():
                continue  # it is just being made into the other
            with suppress(FileNotFoundError):
                spent, without = tally(path, run)
                cost, failed = cost + spent, failed + without
        yield billed(cost, failed, price)


def total(found: Sequence[Bill]) -> Bill:
    """All of them as one."""
    failed = sum((Counter(bill.failed) for bill in found), Counter[str]())
    known = [bill.dollars for bill in found if bill.dollars is not None]
    return Bill(
        calls=sum(bill.calls for bill in found),
        tokens_in=sum(bill.tokens_in for bill in found),
        tokens_out=sum(bill.tokens_out for bill in found),
        reused=sum(bill.reused for bill in found),
        unmetered=sum(bill.unmetered for bill in found),
        failed=dict(sorted(failed.items())),
        dollars=sum(known) if known else None,
    )


def money(dollars: float | None, unmetered: int = 0) -> str:
    """
    >>> money(None), money(0.0), money(0.01234), money(12.3, unmetered=3)
    ('unknown', '$0.00', '$0.0123', 'at least $12.30')
    """
    if dollars is None:
        return "unknown"
    told = f"${dollars:,.2f}" if dollars >= 1 or not dollars else f"${dollars:.4f}"
    return f"at least {told}" if unmetered else told


def without_answer(failed: Mapping[str, int]) -> str:
    """
    >>> without_answer({"rate limited": 3, "timeout": 1})
    '3 rate limited, 1 timeout'
    """
    return ", ".join(f"{n} {kind}" for kind, n in failed.items())


def bill_rows(found: Sequence[tuple[str, Bill]]) -> list[list[str]]:
    """A table, with a head: of each name its bill."""
    rows = [["teacher", "asks", "reused", "tokens in", "tokens out", "without an answer", "cost"]]
    for name, bill in found:
        counts = [f"{n:,}" for n in (bill.calls, bill.reused, bill.tokens_in, bill.tokens_out)]
        rows.append([name, *counts, without_answer(bill.failed), bill.cost])
    return rows
