"""Break the store in every way that a machine can: `python -m tests.crash`.

::

    put ──► openat ─ fstat ─ write ─ rename ─ ... ─ close ──► acknowledged
              ✝       EIO     ENOSPC   EINTR          0 bytes

One program puts values and says after each that it is kept. Another makes one of its system calls fail, or kills it
there; the next time another call, until all have had their turn. Then the store is opened: it must have what was
acknowledged, it may have more, and every value in it must be exact.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep, time

from tinygraph.errors import DamagedEntry, StoreError
from tinygraph.keys.digests import digest
from tinygraph.store import journal
from tinygraph.store.blobs import Blobs
from tinygraph.store.entries import Entries, Entry, Writer
from tinygraph.store.seal import Seal, trust

SECRET = bytes(range(32))
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where stores are made by the thousand
PUTS = 6  # of the program that is broken
# Without these there is no program; it may be killed there, but they do not fail.
_MEMORY = {
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "brk",
    "exit_group",
    "execve",
    "futex",
    "rt_sigaction",
    "sigaltstack",
}
_TAKE_ROOM = {"write", "pwrite64", "openat", "mkdir", "rename", "fsync", "fdatasync", "ftruncate"}
_BEGIN = "begin"

Encoded = collections.namedtuple("Encoded", "codec meta buffers nbytes")


# ---- what is put, and what must be found


def key_of(i):
    return digest(b"key %d" % i)


def value_of(i):
    """A value that lies in its record, or, every third, in a blob."""
    return (b"value %d " % i * 600)[: 5_000 if i % 3 == 2 else 100]


def put(writer, i, seconds=0.5):
    content = value_of(i)
    encoded = Encoded("test", b"meta", [content[:40], memoryview(content)[40:]], len(content))
    entry = Entry(
        key_of(i), b"#" + digest(content), "module:node", "node", b"code", b"args", time(), seconds,
        "test", b"meta", len(content), None, None, 0, b"",
    )  # fmt: skip
    return writer.put(entry, encoded)


def kept(entries, i):
    """Say whether a value is there; fails if it is there and not the one that was put."""
    found = entries.find(key_of(i))
    if found is None:
        return False
    assert found.token == b"#" + digest(value_of(i)), "the index told a wrong token"
    try:
        entry = entries.read(found, key_of(i))
        body = entries.body(entry)
    except DamagedEntry:
        assert entries.find(key_of(i)) is None, "it was damaged, and is found still"
        return False
    assert body.tobytes() == value_of(i), "a wrong value"
    assert (entry.codec, entry.meta, entry.node) == ("test", b"meta", "module:node")
    return True


def check(root, acknowledged, tried=range(PUTS), may_lose=False):
    """Open a store that something happened to, and make sure that it is as it must be."""
    told = []
    trust(root)
    entries = Entries(root, SECRET, warn=told.append)
    lost = [i for i in tried if not kept(entries, i) and i in acknowledged]
    assert may_lose or not lost, f"lost {lost} of {sorted(acknowledged)}: {told}"
    assert entries.verify() == []
    entries._blobs.sweep(0)
    left = [path for path in Path(root).rglob("*") if path.suffix == ".tmp"]
    assert left == [], "temporary files were left"
    writer = Writer(root, SECRET)
    for i in tried:
        entries.note(key_of(i), put(writer, i), node="module:node", seconds=0.5)
    writer.close()
    assert all(kept(entries, i) for i in tried), "what was put again is not found"
    entries.close()
    again = Entries(root, SECRET, warn=told.append)
    assert all(kept(again, i) for i in tried), "what was put again is not found later"
    again.close()


# ---- every system call


def victim(root, durable):
    """The program that is broken: it says what is kept as soon as that is so."""

    def say(text):
        os.writev(1, [text.encode() + b"\n"])  # a system call that nothing else uses, and nobody breaks

    warnings.simplefilter("ignore")
    say(_BEGIN)
    entries, writer = Entries(root, SECRET, durable), Writer(root, SECRET, durable)
    try:
        entries.use()
    except (OSError, StoreError) as error:
        say(f"refused {error}")
        return
    for i in range(PUTS):
        try:
            if kept(entries, i):
                continue
            found = put(writer, i)
        except (OSError, StoreError) as error:
            say(f"failed {error}")
            continue
        say(f"kept {i}")
        entries.note(key_of(i), found, node="module:node", seconds=0.5)
        if i % 2:
            entries.flush()
    entries.flush()
    entries.close()
    entries.release()
    say("end")


def run_victim(root, *, durable=False, strace=()):
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*strace, sys.executable, "-m", "tests.crash", "--victim", root, *(["--durable"] if durable else [])]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, timeout=60
    )
    return done.stdout.split("\n"), done.stderr


def acknowledged(lines):
    return {int(line.split()[1]) for line in lines if re.fullmatch(r"kept \d+", line)}


def calls_of_victim(durable):
    """Return for each system call how often it comes before the store is opened, and how often in all."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        trace, root = os.path.join(folder, "trace"), os.path.join(folder, "store")
        lines, errors = run_victim(root, durable=durable, strace=["strace", "-o", trace])
        assert "end" in lines, errors
        before, all_of_them = collections.Counter(), collections.Counter()
        has_begun = False
        for line in Path(trace).read_text(errors="replace").splitlines():
            name = re.match(r"\w+", line)
            if name is None:
                continue
            if not has_begun:
                before[name[0]] += 1
            all_of_them[name[0]] += 1
            has_begun = has_begun or f'writev(1, [{{iov_base="{_BEGIN}' in line
            if has_begun and 'writev(1, [{iov_base="end' in line:
                break
    return {name: (before[name], count) for name, count in all_of_them.items() if count > before[name]}


