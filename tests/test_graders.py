"""What counts as a right answer, on what students write and on what they write to break a grader."""

from fractions import Fraction

import pytest

from tutorloop.evals.graders import Grader, final_answer, grade, number, read_number, strict_number
from tutorloop.evals.records import Attempt, Finish, Gold, Kind, Problem, user


def ask(
    said: str, gold: str, *, kind: Kind = "number", by: Grader = grade, question: str = "?", finish: Finish = "stop"
) -> str:
    return by(
        Problem(id="a", messages=user(question), kind=kind),
        Gold(problem="a", answer=gold),
        Attempt(problem="a", text=said, finish=finish, state=""),
    ).label


RIGHT_NUMBERS = [
    ("2-8 put 4, borrow\n=324", "324"),
    ("= -5", "-5"),
    ("#### 42", "42"),
    ("####42", "42"),
    ("#### 10\nMore reasoning.\n#### 20", "20"),
    ("#### 42\nI hope the answer is correct.", "42"),
    (r"so \boxed{42}, as 6 * 8 = 48 is too much", "42"),
    (r"\boxed{\frac{1}{2}}", "0.5"),
    (r"\boxed{1.5 \times 10^{3}}", "1500"),
    ("<think>10 - 5 = 5\n<answer>5</answer>", "5"),
    ("<think>the answer is 4</think>5", "5"),
    ("The answer is 51 dollars.", "51"),
    ("**Final answer:** 42", "42"),
    ("Answer:\n42", "42"),
    ("Answer: He has 3 boxes with 4 pens each, so 12.", "12"),
    ("The final answer is 15 gallons * 8 pints = 120 pints.", "120"),
    ("The answer is 64 + 60 = 124.", "124"),
    ("My answer is not 5. It is 6", "6"),
    ("First compute 6*7.\n42", "42"),
    ("which makes $1,234.50 in all.", "1234.5"),
    ("it costs -$5", "-5"),
    ("it costs $-5", "-5"),
    ("34 - (-5) = 39", "39"),
    ("12 − 19 = −7", "-7"),
    ("(35 + 70 = 105).", "105"),
    ("1/2", "0.5"),
    ("2 1/2 hours", "2.5"),
    ("-½", "-0.5"),
    ("2½", "5/2"),
    ("33.5%", "0.335"),
    ("33.5 percent", "33.5"),
    (r"3 of 10, so \boxed{30}\%.", "0.3"),
    ("6.02e23", "602e21"),
    ("1.5×10⁻³", "0.0015"),
    ("5 million", "5000000"),
    ("an area of 9 m²", "9"),
    ("７５", "75"),
    ("$14{,}916$", "14916"),
    (".5", "1/2"),
    ("It is negative 5.", "-5"),
    ("=‐5", "-5"),
    ("2 and 1/2 hours", "2.5"),
    ("5 hundred", "500"),
    ("the answer is ٤٢", "42"),
    ("1\u200b0", "10"),
    ("the ratio 12/15=.8", "0.8"),
    ("He spends $50, because 50 < 52", "50"),
    ("holds 12 200-page books.", "200"),
    ("It is 5.", "5.0"),
    ("1.3333333333333335 feet", "1.3333333333333333"),
    ("0.1 + 0.2 = 0.30000000000000004", "0.3"),
]


@pytest.mark.parametrize(("said", "gold"), RIGHT_NUMBERS)
def test_a_right_number_is_read_however_it_is_written(said: str, gold: str) -> None:
    assert ask(said, gold) == "right"


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ("it still needs 180 - 45 = 135 minutes to reach 100% charge.", "135"),
        ("It takes a total of 33 hours to make 9 quarts.", "33"),
        ("He earned 3 * 8 = 24, and has 5 left.", "5"),
        ("Ray has 95 - 75 = 20 cents. As a nickel is worth 5 cents, he has 20/5 = 4 nickels left.", "4"),
        ("So 8 = 5 + 3.", "8"),
    ],
)
def test_without_a_mark_the_last_clause_is_taken_at_its_result(said: str, result: str) -> None:
    assert ask(said, result) == "right"


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("=324", "325"),
        ("The answer is 25", "5"),
        ("The answer is 42 or 43", "43"),
        ("#### 41\n#### 42\n#### 43", "42"),
        ("12345678901234567", "12345678901234568"),
        ("0.33", "1/3"),
        ("0.28%", "28%"),
        ("-3", "3"),
        ("5 ... \n -3", "3"),
        ("The answer is negative 5", "5"),
        ("#### 2 and 1/2", "2"),
        ("1\u200b0", "1"),
        ("He has 7. The answer is ٤٢.", "7"),
        ("1٫5", "1"),
        ("It costs $1000000000000000.00", "1000000000000001"),
        ("12345678901234.5", "12345678901230"),
    ],
)
def test_another_number_is_wrong(said: str, gold: str) -> None:
    assert ask(said, gold) == "wrong"


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("0+72", "72"),
        ("=0+72", "72"),
        ("=502-0", "0"),
        ("I get 3 * 4", "4"),
        (r"\boxed{x + 1}", "1"),
        ("#### 3 times 4", "3"),
        ("#### 3 plus 4", "3"),
        ("#### 10 divided by 2", "10"),
        ("#### 5 mod 3", "5"),
        ("The answer is log 5", "5"),
        ("#### sqrt(5)", "5"),
    ],
)
def test_a_sum_that_was_left_undone_is_no_answer(said: str, gold: str) -> None:
    assert ask(said, gold) == "unparsed"


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("#### 1,5", "1"),
        ("5.000,00", "5"),
        ("The answer is 12 500", "12"),
        ("#### 12 500", "500"),
        ("12'500", "12"),
        ("#### 12:30", "12"),
        ("#### 1.2.3", "1.2"),
        ("The answer is 2 and a half", "2"),
    ],
)
def test_a_piece_of_something_longer_is_no_answer(said: str, gold: str) -> None:
    assert ask(said, gold) == "unparsed"


