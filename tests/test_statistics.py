"""Textbook numbers, each checked by a sum done by hand or by brute force."""

import math
import random
import subprocess
import sys
from itertools import product

import pytest

from tutorloop.evals.statistics import (
    Interval,
    Transitions,
    mcnemar,
    paired_interval,
    paired_verdict,
    sign_flip,
    smallest_drop,
    t_interval,
    transitions,
    verdict,
    wilson,
)


def test_wilson_by_hand() -> None:
    """9 of 10: centre (9 + 1.92) / (10 + 3.84) = 0.789; half-width 1.96 / 13.84 * sqrt(0.9 + 0.96) = 0.193."""
    assert wilson(9, 10) == pytest.approx((0.596, 0.982), abs=1e-3)


def test_wilson_is_symmetric_and_stays_inside_0_to_1() -> None:
    for n in (1, 7, 300):
        for right in range(n + 1):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n <= high <= 1
            assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_at_the_ends_by_hand() -> None:
    """0 of n: 0 to z²/(n + z²); of 10 that is 3.84/13.84 = 0.278."""
    assert wilson(0, 10) == pytest.approx((0, 3.8415 / 13.8415), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((10 / 13.8415, 1), abs=1e-4)


def test_nothing_asked_nothing_known() -> None:
    assert wilson(0, 0) == Interval(0, 1)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got 11 of 10"):
        wilson(11, 10)


def test_every_problem_of_the_later_exam_has_one_place() -> None:
    before = {"a": False, "b": False, "c": True, "d": True, "gone": False}
    after = {"a": True, "b": False, "c": False, "d": True, "e": False, "f": True}
    assert transitions(before, after) == Transitions(
        fixed=("a",), persistent=("b",), regressed=("c",), kept_right=("d",), new=("e",)
    )
    assert transitions({}, {}) == Transitions()


def test_mcnemar_by_hand() -> None:
    """2 fixed, 8 regressed: (C(10,8) + C(10,9) + C(10,10)) / 1024 = 56/1024."""
    assert mcnemar(2, 8) == 56 / 1024
    assert mcnemar(2, 8, tail="two-sided") == 112 / 1024
    assert mcnemar(8, 2, tail="two-sided") == 112 / 1024


def test_a_gain_is_no_drop() -> None:
    """8 fixed, 2 regressed: all but the 1 + 10 ways to have fewer than 2 of 10."""
    assert mcnemar(8, 2) == 1 - 11 / 1024


def test_no_change_speaks_for_nothing() -> None:
    assert mcnemar(0, 0) == mcnemar(0, 0, tail="two-sided") == mcnemar(5, 5, tail="two-sided") == 1
    assert mcnemar(0, 40) == 2.0**-40


def test_mcnemar_adds_up_for_thousands_of_changes() -> None:
    """Both tails overlap in the middle: P(X >= r) + P(X >= n - r) = 1 + P(X = r)."""
    assert mcnemar(4_900, 5_100) + mcnemar(5_100, 4_900) == pytest.approx(
        1 + math.comb(10_000, 5_100) / 2**10_000, abs=1e-12
    )


def test_five_regressions_are_the_fewest_that_show() -> None:
    """2**-4 = 0.0625 is above 0.05, 2**-5 = 0.031 below; at 1 % it takes 2**-7 = 0.008."""
    assert smallest_drop(300) == 5 / 300
    assert smallest_drop(300, alpha=0.01) == 7 / 300


def test_fixes_blur_a_drop() -> None:
    """3 fixed: of 12 changes 9 regressions give 299/4096 = 0.073, of 13 changes 10 give 378/8192 = 0.046."""
    assert (mcnemar(3, 9), mcnemar(3, 10)) == (299 / 4096, 378 / 8192)
    assert smallest_drop(300, fixed=3) == (10 - 3) / 300


@pytest.mark.parametrize("fixed", [0, 1, 4, 20])
def test_the_smallest_drop_is_where_the_test_begins_to_see(fixed: int) -> None:
    drop = smallest_drop(200, fixed=fixed)
    assert drop is not None
    regressed = round(drop * 200) + fixed
    assert mcnemar(fixed, regressed) <= 0.05 < mcnemar(fixed, regressed - 1)


def test_a_small_exam_sees_no_drop_at_all() -> None:
    assert smallest_drop(4) is None
    assert smallest_drop(5) == 1
    assert smallest_drop(10, fixed=6) is None
    assert smallest_drop(0) is None


def test_t_interval_by_hand() -> None:
    """2, 4, 6, 8: mean 5, s² = (9 + 1 + 1 + 9)/3, t = 3.182 for 3 degrees: 5 ± 3.182 * 2.582 / 2 = 5 ± 4.108."""
    assert t_interval([2, 4, 6, 8]) == pytest.approx((0.892, 9.108), abs=1e-3)


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2 differences, got 1"):
        t_interval([0.1])


def test_the_t_interval_covers_the_truth_about_19_times_in_20() -> None:
    draw = random.Random(0)
    covered = 0
    for _ in range(2_000):
        low, high = t_interval([draw.gauss(0.1, 0.3) for _ in range(5)])
        covered += low <= 0.1 <= high
    assert 0.94 < covered / 2_000 < 0.96


def test_sign_flip_equals_trying_every_choice() -> None:
    draw = random.Random(0)
    for n in range(1, 9):
        differences = [draw.choice([-2, 1, 3, 0, 5]) for _ in range(n)]
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=n)
        ]
        assert sign_flip(differences) == sum(s >= abs(sum(differences)) for s in sums) / 2**n
        assert sign_flip([d / 100 for d in differences]) == sign_flip(differences)


