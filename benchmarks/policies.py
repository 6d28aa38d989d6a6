"""Which way to teach? Ten students, each taught five times: `retry`, `socratic`, `contrast`, `tailored`, `gold`.

    python benchmarks/policies.py    and as `comparison.py` says

`policies.md` is the protocol.
"""

import sys
from pathlib import Path

from comparison import Comparison, main

NEW = ("socratic", "retry", "contrast")
COMPARISON = Comparison.beside(
    Path(__file__),
    *((arm, "gold") for arm in (*NEW, "tailored")),
    *((arm, "tailored") for arm in NEW),
)

if __name__ == "__main__":
    sys.exit(main(COMPARISON))
