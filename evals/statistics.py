"""Statistics of right and wrong: how sure one accuracy is, and whether one is above another.

Each function is a textbook method under its own name, with its source and a sum done by hand. Exact where exactness is
affordable: an exam has hundreds of problems and a study has a handful of seeds, which is where approximations lie.

- One accuracy: `wilson`. Two answers to the same problems: `transitions`, `mcnemar`, `smallest_drop`, and how far apart
  they are: `paired_interval`, `paired_verdict`.
- Two arms over the same seeds: `t_interval`, `sign_flip`, and `verdict`, which puts the result into one of three words.

Paired throughout: the same problems, the same seeds. Never a percentile bootstrap of a handful of seeds: with five it
calls 16 % of true nulls significant.

Not covered: unpaired arms; correction for many comparisons (an arm that "beats every other" must be `confirmed` against
each one, which needs none); problems that hang together, such as variants of one another, which make every interval
over problems too narrow; the noise of sampled answers, which is inside the differences and not told apart.
scipy is loaded by the first t interval, not by the import.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal, NamedTuple


class Interval(NamedTuple):
    """From `low` to `high`, both in the unit of the data."""

    low: float
    high: float


def wilson(right: int, n: int, *, level: float = 0.95) -> Interval:
    """Where the true accuracy lies, after `right` of `n` right answers (E. B. Wilson 1927, the score interval).

    centre = (right + z²/2) / (n + z²), half-width = z / (n + z²) * sqrt(right (n - right) / n + z²/4);
    z = 1.96 for 95 %.
    Stays inside 0 to 1 and is not empty at 0 or `n` right. Without a single answer nothing is known: 0 to 1.

    9 of 10: centre 10.92/13.84 = 0.789, half-width 1.96/13.84 * sqrt(0.9 + 0.96) = 0.193.

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    if not 0 <= right <= n:
        raise ValueError(f"`right` must lie between 0 and `n`, got {right} of {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    # At the ends the two terms are equal, and rounding must not leave the bounds.
    return Interval(0.0 if right == 0 else centre - half, 1.0 if right == n else centre + half)


# ---- two answers to the same problems


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """What became of each problem between two exams: ids, in the order of the later exam.

    Example:
        Transitions(fixed=("sub-0417",), persistent=("sub-0093",), kept_right=("sub-0001", "sub-0002"))
    """

    fixed: tuple[str, ...] = ()
    """Wrong before, right after."""
    persistent: tuple[str, ...] = ()
    """Wrong both times."""
    regressed: tuple[str, ...] = ()
    """Right before, wrong after: what teaching has destroyed."""
    kept_right: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    """Wrong after, and not asked before. What was not asked before and is right is no transition."""

    @property
    def counts(self) -> dict[str, int]:
        """For a report.

        >>> Transitions(fixed=("a", "b"), regressed=("c",)).counts
        {'fixed': 2, 'persistent': 0, 'regressed': 1, 'kept_right': 0, 'new': 0}
        """
        return {name: len(getattr(self, name)) for name in ("fixed", "persistent", "regressed", "kept_right", "new")}


def transitions(before: Mapping[str, bool], after: Mapping[str, bool]) -> Transitions:
    """Each problem of the later exam by what it was and what it is; ids that only `before` has are not counted.

    >>> transitions({"a": False, "b": True, "gone": True}, {"a": True, "b": False, "c": False, "d": True})
    Transitions(fixed=('a',), persistent=(), regressed=('b',), kept_right=(), new=('c',))
    """

    def those(was: bool | None, now: bool) -> tuple[str, ...]:
        return tuple(i for i, right in after.items() if before.get(i) is was and right is now)

    return Transitions(
        fixed=those(False, True),
        persistent=those(False, False),
        regressed=those(True, False),
        kept_right=those(True, True),
        new=those(None, False),
    )


def mcnemar(fixed: int, regressed: int, *, tail: Literal["drop", "two-sided"] = "drop") -> float:
    """How often chance alone would change the answers so lopsidedly: McNemar's test (1947), in its exact form.

    Problems right both times or wrong both times say nothing. If nothing has changed, each of the `fixed + regressed`
    others is a toss of a coin. `drop`: the chance of at least this many regressions; small speaks for a true drop.
    `two-sided`: twice the smaller tail, at most 1. Sums whole numbers, so nothing is lost in small tails.

    1 fixed, 7 regressed: (C(8,7) + C(8,8)) / 2**8 = 9/256.

    >>> mcnemar(1, 7) == 9 / 256, mcnemar(1, 7, tail="two-sided") == 18 / 256
    (True, True)
    >>> mcnemar(0, 0)
    1.0
    """
    if fixed < 0 or regressed < 0:
        raise ValueError(f"`fixed` and `regressed` are counts, got {fixed} and {regressed}")
    if tail == "drop":
        return _tail(regressed, fixed + regressed)
    return min(1.0, 2 * _tail(max(fixed, regressed), fixed + regressed))


def _tail(heads: int, tosses: int) -> float:
    """P(at least `heads` heads in `tosses` tosses).

    >>> _tail(2, 2), _tail(0, 5)
    (0.25, 1.0)
    """
    ways, total = 1, 0
    for tails in range(tosses - heads + 1):
        total += ways
        ways = ways * (tosses - tails) // (tails + 1)
    return total / (1 << tosses)


def smallest_drop(n: int, *, fixed: int = 0, alpha: float = 0.05) -> float | None:
    """The smallest net drop in accuracy that `mcnemar` calls significant on `n` problems, when `fixed` got better.

    With r the smallest number of regressions for which mcnemar(fixed, r) <= alpha, it is (r - fixed) / n. `None` if no
    r up to n - fixed is enough: then this exam could not have seen any drop. It is a threshold, not a promise: a true
    drop of just this size is called significant about every second time.

    Without any fix: 2**-5 = 0.031 is the first power of a half below 0.05, so five regressions, of 300 problems 1.7 %.
    With 3 fixed: 10 regressions, as (1 + 13 + 78 + 286) / 2**13 = 0.046; with 9 it is 299 / 2**12 = 0.073. So 7/300.

    >>> smallest_drop(300) == 5 / 300, smallest_drop(300, fixed=3) == 7 / 300
    (True, True)
    >>> smallest_drop(4) is None
    True
    """
    if not 0 <= fixed <= n:
        raise ValueError(f"`fixed` must lie between 0 and `n`, got {fixed} of {n}")
    enough = bisect_left(range(n - fixed + 1), True, key=lambda regressed: mcnemar(fixed, regressed) <= alpha)
    return (enough - fixed) / n if enough <= n - fixed else None


def paired_interval(first: int, second: int, n: int, *, level: float = 0.95) -> Interval:
    """Where the true difference of two accuracies on the same problems lies, second less first (Bonett & Price 2012).

    The adjusted Wald interval: of `n` problems only the first has `first` right and only the second `second`; with
    a = (first + 1) / (n + 2) and b = (second + 1) / (n + 2) it is b - a ± z * sqrt((a + b - (b - a)²) / (n + 2)).
    Unlike the plain one it is not empty when the two agree everywhere, and it holds its level with few problems.

    1 and 7 of 98: a = 0.02, b = 0.08, so 0.06 ± 1.96 * sqrt((0.1 - 0.0036) / 100) = 0.06 ± 0.0609.

    >>> [round(x, 4) for x in paired_interval(1, 7, 98)]
    [-0.0009, 0.1209]
    """
    if min(first, second) < 0 or first + second > n or n == 0:
        raise ValueError(f"`first` and `second` are counts of `n` problems, got {first} and {second} of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    a, b = (first + 1) / (n + 2), (second + 1) / (n + 2)
    half = z * math.sqrt((a + b - (b - a) ** 2) / (n + 2))
    return Interval(max(-1.0, b - a - half), min(1.0, b - a + half))


Word = Literal["confirmed", "equivalent", "not settled"]


def paired_verdict(first: int, second: int, n: int, margin: float = 0.02) -> Word:
    """What one exam says about the claim that two students differ, in the three words of `verdict`.

    `equivalent`: both one-sided tests at 5 % say that the difference is smaller than `margin` either way, so the 90 %
    `paired_interval` lies inside ± `margin`. `confirmed`: exact two-sided McNemar p of at most 0.05. Equivalence goes
    first. It is about these two students on problems like these, and says nothing about whatever made them.

    >>> paired_verdict(1, 12, 100), paired_verdict(0, 1, 500), paired_verdict(3, 5, 100)
    ('confirmed', 'equivalent', 'not settled')
    """
    if margin <= 0:
        raise ValueError(f"`margin` must be above 0, got {margin}: no data can show that two are exactly equal")
    low, high = paired_interval(first, second, n, level=0.90)
    if -margin < low and high < margin:
        return "equivalent"
    return "confirmed" if mcnemar(second, first, tail="two-sided") <= 0.05 else "not settled"


# ---- two arms over the same seeds


def t_interval(differences: Sequence[float], *, level: float = 0.95) -> Interval:
    """Where the true mean difference lies: mean ± t * s / sqrt(n), with n - 1 degrees of freedom (Student 1908).

    `differences` has one number per seed, arm minus arm. Takes them as normally distributed; `sign_flip` does not.
    When all are alike the interval has no width, which says more about the data than about the truth.

    1, 2, 3: mean 2, s = 1, and t = 4.303 for two degrees of freedom, so 2 ± 4.303 / sqrt(3) = 2 ± 2.484.

    >>> [round(x, 3) for x in t_interval([1, 2, 3])]
    [-0.484, 4.484]
    """
    if len(differences) < 2:
        raise ValueError(
            f"an interval needs at least 2 differences, got {len(differences)}: "
            "one seed says nothing about how much seeds differ. Run more seeds."
        )
    from scipy.special import stdtrit

    t = float(stdtrit(len(differences) - 1, (1 + level) / 2))
    mean, half = fmean(differences), t * stdev(differences) / math.sqrt(len(differences))
    return Interval(mean - half, mean + half)


_MOST_FLIPS = 30


def sign_flip(differences: Sequence[float]) -> float:
    """How often chance alone would give a sum this far from 0: the exact two-sided sign-flip test (Fisher 1935).

    If the arms do not differ, each difference could as well have had the other sign. p is the share of all 2**n choices
    of signs whose sum is at least as far from 0 as the observed one. It needs no normality, but seeds: five can never
    give less than 2/32 = 0.0625, six 2/64 = 0.031.

    1, 2, 3: the sum is 6, and of the 8 choices only +++ and --- get there. 3, 2, -1: the sum is 4, and at least as far
    from 0 are 3+2-1, 3+2+1 and their opposites.

    >>> sign_flip([1, 2, 3]), sign_flip([3, 2, -1])
    (0.25, 0.5)
    >>> sign_flip([0.1, 0.2, -0.3])
    1.0
    """
    if not 1 <= len(differences) <= _MOST_FLIPS:
        raise ValueError(
            f"the exact test takes 1 to {_MOST_FLIPS} differences, got {len(differences)}; "
            "with more, `t_interval` no longer leans on normality."
        )
    # Sums that are equal on paper differ in the last bits of a float.
    observed = abs(math.fsum(differences)) - 1e-9 * math.fsum(map(abs, differences))
    if observed <= 0:
        return 1.0
    half = len(differences) // 2
    left, right = _signed_sums(differences[:half]), sorted(_signed_sums(differences[half:]))
    # Met in the middle: 2**15 sums a side instead of 2**30.
    far = sum(len(right) - bisect_left(right, observed - s) + bisect_right(right, -observed - s) for s in left)
    return far / (1 << len(differences))


def _signed_sums(differences: Sequence[float]) -> list[float]:
    """One per choice of signs.

    >>> _signed_sums([1, 2])
    [3.0, -1.0, 1.0, -3.0]
    """
    sums = [0.0]
    for d in reversed(differences):
        sums = [sign * d + s for sign in (1, -1) for s in sums]
    return sums


def verdict(differences: Sequence[float], margin: float = 0.02) -> Word:
    """What the seeds say about the claim that the first arm is better, in one of three words.

    `equivalent`: the true difference is smaller than `margin` either way; both one-sided t tests at 5 % say so, so
    the 90 % interval lies inside ± `margin` (two one-sided tests, Schuirmann 1987). `confirmed`: the 95 % interval lies
    above 0. Equivalence goes first: a lead that is surely below the margin is not worth a claim. Everything else is
    `not settled`, a single seed too, and also an interval *below* 0: that claim is refuted; ask about the opposite one.

    >>> verdict([0.04, 0.05, 0.06, 0.05, 0.05]), verdict([0.01, -0.01, 0.00, 0.01, -0.01])
    ('confirmed', 'equivalent')
    >>> verdict([0.10, -0.02, 0.08, -0.05, 0.03])
    'not settled'
    """
    if margin <= 0:
        raise ValueError(f"`margin` must be above 0, got {margin}: no data can show that two arms are exactly equal")
    if len(differences) < 2:
        return "not settled"
    low, high = t_interval(differences, level=0.90)
    if -margin < low and high < margin:
        return "equivalent"
    return "confirmed" if t_interval(differences).low > 0 else "not settled"
