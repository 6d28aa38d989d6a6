"""Whatever a text holds that a terminal would obey, it is printed as letters: on a real terminal, by every command."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutorloop.evals.terminal import bare, harmless, inert, safe
from tutorloop.loops.show import RunFolder
from tutorloop.tests.policies_for_tests import rude, small
from tutorloop.tests.policies_for_tests.rude import RUDE

NAME = "\x1b[2J\x1b]52;c;ZXZpbA==\x07\u202e[red]\n\x9b31m"
"""RUDE, as a file may be called."""
OBEYED = (
    "\x1b]",
    "\x1b[2J",
    "\x1b[31m",
    "\x1bc",
    "\x1bP",
    "\x07",
    "\x08",
    "\x7f",
    "\x9b",
    "\u202e",
    "\u2066",
    "\u2029",
)
"""What a terminal, or a reader's eye, would obey of these; our own moving line uses none of it."""


def on_a_terminal(folder: Path, *args: str, python: Sequence[str] = ("-m", "tutorloop")) -> tuple[int, str]:
    """Exit code and screen of a command whose output is a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, *python, *args]
    with subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while block := os.read(ours, 65536):
                seen += block
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    return process.returncode, seen.decode().replace("\r\n", "\n")


def unprintable(screen: str) -> set[str]:
    return {c for c in screen if not c.isprintable() and c != "\n"}


def obeyed(screen: str) -> list[str]:
    return [text for text in OBEYED if text in screen]


def pretended(screen: str) -> list[str]:
    """Lines that a text has passed off as ours."""
    return [line for line in screen.splitlines() if line.startswith(("round 9 ", "tutorloop: all is well"))]


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON document, keys too."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, str):
        yield value
    for item in value if isinstance(value, list) else ():
        yield from strings(item)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment whose names, questions and policies are rude; and a run of it in `runs/` NAME."""
    folder = tmp_path_factory.mktemp("rude")
    rows = [{"question": f"{i}+{i}\n{RUDE}", "answer": 2 * i, "id": f"{i} {RUDE}", "skill": RUDE} for i in range(90)]
    (folder / NAME).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    told = small.experiment(folder, method=f"{rude.__file__}:METHOD", rounds=1, failures=1.0, placement="local")
    told["course"] = {"kind": "jsonl", "path": NAME, "practice": 30, "quiz": 30, "exam": 30}
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(told))
    return folder


@pytest.fixture(scope="module")
def screen(folder: Path) -> str:
    code, screen = on_a_terminal(folder, "run", f"{NAME}.yaml", "--run-dir", f"runs/{NAME}")
    assert code == 0, screen
    return screen


def test_a_run_shows_its_progress_and_obeys_nothing(screen: str) -> None:
    assert obeyed(screen) == []
    assert "\x1b[" in screen, "its own moving line"
    assert "[red]markup[/red] [link=http://evil]:bomb:[/link]" in screen, "as a policy printed it"
    assert unprintable(screen) <= {"\x1b", "\r"}


def test_every_command_prints_letters_and_lines(folder: Path, screen: str) -> None:
    run = f"runs/{NAME}"
    tables = RunFolder(folder / run).reports[1].tables
    assert tables
    taught = next(iter(tables.lessons)).case
    shown = [["show", run], ["show", run, taught], ["runs"], ["plan", f"{NAME}.yaml"]]
    for command in [*shown, *([*command, "--json"] for command in shown)]:
        code, told = on_a_terminal(folder, *command)
        assert (code, unprintable(told)) == (0, set()), command
        assert "\\u001b]" in told and not pretended(told)
        if "--json" in command:
            assert any("\x1b]52;c" in text for text in strings(json.loads(told)))


EXAMINED = """
import tutorloop.loops.doctor, tutorloop.__main__ as command
from tutorloop.tests.policies_for_tests.rude import RUDE
tutorloop.loops.doctor._ask = lambda code: (False, RUDE)
command.main()
"""


