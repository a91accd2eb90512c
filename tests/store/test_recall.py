"""What a run remembers: equal calls run once, whatever else happens; what is different runs."""

import random
import threading

import numpy as np
import pytest

from tinygraph import Component, File, Graph, Input, Node, Recalled, Started, Store, UnhashableArgumentError, run


def names(result, kind):
    return [event.name for event in result.events if isinstance(event, kind)]


def again(make, store, **options):
    """Run the same twice, and return what the second run ran."""
    first = run(make(), store=store, **{"executor": "inline", **options})
    second = run(make(), store=store, **{"executor": "inline", **options})
    assert (
        np.array_equal(first.value, second.value)
        if isinstance(first.value, np.ndarray)
        else (first.value == second.value)
    )
    return names(second, Started)


@Node
def load(n):
    return list(range(n))


@Node
def double(xs):
    return [2 * x for x in xs]


@Node
def total(parts):
    return sum(map(sum, parts))


@Node
def pipeline(n):
    return total([double(load(n)), double(load(n + 1))])


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_the_second_run_runs_nothing(store, executor):
    first = run(pipeline(3), store=store, executor=executor, workers=2)
    second = run(pipeline(3), store=store, executor=executor, workers=2)

    assert (first.value, second.value) == (18, 18)
    assert sorted(names(first, Started)) == ["double", "double", "load", "load", "pipeline", "total"]
    assert names(second, Started) == []
    assert names(second, Recalled) == ["pipeline"]


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_what_is_new_runs_and_what_is_not_does_not(store, executor):
    run(pipeline(3), store=store, executor=executor, workers=2)
    second = run(pipeline(4), store=store, executor=executor, workers=2)

    assert second.value == 32
    assert sorted(names(second, Recalled)) == ["double", "load"]
    assert sorted(names(second, Started)) == ["double", "load", "pipeline", "total"]


def test_nodes_that_are_added_leave_what_was_there(store):
    """FL4: pipelines are extended step by step."""
    double(load(3)).resolve(store=store, executor="inline")
    result = run(total([double(load(3)), load(2)]), store=store, executor="inline")

    assert sorted(names(result, Recalled)) == ["double", "load"]
    assert sorted(names(result, Started)) == ["load", "total"]


def test_equal_values_end_the_work_early(store):
    """An input that is computed anew, and is the same, leaves everything downstream as it was."""
    first, second = Node(abs, name="first"), Node(lambda x: x + 1, name="second")

    assert second(first(3)).resolve(store=store, executor="inline") == 4
    result = run(second(first(-3)), store=store, executor="inline")
    assert (result.value, names(result, Started), names(result, Recalled)) == (4, ["first"], ["second"])


def test_a_value_is_read_when_somebody_asks_for_it(store, monkeypatch):
    from tinygraph.store.shelf import Shelf

    @Node
    def large():
        return np.arange(100_000)

    @Node
    def size(array):
        return len(array)

    assert size(large()).resolve(store=store, executor="inline") == 100_000
    loaded = []
    load = Shelf.load
    monkeypatch.setattr(Shelf, "load", lambda self, *where: loaded.append(where) or load(self, *where))
    array = large()
    assert size(array).resolve(store=store, executor="inline") == 100_000
    assert loaded == []
    assert array.resolve(store=store, executor="inline")[-1] == 99_999
    assert len(loaded) == 1


def test_every_consumer_has_the_value_as_it_was_returned(store):
    """C12: whoever changes a value does so for himself, at the first run as at the second."""

    @Node
    def make():
        return [1, 2, 3]

    @Node
    def spoil(values):
        values.append(4)
        return len(values)

    @Node
    def look(values, after):
        return list(values)

    for _ in range(2):
        made = make()
        spoilt = spoil(made)
        assert look(made, spoilt).resolve(store=store, executor="inline") == [1, 2, 3]
        assert made.resolve(store=store, executor="inline") == [1, 2, 3]


def test_cache_false_runs_each_time_and_so_does_what_calls_it(store):
    ran = []

    @Node(cache=False)
    def now():
        ran.append("now")
        return len(ran)

    @Node(cache=False)
    def report():
        return double([now()])

    assert report().resolve(store=store, executor="inline") == [2]
    assert report().resolve(store=store, executor="inline") == [4]


def test_a_caller_of_what_is_not_kept_is_not_kept_either(store):
    @Node(cache=False)
    def draw():
        return random.random()

    @Node
    def caller():
        return draw()

    assert caller().resolve(store=store, executor="inline") != caller().resolve(store=store, executor="inline")


