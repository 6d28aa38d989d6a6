"""Pictures of a run as SVG, written by hand: a learning curve, a flow between rounds, a bar before and after.

Colours and fonts are classes, which the style sheet of `report.html.j2` sets for light, dark and paper. Whatever is
written in a picture is escaped. Numbers are rounded to a tenth of a pixel, so the same run draws the same text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..evals.terminal import safe
from .show import RoundLine

LABELS = ("right", "wrong", "unparsed", "truncated", "abstain")
"""What became of an answer, from below."""
WIDTH = 720
"""Pixels, as all measures here; a picture is scaled to the page."""


def tag(name: str, *inside: object, **attributes: object) -> Markup:
    """One element; everything in it is escaped but other elements.

    >>> tag("text", "a<b", x=1.25, class_="n", text_anchor="end")
    Markup('<text x="1.2" class="n" text-anchor="end">a&lt;b</text>')
    """
    told = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _plain(value)) for key, value in attributes.items()
    )
    within = Markup("").join(x if isinstance(x, Markup) else safe(str(x)) for x in inside)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), told, within)


def _plain(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _picture(width: float, height: float, says: str, parts: Iterable[Markup]) -> Markup:
    return tag("svg", tag("title", says), *parts, viewBox=f"0 0 {_plain(width)} {_plain(height)}", role="img")


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels: as near to their own as may be, at least `gap` apart, within bounds where there is room.

    >>> spread([10.0, 11.0, 50.0], 10, 0, 100)
    [5.5, 15.5, 50.0]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    groups: list[list[int]] = []

    def centre(group: Sequence[int]) -> float:
        middle, half = sum(places[i] for i in group) / len(group), gap * (len(group) - 1) / 2
        return max(low + half, min(high - half, middle))

    def touch(a: Sequence[int], b: Sequence[int]) -> bool:
        return centre(b) - centre(a) < gap * (len(a) + len(b)) / 2

    for i in order:
        groups.append([i])
        while len(groups) > 1 and touch(groups[-2], groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    found = list(places)
    for group in groups:
        for at, i in enumerate(group):
            found[i] = centre(group) + gap * (at - (len(group) - 1) / 2)
    return found


# ---- learning curve

TOP, BOTTOM, LEFT, RIGHT = 14.0, 266.0, 40.0, 606.0


def curve(rounds: Sequence[RoundLine], exams: Mapping[int, Mapping[str, float]]) -> Markup:
    """Quiz by round, and the exam each time it was sat, with their intervals. A rolled-back round is off the line."""
    last = max(1, rounds[-1].round)

    def x(number: float) -> float:
        return LEFT + 14 + (RIGHT - LEFT - 28) * number / last

    kept = [r for r in rounds if r.kept]
    parts = [*_grid(), *_ticks([r.round for r in rounds], x)]
    parts.append(tag("polyline", points=_points((x(r.round), _y(r.quiz_accuracy)) for r in kept), class_="line quiz"))
    served = kept[0]
    for r in rounds:
        at = x(r.round), _y(r.quiz_accuracy)
        if not r.kept:
            way = _points([(x(served.round), _y(served.quiz_accuracy)), at])
            parts.append(tag("polyline", points=way, class_="line quiz lost"))
            if len(rounds) <= 12:
                above = _y(r.quiz_high) - 7
                parts.append(tag("text", "rolled back", x=at[0], y=above, class_="note", text_anchor="middle"))
        served = r if r.kept else served
        says = f"round {r.round}: quiz {r.quiz_accuracy:.3f} ({r.quiz_low:.3f}-{r.quiz_high:.3f}, n {r.quiz_n})"
        parts += _whisker(at[0], r.quiz_low, r.quiz_high, "quiz")
        parts.append(
            tag("circle", tag("title", says), cx=at[0], cy=at[1], r=4, class_="quiz" if r.kept else "quiz hollow")
        )
    ends = [(f"quiz {kept[-1].quiz_accuracy:.3f}", kept[-1].quiz_accuracy, "quiz")]
    if exams:
        parts.append(
            tag("polyline", points=_points((x(n) + 9, _y(e["accuracy"])) for n, e in exams.items()), class_="line exam")
        )
        for n, e in exams.items():
            says = f"exam after round {n}: {e['accuracy']:.3f} ({e['low']:.3f}-{e['high']:.3f}, n {e['n']:.0f})"
            parts += _whisker(x(n) + 9, e["low"], e["high"], "exam")
            box = {"x": x(n) + 5, "y": _y(e["accuracy"]) - 4, "width": 8, "height": 8}
            parts.append(tag("rect", tag("title", says), **box, class_="exam"))
        final = exams[max(exams)]["accuracy"]
        ends.append((f"exam {final:.3f}", final, "exam"))
    places = spread([_y(share) for _, share, _ in ends], 16, TOP, BOTTOM)
    for (label, _, kind), at_y in zip(ends, places, strict=True):
        parts.append(tag("text", label, x=RIGHT + 12, y=at_y + 4, class_=f"label {kind}"))
    return _picture(WIDTH, BOTTOM + 40, "learning curve: share of the quiz that is right, by round", parts)


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


def _grid() -> Iterator[Markup]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        kind = "axis" if not share else "grid"
        yield tag("line", x1=LEFT, x2=RIGHT, y1=_y(share), y2=_y(share), class_=kind)
        yield tag("text", f"{share:g}", x=LEFT - 8, y=_y(share) + 4, class_="tick", text_anchor="end")


def _ticks(numbers: Sequence[int], x: object) -> Iterator[Markup]:
    assert callable(x)
    step = -(-len(numbers) // 20)  # where there are many, every so often
    for number in numbers[::step]:
        name = f"{number}" if number else "before"
        yield tag("text", name, x=x(number), y=BOTTOM + 18, class_="tick", text_anchor="middle")
    yield tag("text", "round", x=RIGHT + 12, y=BOTTOM + 18, class_="tick")


def _whisker(x: float, low: float, high: float, kind: str) -> Iterator[Markup]:
    yield tag("line", x1=x, x2=x, y1=_y(low), y2=_y(high), class_=f"whisker {kind}")
    for share in (low, high):
        yield tag("line", x1=x - 3, x2=x + 3, y1=_y(share), y2=_y(share), class_=f"whisker {kind}")


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


# ---- flow

Moves = Mapping[tuple[str, str], int]
"""How many problems went from one label to another."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One sitting of a flow."""

    name: str
    counts: Mapping[str, int]
    """Problems by label."""


