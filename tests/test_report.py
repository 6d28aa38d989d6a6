"""The page of a run: its numbers are the run's, whatever was written in it is text, and it fetches nothing.

Tests marked `browser` open it in a headless Chromium behind a proxy that refuses everything and notes who asked.
"""

import html
import json
import os
import re
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tutorloop import launch, read_run
from tutorloop.agents import scripted
from tutorloop.agents.roles import Reply, Request
from tutorloop.evals.records import State
from tutorloop.loops.cli import app
from tutorloop.loops.config import ConfigError
from tutorloop.loops.drawing import LABELS, Column, flow, spread
from tutorloop.loops.fork import fork
from tutorloop.loops.picking import shelves
from tutorloop.loops.report import _pools, cut, lines, report_page, write_report
from tutorloop.loops.show import RunFolder
from tutorloop.loops.training_rows import shown_rows
from tutorloop.tests.policies_for_tests import small

MOST = 2_000_000
"""Bytes: what any mail system takes."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("report")
    launch(small.experiment(home), home / "run")
    return home / "run"


# ---- what the page says


@dataclass
class Page(HTMLParser):
    """Every element with its attributes, and every text with the element it stands in."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.within = tag
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.within, data))

    @property
    def text(self) -> str:
        return "".join(text for within, text in self.texts if within != "style")


def parsed(page: str) -> Page:
    found = Page()
    found.feed(page)
    return found


