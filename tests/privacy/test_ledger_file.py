"""The ledger's file: on the disk before it counts, and whatever is changed in it is found."""

import json
import os

import pytest

from headway.core.errors import RunFolderError
from headway.numerics.canonical import digest_of
from headway.privacy.ledger_file import LedgerFile, read_entries


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ledger.jsonl"
    file = LedgerFile(path)
    for number in range(4):
        file.append({"kind": "reserve", "round": number + 1, "epsilon": {"client": float("inf")}})
    return path


def test_it_is_read_as_it_was_written(path):
    file = LedgerFile(path)
    assert [entry["round"] for entry in file.entries] == [1, 2, 3, 4]
    assert file.entries[0]["previous"] == ""
    assert [each["previous"] for each in file.entries[1:]] == [each["digest"] for each in file.entries[:-1]]
    assert file.entries[0]["epsilon"] == {"client": "inf"}
    assert file.head == file.entries[-1]["digest"]
    file.append({"kind": "reserve", "round": 5})
    assert len(read_entries(path)) == 5


def changed(lines, what):
    entries = [json.loads(line) for line in lines]
    if what == "a number":
        entries[2]["round"] = 7
    elif what == "a number with a new digest":
        entries[2]["round"] = 7
        entries[2]["digest"] = digest_of({k: v for k, v in entries[2].items() if k != "digest"})
    elif what == "a line left out":
        del entries[2]
    elif what == "lines exchanged":
        entries[2], entries[3] = entries[3], entries[2]
    elif what == "a line twice":
        entries.insert(3, entries[2])
    elif what == "another format":
        entries[2]["format"] = 2
        entries[2]["digest"] = digest_of({k: v for k, v in entries[2].items() if k != "digest"})
    return [json.dumps(entry).encode() for entry in entries]


CHANGES = {
    "a number": 3,
    "a number with a new digest": 4,
    "a line left out": 3,
    "lines exchanged": 3,
    "a line twice": 4,
    "another format": 3,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_with_its_line(path, what):
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(changed(lines, what)) + b"\n")
    with pytest.raises(RunFolderError, match=rf"ledger.jsonl, line {CHANGES[what]}: .* cannot go on"):
        LedgerFile(path)


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'"text"', b"\xff\xfe", b"null"])
def test_a_damaged_line_is_found(path, line):
    lines = path.read_bytes().splitlines()
    lines[1] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(RunFolderError, match="line 2: it is no entry"):
        LedgerFile(path)


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_a_line_that_was_not_finished_is_left_out_and_said(path, kept):
    whole = path.read_bytes()
    begin = whole[:-1].rindex(b"\n") + 1
    path.write_bytes(whole[: begin + kept])
    file = LedgerFile(path)
    assert [entry["round"] for entry in file.entries] == [1, 2, 3]
    assert len(file.notices) == bool(kept)
    assert path.read_bytes() == whole[: begin + kept]  # reading changes nothing
    file.append({"kind": "reserve", "round": 9})
    assert [entry["round"] for entry in read_entries(path)] == [1, 2, 3, 9]


def test_lines_cut_off_at_the_end_are_found_by_what_a_checkpoint_holds(path):
    file = LedgerFile(path)
    count, head = len(file.entries), file.head
    file.check_prefix(count, head)
    file.check_prefix(2, file.entries[1]["digest"])
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]) + b"\n")
    with pytest.raises(RunFolderError, match="has 3 lines, and had 4"):
        LedgerFile(path).check_prefix(count, head)
    LedgerFile(path).append({"kind": "reserve", "round": 4})
    with pytest.raises(RunFolderError, match="line 4: it is not the line"):
        LedgerFile(path).check_prefix(count, head)


def test_an_entry_is_on_the_disk_when_it_counts(path, monkeypatch):
    """Neither the entry nor its release may exist if the disk refuses to flush it."""
    file, calls, fsync = LedgerFile(path), [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(path.read_bytes().count(b"\n")) or fsync(handle))
    file.append({"kind": "reserve", "round": 5})
    assert calls == [5]

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"No space left on device\. Nothing was released"):
        file.append({"kind": "reserve", "round": 6})
    assert len(file.entries) == 5
    monkeypatch.setattr(os, "fsync", fsync)
    file.append({"kind": "reserve", "round": 7})
    assert [entry["round"] for entry in read_entries(path)] == [1, 2, 3, 4, 5, 7]


def test_a_write_that_is_cut_short_leaves_the_chain_whole(path, monkeypatch):
    file, write = LedgerFile(path), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:10]))
    with pytest.raises(RunFolderError, match="only part of the line"):
        file.append({"kind": "reserve", "round": 5})
    assert len(read_entries(path)) == 4
    monkeypatch.setattr(os, "write", write)
    file.append({"kind": "reserve", "round": 5})
    assert [entry["round"] for entry in read_entries(path)] == [1, 2, 3, 4, 5]


def test_in_memory_alone():
    file = LedgerFile(None)
    file.append({"kind": "start"})
    file.append({"kind": "reserve"})
    assert file.entries[1]["previous"] == file.entries[0]["digest"]


def test_a_ledger_that_is_not_there(tmp_path):
    with pytest.raises(RunFolderError, match="is missing"):
        read_entries(tmp_path / "ledger.jsonl")
