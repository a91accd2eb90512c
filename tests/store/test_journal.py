"""Journal: a record is there when its one write has returned; what is torn, spoilt or foreign is not, ever."""

import errno
import os
import struct

import pytest

from tests.crash import flip_record
from tinygraph import DamagedEntry, StoreError
from tinygraph.store import disk
from tinygraph.store.journal import Journal, Scan, files, path_of, sealed, unsealed
from tinygraph.store.seal import Seal

SEAL = Seal(bytes(32), b"record")


def key(i):
    return b"%020d" % i


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "journal")


@pytest.fixture
def writer(folder):
    journal = Journal(folder, SEAL, durable=False)
    yield journal
    journal.close()


def records(folder, pack, start=0):
    scan = Scan(path_of(folder, pack), SEAL, start)
    return [(record.key, record.payload) for record in scan], scan


def test_what_is_appended_is_read(folder, writer):
    put = [(key(i), bytes(i)) for i in range(100)]
    places = [writer.append(*one) for one in put]
    found, scan = records(folder, writer.pack)
    assert found == put
    assert scan.upto == places[-1][1] + places[-1][2] == os.path.getsize(path_of(folder, writer.pack))
    assert scan.gaps == []
    assert records(folder, writer.pack, places[50][1])[0] == put[50:]


def test_a_record_is_one_write_and_nothing_is_synchronised(folder, writer, monkeypatch):
    writer.append(key(0), b"first")
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (writes.append(len(data)), real(fd, data))[1])
    monkeypatch.setattr(disk, "sync", lambda fd: pytest.fail("it waited for the disk"))
    _, _, length = writer.append(key(1), b"second")
    assert writes == [length]


def test_durable_is_synchronised_before_it_is_acknowledged(folder, monkeypatch):
    done = []
    monkeypatch.setattr(disk, "sync", lambda fd: done.append("file"))
    monkeypatch.setattr(disk, "sync_folder", lambda path: done.append(os.path.basename(path)))
    journal = Journal(folder, SEAL, durable=True)
    journal.append(key(0), b"")
    assert done[-1] == "file"
    assert "journal" in done
    journal.close()


def test_only_its_user_can_read_it(folder, writer):
    writer.append(key(0), b"")
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.stat(path_of(folder, writer.pack)).st_mode & 0o777 == 0o600


def test_nothing_is_made_before_something_is_appended(folder):
    Journal(folder, SEAL, durable=False).close()
    assert not os.path.exists(folder)


def test_each_living_writer_has_a_file_of_its_own_and_dead_ones_leave_theirs(folder):
    one, other = Journal(folder, SEAL, durable=False), Journal(folder, SEAL, durable=False)
    one.append(key(0), b"one")
    other.append(key(1), b"other")
    assert one.pack != other.pack
    one.close()
    third = Journal(folder, SEAL, durable=False)
    third.append(key(2), b"third")
    assert third.pack == one.pack
    assert len(files(folder)) == 2
    assert records(folder, third.pack)[0] == [(key(0), b"one"), (key(2), b"third")]
    other.close()
    third.close()


def test_of_two_writers_that_find_a_new_file_one_has_it(folder, monkeypatch):
    """A writer makes its file; before it has locked it another one finds it there, and takes it for left behind."""
    one, other = Journal(folder, SEAL, durable=False), Journal(folder, SEAL, durable=False)
    real = disk.make

    def found_at_once(path):
        fd = real(path)
        monkeypatch.setattr(disk, "make", real)
        other.append(key(1), b"other")
        return fd

    monkeypatch.setattr(disk, "make", found_at_once)
    one.append(key(0), b"one")
    assert one.pack != other.pack
    assert records(folder, one.pack)[0] == [(key(0), b"one")]
    assert records(folder, other.pack)[0] == [(key(1), b"other")]
    one.close()
    other.close()


def test_where_there_are_no_locks_each_writer_has_a_new_file(folder, monkeypatch):
    monkeypatch.setattr(disk, "lock", lambda fd, **_: None)
    for i in range(3):
        journal = Journal(folder, SEAL, durable=False)
        journal.append(key(i), b"")
        journal.close()
    assert len(files(folder)) == 3


