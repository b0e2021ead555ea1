"""Files that are whole or not there."""

import json
import math
import os
import time

import numpy as np
import pytest

from llmbook.data import folders


def test_what_is_written_is_there_whole_with_its_folder(tmp_path):
    path = tmp_path / "new" / "a.txt"
    folders.write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    folders.write_atomically(str(path), "Gefühl\n")
    assert path.read_bytes() == "Gefühl\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    folders.write_atomically(path, "old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        folders.write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_may_be_read_by_whom_the_system_allows(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        folders.write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    old, young, other = (tmp_path / n for n in ("tmp12345678", "tmpabcdefgh", "template.txt"))
    for path in (old, young, other):
        path.write_text("part")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    os.utime(other, (yesterday, yesterday))
    folders.write_atomically(tmp_path / "a", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "template.txt", "tmpabcdefgh"]


def test_json_is_readable_and_ends_with_a_newline(tmp_path):
    content = {"wörter": [1, 2.5, None], "a": {"b": "π"}}
    folders.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content and text.endswith("}\n") and '\n "a"' in text
    assert "wörter" in text and "π" in text


def test_numbers_of_numpy_are_written_as_numbers(tmp_path):
    folders.write_json(tmp_path / "a.json", {"n": np.int64(3), "x": [np.float32(0.5)]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 3, "x": [0.5]}


def test_what_is_no_json_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    folders.write_json(path, [1])
    for bad, error in [(math.nan, ValueError), ([math.inf], ValueError), ({1, 2}, TypeError)]:
        with pytest.raises(error):
            folders.write_json(path, bad)
    assert json.loads(path.read_text()) == [1]


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert folders.sha256_of(tmp_path / "a") == expected
