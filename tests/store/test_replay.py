"""Replay: one call again, alone, with what it had; from this program or from any other."""

import subprocess
import sys

import numpy as np
import pytest

from tinygraph import Graph, Node, Recalled, StoreError, UnknownRun, replay, run


@Node
def table(n):
    return {"rows": list(range(n)), "seen": {n}}


@Node
def pick(table, key, *, times=1):
    return [row * times for row in table[key]]


@Node
def ratio(a, b):
    return a / b


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_the_note_on_an_error_is_the_line_that_runs_it_again(store, executor):
    with pytest.raises(ZeroDivisionError) as failure:
        ratio(ratio(6, 2), 0).resolve(store=store, executor=executor, workers=1)
    [line] = [note for note in failure.value.__notes__ if "tinygraph.replay(" in note]
    said = line.partition(": ")[2]
    assert said.startswith("tinygraph.replay(")
    with pytest.raises(ZeroDivisionError):
        eval(said, {"tinygraph": __import__("tinygraph")})


def test_any_call_of_a_run_runs_again_with_its_arguments(store):
    result = run(pick(table(3), "rows", times=2), store=store, executor="inline")
    assert replay(result.id, "pick", store=store) == [0, 2, 4]
    assert replay(store.run(result.id), "table", store=store) == {"rows": [0, 1, 2], "seen": {3}}
    task = store.run(result.id).tasks[-1]
    assert replay(result.id, task, store=store) == replay(result.id, task.id, store=store) == [0, 2, 4]
    # What was found and did not run can run again, too.
    again = run(pick(table(3), "rows", times=2), store=store, executor="inline")
    assert [event.name for event in again.events if isinstance(event, Recalled)] == ["table", "pick"]
    assert replay(again.id, "pick", store=store) == [0, 2, 4]


def test_futures_in_containers_and_large_arguments(store):
    total = Node(lambda parts, by: sum(map(sum, parts)) * len(by), name="total")
    array = np.ones(100_000)
    result = run(total([pick(table(3), "rows"), pick(table(4), "rows")], array), store=store, executor="inline")
    assert replay(result.id, "total", store=store) == 900_000 == result.value