@pytest.mark.parametrize("said", ["#### > 5", r"\boxed{\ge 5}", "x ≤ 5", "#### ±5", r"\boxed{\pm 5}"])
def test_a_bound_is_no_answer(said: str) -> None:
    assert ask(said, "5") == "unparsed"


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("Of 12 apples 8 are left. The answer is four.", "8"),
        ("Of 12 apples 8 are left.\nAnswer: four", "8"),
        ("3 * 3 = 9. The answer is 3 * 4.", "9"),
        ("It is 9. The answer is x - 3.", "9"),
    ],
)
def test_no_other_number_stands_in_for_a_marked_answer_that_cannot_be_read(said: str, gold: str) -> None:
    assert ask(said, gold) == "unparsed"


@pytest.mark.parametrize("said", ["The answer is not 5.", "#### not 5", "It is 5. The answer is certainly not 5"])
def test_an_answer_that_is_denied_is_not_given(said: str) -> None:
    assert ask(said, "5") == "unparsed"


def test_a_fraction_copied_from_the_question_is_wrong_unless_it_is_in_lowest_terms() -> None:
    assert ask("=84/12", "7", question="84 ÷ 12") == "wrong"
    assert ask("=4/8", "1/2", question="Simplify 4/8.") == "wrong"
    assert ask("=4/8", "1/2", question="Half of it, please.") == "right"
    assert ask("1/2", "1/2", question="Which is larger, 1/2 or 1/3?") == "right"
    assert ask("2 1/2", "5/2", question="Which is larger, 2 1/2 or 1/3?") == "right"


@pytest.mark.parametrize("said", ["", "   ", "no idea", "COVID-19", "m2", "the 5th", r"\boxed{8\sqrt{6}}", "=1/0"])
def test_nothing_to_read_is_unparsed_not_wrong(said: str) -> None:
    assert ask(said, "5") == "unparsed"


@pytest.mark.parametrize("by", [number, strict_number])
@pytest.mark.parametrize("said", ["2-8 put 4, bor", "=324", "#### 324"])
def test_a_truncated_answer_is_truncated_even_if_a_marked_answer_was_reached(by: Grader, said: str) -> None:
    assert ask(said, "324", by=by, finish="length") == "truncated"


@pytest.mark.parametrize("kind", ["choice", "boolean", "text"])
def test_truncation_and_errors_go_before_reading_for_every_kind(kind: Kind) -> None:
    gold = {"choice": "B", "boolean": "yes", "text": "Rome"}[kind]
    assert ask(f"The answer is {gold}", gold, kind=kind, finish="length") == "truncated"
    assert ask(f"The answer is {gold}", gold, kind=kind, finish="error") == "unparsed"
    assert ask("=5", "5", finish="error") == "unparsed"


@pytest.mark.parametrize("said", ["=324", "#### 324", r"\boxed{324}", "The answer is 324.", "Answer: 324"])
def test_the_strict_grader_takes_a_marked_answer(said: str) -> None:
    assert ask(said, "324", by=strict_number) == "right"


@pytest.mark.parametrize("said", ["324", "in all 324.", "324\n=324 or so, I think"])
def test_the_strict_grader_does_not_take_a_bare_one(said: str) -> None:
    assert ask(said, "324", by=strict_number) == "unparsed"


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("So the answer is (C)", "right"),
        ("C", "right"),
        ("it is c", "unparsed"),  # only a marked or bracketed small letter is an option
        ("The answer is c.", "right"),
        ("(c)", "right"),
        ("Answer: C) 12", "right"),
        (r"\boxed{C}", "right"),
        ("(A) is too small, (B) too large: (C)", "right"),
        ("The answer is for sure C, it can't be A or B", "right"),
        ("Answer: A train needs longer, so (C).", "right"),
        ("The answer is (B), not (C)", "wrong"),
        ("The answer is not C", "unparsed"),
        ("The answer is neither B nor C", "unparsed"),
        ("The answer is not A. It must be (C)", "right"),
        ("I think it is the third", "unparsed"),
        ("A fish cannot.", "unparsed"),
    ],
)
def test_choices(said: str, label: str) -> None:
    assert ask(said, "(C) Alina", kind="choice") == label


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("no", "right"),
        ("False.", "right"),
        ("No. Whales are mammals, which is true.", "right"),
        ("Yes, they swim. But they breathe air. So the answer is no.", "right"),
        ("Fish breathe water.\nSo, no", "right"),
        ("That is not true.", "right"),
        ("Answer: The statement is false.", "right"),
        ("yes", "wrong"),
        ("The answer is Yes, there is no doubt", "wrong"),
        ("There is no way to know", "unparsed"),
        ("The answer is neither yes nor no", "unparsed"),
        ("The answer is not easily found. But it is no.", "right"),
    ],
)
def test_booleans(said: str, label: str) -> None:
    assert ask(said, "False", kind="boolean") == label
    assert ask(said, "no", kind="boolean") == label