def flow(columns: Sequence[Column], moves: Sequence[Moves], *, width: float = WIDTH, height: float = 236) -> Markup:
    """What became of each problem from one sitting to the next; `moves` is one shorter than `columns`."""
    top, bottom, left, right, bar = 26.0, height - 24, 4.0, width - 44, 9.0
    gap = (right - left - bar) / max(1, len(columns) - 1)
    xs = [left + gap * i for i in range(len(columns))]
    stacks = [_stacked(column.counts, top, bottom) for column in columns]
    bands, bars, words = list[Markup](), list[Markup](), list[Markup]()
    for i, moved in enumerate(moves):
        bands += _bands(moved, stacks[i], stacks[i + 1], xs[i] + bar, xs[i + 1])
        middle = (xs[i] + bar + xs[i + 1]) / 2
        fixed = sum(n for (was, now), n in moved.items() if was != "right" and now == "right")
        regressed = sum(n for (was, now), n in moved.items() if was == "right" and now != "right")
        words.append(tag("text", f"{fixed} fixed", x=middle - 4, y=bottom + 18, class_="fixed", text_anchor="end"))
        words.append(tag("text", f"{regressed} regressed", x=middle + 4, y=bottom + 18, class_="regressed"))
    for x, column, stack in zip(xs, columns, stacks, strict=True):
        words.append(tag("text", column.name, x=x, y=12, class_="head"))
        for label, (high, low) in stack.items():
            told = tag("title", f"{column.name}: {column.counts[label]} {label}")
            bars.append(tag("rect", told, x=x, y=high, width=bar, height=max(0.8, low - high), class_=f"node {label}"))
        places = spread([(high + low) / 2 for high, low in stack.values()], 13, top + 6, bottom - 4)
        for label, at in zip(stack, places, strict=True):
            words.append(tag("text", column.counts[label], x=x + bar + 4, y=at + 4, class_=f"count {label}"))
    says = "flow: how many answers were right, wrong or not to be read, and what became of each in the next round"
    return _picture(width, height, says, [*bands, *bars, *words])