@pytest.mark.parametrize("cache", [True, "run"])
@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_equal_calls_of_a_run_are_one_without_a_store(cache, executor):
    square = Node(lambda x: x * x, name="square", cache=cache)
    result = run(Graph(square(3), square(x=3), square(4)), executor=executor, workers=2)

    assert result.value == (9, 9, 16)
    assert names(result, Started) == ["square", "square"]
    assert names(result, Recalled) == ["square"]


def test_an_equal_call_waits_for_the_one_that_runs():
    began, go_on = threading.Event(), threading.Event()

    @Node(cache=True, key=lambda x: x)
    def slow(x):
        began.set()
        assert go_on.wait(30)
        return x

    result = run(Graph(slow(1), slow(1)), executor="threads", workers=2, block=False)
    assert began.wait(30)
    assert not result.wait(0.05)
    go_on.set()
    assert result.value == (1, 1)
    assert names(result, Started) == ["slow"]


def test_an_equal_call_tries_again_what_failed():
    @Node(cache=True)
    def fail(x):
        raise ValueError("no")

    result = run(Graph(fail(1), fail(1)), executor="inline", on_error="continue")
    with pytest.raises(ValueError, match="no"):
        result.value
    assert len(result.failures) == 2


def test_without_cache_a_call_is_a_call():
    square = Node(lambda x: x * x, name="square")
    assert names(run(Graph(square(3), square(3)), executor="inline"), Started) == ["square", "square"]


def test_cache_run_keeps_nothing(store):
    square = Node(lambda x: x * x, name="square", cache="run")
    assert again(lambda: square(3), store) == ["square"]


def test_refresh_runs_what_was_kept(store):
    def make():
        return double(load(3))

    make().resolve(store=store, executor="inline")
    refreshed = run(make(), store=store, executor="inline", refresh="load")
    assert names(refreshed, Started) == ["load"]
    assert names(run(make(), store=store, executor="inline", refresh=["load", "double"]), Started) == ["load", "double"]
    assert names(run(make(), store=store, executor="inline"), Started) == []


def test_version_and_arguments_are_part_of_the_key(store):
    def work(x, by=2):
        return x * by

    first, second = Node(work, version=1), Node(work, version=2)
    assert again(lambda: first(3), store) == []
    assert names(run(second(3), store=store, executor="inline"), Started) == ["work"]
    assert names(run(first(3, 2), store=store, executor="inline"), Recalled) == ["work"]
    assert names(run(first(x=3, by=2), store=store, executor="inline"), Recalled) == ["work"]
    assert names(run(first(by=2, x=3), store=store, executor="inline"), Recalled) == ["work"]
    assert names(run(first(3, by=3), store=store, executor="inline"), Started) == ["work"]
    assert names(run(first(3.0), store=store, executor="inline"), Started) == ["work"]


def test_what_has_no_key_is_refused_by_name_unless_it_has_one_of_its_own(store):
    lock = threading.Lock()

    def work(model, x):
        return x

    with pytest.raises(UnhashableArgumentError, match=r"argument 'model'\['lock'\].*key="):
        Node(work)({"lock": lock}, 3).resolve(store=store, executor="inline")
    assert Node(work, cache=False)({"lock": lock}, 3).resolve(store=store, executor="inline") == 3
    assert Node(work, key=lambda model, x: x)({"lock": lock}, 3).resolve(store=store, executor="inline") == 3
    assert Node(work)({"lock": lock}, 3).resolve(executor="inline") == 3


def test_class_nodes_are_not_made_when_their_results_are_kept(store):
    """FL31, with the arguments of the constructor in the key."""
    made = []

    class Scale:
        def __init__(self, by):
            made.append(by)
            self.by = by

        def __call__(self, x):
            return self.by * x

    scale = Node(Scale, version=1)
    for _ in range(2):
        made.clear()
        assert scale(3)(4).resolve(store=store, executor="inline") == 12
    assert made == [], made


def test_the_seed_counts_where_random_numbers_are_drawn(store):
    @Node
    def draw():
        return random.random()

    @Node
    def plain():
        return 1

    one = draw().resolve(store=store, executor="inline", seed=1)
    assert draw().resolve(store=store, executor="inline", seed=1) == one
    assert draw().resolve(store=store, executor="inline", seed=2) != one
    plain().resolve(store=store, executor="inline", seed=1)
    assert names(run(plain(), store=store, executor="inline", seed=2), Started) == []


