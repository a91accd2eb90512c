"""Why a call would run: in words that a person would use, and exactly."""

import subprocess
import sys

import pytest

import tinygraph
from tinygraph import Input, Node, Store, StoreError, run

load = Node(lambda n: list(range(n)), name="load")
scale = Node(lambda xs, rate=0.1: [rate * x for x in xs], name="scale")


def test_a_hit_and_what_never_ran(store):
    future = scale(load(3))
    assert future.graph.explain(store=store) == (
        "2 calls: 1 would run, 1 is known once others have run\nrun      load   never ran\nunknown  scale  needs 'load'"
    )
    future.resolve(store=store, executor="inline")
    assert scale(load(3)).graph.explain(store=store) == "2 calls: 2 are kept\nhit      load\nhit      scale"
    assert future.graph.explain(store=store).startswith("2 calls: 2 have their values")


def test_the_argument_that_changed_is_named_with_both_values(store):
    scale(load(3), 0.1).resolve(store=store, executor="inline")
    assert scale(load(3), 0.2).why(store=store) == "argument rate: 0.1 -> 0.2"
    assert scale(load(3), rate=0.1).why(store=store) == "hit"
    assert scale([9], 0.1).why(store=store) == "argument xs: [0, 1, 2] -> [9]"
    assert load(4).why(store=store) == "argument n: 3 -> 4"
    load(4).resolve(store=store, executor="inline")
    assert scale(load(4), 0.1).why(store=store) == "argument xs changed: what 'load' returned"


def test_the_call_that_is_most_alike_is_what_a_new_one_is_compared_with(store):
    f = Node(lambda a, b, c: a + b + c, name="f")
    for a in range(3):
        for b in range(3):
            f(a, b, 0).resolve(store=store, executor="inline")
    assert f(2, 1, 7).why(store=store) == "argument c: 0 -> 7"


def test_nothing_runs_and_nothing_is_kept(store):
    ran = []
    noted = Node(lambda x: ran.append(x), name="noted", key=lambda x: x)
    for _ in range(2):
        assert noted(1).why(store=store) == "never ran"
    assert ran == []
    assert list(store.list()) == []
    assert store.runs() == []


def test_what_was_removed_is_said_to_be(store):
    load(3).resolve(store=store, executor="inline")
    assert store.shrink(max_bytes=1).removed
    assert load(3).why(store=store) == "evicted"


def test_inputs_and_refresh_and_cache_false(store):
    n = Input("n", int, 3)
    future = scale(load(n))
    future.resolve(store=store, executor="inline")
    assert future.why(store=store, inputs={"n": 3}) == "it has its value"
    assert scale(load(n)).why(store=store, inputs={"n": 3}) == "hit"
    assert "run      load   argument n: 3 -> 5" in future.graph.explain(store=store, inputs={"n": 5})
    with tinygraph.options(refresh="load"):
        assert load(3).why(store=store) == "refresh asked for"
    assert load.options(cache=False)(3).why(store=store) == "cache=False"


def test_without_a_store_there_is_nothing_to_explain(monkeypatch):
    monkeypatch.delenv("TINYGRAPH_STORE", raising=False)
    with pytest.raises(StoreError, match="need a store"):
        load(3).why()


PROGRAM = """
import sys
import features
from tinygraph import Node, run, Store

@Node
def train(data):
    return features.normalise(data, features.RATE)

@Node(cache=False)
def main():
    return train([1, 2])

if sys.argv[2] == "why":
    print(train([1, 2]).why(store=sys.argv[1]))
else:
    run(main(), store=sys.argv[1], executor="inline")
"""

