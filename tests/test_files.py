"""Files: whole under their names or not there, lines that say what they are, and every kind of damage named."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tutorloop.evals.files import DamagedFile, Lines, atomic, atomic_write, checksum, whole


def test_a_file_is_replaced_whole_or_keeps_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    atomic_write(path, b"one")
    with pytest.raises(RuntimeError), atomic(path) as part:
        part.write_bytes(b"two, but then")
        raise RuntimeError
    assert path.read_bytes() == b"one" and os.listdir(path.parent) == ["file.json"]
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["file.json"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file", list[tuple[bool, bool]]()

    def fsync(descriptor: int) -> None:
        seen.append((path.exists(), stat.S_ISDIR(os.fstat(descriptor).st_mode)))

    monkeypatch.setattr(os, "fsync", fsync)
    atomic_write(path, b"x")
    assert seen == [(False, False), (True, True)], "first the content, then the rename, then the folder's entry"


# ---- checksums


def test_a_file_is_known_again_and_another_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    known = checksum(path)
    assert whole(path, known) == path and known.size == 3
    for content in (b"two", b"one more", b""):
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match=rf"it has {len(content)} bytes .* had 3 .*--run-dir"):
            whole(path, known)
    path.unlink()
    with pytest.raises(DamagedFile, match="is missing"):
        whole(path, known)


# ---- lines


def lines(folder: Path, place: str = "place", run: str = "run") -> Lines:
    return Lines(folder / "lines.jsonl", place, run)


def three(folder: Path) -> bytes:
    """A file of three lines, and its content."""
    made = lines(folder)
    made.append([["a", 1], ["b", {"deep": [None, "\n\u2028"]}]])
    made.append([["c", 1.5]])
    return made.path.read_bytes()


def test_lines_are_read_as_they_were_written_and_any_process_goes_on(tmp_path: Path) -> None:
    assert list(lines(tmp_path).read()) == []
    three(tmp_path)
    lines(tmp_path).append([["d"]])
    assert list(lines(tmp_path).read()) == [["a", 1], ["b", {"deep": [None, "\n\u2028"]}], ["c", 1.5], ["d"]]


def test_wherever_a_kill_tears_lines_the_whole_ones_are_kept_and_more_can_follow(tmp_path: Path) -> None:
    content = three(tmp_path)
    for cut in range(len(content) + 1):
        (tmp_path / "lines.jsonl").write_bytes(content[:cut])
        kept = [told[0] for told in lines(tmp_path).read()]
        assert len(kept) == max(0, content[:cut].count(b"\n") - 1), f"torn after {cut} bytes"
        lines(tmp_path).append([["d"]])
        assert [told[0] for told in lines(tmp_path).read()] == [*kept, "d"]


def test_a_write_that_fails_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three(tmp_path)
    made = lines(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="disk full"):
            made.append([["d"]])
    made.append([["d"]])
    assert [told[0] for told in lines(tmp_path).read()] == ["a", "b", "c", "d"]


def flipped(content: bytes) -> bytes:
    return content.replace(b"1.5", b"2.5")


def without(content: bytes) -> bytes:
    first, _, *rest = content.splitlines(keepends=True)
    return b"".join([first, *rest])


def turned(content: bytes) -> bytes:
    first, *rest = content.splitlines(keepends=True)
    return b"".join([first, *reversed(rest)])


def doubled(content: bytes) -> bytes:
    return content + content.splitlines(keepends=True)[-1]


@pytest.mark.parametrize("damage", [flipped, without, turned, doubled, lambda content: b"\n" + content])
def test_damaged_lines_are_named_by_number(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = damage(three(tmp_path))
    (tmp_path / "lines.jsonl").write_bytes(content)
    for touch in (lambda: list(lines(tmp_path).read()), lambda: lines(tmp_path).append([["d"]])):
        with pytest.raises(DamagedFile, match=r"lines\.jsonl, line \d: this is not what was written"):
            touch()
    assert (tmp_path / "lines.jsonl").read_bytes() == content


@pytest.mark.parametrize(("place", "run"), [("another", "run"), ("place", "another")])
def test_lines_of_another_run_or_place_are_refused(place: str, run: str, tmp_path: Path) -> None:
    three(tmp_path)
    with pytest.raises(DamagedFile, match="another run's, or of another place"):
        list(lines(tmp_path, place, run).read())