def test_five_seeds_cannot_reach_5_percent_and_six_can() -> None:
    assert sign_flip([0.1, 0.2, 0.1, 0.3, 0.2]) == 2 / 32
    assert sign_flip([0.1, 0.2, 0.1, 0.3, 0.2, 0.1]) == 2 / 64


def test_thirty_seeds_are_exact_and_more_are_sent_elsewhere() -> None:
    assert sign_flip([0.1] * 30) == 2 / 2**30
    with pytest.raises(ValueError, match="got 31; with more, `t_interval`"):
        sign_flip([0.1] * 31)


def test_no_difference_at_all_is_no_evidence() -> None:
    assert sign_flip([0.0, 0.0]) == sign_flip([0.1, 0.2, -0.3]) == 1


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.04, 0.05, 0.06, 0.05, 0.05], "confirmed"),
        ([0.01, -0.01, 0.00, 0.01, -0.01], "equivalent"),
        ([0.009, 0.010, 0.011, 0.010, 0.010], "equivalent"),  # a lead, but surely below the margin
        ([0.10, -0.02, 0.08, -0.05, 0.03], "not settled"),
        ([-0.04, -0.05, -0.06, -0.05, -0.05], "not settled"),  # refuted: not what was claimed
        ([0.5], "not settled"),
        ([], "not settled"),
    ],
)
def test_three_words(differences: list[float], said: str) -> None:
    assert verdict(differences) == said


def test_equivalence_is_two_one_sided_tests_by_hand() -> None:
    """0, 1, 2, 3, 4 hundredths: mean 0.02, s = 0.01581, t = 2.132 (90 %, 4 degrees): 0.02 ± 0.0151, up to 0.0351."""
    differences = [0.00, 0.01, 0.02, 0.03, 0.04]
    assert verdict(differences, margin=0.0352) == "equivalent"
    assert verdict(differences, margin=0.0350) == "confirmed"  # 95 %: 0.02 ± 2.776 * 0.00707 = 0.02 ± 0.0196, above 0


def test_a_margin_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="`margin` must be above 0, got 0"):
        verdict([0.1, 0.2], margin=0)


def test_the_import_loads_no_scipy() -> None:
    code = "import sys, tutorloop.evals.statistics; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- how far two students are apart on the same problems


def outcomes(n: int, first: float, second: float) -> list[tuple[int, int, float]]:
    """Every count of problems that only the first, and only the second, has right, with its chance."""
    rest = 1 - first - second
    return [
        (a, b, math.comb(n, a) * math.comb(n - a, b) * first**a * second**b * rest ** (n - a - b))
        for a in range(n + 1)
        for b in range(n + 1 - a)
    ]


def test_the_paired_interval_by_hand() -> None:
    """9 and 1 of 98: a = 10/100, b = 2/100, so -0.08 ± 1.96 * sqrt((0.12 - 0.0064) / 100) = -0.08 ± 0.0661."""
    assert paired_interval(9, 1, 98) == pytest.approx((-0.1461, -0.0139), abs=1e-4)
    low, high = paired_interval(1, 9, 98)
    assert paired_interval(9, 1, 98) == pytest.approx((-high, -low))


@pytest.mark.parametrize("rates", [(0.05, 0.05), (0.1, 0.02), (0.02, 0.2), (0.3, 0.3), (0.0, 0.1)])
@pytest.mark.parametrize("n", [20, 60])
def test_the_paired_interval_holds_the_truth_as_often_as_it_says(n: int, rates: tuple[float, float]) -> None:
    first, second = rates
    held = 0.0
    for a, b, chance in outcomes(n, first, second):
        low, high = paired_interval(a, b, n)
        held += chance * (low <= second - first <= high)
    assert held > 0.94


def test_two_that_agree_everywhere_are_equivalent_if_there_were_enough_problems() -> None:
    assert paired_verdict(0, 0, 500) == "equivalent"
    assert paired_verdict(0, 0, 50) == "not settled", "fifty problems cannot show that"


def test_a_difference_is_confirmed_by_the_exact_test_and_whichever_way_it_goes() -> None:
    """6 against none: 2 / 2**6 = 0.031; 5: 2 / 2**5 = 0.063."""
    assert paired_verdict(0, 6, 60) == paired_verdict(6, 0, 60) == "confirmed"
    assert paired_verdict(0, 5, 60) == "not settled"


def test_a_difference_of_the_margin_is_seldom_called_equivalent_and_none_seldom_confirmed() -> None:
    n = 120
    wrong = sum(chance for a, b, chance in outcomes(n, 0.0, 0.02) if paired_verdict(a, b, n) == "equivalent")
    assert wrong < 0.10
    wrong = sum(chance for a, b, chance in outcomes(n, 0.05, 0.05) if paired_verdict(a, b, n) == "confirmed")
    assert wrong < 0.05


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="are counts of"):
        paired_interval(*counts)


def test_nobody_is_shown_to_be_exactly_equal_by_one_exam_either() -> None:
    with pytest.raises(ValueError, match="`margin` must be above 0"):
        paired_verdict(1, 1, 10, margin=0)