def _stacked(counts: Mapping[str, int], top: float, bottom: float) -> dict[str, tuple[float, float]]:
    """From above to below, where each label's bar stands: its upper and its lower end."""
    there = [label for label in LABELS if counts.get(label)]
    between = 5.0
    unit = (bottom - top - between * (len(LABELS) - 1)) / max(1, sum(counts.values()))
    found, low = dict[str, tuple[float, float]](), bottom
    for label in there:
        high = low - unit * counts[label]
        found[label] = high, low
        low = high - between
    return found


def _bands(
    moved: Moves,
    before: Mapping[str, tuple[float, float]],
    after: Mapping[str, tuple[float, float]],
    x1: float,
    x2: float,
) -> Iterator[Markup]:
    """One band for each kind of move, stacked from below at both ends. What moved least lies on top."""
    left, right = {k: low for k, (_, low) in before.items()}, {k: low for k, (_, low) in after.items()}
    total = sum(moved.values())
    span = sum(low - high for high, low in after.values())
    ways = [(was, now) for was in LABELS for now in LABELS if moved.get((was, now))]
    ends = dict[tuple[str, str], tuple[float, float, float]]()
    for way in ways:
        ends[way] = left[way[0]], 0.0, span * moved[way] / total
        left[way[0]] -= ends[way][2]
    for was, now in sorted(ways, key=lambda way: (LABELS.index(way[1]), LABELS.index(way[0]))):
        at, _, thick = ends[was, now]
        ends[was, now] = at, right[now], thick
        right[now] -= thick
    for way in sorted(ways, key=lambda way: -moved[way]):
        a, b, thick = ends[way]
        mid = (x1 + x2) / 2
        path = (
            f"M{x1:.1f},{a:.1f}C{mid:.1f},{a:.1f} {mid:.1f},{b:.1f} {x2:.1f},{b:.1f}"
            f"V{b - thick:.1f}C{mid:.1f},{b - thick:.1f} {mid:.1f},{a - thick:.1f} {x1:.1f},{a - thick:.1f}Z"
        )
        yield tag("path", tag("title", f"{moved[way]}: {way[0]} to {way[1]}"), d=path, class_=f"band {_kind(*way)}")


def _kind(was: str, now: str) -> str:
    if was == now == "right":
        return "stays"
    if now == "right":
        return "fixed"
    return "regressed" if was == "right" else "persists"


# ---- before and after


def dumbbell(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> Markup:
    """An accuracy before, hollow, and after, full, on a line from 0 to 1 with both intervals."""
    width, height = 210.0, 20.0

    def x(share: float) -> float:
        return 6 + (width - 12) * share

    parts = [tag("line", x1=x(0), x2=x(1), y1=height / 2, y2=height / 2, class_="grid")]
    parts += [tag("line", x1=x(s), x2=x(s), y1=4, y2=height - 4, class_="grid") for s in (0.0, 0.5, 1.0)]
    if before and after:
        ends = {"x1": x(before["accuracy"]), "x2": x(after["accuracy"])}
        parts.append(tag("line", **ends, y1=height / 2, y2=height / 2, class_="move"))
    for told, y, kind in ((before, height / 2 + 4, "was"), (after, height / 2 - 4, "now")):
        if told:
            parts.append(tag("line", x1=x(told["low"]), x2=x(told["high"]), y1=y, y2=y, class_=f"whisker {kind}"))
            parts.append(tag("circle", cx=x(told["accuracy"]), cy=height / 2, r=4, class_=kind))
    says = " to ".join(f"{told['accuracy']:.3f}" for told in (before, after) if told)
    return _picture(width, height, says, parts)
