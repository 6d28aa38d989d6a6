"""Does tailoring add anything? Ten students, each taught three times: `tailored`, `gold`, `uniform`.

    python benchmarks/gold_control.py    and as `comparison.py` says

`gold_control.md` is the protocol.
"""

import sys
from pathlib import Path

from comparison import Comparison, main

COMPARISON = Comparison.beside(Path(__file__), ("tailored", "gold"), ("tailored", "uniform"), ("gold", "uniform"))

if __name__ == "__main__":
    sys.exit(main(COMPARISON))