def test_inputs_and_components(store):
    x = Input("x", int)

    @Component
    def both(y):
        return [double([y]), double([y + 1])]

    future = total(both(x))
    assert future.resolve(store=store, executor="inline", inputs={"x": 1}) == 6
    assert names(run(future, store=store, executor="inline", inputs={"x": 2}), Recalled) == ["double"]
    # A component costs nothing: its body ran at the call.
    assert names(run(total(both(x)), store=store, executor="inline", inputs={"x": 1}), Started) == ["both"]


def test_async_nodes_and_generators(store):
    @Node
    async def fetch(x):
        return x + 1

    @Node
    def produce(n):
        yield from range(n)

    assert again(lambda: total([produce(fetch(2)), produce(2)]), store) == []


def test_a_file_that_comes_out_is_a_hit_only_while_it_is_what_it_was(store, tmp_path):
    @Node
    def write(path, text):
        with open(path, "w") as file:
            file.write(text)
        return File(path)

    @Node
    def read(file):
        with open(file) as opened:
            return opened.read()

    path = str(tmp_path / "out.txt")

    def make():
        return read(write(path, "hello"))

    assert again(make, store) == []
    (tmp_path / "out.txt").write_text("other")
    assert names(run(make(), store=store, executor="inline"), Started) == ["write"]
    (tmp_path / "out.txt").unlink()
    assert names(run(make(), store=store, executor="inline"), Started) == ["write"]
    assert (tmp_path / "out.txt").read_text() == "hello"


def test_a_file_that_goes_in_counts_by_its_content(store, tmp_path):
    @Node
    def count(file):
        with open(file) as opened:
            return len(opened.read())

    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("abc")
    other.write_text("abc")
    assert count(File(one)).resolve(store=store, executor="inline") == 3
    assert names(run(count(File(other)), store=store, executor="inline"), Started) == []
    one.write_text("abcd")
    assert count(File(one)).resolve(store=store, executor="inline") == 4


def test_what_cannot_be_kept_is_returned_and_said_once(store):
    @Node
    def make(x):
        return threading.Lock()

    with pytest.warns(RuntimeWarning, match=r"'make' could not be kept.*lock") as told:
        values = run(Graph(make(1), make(2)), store=store, executor="inline").value
    assert [type(value).__name__ for value in values] == ["lock", "lock"]
    assert len(told) == 1


def test_switching_the_store_switches_what_is_known(tmp_path):
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    assert again(lambda: load(3), one) == []
    assert names(run(load(3), store=other, executor="inline"), Started) == ["load"]


def test_a_store_comes_from_options_and_the_environment(tmp_path, monkeypatch):
    import tinygraph

    with tinygraph.options(store=tmp_path / "one", executor="inline"):
        load(3).resolve()
        assert names(run(load(3)), Started) == []
    monkeypatch.setenv("TINYGRAPH_STORE", str(tmp_path / "one"))
    assert names(run(load(3), executor="inline"), Started) == []


def test_what_the_code_of_an_argument_needs_counts(store):
    """A node or a function that is handed over may draw random numbers, or may be one that is never kept."""
    ran = []
    now = Node(lambda: ran.append(1) or len(ran), name="now", cache=False, key=lambda: 0)
    apply = Node(lambda node: node(), name="apply")
    assert [apply(now).resolve(store=store, executor="inline") for _ in range(2)] == [1, 2]

    def roll():
        return random.random()

    call = Node(lambda function: function(), name="call")
    one = call(roll).resolve(store=store, executor="inline", seed=1)
    assert call(roll).resolve(store=store, executor="inline", seed=2) != one
    assert call(roll).resolve(store=store, executor="inline", seed=1) == one


def test_a_refresh_without_effect_is_told(store):
    future = load(3)
    future.resolve(store=store, executor="inline")
    with pytest.warns(RuntimeWarning, match="refresh= has no effect"):
        future.resolve(store=store, executor="inline", refresh="load")


def test_progress_counts_what_was_kept(store, capsys):
    load(3).resolve(store=store, executor="inline")
    load(3).resolve(store=store, executor="inline", progress=True)
    assert "1 of 1 finished (1 kept)" in capsys.readouterr().err


def test_an_object_that_is_not_made_is_no_call_of_the_run(store):
    class Scale:
        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            return self.by * x

    scale = Node(Scale)
    for _ in range(2):
        result = run(scale(3)(4), store=store, executor="inline")
    assert [(task.name, task.why) for task in store.run(result.id).tasks] == [("Scale", "hit")]