def test_the_commands_that_need_no_run_print_letters_and_lines_too(folder: Path, screen: str) -> None:
    """Where a folder's name is rude, and torch and Ray are."""
    (folder / "examined.py").write_text(EXAMINED)
    for command in (["doctor", f"runs/{NAME}"], ["methods"]):
        for as_json in ([], ["--json"]):
            python = ["examined.py"] if command[0] == "doctor" else ["-m", "tutorloop"]
            code, told = on_a_terminal(folder, *command, *as_json, python=python)
            assert (code, unprintable(told)) == (2 if command[0] == "doctor" else 0, set()), command
            assert not pretended(told)
            texts = [*strings(json.loads(told))] if as_json else told.splitlines()
            if command[0] == "methods":
                assert any("tailored" in text for text in texts)
            else:
                rude = "\x1b]52;c" if as_json else "\\u001b]52;c"
                assert sum(rude in text for text in texts) == 3, "gpus, ray, disk"


@pytest.mark.parametrize(
    "args",
    [
        ["show", f"runs/{NAME}", f"none of these {RUDE}"],
        ["show", f"nowhere {RUDE}"],
        ["run", f"{NAME}.yaml", f"teacher.policy={NAME}:{NAME}"],
        ["run", f"{NAME}.yaml", f"{RUDE}=3"],
        ["run", f"{NAME}.yaml", f"rounds={RUDE}"],
        ["run", f"no {NAME}.yaml"],
        ["run", f"{NAME}.yaml", "--run-dir", f"runs/{NAME}", "seed=1"],
        [f"no command {NAME}"],
    ],
)
def test_an_error_is_letters_too(folder: Path, screen: str, args: list[str]) -> None:
    code, told = on_a_terminal(folder, *args)
    assert (code, obeyed(told)) == (2, [])
    assert "\\u001b" in told or "\\x1b" in told, "as typer quotes a command that it does not know"
    assert not pretended(told)


def test_a_traceback_is_letters_too(folder: Path) -> None:
    (folder / "bug.py").write_text(
        "from tutorloop.tests.policies_for_tests.rude import RUDE\n"
        "import tutorloop.loops.listing, tutorloop.__main__ as command\n"
        "def bug(_):\n    raise ZeroDivisionError(RUDE)\n"
        "tutorloop.loops.listing.listing = bug\n"
        "command.main()\n"
    )
    code, told = on_a_terminal(folder, "runs", python=["bug.py"])
    assert code == 1 and "ZeroDivisionError: \\u001b[2J" in told
    assert unprintable(told) == set()


@pytest.mark.parametrize("hostile", [*OBEYED, "\r", "\x00"])
def test_what_would_be_obeyed_is_written_as_json_writes_it(hostile: str) -> None:
    for written in (safe(f"a{hostile}b"), harmless(f"a{hostile}b")):
        assert written.isprintable()
        assert json.loads(f'"{written}"') == f"a{hostile}b"


def test_a_line_of_ours_stays_one_line_and_lines_stay_lines() -> None:
    assert safe("a\nb\tc") == "a\\nb\\tc"
    assert harmless("a\nb\tc\n") == "a\nb\tc\n"
    assert safe("naïve 5×3 [red] 数学 🙂") == harmless("naïve 5×3 [red] 数学 🙂") == "naïve 5×3 [red] 数学 🙂"


def test_an_inert_stream_is_a_stream_whose_bytes_are_out_of_reach() -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "w") as raw, open(ours):
        stream = inert(raw)
        assert stream.write("\x07\n") == 2
        stream.writelines(["a\x08", "b\n"])
        stream.flush()
        wanted, came = b"\\u0007\r\na\\bb\r\n", b""
        # A terminal may hand them out line by line.
        while len(came) < len(wanted) and select.select([ours], [], [], 30)[0]:
            came += os.read(ours, 100)
        assert came == wanted
        assert not hasattr(stream, "buffer") and stream.fileno() == raw.fileno()
        assert raw.isatty() and not stream.isatty(), "nobody should draw there"
        assert bare(stream) is raw and bare(raw) is raw
