"""A number is used once, by the node and at the server, also over restarts."""

import sqlite3
import stat
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.federation.identity.private_files import IdentityError
from headway.federation.identity.request_signature import LARGEST_SEQUENCE
from headway.federation.identity.sequence_numbers import (
    LARGEST_STEP,
    NODE_BLOCK,
    SERVER_BLOCK,
    WINDOW,
    NodeSequence,
    SequenceRefused,
    SequenceWindows,
)


def test_numbers_rise_and_are_never_used_twice_over_restarts(tmp_path):
    path, seen = tmp_path / "sequence.sqlite", []
    for _ in range(4):
        sequence = NodeSequence(path)
        seen += [sequence.take() for _ in range(NODE_BLOCK // 2 + 3)]
    assert seen == sorted(set(seen))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_processes_of_a_node_share_no_number(tmp_path):
    one, other = NodeSequence(tmp_path / "s.sqlite"), NodeSequence(tmp_path / "s.sqlite")
    numbers = [sequence.take() for _ in range(NODE_BLOCK + 5) for sequence in (one, other)]
    assert len(set(numbers)) == len(numbers)


def test_a_node_writes_once_for_a_block(tmp_path):
    path = tmp_path / "s.sqlite"
    sequence = NodeSequence(path)
    first = sequence.take()
    with closing(sqlite3.connect(path)) as database:
        before = database.execute("SELECT below FROM reserved").fetchone()
        for _ in range(NODE_BLOCK - 1):
            sequence.take()
        assert database.execute("SELECT below FROM reserved").fetchone() == before == (first + NODE_BLOCK,)


def test_a_node_takes_the_number_that_a_server_asks_for_and_never_goes_back(tmp_path):
    sequence = NodeSequence(tmp_path / "s.sqlite")
    sequence.take()
    sequence.raise_to(10_000)
    assert sequence.take() == 10_000
    sequence.raise_to(5)
    assert sequence.take() == 10_001
    assert NodeSequence(tmp_path / "s.sqlite").take() > 10_001


@pytest.mark.parametrize("least", [LARGEST_STEP + 10, LARGEST_SEQUENCE, 10**16])
def test_a_server_cannot_use_up_the_numbers_of_a_node(tmp_path, least):
    sequence = NodeSequence(tmp_path / "s.sqlite")
    first = sequence.take()
    assert not sequence.raise_to(least)
    assert sequence.take() == first + 1
    assert sequence.raise_to(100 * SERVER_BLOCK)
    assert sequence.take() == 100 * SERVER_BLOCK


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot make the folder"):
        NodeSequence(tmp_path / "file" / "s.sqlite").take()


def test_a_damaged_file_is_one_sentence(tmp_path):
    (tmp_path / "s.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(IdentityError, match="damaged"):
        NodeSequence(tmp_path / "s.sqlite").take()


@pytest.fixture
def windows(tmp_path):
    with closing(SequenceWindows(tmp_path / "accepted.sqlite")) as opened:
        yield opened


def refused(windows, node, number):
    with pytest.raises(SequenceRefused) as caught:
        windows.accept(node, number)
    return caught.value


def test_a_number_is_accepted_once_and_may_be_overtaken(windows):
    for number in (1, 2, 5, 4):
        windows.accept("a", number)
    for number in (1, 2, 4, 5):
        assert refused(windows, "a", number).least == 6
    windows.accept("a", 3)
    windows.accept("b", 3)


def test_a_number_older_than_the_window_is_refused(windows):
    windows.accept("a", 10 * WINDOW)
    windows.accept("a", 9 * WINDOW + 1)
    assert refused(windows, "a", 9 * WINDOW).least == 10 * WINDOW + 1


def test_all_that_may_have_been_accepted_is_refused_after_a_restart(tmp_path):
    path = tmp_path / "accepted.sqlite"
    with closing(SequenceWindows(path)) as windows:
        for number in (1, 3, SERVER_BLOCK - 1):
            windows.accept("a", number)
    with closing(SequenceWindows(path)) as windows:
        for number in (1, 2, 3, SERVER_BLOCK - 1):
            assert refused(windows, "a", number).least == SERVER_BLOCK
        windows.accept("a", SERVER_BLOCK)


def test_a_node_ahead_of_its_block_is_remembered_over_a_restart(tmp_path):
    path, ahead = tmp_path / "accepted.sqlite", 50 * SERVER_BLOCK
    with closing(SequenceWindows(path)) as windows:
        windows.accept("a", ahead)
        windows.accept("b", 7)
    with closing(SequenceWindows(path)) as windows:
        assert refused(windows, "a", ahead).least > ahead
        assert refused(windows, "a", ahead + 1).least > ahead
        windows.accept("a", refused(windows, "a", 1).least)
        windows.accept("b", SERVER_BLOCK)


def test_a_server_does_not_write_for_each_request(windows):
    for number in range(100):
        windows.accept("a", number)
    assert windows._database.total_changes == 1, "the row that was written at the start"


def test_the_largest_number_is_accepted_once(tmp_path):
    path = tmp_path / "accepted.sqlite"
    with closing(SequenceWindows(path)) as windows:
        windows.accept("a", LARGEST_SEQUENCE)
        refused(windows, "a", LARGEST_SEQUENCE)
    with closing(SequenceWindows(path)) as windows:
        refused(windows, "a", LARGEST_SEQUENCE)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3 * WINDOW), max_size=60), st.lists(st.integers(0, 60), max_size=3))
def test_in_any_order_and_with_restarts_no_number_is_accepted_twice(tmp_path_factory, numbers, stops):
    path, accepted = tmp_path_factory.mktemp("s") / "accepted.sqlite", []
    windows = SequenceWindows(path)
    for position, number in enumerate(numbers):
        if position in stops:
            windows.close()
            windows = SequenceWindows(path)
        for attempt in (number, number + SERVER_BLOCK):
            try:
                windows.accept("a", attempt)
                accepted.append(attempt)
            except SequenceRefused:
                pass
    windows.close()
    assert len(set(accepted)) == len(accepted)
