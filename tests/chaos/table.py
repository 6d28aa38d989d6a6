"""The tables of `docs/chaos.md`, from what the grid measured: `python -m tutorloop.tests.chaos.table ROWS [DOCUMENT]`.

Without a document it only says whether everybody was killed in every phase; exit code 1 if not.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tutorloop.tests.chaos.start import DAEMONS, PHASES, ROLES, SERVERS

VICTIMS = ("driver", *ROLES, *DAEMONS)
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Row = dict[str, Any]


def missing(losses: Iterable[Row]) -> list[tuple[str, str]]:
    """Pairs that nobody was killed in."""
    hit = {(r["victim"], r["phase"]) for r in losses}
    return sorted({*product(("driver", *ROLES, *SERVERS), PHASES)} - hit)


def tables(losses: Sequence[Row], rolls: Sequence[Row]) -> Iterator[str]:
    kills = [r for r in losses if r["victim"] in VICTIMS]
    yield f"{len(kills)} kills in the grid, and {sum(len(r['kills']) for r in rolls)} at random."
    worlds = dict.fromkeys(r["world"] for r in losses)
    for world in worlds:
        yield from ("", f"**{world[0].upper()}{world[1:]}**", "")
        yield from grid([r for r in losses if r["world"] == world])
    yield from (
        "",
        "**At random**",
        "",
        "| seed | world | starts | who was killed, and in which step |",
        "|---|---|---|---|",
    )
    for row in sorted(rolls, key=lambda r: (r["seed"], r["world"])):
        told = ", ".join(f"{victim} {step or 'before the first'}" for victim, step in row["kills"])
        yield f"| {row['seed']} | {row['world']} | {row['starts']} | {told} |"


def grid(losses: Sequence[Row]) -> Iterator[str]:
    """Phases down, victims across, the seconds of each resume in the cell."""
    cells: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for row in losses:
        cells[row["phase"], row["victim"]].append(row["seconds"])
    across = sorted({victim for _, victim in cells}, key=lambda v: (VICTIMS.index(v) if v in VICTIMS else 99, v))
    yield f"| | {' | '.join(across)} |"
    yield f"|---|{'---|' * len(across)}"
    for phase in PHASES:
        if any((phase, victim) in cells for victim in across):
            yield f"| {phase} | {' | '.join(cell(cells[phase, victim]) for victim in across)} |"


def cell(seconds: Iterable[float | None]) -> str:
    """
    >>> cell([1.234, None]), cell([])
    ('1.2, not missed', '')
    """
    return ", ".join("not missed" if s is None else f"{s:.1f}" for s in seconds)


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    losses, rolls = [r for r in rows if "victim" in r], [r for r in rows if "seed" in r]
    print(f"never killed: {missing(losses) or 'nobody'}")
    for name in sys.argv[2:]:
        before, _, rest = Path(name).read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        told = "\n".join([before + BEGIN, *tables(losses, rolls), END])
        Path(name).write_text(told + after, encoding="utf-8")
    sys.exit(bool(missing(losses)))


if __name__ == "__main__":
    main()