@pytest.mark.parametrize(
    ("said", "gold", "label"),
    [
        ("Hello   World", "hello world", "right"),
        ("The answer is 42!", "answer is 42", "right"),
        ("A simple test.", "simple test", "right"),
        ("<answer>Albert Einstein</answer>", "albert einstein", "right"),
        ("Let me think.\n“Paris”", "Paris", "right"),
        ("The answer is Paris. I hope so.", "Paris", "right"),
        ("So the answer is ) } >", ") } >", "right"),
        ("So the answer is } ) >", ") } >", "wrong"),
        ("The answer is C", "C++", "wrong"),
        ("Paris\nThe answer is Rome", "Paris", "wrong"),
        ("", "Paris", "unparsed"),
    ],
)
def test_texts(said: str, gold: str, label: str) -> None:
    assert ask(said, gold, kind="text") == label


def test_a_number_too_long_to_be_meant_does_not_let_an_earlier_one_through() -> None:
    assert ask("#### 42\n#### " + "9" * 10_000, "42") == "unparsed"


def test_accents_piled_on_a_letter_are_dropped_beyond_the_eighth() -> None:
    """Sorting them, as comparing wants it, takes time that grows with the square of the pile."""
    assert ask("e" + "\u0301" * 9_000, "e" + "\u0301" * 8, kind="text") == "right"


def test_half_a_number_is_never_read() -> None:
    """Only the end of a long attempt is read; were it cut within 1042, 42 would be right."""
    assert ask("1042" + " and" * 4_999 + "a", "42") == "unparsed"


def test_a_gold_that_cannot_be_read_is_the_data_sets_fault() -> None:
    with pytest.raises(ValueError, match=r"'-2,1' of problem 'a' cannot be read by the grader `number`"):
        ask("#### 5", "-2,1")
    with pytest.raises(ValueError, match="cannot be read by the grader `choice`"):
        ask("A", "", kind="choice")
    assert read_number("$1,000$") is not None
    assert read_number("3 + 4") is None


@pytest.mark.parametrize(("said", "gold"), RIGHT_NUMBERS)
def test_a_final_answer_can_stand_as_a_gold(said: str, gold: str) -> None:
    found = final_answer(Problem(id="a", messages=user("?")), said)
    assert ask(f"={gold}", found) == "right"
    assert ask(said, found) == "right"


@pytest.mark.parametrize(
    ("kind", "said", "found"),
    [
        ("choice", "So the answer is (c)", "C"),
        ("boolean", "So it is not true.", "no"),
        ("text", "The answer is the  Eiffel Tower. I think.", "eiffel tower"),
        ("number", "=84/12", ""),
        ("number", "=" + "9" * 10_000, ""),
        ("number", "none", ""),
        ("text", "", ""),
    ],
)
def test_a_final_answer_is_empty_where_nothing_can_be_read(kind: Kind, said: str, found: str) -> None:
    assert final_answer(Problem(id="a", messages=user("84/12"), kind=kind), said) == found


def test_a_reading_says_what_and_where() -> None:
    reading = read_number("about -$1,250.50 or so")
    assert reading is not None
    assert (reading.text, reading.start, reading.end, reading.value) == ("-$1,250.50", 6, 16, Fraction(-2501, 2))


def test_the_verdict_says_what_was_read_and_never_what_was_expected() -> None:
    verdict = number(
        Problem(id="a", messages=user("?")),
        Gold(problem="a", answer="324"),
        Attempt(problem="a", text="=476", finish="stop", state=""),
    )
    assert (verdict.label, verdict.by, verdict.evidence, verdict.gold_seen) == ("wrong", "number", "read '476'", False)


@pytest.mark.parametrize("kind", ["program", "dialogue"])
def test_a_kind_without_a_grader_is_refused(kind: Kind) -> None:
    with pytest.raises(ValueError, match=f"kind '{kind}', and there is no grader for that yet"):
        ask("print(1)", "1", kind=kind)


def test_an_attempt_at_another_problem_is_refused() -> None:
    with pytest.raises(ValueError, match="an attempt at 'b' met the question 'a'"):
        grade(
            Problem(id="a", messages=user("?")),
            Gold(problem="a", answer="1"),
            Attempt(problem="b", text="=1", finish="stop", state=""),
        )