def test_an_argument_too_large_to_keep_is_named_unless_the_call_failed(store):
    size = Node(lambda array, fail: len(array) // (not fail), name="size")
    array = np.ones(1_000_000)
    kept = run(size(array, False), store=store, executor="inline")
    with pytest.raises(StoreError, match="argument 'array' of 'size' was not kept"):
        replay(kept.id, "size", store=store)
    failed = run(size(array, True), store=store, executor="inline")
    with pytest.raises(ZeroDivisionError):
        replay(failed.id, "size", store=store)


def test_a_body_that_calls_nodes_has_them_run(store):
    both = Node(lambda n: ratio(ratio(n, 2), 3), name="both")
    result = run(both(12), store=store, executor="inline")
    assert replay(result.id, "both", store=store) == 2.0


def test_class_nodes_async_nodes_and_random_numbers(store):
    @Node
    class Scale:
        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            if x < 0:
                raise ValueError("below zero")
            return self.by * x

    @Node
    async def wait(x):
        return x + 1

    @Node
    def draw(n):
        import random

        return [random.random() for _ in range(n)]

    with pytest.raises(ValueError, match="below zero"):
        Scale(3)(-1).resolve(store=store, executor="inline")
    with pytest.raises(ValueError, match="below zero"):
        replay(store.runs()[-1], "Scale", store=store)
    result = run(Graph(wait(1), draw(3)), store=store, executor="inline", seed=5)
    assert replay(result.id, "wait", store=store) == 2
    assert replay(result.id, "draw", store=store) == result.value[1]


def test_what_is_not_there_is_said(store):
    result = run(table(2), store=store, executor="inline")
    with pytest.raises(UnknownRun, match=f"did you mean {result.id}"):
        replay(result.id[:-1] + "x", "table", store=store)
    with pytest.raises(StoreError, match="has no task 'tables'; its tasks: table"):
        replay(result.id, "tables", store=store)
    with pytest.raises(StoreError, match="needs a store"):
        replay(result.id, "table")


SCRIPT = """
import sys
from tinygraph import Node

class Point:
    def __init__(self, x):
        self.x = x

def helper(point):
    return 10 / point.x

@Node
def make(x):
    return Point(x)

@Node
def use(point):
    return helper(point)

use(make(0)).resolve(store=sys.argv[1], executor=sys.argv[2], workers=1)
"""


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_a_call_of_a_script_is_replayed_from_another_program(tmp_path, executor):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    failed = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store"), executor], capture_output=True, text=True, timeout=60
    )
    [line] = [line for line in failed.stderr.splitlines() if "tinygraph.replay(" in line]
    said = line.partition("alone: ")[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import tinygraph\n{said}"], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.rstrip().splitlines()[-1].startswith(("ZeroDivisionError", "in node", "to run"))
    assert "return 10 / point.x" in done.stderr


def test_the_debugger_stops_in_the_body(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    store = tmp_path / "store"
    subprocess.run([sys.executable, str(script), str(store), "inline"], capture_output=True, timeout=60)
    code = (
        "import tinygraph\n"
        f"store = tinygraph.Store({str(store)!r})\n"
        "tinygraph.replay(store.runs()[-1], 'use', store=store, pdb=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="p point.x + 41\nq\n", capture_output=True, text=True, timeout=60
    )
    assert "41" in done.stdout


@Node
class Scale:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return self.by * x


def test_calls_of_class_nodes_and_of_what_is_not_kept(store):
    from tinygraph import Component

    result = run(Scale(3)(2), store=store, executor="inline")
    assert replay(result.id, "Scale", store=store) == 6

    loose = Node(lambda n: [n, n], name="loose", cache=False)
    part = Component(lambda n: [table(n), table(n + 1)])
    count = Node(lambda parts: sum(map(len, parts)), name="count")
    for target in (count([loose(1), loose(2)]), count(part(1)), count([part(1)])):
        result = run(target, store=store, executor="inline")
        assert replay(result.id, "count", store=store) == result.value


def test_a_replay_that_cannot_import_destroys_nothing(tmp_path):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "helpers_of_replay.py").write_text(
        "class Thing:\n    def __init__(self, x):\n        self.x = x\n"
    )
    script = tmp_path / "beside" / "script.py"
    script.write_text(
        "import sys\nimport helpers_of_replay\nfrom tinygraph import Node\n"
        "@Node\ndef fail(thing):\n    raise KeyError(thing.x)\n"
        "fail(helpers_of_replay.Thing(3)).resolve(store=sys.argv[1], executor='inline')\n"
    )
    store = tmp_path / "store"
    failed = subprocess.run([sys.executable, script, store], capture_output=True, text=True, timeout=60)
    [line] = [line for line in failed.stderr.splitlines() if "tinygraph.replay(" in line]
    command = [sys.executable, "-c", "import tinygraph\n" + line.partition("alone: ")[2]]
    helpers = tmp_path / "beside" / "helpers_of_replay.py"
    helpers.rename(tmp_path / "off.py")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "StoreError: what 'fail' was called with cannot be read here: ModuleNotFoundError" in done.stderr
    assert str(script) in done.stderr
    (tmp_path / "off.py").rename(helpers)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "KeyError: 3" in done.stderr


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_an_object_whose_construction_fails_is_made_by_the_replay(store, executor):
    class Bad:
        def __init__(self, name):
            raise ValueError(f"no model {name}")

        def __call__(self, x):
            return x

    with pytest.raises(ValueError, match="no model m") as failure:
        Node(Bad)("m")(1).resolve(store=store, executor=executor, workers=1)
    assert "with (Bad('m'), 1)" in failure.value.__notes__[0]
    for _ in range(2):
        with pytest.raises(ValueError, match="no model m"):
            replay(store.runs()[-1], "Bad", store=store)
