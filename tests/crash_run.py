"""Break a whole run in every way that a machine can: `python -m tests.crash_run`.

A run of a hundred nodes with a store has one of its system calls fail, or is killed there; the next time another call,
until all have had their turn. Whatever happened, a second run must give the right answer, and must not run again what
the first had acknowledged: a call counts as acknowledged when the next one has begun.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.crash import QUICK, breaks_of

NODES = 100
FAULTS = ("signal=KILL", "error=EIO", "error=ENOSPC", "error=EINTR", "retval=0")
_CANNOT_FAIL = {"getpid", "geteuid", "getuid", "sched_getaffinity", "uname"}
KEY = "a key that only this command has"


def say(text):
    os.writev(1, [text.encode() + b"\n"])  # a system call that nothing else uses, and nobody breaks


def program(root):
    """The run that is broken."""
    import warnings

    from tinygraph import Node

    warnings.simplefilter("ignore")

    @Node(key=lambda i, *needs: [i, *needs])
    def step(i, *needs):
        say(f"ran {i}")
        return [i, sum(map(sum, needs)) % 1009] + [0] * (i % 5 // 4 * 2_000)  # every fifth is a blob

    @Node(cache=False)
    def everything():
        made = []
        for i in range(NODES):
            made.append(step(i, *[made[j] for j in sorted({i // 2, i - 3}) if 0 <= j < i]))
        return made

    with tempfile.TemporaryDirectory(dir=QUICK) as other:  # what is imported on the way is not what is broken
        everything().resolve(store=os.path.join(other, "store"), executor="inline")
    say("begin")
    value = everything().resolve(store=root, executor="inline")
    say(f"end {sum(map(sum, value))}")


def expected():
    made = []
    for i in range(NODES):
        made.append([i, sum(sum(made[j]) for j in sorted({i // 2, i - 3}) if 0 <= j < i) % 1009])
    return sum(map(sum, made))


def start(root, strace=()):
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TINYGRAPH_STORE_KEY": KEY,
    }
    command = [*strace, sys.executable, "-m", "tests.crash_run", "--program", root]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, timeout=60
    )
    return done.stdout.split("\n"), done.stderr


def ran(lines):
    lines = lines[lines.index("begin") :] if "begin" in lines else []
    return [int(line.split()[1]) for line in lines if re.fullmatch(r"ran \d+", line)]


def breaks(every=1, offset=0):
    """Return what can be done to the run: a system call, which one of them, and what happens there."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        trace = os.path.join(folder, "trace")
        lines, errors = start(os.path.join(folder, "store"), ["strace", "-o", trace])
        assert lines[-2] == f"end {expected()}", errors
        before, count = collections.Counter(), collections.Counter()
        begun = False
        for line in Path(trace).read_text(errors="replace").splitlines():
            name = re.match(r"\w+", line)
            if name is None or 'writev(1, [{iov_base="end' in line:
                continue
            before[name[0]] += not begun
            count[name[0]] += 1
            begun = begun or 'writev(1, [{iov_base="begin' in line
    calls = {name: (before[name], count[name]) for name in count}
    return breaks_of(calls, FAULTS, _CANNOT_FAIL)[offset::every]


def break_one(name, number, fault):
    """Break the run once, and run it again; return how many calls ran the first time, and how many the second."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        root = os.path.join(folder, "store")
        inject = f"inject={name}:{fault}:when={number}"
        strace = ["strace", "-qq", "-o", os.devnull, "-e", f"trace={name}", "-e", inject]
        first, errors = start(root, strace)
        again, more_errors = start(root)
        try:
            if fault != "signal=KILL":
                ended = [line for line in first if line.startswith("end")]
                # It gave the right answer, or refused a store that it could not open before anything had run.
                assert ended == [f"end {expected()}"] or ("StoreError" in errors and not ran(first)), errors
            assert again[-2:] == [f"end {expected()}", ""], more_errors
            done = ran(first)
            assert len(set(done)) == len(done)
            if fault == "signal=KILL":
                # The last one that began had perhaps not been kept.
                assert not set(ran(again)) & set(done[:-1]), f"{set(ran(again)) & set(done[:-1])} ran again"
                assert set(done) | set(ran(again)) == set(range(NODES))
            assert len(list(Path(root).rglob("*.tmp"))) <= 1  # of the killed program; the daily sweep removes it
        except BaseException as error:
            raise AssertionError(f"{name} {number} {fault}: {error}\n{first}\n{errors}") from error
        return len(ran(first)), len(ran(again))


def sweep(every=1, offset=0):
    """Break the run at every system call, or every so many; return how often, and how many calls ran in all."""
    todo = breaks(every, offset)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = list(pool.map(lambda one: break_one(*one), todo))
    return len(done), sum(first for first, _ in done), sum(second for _, second in done)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.crash_run", description=__doc__.split("\n")[0])
    parser.add_argument("--program", metavar="STORE", help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help="break only every so many system calls")
    given = parser.parse_args()
    if given.program:
        program(given.program)
        return
    began = time.perf_counter()
    count, first, second = sweep(given.every)
    took = time.perf_counter() - began
    print(f"{count:,} runs of {NODES} nodes were broken: {first:,} calls ran in them, {second:,} afterwards")
    print(f"all right, and nothing that was acknowledged ran again ({took:.0f} s)")


if __name__ == "__main__":
    main()