def cells(page: str, table: str) -> list[list[str]]:
    """The rows of a table of the page, as text."""
    (body,) = re.findall(rf'<table class="{table}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    return [
        [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    ]


def test_the_numbers_of_the_page_are_those_of_show(finished: Path) -> None:
    told = json.loads(CliRunner().invoke(app, ["show", str(finished), "--json"]).stdout)
    page = report_page(finished)
    rounds, costs, pools = cells(page, "rounds"), cells(page, "cost"), cells(page, "pools")
    assert len(rounds) == len(told["rounds"])
    for shown, r in zip(rounds, told["rounds"], strict=True):
        assert shown[:2] == [str(r["round"]), f"{r['quiz_accuracy']:.3f}"]
        assert shown[2] == f"{r['quiz_low']:.3f}–{r['quiz_high']:.3f}"
        assert shown[3] == str(r["quiz_n"])
        did = [str(r["fixed"]), str(r["regressed"]), "yes" if r["kept"] else "no", str(r["cases"])]
        did += [f"{r['accepted']}/{r['lessons']}", str(r["examples"])]
        assert shown[5:] == (did if r["round"] else [""] * 6)
    for shown, r in zip(costs[:-1], told["rounds"][1:], strict=True):
        assert shown[1].replace(",", "") == str(r["teacher_calls"])
        assert shown[3].replace(",", "") == str(r["teacher_tokens"])
    assert costs[-1][3].replace(",", "") == str(sum(r["teacher_tokens"] for r in told["rounds"]))
    before, after = told["finals"]["0"], told["finals"]["2"]
    for name in ("exam", "probe", "retention"):
        (shown,) = [row for row in pools if row[0] == name]
        assert shown[1:6] == [
            f"{before[name]['accuracy']:.3f}",
            f"{before[name]['low']:.3f}–{before[name]['high']:.3f}",
            f"{after[name]['accuracy']:.3f}",
            f"{after[name]['low']:.3f}–{after[name]['high']:.3f}",
            str(before[name]["n"]),
        ]
    assert {row[0] for row in pools} >= set(told["probe"]["skills"]) | set(told["retention"]["skills"])
    changed = told["transitions"]
    assert f"{changed['fixed']} fixed, {changed['regressed']} regressed (exact McNemar" in parsed(page).text


def test_the_page_shows_rows_as_they_were_trained_on(finished: Path) -> None:
    page = report_page(finished)
    rows, total = shown_rows(RunFolder(finished))
    assert len(rows) == 3 and f"3 of {total} rows of the last training" in page
    for row in rows:
        (asked, masked), (completion, weight) = row.pieces
        assert (masked, weight) == (0, 1) and completion == row.example.completion
        assert f'<pre class="row">{html.escape(asked)}<mark>{html.escape(completion)}</mark></pre>' in page


def test_the_flow_has_every_fixed_and_regressed_problem_of_every_round(finished: Path) -> None:
    text = parsed(report_page(finished)).text
    for r in read_run(finished).rounds[1:]:
        assert f"{r.fixed} fixed{r.regressed} regressed" in text
    assert sum(r.fixed for r in read_run(finished).rounds) > 10


def test_the_same_run_gives_the_same_page_wherever_it_lies(finished: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(finished, tmp_path / "elsewhere" / "run")
    first = write_report(finished, tmp_path / "first.html").read_bytes()
    assert first == write_report(finished, tmp_path / "second.html").read_bytes()
    assert first == write_report(moved).read_bytes()
    assert str(tmp_path).encode() not in first.replace(str(finished.parent).encode(), b"")


def test_a_page_in_the_folder_is_no_part_of_the_run(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "report.html").write_text("whatever")
    told = small.experiment(finished.parent, rounds=3)
    assert launch(told, run).status == "finished"
    assert (run / "report.html").read_text() == "whatever"


def test_a_finished_command_leaves_the_page_and_an_unfinished_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(json.dumps(small.experiment(tmp_path)))
    command = ["run", str(tmp_path / "small.yaml"), "--run-dir", str(tmp_path / "run")]
    stopped = CliRunner().invoke(app, [*command, "budget.teacher_tokens=100"])
    assert stopped.exit_code == 3 and not (tmp_path / "run/report.html").exists()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and f"report: {tmp_path}/run/report.html" in done.stderr
    assert (tmp_path / "run/report.html").read_text() == report_page(tmp_path / "run")


def test_a_page_that_cannot_be_written_takes_nothing_from_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(json.dumps(small.experiment(tmp_path, rounds=1)))
    (tmp_path / "run/report.html").mkdir(parents=True)
    command = ["run", str(tmp_path / "small.yaml"), "--run-dir", str(tmp_path / "run")]
    assert CliRunner().invoke(app, command).exit_code == 2, "a folder that is not empty is no place for a new run"
    shutil.rmtree(tmp_path / "run")
    assert CliRunner().invoke(app, [*command, "rounds=0"]).exit_code == 0
    (tmp_path / "run/report.html").unlink()
    (tmp_path / "run/report.html").mkdir()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "its report was not written" in done.stderr and "it is a folder" in done.stderr


def test_a_run_that_is_not_over_has_a_page_too(tmp_path: Path) -> None:
    launch(small.experiment(tmp_path, budget__teacher_tokens=100), tmp_path / "run")
    text = parsed(report_page(tmp_path / "run")).text
    assert "stopped" in text and "Before any teaching the exam is" in text


def test_an_exam_without_rounds_has_a_page_too(tmp_path: Path) -> None:
    launch(small.experiment(tmp_path, rounds=0), tmp_path / "run")
    assert "Before any teaching the exam is" in parsed(report_page(tmp_path / "run")).text


def test_what_cannot_be_reported_is_one_line(finished: Path, tmp_path: Path) -> None:
    nothing = CliRunner().invoke(app, ["report", str(tmp_path / "no")])
    assert nothing.exit_code == 2 and "there is no run" in nothing.stderr
    with pytest.raises(ConfigError, match="it is a folder"):
        write_report(finished, tmp_path)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(finished, finished / "run.json" / "report.html")
    assert not list(tmp_path.rglob("*.part")) and not list(finished.rglob("*.part"))


def test_a_rolled_back_round_is_told_with_its_reason_its_cost_and_its_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = scripted.ScriptedStudent._reply
    forgets = r"r0002"

    def reply(student: Any, request: Request, gone: Sequence[str]) -> Reply:
        told = work(student, request, gone)
        return Reply(text="=0", tokens_in=1, tokens_out=1) if student.served == forgets else told

    def generate(student: Any, state: State, requests: Sequence[Request]) -> list[Reply]:
        student.served = next(iter(re.findall(r"r\d{4}", state.name)), "")
        return [reply(student, request, student.proven[state.name]) for request in requests]

    monkeypatch.setattr(scripted.ScriptedStudent, "generate", generate)
    launch(small.experiment(tmp_path), tmp_path / "run")
    (back,) = [r for r in read_run(tmp_path / "run").rounds if not r.kept]
    page = report_page(tmp_path / "run")
    text = parsed(page).text
    assert back.why.startswith("rolled back") and back.why in text
    assert f"It cost {back.teacher_tokens:,} teacher tokens all the same" in text
    assert f"0 fixed{back.regressed} regressed" in text and back.regressed > 10
    assert page.count(">rolled back</text>") == 1


def test_a_round_that_changed_nothing_is_told_as_such(tmp_path: Path) -> None:
    """Recorded answers learn nothing from the rows that are made for them."""
    launch(Path(__file__).parent.parent / "examples" / "replay.yaml", tmp_path / "run")
    page = report_page(tmp_path / "run")
    assert "round 1 left the student as it was" in parsed(page).text
    assert cells(page, "rounds")[1][-1] == "0"
    assert cells(page, "cost")[0][4:8] == ["0", "0", "0", "0"] and cells(page, "cost")[1][5] == "0 rows"


def test_a_fork_names_its_parent_and_no_folder_of_this_machine(finished: Path, tmp_path: Path) -> None:
    fork(finished, tmp_path / "fork", 1, ["schedule.rows=60"])
    page = report_page(tmp_path / "fork")
    assert "A fork of run, whose rounds up to 1 it shares" in parsed(page).text
    assert str(finished.parent) not in parsed(page).text.replace(small.student(finished.parent / "student"), "")


def test_others_ways_to_read_the_exam_stand_below_ours(finished: Path) -> None:
    strict = {n: {"accuracy": n / 4, "low": 0.0, "high": 0.9, "n": 60, "right": 15 * n} for n in (0, 2)}
    rows = list(_pools(replace(read_run(finished), scores={n: {"strict": told} for n, told in strict.items()})))
    assert [row.name for row in rows[:3]] == ["exam", "strict", "probe"]
    assert (rows[1].before, rows[1].after) == (strict[0], strict[2])


# ---- which problems are told


def test_each_kind_of_problem_is_chosen_by_its_history(finished: Path) -> None:
    run = RunFolder(finished)
    labels: dict[str, list[str]] = {}
    for number in (1, 2):
        for case in small.table(finished, f"{number}/verify"):
            labels.setdefault(case.problem.id, []).append(case.grades[0].label)
    cured = {id for id, told in labels.items() if told == ["wrong", "right"]}
    found = {shelf.title: shelf for shelf in shelves(run)}
    told = [found[title] for title in ("Cured, and the twins with it", "Cured alone") if title in found]
    assert sum(shelf.n for shelf in told) == len(cured) > 0
    assert {id for shelf in told for id in shelf.ids} <= cured
    never = {id for id, told in labels.items() if told == ["wrong", "wrong"]}
    assert ("Never cured" in found) == bool(never)
    if never:
        assert found["Never cured"].n == len(never) and set(found["Never cured"].ids) <= never


def test_the_twins_of_the_first_were_wrong_and_are_right(finished: Path) -> None:
    text = parsed(report_page(finished)).text
    assert re.search(r"Cured, and the twins with it \d+ problems", text)
    assert re.search(r"twins 0 → 2 of 2", text)


# ---- drawing


def test_the_bars_of_a_flow_are_as_high_as_their_counts() -> None:
    before, after = {"right": 30, "wrong": 60, "truncated": 10}, {"right": 70, "wrong": 30}
    moves = {("right", "right"): 25, ("right", "wrong"): 5, ("wrong", "right"): 40, ("wrong", "wrong"): 20}
    moves |= {("truncated", "right"): 5, ("truncated", "wrong"): 5}
    drawn = flow([Column(name="a", counts=before), Column(name="b", counts=after)], [moves])
    bars = re.findall(r'height="([\d.]+)" class="node (\w+)"', drawn)
    heights = [(label, float(height)) for height, label in bars]
    unit = heights[0][1] / 30
    for (label, height), (name, n) in zip(heights, [*before.items(), *after.items()], strict=True):
        assert label == name and height == pytest.approx(unit * n, abs=0.2)
    assert "45 fixed" in drawn and "5 regressed" in drawn
    assert set(before) | set(after) <= set(LABELS)


def test_labels_that_would_touch_are_moved_apart_and_stay_in_their_order() -> None:
    assert spread([10.0, 11.0, 12.0], 10, 0, 100) == [1.0, 11.0, 21.0]
    assert spread([99.0, 98.0], 10, 0, 100) == [100.0, 90.0]
    assert spread([5.0, 50.0], 10, 0, 100) == [5.0, 50.0]


def test_a_long_text_is_cut_with_a_note_of_what_is_left_out() -> None:
    assert cut("x" * 1_000_000, 10) == 'xxxxxxxxxx <span class="cut">… 999,990 more characters</span>'
    assert cut("<b>\u202e\ud800", 10) == "&lt;b&gt;\\u202e\\ud800"
    shown = lines("\n".join(map(str, range(100))), 50)
    assert [line.text for line in shown if line.wrong] == ["50"]
    assert len(shown) < 15 and "46 lines" in [line.text for line in shown if not line.number]


def test_a_run_of_a_thousand_rounds_has_a_page_of_the_same_size(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, view = RunFolder(finished), read_run(finished)
    before, *after = view.rounds
    lines = [before, *(replace(after[i % 2], round=i + 1, kept=i % 9 > 0) for i in range(1000))]
    reports = [run.reports[0], *(replace(run.reports[1 + i % 2], number=i + 1, kept=i % 9 > 0) for i in range(1000))]
    monkeypatch.setattr("tutorloop.loops.report.read_run", lambda root: replace(view, rounds=lines))
    monkeypatch.setattr(RunFolder, "reports", reports)
    page = report_page(finished)
    text = parsed(page).text
    assert len(page) < 500_000
    assert "881 rounds between those drawn are left out" in text and "941 rounds are left out here" in text
    assert "and 104 more rounds" in text and f"{sum(r.teacher_tokens for r in lines):,}" in text


# ---- hostile text

MARK = "document.title='hit'"
HOSTILE = [
    f"<script>{MARK}</script>",
    f'"><img src=x onerror="{MARK}"><svg onload={MARK}>',
    f"' onmouseover='{MARK}' style='background:url(http://evil.invalid/a.png)",
    f"</title></style></textarea></pre></svg></details><script>{MARK}</script><!--",
    "<img src=http://evil.invalid/a.png><link rel=stylesheet href=//evil.invalid/s.css><iframe src=//evil.invalid>",
    f'{{{{ 7*7 }}}}{{% raw %}}]]><a href="javascript:{MARK}">a</a>&lt;b&amp;',
    "x" * 1_000_000,
    "<" * 5_000,
    "\u202egnp.exe\u2066\x00\x1b[2J\x07\u200b\ufeff\ufffe",
    "line\r\n\n\n\u2028second\x0b\x0c\x85third" + "\n=1" * 3_000,
    "Z" + "\u0335" * 3_000,
]
POLICY = """
import json
from pathlib import Path
from tutorloop import Lesson
TEXTS = json.loads(Path(__file__).with_name("texts.json").read_text())

def policy(case, room):
    for i, text in enumerate(TEXTS):
        room.note(text[:200], text)
    return [Lesson(text=t, target=t, act=t[:300], about=t[:300]) for t in TEXTS]
"""


def hostile_run(home: Path) -> Path:
    """A run in which ids, questions, answers, skills, lessons and the folder's name are hostile."""
    home.mkdir(parents=True, exist_ok=True)
    rows = [
        {"question": f"{i} {text}", "answer": f"{i}", "skill": text[:400], "id": f"{i} {text[:200]}", "solution": ""}
        for i in range(40)
        for text in [HOSTILE[i % len(HOSTILE)].replace("\x00", " ")]
    ]
    (home / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "texts.json").write_text(json.dumps(HOSTILE))
    told = {
        **small.experiment(home, teacher__policy=small.policy(home, POLICY)),
        "course": {"kind": "jsonl", "path": str(home / "rows.jsonl"), "practice": 20, "quiz": 10, "exam": 10},
        "check": ["unchecked"],
    }
    name = "<script>title='hit'<" + "\u202e" + "b>"
    launch(told, home / name)
    return home / name


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a hostile run."""
    turn = iter(range(10**9))
    with pytest.MonkeyPatch.context() as patch:

        def reply(student: Any, request: Request, gone: Sequence[str]) -> Reply:
            question = next(t.content for t in reversed(request.messages) if t.role == "user")
            i = next(turn)
            said = HOSTILE[i % len(HOSTILE)]
            if i % 3 == 0:  # some are right at times, so that problems are cured and lost
                said += f"\n#### {question.split()[0]}"
            return Reply(text=said, tokens_in=1, tokens_out=1, finish="length" if i % 7 == 0 else "stop")

        patch.setattr(scripted.ScriptedStudent, "_reply", reply)
        root = hostile_run(tmp_path_factory.mktemp("hostile"))
        return write_report(root, tmp_path_factory.mktemp("page") / "report.html")


FETCHING = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction", "ping", "xlink:href"}
TAGS = {"script", "iframe", "object", "embed", "link", "img", "base", "form", "audio", "video", "a", "use", "image"}


def is_inert(page: str) -> bool:
    """Whether nothing in the page could run or fetch."""
    told = parsed(page)
    tags = {tag for tag, _ in told.elements}
    names = {name for _, attributes in told.elements for name in attributes}
    styles = "".join(text for within, text in told.texts if within == "style")
    styles += "".join(a.get("style", "") for _, a in told.elements)
    return not (
        tags & TAGS
        or names & FETCHING
        or any(name.startswith("on") for name in names)
        or re.search(r"url\(|@import|expression|image-set", styles)
    )


def test_nothing_in_a_page_could_run_or_fetch(finished: Path, hostile: Path) -> None:
    assert is_inert(report_page(finished))
    page = hostile.read_text(encoding="utf-8")
    assert is_inert(page)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    for bad in HOSTILE[:5]:
        assert not is_inert(page.replace("</h1>", f"{bad}</h1>", 1)) or bad.startswith("'")


def test_hostile_text_is_shown_as_text_and_cut(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    text = parsed(page).text
    for shown in (HOSTILE[0], '"><img src=x onerror=', "</title></style></textarea></pre>", "{{ 7*7 }}{% raw %}]]>"):
        assert shown in text, shown
    assert "\\u202egnp.exe\\u2066" in text and "\\u001b[2J" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2028\u2066-\u2069\ufeff\ufffe]", page)
    assert "… 999,760 more characters" in text and max(map(len, page.splitlines())) < 20_000
    assert page.count("<body>") == page.count("</body>") == page.count("</html>") == 1


def test_the_page_of_a_hostile_run_can_be_sent_by_mail(hostile: Path) -> None:
    assert hostile.stat().st_size < MOST


# ---- in a browser


class _Refusing(socketserver.StreamRequestHandler):
    """A proxy that gives nothing to anybody."""

    def handle(self) -> None:
        asked = self.rfile.readline().decode(errors="replace").split()
        self.server.asked.append(asked[1] if len(asked) > 1 else "")  # type: ignore[attr-defined]
        self.wfile.write(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@dataclass(frozen=True)
class Opened:
    """What a browser made of a page."""

    dom: Page
    asked: Sequence[str]
    """Addresses on other machines that it asked for, without the browser's own errands."""

    @property
    def title(self) -> str:
        return next(text for within, text in self.dom.texts if within == "title")


OWN = re.compile(r"(^|[/.])(google|googleapis|gvt1|gstatic)\.com(:\d+)?(/|$)")
"""Where Chromium looks for news of itself, with any page."""
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-default-apps"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Opened]]:
    """`opened(page)`: in a headless Chromium, until nothing more happens."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        assert not os.environ.get("BROWSER_NEEDED"), "there is no Chromium on this machine"
        pytest.skip("NOT OPENED in a browser: there is no Chromium on this machine; `make test-browser` installs one")
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Refusing)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = f"--proxy-server=http://127.0.0.1:{server.server_address[1]}"

    def open_page(page: Path, *flags: str) -> Opened:
        server.asked = []  # type: ignore[attr-defined]
        profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
        where = [proxy, "--proxy-bypass-list=<-loopback>", profile, "--virtual-time-budget=2000"]
        command = [chromium, *QUIET, *where, *flags, "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        asked = [address for address in server.asked if not OWN.search(address)]  # type: ignore[attr-defined]
        return Opened(parsed(done.stdout.decode()), asked)

    yield open_page
    server.shutdown()
    server.server_close()


@pytest.mark.browser
def test_the_browser_of_these_tests_runs_scripts_and_fetches_what_a_page_asks_for(
    opened: Callable[..., Opened], tmp_path: Path
) -> None:
    """Else nothing would be seen."""
    (tmp_path / "page.html").write_text(
        f"<title>a</title><script>{MARK}</script><img src=http://evil.invalid/a.png><img src=https://evil.invalid/b>"
    )
    seen = opened(tmp_path / "page.html")
    assert seen.title == "hit"
    assert sorted(seen.asked) == ["evil.invalid:443", "http://evil.invalid/a.png"]


@pytest.mark.browser
def test_the_page_opens_and_asks_nobody_for_anything(
    opened: Callable[..., Opened], finished: Path, tmp_path: Path
) -> None:
    page = write_report(finished, tmp_path / "report.html")
    seen = opened(page)
    assert seen.asked == [] and seen.title == "run · tutorloop"
    assert seen.dom.text.split() == parsed(page.read_text()).text.split()
    assert sum(tag == "svg" for tag, _ in seen.dom.elements) > 5


@pytest.mark.browser
def test_hostile_text_runs_nothing_and_asks_nobody(opened: Callable[..., Opened], hostile: Path) -> None:
    seen = opened(hostile)
    assert seen.asked == [] and seen.title.startswith("<script>title='hit'<\\u202eb>")
    assert HOSTILE[0] in seen.dom.text and not {tag for tag, _ in seen.dom.elements} & TAGS


@pytest.mark.browser
def test_a_script_that_got_into_a_page_would_not_run(
    opened: Callable[..., Opened], hostile: Path, tmp_path: Path
) -> None:
    page = hostile.read_text(encoding="utf-8")
    for i, bad in enumerate(HOSTILE[:5]):
        (tmp_path / f"{i}.html").write_text(page.replace("</h1>", f"{bad}</h1>", 1), encoding="utf-8")
        seen = opened(tmp_path / f"{i}.html")
        assert seen.title != "hit" and seen.asked == [], bad


@pytest.mark.browser
def test_the_whole_page_is_on_paper(opened: Callable[..., Opened], finished: Path, tmp_path: Path) -> None:
    """What is folded on the screen is not on paper: nobody can click there."""
    page = write_report(finished, tmp_path / "report.html")
    opened(page, f"--print-to-pdf={tmp_path / 'folded.pdf'}")
    unfolded = page.read_text().replace("<details>", "<details open>")
    assert unfolded.count("<details open>") > page.read_text().count("<details open>")
    page.write_text(unfolded)
    opened(page, f"--print-to-pdf={tmp_path / 'open.pdf'}")
    pages = [(tmp_path / name).read_bytes().count(b"/Type /Page\n") for name in ("folded.pdf", "open.pdf")]
    assert pages[0] == pages[1] > 2