def test_a_forked_child_writes_to_a_file_of_its_own(folder, writer):
    writer.append(key(0), b"parent")
    child = os.fork()
    if not child:
        pack, _, _ = writer.append(key(1), b"child")
        os._exit(0 if pack != "" and len(files(folder)) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    writer.append(key(2), b"parent")
    assert records(folder, writer.pack)[0] == [(key(0), b"parent"), (key(2), b"parent")]


# ---- what goes wrong while writing


def test_a_short_write_is_gone_on_with(folder, writer, monkeypatch):
    writer.append(key(0), b"first")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, memoryview(data)[:7]))
    writer.append(key(1), b"second" * 10)
    assert records(folder, writer.pack)[0] == [(key(0), b"first"), (key(1), b"second" * 10)]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("can_be_cut", [True, False])
def test_what_was_written_of_a_record_that_failed_hides_nothing(folder, writer, monkeypatch, code, can_be_cut):
    writer.append(key(0), b"first")
    real, calls = os.write, []

    def full(fd, data):
        calls.append(1)
        if len(calls) == 1:
            return real(fd, memoryview(data)[:30])
        raise OSError(code, os.strerror(code))

    def refuse(fd, size):
        raise OSError(errno.EIO, "no")

    first = writer.pack
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        if not can_be_cut:
            patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError):
            writer.append(key(1), b"second" * 10)
    writer.append(key(2), b"third")
    found = [record for pack in files(folder) for record in records(folder, pack)[0]]
    assert sorted(found) == [(key(0), b"first"), (key(2), b"third")]
    assert (writer.pack, len(files(folder))) == (first, 1)  # the torn end is no end
    if can_be_cut:
        assert records(folder, first)[1].upto == os.path.getsize(path_of(folder, first))


def test_a_record_that_could_not_be_synchronised_is_taken_back(folder, monkeypatch):
    journal = Journal(folder, SEAL, durable=True)
    journal.append(key(0), b"first")

    def fail(fd):
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", fail)
        with pytest.raises(OSError):
            journal.append(key(1), b"second")
    assert records(folder, journal.pack)[0] == [(key(0), b"first")]
    journal.close()


def test_a_store_that_was_removed_is_not_brought_back(folder, writer):
    writer.append(key(0), b"first")
    os.unlink(path_of(folder, writer.pack))
    writer.append(key(1), b"second")
    assert records(folder, writer.pack)[0] == [(key(1), b"second")]
    os.unlink(path_of(folder, writer.pack))
    os.rmdir(folder)
    os.rename(os.path.dirname(folder), os.path.dirname(folder) + "-away")
    try:
        with pytest.raises(FileNotFoundError):
            writer.append(key(2), b"third")
        assert not os.path.exists(os.path.dirname(folder))
    finally:
        os.rename(os.path.dirname(folder) + "-away", os.path.dirname(folder))


def test_a_key_of_another_length_is_refused(writer):
    with pytest.raises(StoreError):
        writer.append(b"short", b"")


# ---- what is damaged


def test_no_bit_of_a_record_can_be_flipped():
    assert flip_record(7) > 4_000


def test_a_record_is_whole_or_nothing():
    record = sealed(SEAL, key(0), bytes(range(256)) * 16)
    spoilt = [record[:n] for n in range(len(record))]
    spoilt += [record + b"\0", record + record, bytes(len(record)), b"", record[1:], record[:48] * 2]
    for content in spoilt:
        with pytest.raises(DamagedEntry):
            unsealed(SEAL, key(0), content)


@pytest.mark.parametrize(
    "seal", [Seal(b"x" * 32, b"record"), Seal(bytes(32), b"row")], ids=["another secret", "another purpose"]
)
def test_a_record_of_another_seal_is_none(folder, seal):
    with pytest.raises(DamagedEntry):
        unsealed(SEAL, key(0), sealed(seal, key(0), b"payload"))
    theirs = Journal(folder, seal, durable=False)
    theirs.append(key(0), b"payload")
    assert records(folder, theirs.pack)[0] == []
    theirs.close()


def test_a_record_under_another_key_is_none(folder, writer):
    writer.append(key(0), b"payload")
    with open(path_of(folder, writer.pack), "r+b") as file:
        record = file.read()
        with pytest.raises(DamagedEntry):
            unsealed(SEAL, key(1), record)
        file.seek(0)
        file.write(record[:12] + key(1) + record[32:])
    assert records(folder, writer.pack)[0] == []


