"""Blobs: written whole or not at all, verified whole before anything of them is used."""

import errno
import os
import struct
import tempfile
from pathlib import Path

import pytest

from tests.crash import QUICK, flip_blob
from tinygraph import DamagedEntry, StoreUntrusted
from tinygraph.store import disk
from tinygraph.store.blobs import Blobs
from tinygraph.store.seal import Seal

SEAL = Seal(bytes(32), b"blob")


@pytest.fixture
def tmp_path():
    """A folder on the quickest disk: there are thousands of files."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        yield Path(folder)


@pytest.fixture
def blobs(tmp_path):
    return Blobs(str(tmp_path / "values"), SEAL, durable=False)


def everything(tmp_path):
    return [path for path in Path(tmp_path).rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("size", [0, 1, 63, 4096, 5_000, 1 << 18, (1 << 20) - 1, 1 << 20, 3_000_001])
def test_what_is_put_is_what_is_got(blobs, size):
    content = os.urandom(size)
    name = blobs.put("codec", b"meta", [content])
    found = blobs.get(name)
    assert (found.codec, found.meta, found.payload) == ("codec", b"meta", content)


def test_pieces_are_one(blobs):
    for size in (100, 3_000_000):
        content = os.urandom(size)
        pieces = [content[: size // 3], memoryview(content)[size // 3 : size // 2], bytearray(content[size // 2 :])]
        assert blobs.put("codec", b"", pieces) == blobs.put("codec", b"", [content])
    assert blobs.get(blobs.put("codec", b"", [])).payload == b""


def test_a_name_is_of_all_that_is_in_it(blobs):
    names = {
        blobs.put(*one) for one in [("a", b"b", [b"c"]), ("ab", b"", [b"c"]), ("a", b"", [b"bc"]), ("a", b"b", [])]
    }
    assert len(names) == 4


@pytest.mark.parametrize(("size", "multiple"), [(5_000, 64), (1 << 20, 4096)])
def test_a_payload_can_be_used_where_it_is_mapped(blobs, size, multiple):
    path = blobs.path(blobs.put("codec", b"meta" * 5, [b"\xee" * size]))
    assert Path(path).read_bytes().index(b"\xee" * size) % multiple == 0


@pytest.mark.parametrize("size", [5_000, 1 << 20])
def test_what_is_done_to_a_value_stays_with_who_does_it(blobs, size):
    name = blobs.put("codec", b"", [bytes(size)])
    one, other = blobs.get(name).payload, blobs.get(name).payload
    one[:5] = b"mine!"
    assert bytes(other[:5]) == bytes(blobs.get(name).payload[:5]) == bytes(5)


def test_the_same_is_written_once(blobs, monkeypatch):
    content = os.urandom(10_000)
    name = blobs.put("codec", b"", [content])
    monkeypatch.setattr(disk, "make", lambda path: pytest.fail("it was written again"))
    assert blobs.put("codec", b"", [content]) == name


def test_what_is_damaged_is_written_anew(blobs):
    """Who puts a value has it, so that a damaged one in its place is no reason to lose it."""
    content = os.urandom(10_000)
    path = Path(blobs.path(blobs.put("codec", b"", [content])))
    whole = path.read_bytes()
    for spoilt in (whole[:-1] + bytes([whole[-1] ^ 1]), b"", whole[:500], bytes(len(whole)), whole + b"x"):
        path.write_bytes(spoilt)
        assert blobs.get(blobs.put("codec", b"", [content])).payload == content


def test_only_its_user_can_read_it(blobs, tmp_path):
    path = Path(blobs.path(blobs.put("codec", b"", [b"x"])))
    assert [part.stat().st_mode & 0o777 for part in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]


# ---- what goes wrong while writing


def failing(real, number, code):
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return fail


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["make", "write", "end", "rename", "sync", "sync_folder", "make_folder"])
def test_whatever_fails_nothing_is_left(tmp_path, monkeypatch, operation, code, durable):
    content = os.urandom(10_000)
    for number in range(1, 20):
        root = tmp_path / str(number)
        root.mkdir()
        blobs = Blobs(str(root / "values"), SEAL, durable)
        with monkeypatch.context() as patch:
            patch.setattr(disk, operation, failing(getattr(disk, operation), number, code))
            try:
                blobs.put("codec", b"", [content[:5_000], content[5_000:]])
                break  # there is no call of that number
            except OSError as failure:
                error = failure
        assert error.errno == code
        assert [path for path in everything(root) if path.suffix == ".tmp"] == []
        assert all(path.stat().st_size > 10_000 for path in everything(root))
        assert blobs.get(blobs.put("codec", b"", [content])).payload == content
    assert number < 19


def test_short_writes_are_gone_on_with(blobs, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, memoryview(data)[:977]))
    content = os.urandom(10_000)
    assert blobs.get(blobs.put("codec", b"", [content])).payload == content


def test_durable_is_synchronised_file_first(tmp_path, monkeypatch):
    done = []
    for operation in ("sync", "rename", "sync_folder"):
        real = getattr(disk, operation)
        monkeypatch.setattr(
            disk, operation, lambda *args, operation=operation, real=real: (done.append(operation), real(*args))[1]
        )
    durable = Blobs(str(tmp_path / "values"), SEAL, durable=True)
    durable.put("codec", b"", [b"x" * 5_000])
    assert done[-3:] == ["sync", "rename", "sync_folder"]
    del done[:]
    durable.put("codec", b"", [b"x" * 5_000])  # whoever wrote it may not have waited
    assert done == ["sync", "sync_folder"]


def test_a_folder_that_was_removed_is_made_again_but_not_the_store(tmp_path):
    blobs = Blobs(str(tmp_path / "store" / "values"), SEAL, durable=False)
    (tmp_path / "store").mkdir()
    name = blobs.put("codec", b"", [b"x"])
    os.unlink(blobs.path(name))
    os.rmdir(os.path.dirname(blobs.path(name)))
    assert blobs.put("codec", b"", [b"x"]) == name
    os.rename(tmp_path / "store", tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        blobs.put("codec", b"", [b"x"])
    assert not (tmp_path / "store").exists()


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    (tmp_path / "values").mkdir()
    (tmp_path / "values").chmod(0o777)
    with pytest.raises(StoreUntrusted):
        Blobs(str(tmp_path / "values"), SEAL, durable=False).put("codec", b"", [b"x"])


# ---- what dead writers left


def test_what_a_dead_writer_left_is_swept_and_what_a_living_one_writes_is_not(blobs):
    name = blobs.put("codec", b"", [b"x"])
    folder = Path(blobs.path(name)).parent
    dead, living, other = folder / f".{'0' * 16}.tmp", folder / f".{'1' * 16}.tmp", folder / "a file of somebody"
    dead.write_bytes(b"half of it")
    other.write_bytes(b"")
    fd = disk.make(str(living))
    try:
        disk.lock(fd, alone=True)
        assert blobs.sweep() == 0  # they are too young to be sure
        assert blobs.sweep(least_age=0) == 1
    finally:
        disk.close(fd)
    assert sorted(path.name for path in folder.iterdir()) == sorted([living.name, other.name, name.hex()[2:]])


# ---- what is damaged


def test_no_bit_of_a_blob_can_be_flipped():
    assert flip_blob(11) > 3_000


def test_a_blob_is_whole_or_nothing(blobs):
    name = blobs.put("codec", b"meta", [bytes(range(256)) * 17])
    path = Path(blobs.path(name))
    whole = path.read_bytes()
    for content in [*(whole[:n] for n in range(0, len(whole), 7)), whole + b"\0", whole * 2, bytes(len(whole)), b""]:
        path.write_bytes(content)
        with pytest.raises(DamagedEntry):
            blobs.get(name)


@pytest.mark.parametrize(
    "seal", [Seal(b"x" * 32, b"blob"), Seal(bytes(32), b"record")], ids=["another secret", "another purpose"]
)
def test_a_blob_of_another_seal_is_none(tmp_path, blobs, seal):
    name = Blobs(str(tmp_path / "values"), seal, durable=False).put("codec", b"", [b"x"])
    with pytest.raises(DamagedEntry, match="seal"):
        blobs.get(name)


def test_a_blob_under_another_name_is_none(blobs):
    one, other = blobs.put("codec", b"", [b"one"]), blobs.put("codec", b"", [b"two"])
    os.replace(blobs.path(one), blobs.path(other))
    with pytest.raises(DamagedEntry, match="seal"):
        blobs.get(other)


@pytest.mark.parametrize("at", range(8, 40, 2))
def test_a_length_that_is_a_lie_costs_nothing(blobs, monkeypatch, at):
    name = blobs.put("codec", b"meta", [b"x" * 5_000])
    with open(blobs.path(name), "r+b") as file:
        file.seek(at)
        file.write(struct.pack("<Q", 2**64 - 1 - at))
    asked = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: (asked.append(size), real(fd, size, at))[1])
    with pytest.raises(DamagedEntry):
        blobs.get(name)
    assert max(asked) <= 1 << 20


def test_what_is_no_plain_file_of_ours_is_not_read(blobs, tmp_path, monkeypatch):
    name = blobs.put("codec", b"", [b"x" * 5_000])
    path = blobs.path(name)
    owner = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(disk, "user", lambda: owner + 1)
        with pytest.raises(disk.NotPlain, match="somebody else"):
            blobs.get(name)
    os.rename(path, tmp_path / "real")
    os.symlink(tmp_path / "real", path)
    with pytest.raises(disk.NotPlain):
        blobs.get(name)
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(disk.NotPlain):
        blobs.get(name)
    os.unlink(path)
    os.symlink("/dev/zero", path)
    with pytest.raises(disk.NotPlain):
        blobs.get(name)
    os.unlink(path)
    with pytest.raises(FileNotFoundError):
        blobs.get(name)