LIES = "retval=7"  # of a system that says that it has written what it has not: then nothing can be promised but truth
FAULTS = ("signal=KILL", "error=EIO", "error=ENOSPC", "error=EINTR", "retval=0", LIES)


def breaks(durable, every=1, offset=0):
    """Return what can be done to the program: a system call, which one of them, and what happens there."""
    return breaks_of(calls_of_victim(durable), FAULTS)[offset::every]


def breaks_of(calls, faults, never_fail=frozenset()):
    """Return each call that is to be broken, and how: of each name, those from the first count to the second."""
    return [
        (name, number, fault)
        for name, (before, count) in sorted(calls.items())
        for number in range(before + 1, count + 1)
        for fault in faults
        if can_break(name, fault, never_fail)
    ]


def can_break(name, fault, never_fail=frozenset()):
    """Whether a fault may strike a system call; `never_fail` are those that may only be where the program is killed."""
    if name == "writev" or (fault != "signal=KILL" and (name in _MEMORY or name in never_fail)):
        return False
    if fault == "error=ENOSPC":
        return name in _TAKE_ROOM
    return not fault.startswith("retval") or name in ("write", "pwrite64")


def break_one(name, number, fault, durable=False):
    """Break the program once; return what it acknowledged."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        root = os.path.join(folder, "store")
        inject = f"inject={name}:{fault}:when={number}"
        strace = ["strace", "-qq", "-o", os.devnull, "-e", f"trace={name}", "-e", inject]
        lines, errors = run_victim(root, durable=durable, strace=strace)
        try:
            if fault != "signal=KILL":
                assert "Traceback" not in errors, errors
            check(root, acknowledged(lines), may_lose=fault == LIES)
        except BaseException as error:
            raise AssertionError(f"{name} {number} {fault}: {error}\n{lines}\n{errors}") from error
        return len(acknowledged(lines))


def sweep_calls(every=1, offset=0, durable=False):
    """Break the program at every system call, or every so many; return how often, and what was acknowledged."""
    todo = breaks(durable, every, offset)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = list(pool.map(lambda one: break_one(*one, durable=durable), todo))
    return len(done), sum(done)


# ---- every bit


def flip(path, bit):
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        old = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([old ^ 1 << bit % 8]))


def flip_record(every=1):
    """Flip bits of a record of 4 KiB, one at a time; none may be read. Return how many there were."""
    seal, key = Seal(SECRET, b"record"), key_of(0)
    record = journal.sealed(seal, key, bytes(range(256)) * 16)
    for bit in range(0, len(record) * 8, every):
        spoilt = bytearray(record)
        spoilt[bit // 8] ^= 1 << bit % 8
        try:
            journal.unsealed(seal, key, bytes(spoilt))
        except DamagedEntry:
            continue
        raise AssertionError(f"bit {bit} of a record can be flipped")
    return len(record) * 8 // every


def flip_blob(every=1):
    """Flip bits of a blob, one at a time; none may be read. Return how many there were."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        blobs = Blobs(os.path.join(folder, "values"), Seal(SECRET, b"blob"), False)
        name = blobs.put("test", b"meta", [bytes(range(256)) * 17])
        path = blobs.path(name)
        bits = os.path.getsize(path) * 8
        for bit in range(0, bits, every):
            flip(path, bit)
            try:
                blobs.get(name)
            except DamagedEntry:
                flip(path, bit)
                continue
            raise AssertionError(f"bit {bit} of a blob can be flipped")
        blobs.get(name)
    return bits // every


