"""What a run may spend on its teacher, in tokens, calls and dollars, and what calls in flight hold of it.

Calls of a paid API go out side by side, and what they take is known when they are over. So each holds what it may
take: its text as the limiter estimates it, and the longest answer so far (before there is one: as long as an answer may
be). A call that does not fit beside those in flight waits for one of them to end; when nothing is in flight one call
may go as long as anything is left. When nothing is left the run stops, and what was in flight is on record.

So calls are never more than the budget says. Tokens and dollars overrun it by one call, and by as much as calls in
flight were longer than the longest answer before them: no call is longer than the model's `max_tokens`, and no more
are in flight than the limits allow.

A model on this machine is asked in waves: of the calls that are left a wave takes its first asks, in order; of tokens
and dollars it is only seen before it whether any are left, and they are overrun by one wave at most.

Not covered: a call whose end a kill has kept from the record counts as none; a call that ended without an answer counts
the tokens that the provider told of, often none; calls of which no provider tells the tokens count as calls alone.
"""

from collections.abc import Iterator
from threading import Condition
from typing import NamedTuple

from ..policies.records import Cost
from ..policies.room import Ledger
from ..policies.rounds import Budget


class BudgetSpent(Exception):
    """The next asks would go over the budget. What was asked stays paid and journalled."""


class _Account(NamedTuple):
    """One of the budget's sums."""

    name: str
    """Of the field of `Budget`."""
    limit: float
    spent: float
    held: float
    """By calls in flight, the next one included."""
    words: tuple[str, str]
    """Limit and spent, to be told."""


class Purse:
    """Of one run; several threads may use it."""

    def __init__(self, budget: Budget, ledger: Ledger) -> None:
        self.budget, self.ledger = budget, ledger
        self._flying = 0
        self._held = (0, 0)
        """Tokens in and out."""
        self._turn = Condition()

    @property
    def by_tokens(self) -> bool:
        """Whether something of the budget goes by tokens."""
        return self.budget.teacher_tokens is not None or self.budget.teacher_dollars is not None

    def take(self, tokens_in: int, tokens_out: int) -> bool:
        """Let one call go that may take so many tokens; it holds them until `give_back`.

        Returns:
            Whether it may. If not, it may be when one that is in flight has ended.

        Raises:
            BudgetSpent: it never may.
        """
        with self._turn:
            held = self._held[0] + tokens_in, self._held[1] + tokens_out
            for account in self._accounts(self._flying + 1, *held):
                self._look(account)
                if self._flying and account.spent + account.held > account.limit:
                    return False
            self._flying, self._held = self._flying + 1, held
            return True

    def give_back(self, calls: int = 1, tokens_in: int = 0, tokens_out: int = 0) -> None:
        """Calls that were let go have ended, and what they took is on record."""
        with self._turn:
            self._flying -= calls
            self._held = self._held[0] - tokens_in, self._held[1] - tokens_out
            self._turn.notify_all()

    def fit(self, n: int) -> int:
        """How many asks of a wave of `n` may be made; they hold their places until `give_back`. Waits for other waves.

        Raises:
            BudgetSpent: none.
        """
        with self._turn:
            while True:
                for account in self._accounts(0, 0, 0):
                    self._look(account)
                calls = self.budget.teacher_calls
                may = n if calls is None else min(n, calls - self._made(self.ledger.spent()) - self._flying)
                if may > 0:
                    self._flying += may
                    return may
                self._turn.wait()

    def _look(self, account: _Account) -> None:
        if account.spent >= account.limit:
            limit, spent = account.words
            raise BudgetSpent(
                f"the budget of {limit} is spent ({spent}); the same command goes on with budget.{account.name}=MORE"
            )

    def _accounts(self, flying: int, tokens_in: int, tokens_out: int) -> Iterator[_Account]:
        """Those that have a limit."""
        budget = self.budget
        if not self.by_tokens and budget.teacher_calls is None:
            return  # what is spent is looked up on the event loop, and may wait for the disk
        spent = self.ledger.spent()
        least = "at least " if spent.unmetered else ""
        if (tokens := budget.teacher_tokens) is not None:
            words = f"{tokens} teacher tokens", f"{least}{spent.tokens}"
            yield _Account("teacher_tokens", tokens, spent.tokens, tokens_in + tokens_out, words)
        if (calls := budget.teacher_calls) is not None:
            made = self._made(spent)
            yield _Account("teacher_calls", calls, made, flying, (f"{calls} teacher calls", f"{made}"))
        if (dollars := budget.teacher_dollars) is not None:
            assert budget.price is not None, "looked at before the run began"
            paid = budget.price.of(spent.tokens_in, spent.tokens_out)
            words = f"${dollars:g} for the teacher", f"{least}${paid:.4f}"
            yield _Account("teacher_dollars", dollars, paid, budget.price.of(tokens_in, tokens_out), words)

    def _made(self, spent: Cost) -> int:
        """Calls, those that came to no answer too."""
        return spent.calls + sum(self.ledger.faults().values())
