"""A program may be killed at any instant: what had finished is found again, and nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tinygraph import Store

TASKS = 200
KILLS = 20

SCRIPT = """
import os, sys, time
from tinygraph import Node, run

def note(what):
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {os.getpid()}\\n".encode())
    os.close(descriptor)

@Node(key=lambda log, i, *needs: [i, *needs])
def step(log, i, *needs):
    note(f"begin {i}")
    time.sleep(0.004 if i % 7 else 0.02)
    note(f"end {i}")
    return [i, sum(map(sum, needs))] + [0] * (i % 3 * 700)

@Node(cache=False)
def everything(log):
    made = []
    for i in range(TASKS):
        made.append(step(log, i, *[made[j] for j in {i // 2, i - 3} if 0 <= j < i]))
    return made

if __name__ == "__main__":
    result = run(everything(sys.argv[1]), store=sys.argv[2], executor=sys.argv[3], workers=2)
    print(sum(map(sum, result.value)))
""".replace("TASKS", str(TASKS))


def lines(log):
    if not log.exists():
        return []
    return [line.split()[:2] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_a_program_that_is_killed_again_and_again_repeats_nothing_that_had_finished(tmp_path, executor):
    """D1 and D2: executions = 1 + own kills."""
    script, log, store = tmp_path / "script.py", tmp_path / "log", tmp_path / "store"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(log), str(store), executor]
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)

    struck, before, done = 0, 0, ""
    unfinished: Counter[str] = Counter()  # by task: how often a kill came after its begin, and before its end
    while struck < KILLS:
        program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        # Somewhere in what is left: after so many more lines, and then a moment that nobody knows.
        after = before + dice.randrange(0, 2 * TASKS // KILLS + 2)
        while program.poll() is None and len(lines(log)) < after:
            time.sleep(0.001)
        time.sleep(dice.random() * 0.01)
        program.kill()
        done = program.communicate()[0] or done
        struck += 1
        until_nobody_writes(log)
        told = lines(log)
        begun, ended = Counter(), Counter()
        for what, task in told[before:]:
            (begun if what == "begin" else ended)[task] += 1
        unfinished += begun - ended
        before = len(told)

    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    executions = Counter(task for what, task in lines(log) if what == "begin")
    assert set(executions) == {str(i) for i in range(TASKS)}
    # One that had ended and was not yet put when the kill came runs again as well: at most one a worker and a kill.
    extra = sum(executions.values()) - TASKS
    repeated = sum(executions[task] - 1 - unfinished[task] for task in executions)
    print(f"{KILLS} kills: {extra} extra executions, {repeated} of them of calls whose bodies had just ended")
    assert all(executions[task] <= 1 + KILLS for task in executions)
    assert repeated <= 2 * KILLS
    assert extra <= 2 * KILLS
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.stdout == result.stdout == EXPECTED + "\n"
    assert sum(1 for what, _ in lines(log) if what == "begin") == TASKS + extra

    states = Counter(run.state for run in Store(store).runs())
    assert states["finished"] >= 2
    assert states["running"] == 0
    assert Store(store).verify() == []


def until_nobody_writes(log):
    """Workers die with their program, and that takes them a moment."""
    size = -1
    while size != (size := log.stat().st_size if log.exists() else 0):
        time.sleep(0.03)


def expected():
    values = []
    for i in range(TASKS):
        needs = [values[j] for j in {i // 2, i - 3} if 0 <= j < i]
        values.append([i, sum(map(sum, needs))])
    return sum(map(sum, values))


EXPECTED = str(expected())


def test_two_programs_on_one_store_are_right_and_share_what_they_can(tmp_path):
    script, log, store = tmp_path / "script.py", tmp_path / "log", tmp_path / "store"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(log), str(store), "processes"]
    programs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [program.communicate(timeout=100)[0] for program in programs] == [EXPECTED + "\n"] * 2
    assert Store(store).verify() == []
    executions = len([None for what, _ in lines(log) if what == "begin"])
    assert TASKS <= executions <= 2 * TASKS
    subprocess.run(command, check=True, timeout=100, capture_output=True)
    assert len([None for what, _ in lines(log) if what == "begin"]) == executions


def test_a_run_that_is_interrupted_says_so(tmp_path):
    script, log, store = tmp_path / "script.py", tmp_path / "log", tmp_path / "store"
    script.write_text(SCRIPT)
    program = subprocess.Popen([sys.executable, str(script), str(log), str(store), "inline"], stdout=subprocess.PIPE)
    while len(lines(log)) < 40:
        time.sleep(0.01)
    [running] = Store(store).runs()
    assert running.state == "running"
    program.send_signal(signal.SIGKILL)
    program.communicate()
    [interrupted] = Store(store).runs()
    assert interrupted.state == "interrupted"
    assert interrupted.pid == program.pid != os.getpid()
    assert {task.name for task in interrupted.tasks} <= {"step"}