def filled(root, count=20):
    """Make a store with some values, all of them in its index."""
    trust(root)
    entries, writer = Entries(root, SECRET), Writer(root, SECRET)
    for i in range(count):
        entries.note(key_of(i), put(writer, i), node="module:node", seconds=0.5)
    entries.close()
    writer.close()


def index_of(root):
    return next(path for path in Path(root).iterdir() if re.fullmatch(r"index-\d+\.sqlite", path.name))


def flip_index(bits, count=20):
    """Flip bits of the index, one at a time: all that is kept must be found. Return how often it was made anew."""
    told = []
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        whole = os.path.join(folder, "whole")
        filled(whole, count)
        size = os.path.getsize(index_of(whole)) * 8
        for number, bit in enumerate(bits(size)):
            root = os.path.join(folder, str(number))
            shutil.copytree(whole, root)
            flip(index_of(root), bit)
            entries = Entries(root, SECRET, warn=told.append)
            lost = [i for i in range(count) if not kept(entries, i)]
            assert not lost, f"bit {bit} of the index: {lost} of {count} are not found; {told[-1:]}"
            entries.close()
            shutil.rmtree(root)
    return len(told)


# ---- many at once


def _hammer(root, seed, seconds, keys, report):
    warnings.simplefilter("error")
    chance = random.Random(seed)
    entries, writer = Entries(root, SECRET), Writer(root, SECRET)
    entries.use()
    end, hits, puts = monotonic() + seconds, 0, 0
    while monotonic() < end:
        i = chance.randrange(keys)
        if kept(entries, i) and chance.random() < 0.9:
            hits += 1
        else:
            entries.note(key_of(i), put(writer, i), node="module:node", seconds=0.5)
            puts += 1
        if chance.random() < 0.05:
            entries.flush()
        if chance.random() < 0.05:
            entries.catch_up()
    entries.close()
    entries.release()
    report.put((hits, puts))


def hammer(root, processes=16, seconds=1.0, keys=300, kills=0):
    """Let processes put and get the same keys at once, kill some; return what they did."""
    context = multiprocessing.get_context("fork")
    report = context.SimpleQueue()
    crowd = [context.Process(target=_hammer, args=(root, seed, seconds, keys, report)) for seed in range(processes)]
    for one in crowd:
        one.start()
    for victim in crowd[:kills]:
        sleep(seconds / (kills + 1))
        os.kill(victim.pid, signal.SIGKILL)
    done = []
    reader = threading.Thread(target=lambda: [done.append(report.get()) for _ in crowd[kills:]], daemon=True)
    reader.start()
    for one in crowd:
        one.join(60)
    codes = [one.exitcode for one in crowd]
    assert codes[kills:] == [0] * (processes - kills), codes
    reader.join(10)
    return sum(hits for hits, _ in done), sum(puts for _, puts in done)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--victim", help=argparse.SUPPRESS)
    parser.add_argument("--durable", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help="break at every so many system calls only")
    parser.add_argument("--seeds", type=int, default=2_000, help="losses of power")
    arguments = parser.parse_args()
    if arguments.victim:
        victim(arguments.victim, arguments.durable)
        return
    from tests.store.power import lose_power

    warnings.simplefilter("ignore")

    def told(what, work):
        began = monotonic()
        print(f"{what:<44}{work()}  ({monotonic() - began:.1f} s)", flush=True)

    every, seeds = arguments.every, arguments.seeds
    for durable in (False, True):
        what = "system calls broken, puts acknowledged" + (", durable" if durable else "")
        told(what, lambda durable=durable: sweep_calls(every, durable=durable))
    told("bits of a record flipped", flip_record)
    told("bits of a blob flipped", flip_blob)
    told(
        "bits of an index flipped, times made anew",
        lambda: (8_000, flip_index(lambda size: range(0, size, size // 8_000 + 1))),
    )
    told("losses of power: durable, puts that survived", lambda: lose_power(range(seeds), durable=True))
    told("losses of power: not durable, that survived", lambda: lose_power(range(seeds), durable=False))
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        told("16 processes for 10 s: hits, puts", lambda: hammer(folder, seconds=10.0))
        told("16 processes, 8 of them killed: hits, puts", lambda: hammer(folder, seconds=10.0, kills=8))
        check(folder, set(), range(300))


if __name__ == "__main__":
    main()