def test_the_rest_is_read_whatever_happens_to_one_record(folder, writer):
    """Flip, zero, or cut out any part of the middle one of three."""
    places = [writer.append(key(i), bytes([i]) * 60)[1:] for i in range(3)]
    path = path_of(folder, writer.pack)
    with open(path, "rb") as file:
        whole = file.read()
    begin, length = places[1]
    others = [(key(0), bytes([0]) * 60), (key(2), bytes([2]) * 60)]
    spoilt = [
        whole[: begin + i] + bytes([whole[begin + i] ^ 1 << bit]) + whole[begin + i + 1 :]
        for i in range(length)
        for bit in range(0, 8, 3)
    ]
    spoilt += [whole[:begin] + whole[begin + n :] for n in range(1, length)]
    spoilt += [whole[: begin + n] + whole[begin + length :] for n in range(1, length)]
    spoilt += [whole[:begin] + bytes(length) + whole[begin + length :], whole[:begin] + b"\xf1" + whole[begin:]]
    for content in spoilt:
        with open(path, "wb") as file:
            file.write(content)
        found, scan = records(folder, writer.pack)
        assert [one for one in found if one[0] != key(1)] == others
        assert dict(found).get(key(1), bytes([1]) * 60) == bytes([1]) * 60
        assert scan.upto == len(content)


def test_a_damaged_record_is_told(folder, writer):
    places = [writer.append(key(i), b"x" * 60) for i in range(3)]
    with open(path_of(folder, writer.pack), "r+b") as file:
        file.seek(places[1][1] + 80)
        file.write(b"y")
    assert records(folder, writer.pack)[1].gaps == [places[1][1:]]


def test_a_torn_record_is_not_told_and_may_yet_be_finished(folder, writer):
    places = [writer.append(key(i), b"x" * 60) for i in range(3)]
    os.truncate(path_of(folder, writer.pack), places[2][1] + 20)
    _, scan = records(folder, writer.pack)
    assert (scan.gaps, scan.upto) == ([], places[2][1])
    writer.append(key(3), b"after the torn one")
    found, scan = records(folder, writer.pack, scan.upto)
    assert found == [(key(3), b"after the torn one")]
    assert scan.gaps == []


@pytest.mark.parametrize("length", [0, 1, 47, 48, 2**31, 2**32 - 1])
def test_a_length_that_is_a_lie_costs_nothing(folder, writer, length, monkeypatch):
    """A record that says that it is 4 GiB long: nothing is read but what there is, and the next record is found."""
    _, begin, _ = writer.append(key(0), b"liar")
    writer.append(key(1), b"honest")
    with open(path_of(folder, writer.pack), "r+b") as file:
        file.seek(begin + 8)
        file.write(struct.pack("<I", length))
    asked = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: (asked.append(size), real(fd, size, at))[1])
    assert records(folder, writer.pack)[0] == [(key(1), b"honest")]
    assert max(asked) <= 1 << 20


def test_records_that_span_blocks_are_read(folder, writer):
    put = [(key(i), os.urandom(300_000 + i)) for i in range(12)]
    for one in put:
        writer.append(*one)
    path = path_of(folder, writer.pack)
    assert records(folder, writer.pack)[0] == put
    with open(path, "r+b") as file:
        file.seek(400_000)
        file.write(b"damage")
    assert records(folder, writer.pack)[0] == put[:1] + put[2:]


def test_what_is_no_plain_file_of_ours_is_not_read(folder, writer, tmp_path, monkeypatch):
    writer.append(key(0), b"payload")
    real = path_of(folder, writer.pack)
    link = path_of(folder, "0" * 16)
    os.symlink(real, link)
    pipe = path_of(folder, "1" * 16)
    os.mkfifo(pipe)
    for path in (link, pipe, "/dev/zero", folder):
        with pytest.raises(OSError):
            list(Scan(str(path), SEAL))
    assert list(files(folder)) == [writer.pack]
    owner = os.geteuid()
    monkeypatch.setattr(disk, "user", lambda: owner + 1)
    with pytest.raises(disk.NotPlain, match="somebody else"):
        list(Scan(real, SEAL))