FEATURES = """
import json
RATE = 0.1

def clean(x):
    return x

def normalise(data, rate):
    return [clean(x) * rate for x in data]

def unused():
    return 1
"""


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("return x\n", "return x  # the same\n", "hit"),
        ("return x\n", "return x + 1\n", "helper `clean` in features.py changed"),
        ("clean(x) * rate", "clean(x) * rate * 2", "helper `normalise` in features.py changed"),
        ("RATE = 0.1", "RATE = 0.2", "global `RATE` in features.py: 0.1 -> 0.2"),
        ("return 1", "return 2", "hit"),
        ("import json", "import json, os", "hit"),
        ("def clean", "\n\n# moved\ndef clean", "hit"),
    ],
)
def test_the_code_that_changed_is_named(tmp_path, before, after, why):
    (tmp_path / "program.py").write_text(PROGRAM)
    features = tmp_path / "features.py"
    features.write_text(FEATURES)
    command = [sys.executable, "-B", str(tmp_path / "program.py"), str(tmp_path / "store")]
    subprocess.run([*command, "run"], check=True, timeout=60)
    assert before in FEATURES
    features.write_text(FEATURES.replace(before, after))
    done = subprocess.run([*command, "why"], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.strip() == why


def test_history_says_the_same_as_why(store):
    scale(load(3)).resolve(store=store, executor="inline")
    result = run(scale(load(3), 0.2), store=store, executor="inline")
    assert [(task.name, task.why) for task in store.run(result.id).tasks] == [
        ("load", "hit"),
        ("scale", "argument rate: 0.1 -> 0.2"),
    ]


def test_a_store_that_is_only_read_is_left_as_it_is(tmp_path):
    store = Store(tmp_path / "store")
    load(3).resolve(store=store, executor="inline")
    before = sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())
    load(3).why(store=store)
    assert sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file()) == before


def test_whatever_a_graph_holds_it_can_be_explained(store, tmp_path):
    from tinygraph import Component, File, Graph

    class Scale:
        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            return [self.by * one for one in x]

    scaled = Node(Scale)
    part = Component(lambda n: [load(n), [load(n + 1)]])
    outer = Component(lambda n: [part(n), scaled(3)(load(n))])
    keyed = Node(lambda xs, n: len(xs) + n, name="keyed", key=lambda xs, n: [xs[0], n])
    total = Node(lambda xs: len(xs), name="total")
    missing = Node(lambda file: 1, name="missing")
    no_key = Node(lambda lock: 1, name="no_key")
    import threading

    def graph():
        return Graph(total(outer(3)), keyed(load(3), 1), scaled(load(2)[1])(load(3)), total([scaled(2), part(2)]))

    assert "would run" in graph().explain(store=store)
    graph().run(store=store, executor="inline").wait()
    told = graph().explain(store=store)
    assert told.splitlines()[0].endswith("are kept"), told
    told = Graph(missing(File(tmp_path / "none")), no_key(threading.Lock())).explain(store=store)
    assert "run      missing  FileNotFoundError" in told
    assert "run      no_key   UnhashableArgumentError: argument 'lock' has no key" in told


def test_what_sounds_like_a_secret_is_not_told(store):
    login = Node(lambda user, password, api_key=0: user, name="login")
    result = run(login("u", "hunter2", api_key=12345), store=store, executor="inline")
    why = login("u", "hunter3", api_key=54321).why(store=store)
    assert why == "argument password changed, argument api_key changed"
    told = (store.path + "/runs", result.id)
    with open(f"{told[0]}/{told[1]}.jsonl") as history:
        text = history.read()
    assert "hunter2" not in text
    assert "12345" not in text
    assert store.run(result.id).tasks[0].inputs == (("user", "'u'"), ("password", "***"), ("api_key", "***"))


def test_calls_that_are_alike_are_one_line(store):
    total = Node(lambda xs: len(xs), name="total")
    graph = total(load.map([3] * 50)).graph
    assert graph.explain(store=store) == (
        "51 calls: 50 would run, 1 is known once others have run\n"
        "run      load ×50  never ran\n"
        "unknown  total     needs 'load'"
    )


def test_calls_that_draw_without_a_seed_are_hits_at_their_places(store):
    import random

    draw = Node(lambda n: random.random() + n, name="draw")

    def graph():
        return tinygraph.Graph(*[draw(1) for _ in range(3)])

    load(2)  # numbers of calls go on: places must not depend on them
    graph().run(store=store, executor="inline").wait()
    load(2)
    assert graph().explain(store=store) == "3 calls: 3 are kept\nhit      draw ×3"
