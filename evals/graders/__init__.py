r"""Graders: is this answer right? Plain functions `(Problem, Gold, Attempt) -> Verdict`; nothing is executed.

An answer is read in two steps. First *where*: a mark says "this is my answer", and the last one with something readable
behind it counts, so that showing many guesses is worth one. Then *what*: a number, a letter, yes or no, some words.

- Marks: `=324` alone on the last line (how the embedded world ends its work), `#### 42`, `\boxed{42}`,
  `<answer>42</answer>`, "the answer is 42", "Answer: 42". What stands before `</think>` is not looked at.
- `number` is flexible: without a mark it takes a bare number on the last line, else what the last clause that has a
  number comes to: the number behind its last `=` or "total of", else its last number. `strict_number` wants a mark.
  Side by side they show how much of an accuracy is reading and how much is arithmetic.
- Numbers are compared exactly, as fractions: 0.5 is 1/2 is 50 %, and 0.33 is not 1/3. No tolerance, no rounding, with
  one exception: a number of 15 or more digits, ten of them behind the point, is a float that some program printed, and
  12 of its digits count (0.30000000000000004 is 0.3). A unit is ignored, so "50%" also answers a gold of 50.
- A sum that was left undone is no answer: `0+72` does not answer "0+72", though its last number is right. Nor is a
  fraction right that is not in lowest terms and was copied from the question (`84/12`); others count by value.
- What cannot be read for certain is no answer: a piece of something longer (`1,5`, `12 500`, `12:30`), a bound (`> 5`),
  what is denied ("not 5"). Where a marked answer cannot be read, nothing else in the text stands in for it.

Labels. `truncated`: the token limit cut the attempt off, and this goes before everything else. Even a complete marked
answer does not rescue it: what would have followed could have replaced it, and a student that never stops has not
answered. `unparsed`: nothing to read, the engine failed, or the number is too long to be meant. `wrong`: it was read,
and it is not the gold. A gold that the grader itself cannot read is the data set's fault and raises: `read_number`
finds such rows beforehand.

Hostile text is bounded, not trusted: the last 20,000 characters are read, at most 50 marks are tried, and a number of
more than 400 characters or with a power of ten beyond 400 is never converted. docs/graders.md has every such bound, how
far the graders agree with other projects' labels, and what is known to be read wrongly.

Not covered: numbers in words ("four"), decimal commas (0,30), digits grouped by blanks or apostrophes, clock times and
ratios, roots, pi, intervals, sets and algebra (that is mathematical equality, another grader), units that need
converting, an option named by its text instead of its letter, a negation of yes and no other than "not". A text answer
must be the gold's words: no synonyms. Programs and dialogues have no grader here.
"""

from .grading import GRADERS, final_answer, gives_away, grade
from .numbers import Reading, read_number
from .numeric import number, strict_number
from .verdicts import Grader
from .words import boolean, choice, plain, text

__all__ = [
    "GRADERS",
    "Grader",
    "Reading",
    "boolean",
    "choice",
    "final_answer",
    "gives_away",
    "grade",
    "number",
    "plain",
    "read_number",
    "strict_number",
    "text",
]
