"""The spool: contents by digest, uploads that go on where they broke, and a disk that refuses."""

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.federation.spool.disk_errors import SpoolError, UploadRefused
from headway.federation.spool.spool import DONE, PART, Spool

DATA = bytes(range(256)) * 40


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uploaded(spool: Spool, name: str, data: bytes, client: str = "a") -> Path:
    spool.append(name, 0, data, most=len(data), client=client)
    return spool.finish(name, len(data), sha(data))


def refusing(code: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


def test_an_upload_in_pieces_is_the_content(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.received("u") == 0
    for start in range(0, len(DATA), 1000):
        assert spool.append("u", start, DATA[start : start + 1000], client="a") == min(start + 1000, len(DATA))
    path = spool.finish("u", len(DATA), sha(DATA))
    assert path == spool.path(sha(DATA))
    assert path.read_bytes() == DATA
    assert not list(tmp_path.rglob(f"*{PART}"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["piece", "again", "ahead", "restart", "early"]), max_size=25))
def test_any_order_of_pieces_repeats_and_restarts_ends_with_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool, sent = Spool(folder), 0
    for step in steps:
        match step:
            case "piece" if sent < len(DATA):
                sent = spool.append("u", sent, DATA[sent : sent + 700], most=len(DATA))
            case "restart":
                spool = Spool(folder)
            case "again" | "ahead" if sent:
                with pytest.raises(UploadRefused) as refused:
                    spool.append("u", sent - 1 if step == "again" else sent + 1, b"x", most=len(DATA))
                assert (refused.value.kind, refused.value.received) == ("offset", sent)
            case "early" if sent < len(DATA):
                with pytest.raises(UploadRefused) as refused:
                    spool.finish("u", len(DATA), sha(DATA))
                assert refused.value.received == sent
        assert spool.received("u") == sent
    spool.append("u", sent, DATA[sent:], most=len(DATA))
    assert spool.finish("u", len(DATA), sha(DATA)).read_bytes() == DATA


def test_more_bytes_than_announced_are_refused_and_the_others_stay(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("u", 0, b"12345", most=8)
    with pytest.raises(UploadRefused, match="at most 8 bytes") as refused:
        spool.append("u", 5, b"6789", most=8)
    assert (refused.value.kind, refused.value.received) == ("too_large", 5)
    assert spool.append("u", 5, b"678", most=8) == 8


def test_other_bytes_than_the_digest_begin_anew(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for again in (spool, Spool(tmp_path)):
        again.append("u", 0, b"damaged!")
        with pytest.raises(UploadRefused, match="again from byte 0") as refused:
            again.finish("u", 8, sha(b"original"))
        assert (refused.value.kind, refused.value.received, again.received("u")) == ("digest", 0, 0)
    assert not spool.holds(sha(b"damaged!"))
    assert uploaded(Spool(tmp_path), "u", b"original").read_bytes() == b"original"


def test_damage_on_the_disk_before_the_end_is_found(tmp_path: Path) -> None:
    Spool(tmp_path).append("u", 0, DATA)
    part = next(tmp_path.rglob(f"*{PART}"))
    part.write_bytes(b"\0" * len(DATA))  # as a power failure leaves it
    with pytest.raises(UploadRefused, match="SHA-256"):
        Spool(tmp_path).finish("u", len(DATA), sha(DATA))


def test_finishing_twice_gives_the_same_file_also_after_a_restart(tmp_path: Path) -> None:
    first = uploaded(Spool(tmp_path), "u", DATA)
    spool = Spool(tmp_path)
    assert spool.received("u") == len(DATA)
    assert spool.finish("u", len(DATA), sha(DATA)) == first
    with pytest.raises(UploadRefused, match="finished"):
        spool.append("u", len(DATA), b"more")


def test_a_client_that_has_trained_again_sends_other_bytes(tmp_path: Path) -> None:
    """Its outbox was lost after the server had the first update, and before anything was decided about that."""
    spool = Spool(tmp_path)
    first = uploaded(spool, "u", DATA)
    other = DATA[::-1]
    with pytest.raises(UploadRefused, match="again from byte 0") as refused:
        spool.finish("u", len(DATA), sha(other))
    assert (refused.value.received, spool.received("u"), Spool(tmp_path).received("u")) == (0, 0, 0)
    assert uploaded(spool, "u", other).read_bytes() == other
    assert first.read_bytes() == DATA


def test_the_digest_of_another_clients_update_is_no_upload(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    uploaded(spool, "a's", DATA, "a")
    with pytest.raises(UploadRefused):
        spool.finish("b's", len(DATA), sha(DATA))


def test_the_same_bytes_of_two_clients_are_one_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert uploaded(spool, "a's", DATA, "a") == uploaded(spool, "b's", DATA, "b")
    assert len(list(spool.blobs.iterdir())) == 1


@pytest.mark.parametrize("name", ["../../up", "/etc/x", "a\0b", "ü" * 300, ""])
def test_a_name_from_a_client_is_no_path(tmp_path: Path, name: str) -> None:
    spool = Spool(tmp_path / "spool")
    uploaded(spool, name, DATA, client=name)
    assert {each.name for each in tmp_path.iterdir()} == {"spool"}
    assert Spool(tmp_path / "spool").received(name) == len(DATA)


@pytest.mark.parametrize("digest", ["../x", "A" * 64, "a" * 63, "a" * 65, "", "a" * 64 + "\n"])
def test_only_a_digest_is_one(tmp_path: Path, digest: str) -> None:
    spool = Spool(tmp_path)
    spool.append("u", 0, b"x")
    calls: list[Callable[[], object]] = [
        lambda: spool.path(digest),
        lambda: spool.holds(digest),
        lambda: spool.finish("u", 1, digest),
    ]
    for call in calls:
        with pytest.raises(SpoolError, match="SHA-256"):
            call()


def test_one_client_takes_so_much_and_its_oldest_upload_makes_way(tmp_path: Path) -> None:
    spool = Spool(tmp_path, per_client=1000)
    for number in range(20):
        spool.append(f"u{number}", 0, bytes(400), client="a")
        assert sum(part.stat().st_size for part in tmp_path.rglob(f"*{PART}")) <= 1000
    assert [spool.received(f"u{number}") for number in (17, 18, 19)] == [0, 400, 400]
    spool.append("other", 0, bytes(900), client="b")
    assert spool.received("u18") == 400, "another client's space is its own"
    with pytest.raises(UploadRefused, match="at most 1000 bytes"):
        spool.append("u20", 0, bytes(1001), client="a")


def test_the_disk_is_never_filled_to_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, usage = Spool(tmp_path, spare=1000), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1499))
    spool.append("u", 0, bytes(400))
    with pytest.raises(SpoolError, match="1499 bytes left, of which uploads leave 1000 free"):
        spool.append("u", 400, bytes(500))
    assert spool.received("u") == 400


def test_a_full_disk_takes_a_piece_back_and_the_upload_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes part of a piece and then refuses, as a disk does that fills up."""
    spool, real, calls = Spool(tmp_path), open, list[int]()
    spool.append("u", 0, DATA[:1000])

    def opened(*args: object, **options: object) -> object:
        file = real(*args, **options)  # type: ignore[call-overload]

        class Filling:
            def __enter__(self) -> "Filling":
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

            def write(self, data: memoryview) -> int:
                calls.append(len(data))
                if len(calls) > 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return int(file.write(data[:300]))

        return Filling()

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", opened)
        with pytest.raises(SpoolError, match="No space left on device") as failure:
            spool.append("u", 1000, DATA[1000:2000])
    assert calls == [1000, 700]
    assert "then go on" in str(failure.value)
    assert spool.received("u") == 1000 == next(tmp_path.rglob(f"*{PART}")).stat().st_size
    spool.append("u", 1000, DATA[1000:])
    assert spool.finish("u", len(DATA), sha(DATA)).read_bytes() == DATA


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_disk_that_refuses_at_the_end_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    spool = Spool(tmp_path)
    spool.append("u", 0, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(os, where, refusing(errno.EIO))
        with pytest.raises(SpoolError, match="Input/output error"):
            spool.finish("u", len(DATA), sha(DATA))
        with pytest.raises(SpoolError, match="Input/output error"):
            spool.put(b"message")
    assert not spool.holds(sha(DATA))
    assert not spool.holds(sha(b"message"))
    for again in (Spool(tmp_path), spool):
        assert again.received("u") == len(DATA)
    assert spool.finish("u", len(DATA), sha(DATA)).read_bytes() == DATA


def test_a_blob_that_a_power_failure_cut_is_sent_again(tmp_path: Path) -> None:
    path = uploaded(Spool(tmp_path), "u", DATA)
    path.write_bytes(DATA[:100])
    spool = Spool(tmp_path)
    assert spool.received("u") == 0
    assert uploaded(spool, "u", DATA).read_bytes() == DATA
    path.write_bytes(b"")
    assert spool.put(DATA) == sha(DATA)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("content", [b"", b"{", b'{"digest": "../x", "size": 1}', b'{"digest": 1}', b"[]"])
def test_a_torn_mark_of_a_finished_upload_is_dropped(tmp_path: Path, content: bytes) -> None:
    uploaded(Spool(tmp_path), "u", DATA)
    next(tmp_path.rglob(f"*{DONE}")).write_bytes(content)
    assert Spool(tmp_path).received("u") == 0
    assert not list(tmp_path.rglob(f"*{DONE}"))


def test_a_crash_between_mark_and_rename_leaves_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    spool.append("u", 0, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refusing(errno.EIO))
        with pytest.raises(SpoolError):
            spool.finish("u", len(DATA), sha(DATA))
    assert list(tmp_path.rglob(f"*{DONE}")), "the mark is written first"
    again = Spool(tmp_path)
    assert again.received("u") == len(DATA)
    assert again.finish("u", len(DATA), sha(DATA)).read_bytes() == DATA


def test_contents_are_put_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    digest = spool.put(DATA)
    assert digest == sha(DATA) == spool.put(DATA)
    assert spool.path(digest).read_bytes() == DATA
    file = tmp_path / "message"
    file.write_bytes(b"message")
    assert spool.put_file(file) == sha(b"message")
    assert file.exists()
    assert spool.put_file(file, move=True) == sha(b"message")
    assert not file.exists()
    with spool.staged() as path:
        path.write_bytes(b"staged")
        assert spool.put_file(path, move=True, digest=sha(b"staged")) == sha(b"staged")
    assert spool.size == len(DATA) + len(b"message") + len(b"staged")
    assert not list(spool.folder.glob("parts/.*"))


def test_an_unused_spool_makes_no_folder(tmp_path: Path) -> None:
    """Since a run makes its folder after the spool."""
    spool = Spool(tmp_path / "run" / "spool")
    assert (spool.received("u"), spool.holds("a" * 64), spool.forget(())) == (0, False, 0)
    assert not (tmp_path / "run").exists()
    assert spool.holds(spool.put(DATA))


def test_a_file_that_was_being_put_at_a_crash_is_removed(tmp_path: Path) -> None:
    Spool(tmp_path)
    (tmp_path / "parts" / ".17-1").write_bytes(DATA)
    assert Spool(tmp_path).size == 0


def test_damage_of_a_content_is_found(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    digest = spool.put(DATA)
    assert spool.is_whole(digest)
    spool.path(digest).write_bytes(DATA[:-1] + b"x")
    assert not spool.is_whole(digest)


def test_forgetting_spares_what_is_kept_and_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    spool = Spool(tmp_path, grace_s=60)
    kept, old = spool.put(b"kept"), spool.put(b"old")
    uploaded(spool, "u", b"uploaded")
    now = 150.0
    new, again = spool.put(b"new"), spool.put(b"old")
    assert spool.forget({kept}) == 0
    now = 170.0
    assert spool.forget({kept}) == len(b"uploaded"), "what was put again is new"
    assert spool.received("u") == 0
    assert not spool.holds(sha(b"uploaded"))
    assert all(spool.holds(digest) for digest in (kept, new, again))
    spool = Spool(tmp_path, grace_s=60)
    now = 229.0
    assert spool.forget({kept}) == 0, "an update may have come before the server was started"
    now = 231.0
    assert spool.forget({kept}) == len(b"new") + len(b"old")
    assert not spool.path(old).exists()
    assert Spool(tmp_path).size == len(b"kept")


def test_an_upload_whose_content_was_forgotten_begins_anew(tmp_path: Path) -> None:
    spool = Spool(tmp_path, grace_s=0)
    path = uploaded(spool, "u", DATA)
    path.unlink()
    with pytest.raises(UploadRefused, match="again from byte 0"):
        spool.finish("u", len(DATA), sha(DATA))
    assert uploaded(spool, "u", DATA).read_bytes() == DATA


def test_the_disk_does_not_grow_over_rounds(tmp_path: Path) -> None:
    spool = Spool(tmp_path, grace_s=0)
    for round_ in range(60):
        data = bytes([round_]) * 1000
        uploaded(spool, f"u{round_}", data)
        spool.append(f"part{round_}", 0, bytes(10))
        spool.discard(f"part{round_}")
        spool.forget({sha(data)})
        assert spool.size <= 3 * 1000 + 3 * 200
    assert len(spool._uploads) <= 3
    assert len(list(tmp_path.rglob("*"))) < 12


def test_an_upload_that_is_no_longer_wanted(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("u", 0, DATA)
    spool.discard("u")
    spool.discard("unknown")
    assert spool.received("u") == 0
    assert spool.size == 0


def test_two_connections_of_one_client_send_each_byte_once(tmp_path: Path) -> None:
    """A half-open connection still writes while the client has come back."""
    spool = Spool(tmp_path)

    def send() -> None:
        while (here := spool.received("u")) < len(DATA):
            with contextlib.suppress(UploadRefused):
                spool.append("u", here, DATA[here : here + 100], most=len(DATA))

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert spool.finish("u", len(DATA), sha(DATA)).read_bytes() == DATA


def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"Not a directory|File exists"):
        Spool(tmp_path / "file" / "spool").put(DATA)
    spool = Spool(tmp_path / "spool")
    monkeypatch.setattr("builtins.open", refusing(errno.EROFS))
    with pytest.raises(SpoolError, match="Read-only file system"):
        spool.append("u", 0, DATA)
