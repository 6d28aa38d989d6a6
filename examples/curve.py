"""Draw a run's learning curve: quiz accuracy by round with its 95 % interval, the exam before and after.

python examples/curve.py runs/arithmetic docs/curve.svg        (needs matplotlib: pip install "tutorloop[plot]")
"""

import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from tutorloop import read_run


def draw(run: str, file: str) -> None:
    told = read_run(Path(run))
    numbers = [r.round for r in told.rounds]
    quiz = [r.quiz_accuracy for r in told.rounds]
    below = [r.quiz_accuracy - r.quiz_low for r in told.rounds]
    above = [r.quiz_high - r.quiz_accuracy for r in told.rounds]
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text, in the reader's font
    matplotlib.rcParams["svg.hashsalt"] = "tutorloop"  # the same run draws the same file
    figure, axes = plt.subplots(figsize=(7, 3.6))
    label = f"quiz, n = {told.rounds[0].quiz_n}, 95 % interval"
    axes.errorbar(numbers, quiz, yerr=[below, above], marker="o", capsize=3, label=label)
    if told.exam.before is not None and told.exam.after is not None:
        exam = [told.exam.before, told.exam.after]
        axes.plot(
            [numbers[0], numbers[-1]],
            exam,
            "s",
            markersize=11,
            markerfacecolor="none",
            label=f"exam, n = {told.exam.n}, before and after",
        )
    for r in told.rounds:
        if not r.kept:
            axes.annotate("rolled back", (r.round, r.quiz_accuracy), textcoords="offset points", xytext=(4, -14))
    axes.set(xlabel="round", ylabel="right", ylim=(0, 1.02), xticks=numbers)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    draw(*sys.argv[1:3])
