"""What every executor promises, each law once: the three of the library, and pools that it is given."""

import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from tests import graphs
from tinygraph import (
    CancelledError,
    Component,
    DepthError,
    Graph,
    Node,
    NodeExit,
    NodeTimeout,
    PayloadError,
    RecordError,
    TinygraphError,
    options,
    run,
)

pytestmark = pytest.mark.timeout(30)

IN_THIS_PROCESS = ("inline", "threads", "thread pool")


def make(kind, workers):
    if kind in ("inline", "threads", "processes"):
        return kind
    if kind == "thread pool":
        return ThreadPoolExecutor(workers)
    if kind == "loky":
        from loky import get_reusable_executor

        return get_reusable_executor(max_workers=workers)
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(kind))


@pytest.fixture(scope="module", params=["inline", "threads", "processes", "thread pool", "spawn", "forkserver", "loky"])
def pool(request):
    made = make(request.param, 2)
    yield request.param, made
    if hasattr(made, "shutdown"):
        made.shutdown(wait=True)


@pytest.fixture
def kind(pool):
    kind, executor = pool
    with options(executor=executor, workers=2):
        yield kind


@pytest.fixture(scope="module", params=["inline", "threads", "processes", "thread pool", "spawn", "loky"])
def alone(request):
    """The same with a single worker."""
    made = make(request.param, 1)
    with options(executor=made, workers=1):
        yield request.param
    if hasattr(made, "shutdown"):
        made.shutdown(wait=True)


@Node
def add(a, b):
    return a + b


@Node
def same(x):
    return x


@Node
def fibonacci(n):
    return n if n < 2 else add(fibonacci(n - 1), fibonacci(n - 2))


@Node
def divide(a, b):
    return a / b


# Right results


@pytest.mark.parametrize(
    "shape",
    [
        lambda: graphs.chain(30),
        graphs.diamond,
        lambda: graphs.fan_out(30),
        lambda: graphs.fan_in(30),
        lambda: graphs.ladder(8),
        graphs.a_to_g,
        graphs.nested,
        graphs.opened,
        *(lambda seed=seed: graphs.random_dag(seed, 25) for seed in range(5)),
    ],
)
def test_every_shape_gives_what_the_functions_would(kind, shape):
    assert run(shape()).value == run(shape(), executor="inline").value


def test_the_example_gives_its_answer(kind):
    assert graphs.pipeline(10, 2, 5, 6).resolve() == -60


def test_arguments_and_results_of_every_sort_arrive(kind):
    value = {"none": None, "text": "é", "bytes": b"\0" * 100_000, (1, 2): [3.5, {4}], "deep": [[[[]]]]}
    assert same(value).resolve() == value
    assert same([same(1), {"a": (same(value),)}]).resolve() == [1, {"a": (value,)}]
    assert same(ValueError("as data")).resolve().args == ("as data",)


@pytest.mark.needs("numpy")
def test_arrays_arrive(kind):
    import numpy as np

    big = np.arange(300_000, dtype=float).reshape(3, -1)
    assert (same(big) + same(big)).resolve().tolist() == (big + big).tolist()


def test_lambdas_and_closures_are_nodes_like_any_other(kind):
    n = 3
    times = Node(lambda x: x * n)
    assert times(times(2)).resolve() == 18
    assert Node(lambda x: times(x))(2).resolve() == 6
    assert [future.resolve() for future in times.map([1, 2])] == [3, 6]


def _counting(n):
    yield from range(n)


async def _later(x):
    return x + await add(x, 1)


async def _at_once(x):
    return x + 1


def test_generators_and_coroutines_are_nodes_like_any_other(kind):
    assert Node(_counting)(3).resolve() == [0, 1, 2]
    assert add(Node(_at_once)(same(1)), 1).resolve() == 3


@pytest.mark.timeout(10)
def test_a_coroutine_may_await_a_call_that_runs_on_a_worker(kind):
    assert Node(_later)(3).resolve() == 7
    assert add(Node(_later)(same(1)), Node(_later)(same(2))).resolve() == 8


class Scaler:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return self.by * x


scaler = Node(Scaler)


@Node
def apply_to(many, x):
    return [each(x) for each in many]


def test_objects_are_made_where_they_are_needed(kind):
    assert scaler(add(1, 2))(add(3, 4)).resolve() == 21
    assert apply_to([scaler(1), scaler(by=same(2))], 5).resolve() == [5, 10]
    assert scaler(3).resolve()(2) == 6


def test_operators_and_indexing_run_everywhere(kind):
    quotient, rest = divmod(same(17), 5)
    assert (quotient * 10 + rest - same({"a": [2]})["a"][0]).resolve() == 30


# Nesting


@Node
def down(n):
    return down(n - 1) if n else "bottom"


@Node
def tree(depth):
    return depth and [tree(depth - 1), tree(depth - 1)]


@Node
def through_an_argument(node, n):
    """Calls a node that no walk over the code can see."""
    return [node(n - 1), through_an_argument(node, n - 1)] if n else "end"


def test_nested_calls_give_what_the_functions_would(kind):
    assert fibonacci(9).resolve() == 34
    assert tree(4).resolve() == [[[[0, 0], [0, 0]], [[0, 0], [0, 0]]], [[[0, 0], [0, 0]], [[0, 0], [0, 0]]]]


def test_nested_calls_with_one_worker_cannot_deadlock(alone):
    assert fibonacci(7).resolve() == 13
    assert down(60).resolve() == "bottom"
    assert through_an_argument(same, 3).resolve() == [2, [1, [0, "end"]]]


def test_a_body_on_a_worker_may_call_nodes(kind):
    assert through_an_argument(same, 3).resolve() == [2, [1, [0, "end"]]]
    on_worker = Node(lambda n: [add(n, 1), {"a": add(add(n, 1), 1)}], where="process")
    future = on_worker(1)
    assert future.resolve() == [2, {"a": 3}]
    assert len(future.graph.nodes) == 4
    assert [call.name for _, call in future.graph.calls] == ["add", "add", "add"]


def test_the_future_that_a_worker_forwards_is_the_one_that_was_passed_in(kind):
    """A body may return a future that came to it in a closure: it is one and runs once."""
    shared = add(1, 2)
    both = Node(lambda: [shared, add(shared, 1)])
    assert both().resolve() == [3, 4]


def test_a_component_inside_a_body_opens_there(kind):
    twice = Component(lambda x: add(x, x), name="twice")
    assert Node(lambda x: twice(twice(x)))(3).resolve() == 12


def test_calls_that_are_not_returned_run(kind, tmp_path):
    @Node
    def leave(path):
        path.write_text("was here")
        return path

    @Node
    def outer(folder):
        leave(folder / "aside")
        return "value"

    future = outer(tmp_path)
    assert future.resolve() == "value"
    assert (tmp_path / "aside").read_text() == "was here"
    assert [call.name for call in future.graph.nodes] == ["outer", "leave"]


@Node
def endless(n):
    return endless(n + 1)


def test_recursion_without_an_end_is_refused(kind):
    with pytest.raises(DepthError, match="deeper than 200: endless -> endless"):
        endless(0).resolve(max_depth=200)


def test_futures_never_reach_a_body(kind):
    shared = same(5)
    assert Node(lambda x: f"{shared}{x[0]}{x[1]['a']}")([same(1), {"a": same(2)}]).resolve() == "512"


# Failures


def test_an_exception_arrives_as_itself_with_notes(kind):
    inner = Node(lambda: add(divide(1, 0), 1), name="inner")
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        inner().resolve()
    [note] = caught.value.__notes__
    assert note.startswith(f"in node inner -> divide, called at {__file__}:")
    assert note.endswith("with (1, 0)")


def test_an_exception_from_another_process_brings_its_traceback(kind):
    with pytest.raises(ZeroDivisionError) as caught:
        divide(1, 0).resolve()
    if kind in IN_THIS_PROCESS:
        assert caught.value.__cause__ is None
    else:
        assert "in divide" in str(caught.value.__cause__)
        assert os.path.basename(__file__) in str(caught.value.__cause__)


class Own(Exception):
    def __init__(self, first, *, second):
        super().__init__(f"{first} {second}")
        self.second = second


def _raise_own():
    raise Own(1, second=2)


def _raise_chained():
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error


def _raise_group():
    raise ExceptionGroup("both", [ValueError("one"), OSError("two")])


def _raise_with_lock():
    raise ValueError("locked", threading.Lock())


def _raise_with_note():
    error = ValueError("noted")
    error.add_note("the user's own note")
    raise error


def test_the_users_own_exceptions_keep_what_is_in_them(kind):
    with pytest.raises(Own, match="1 2") as caught:
        Node(_raise_own)().resolve()
    assert caught.value.second == 2
    with pytest.raises(ValueError, match="second") as caught:
        Node(_raise_chained)().resolve()
    assert "first" in repr(caught.value.__cause__) + str(caught.value.__cause__)
    with pytest.raises(ExceptionGroup) as caught:
        Node(_raise_group)().resolve()
    assert [type(error) for error in caught.value.exceptions] == [ValueError, OSError]
    with pytest.raises(ValueError, match="noted") as caught:
        Node(_raise_with_note)().resolve()
    assert caught.value.__notes__[0] == "the user's own note"
    assert len(caught.value.__notes__) == 2


def test_an_exception_that_cannot_travel_is_told_faithfully(kind):
    failing = Node(_raise_with_lock)()
    with pytest.raises((ValueError, TinygraphError), match="locked"):
        failing.resolve()
    assert add(1, 2).resolve() == 3


def _exit():
    raise SystemExit(3)


def test_an_exit_ends_the_node_and_not_the_program(kind):
    with pytest.raises(NodeExit, match="3"):
        Node(_exit)().resolve()
    assert add(1, 2).resolve() == 3


def test_independent_branches_go_on(kind):
    """
    divide ✗ ──► add      divide ──► add
    """
    result = run(Graph(add(divide(1, 0), 1), add(divide(4, 2), 1)), on_error="continue")
    [failure] = result.failures
    assert (failure.future.name, type(failure.exception)) == ("divide", ZeroDivisionError)
    assert [target.state for target in result.graph.targets] == ["skipped", "finished"]


def test_exceptions_are_retried_where_asked(kind, tmp_path):
    @Node(retries=2)
    def flaky(path):
        with path.open("a") as file:
            file.write("x")
        if path.stat().st_size < 3:
            raise OSError("busy")
        return path.stat().st_size

    assert flaky(tmp_path / "attempts").resolve() == 3


def test_a_refusal_that_a_body_swallows_fails_the_run_all_the_same(kind):
    @Node(where="process")
    def careless():
        try:
            return 1 if add(1, 2) else 2
        except Exception:
            return 3

    with pytest.raises(RecordError, match="the truth of 'add'"):
        careless().resolve()


def test_resolve_in_a_body_is_refused(kind):
    with pytest.raises(RecordError, match="return the future"):
        Node(lambda: add(1, 2).resolve(), where="process")().resolve()


class Stubborn:
    """Cannot be pickled, and says so."""

    def __reduce__(self):
        raise TypeError("stubborn thing")


def test_what_cannot_travel_is_named_or_needs_not_travel(kind):
    if kind in IN_THIS_PROCESS:
        assert isinstance(same(Stubborn()).resolve(), Stubborn)
        return
    with pytest.raises(PayloadError, match=r"takes.*(argument 'thing'|argument 2)") as caught:
        Node(lambda x, thing: 1, name="takes")(1, thing=Stubborn()).resolve()
    assert isinstance(caught.value, TypeError)
    with pytest.raises(PayloadError, match=r"gives.*result"):
        Node(lambda: Stubborn(), name="gives", where="process")().resolve()
    lock = threading.Lock()
    with pytest.raises(PayloadError, match="holds"):
        Node(lambda: lock.locked(), name="holds")().resolve()
    assert add(1, 2).resolve() == 3


class ExplodesWhenRead:
    def __reduce__(self):
        return pickle.loads, (b"this is no pickle",)


def test_what_explodes_when_it_is_read_fails_only_its_own_call(kind):
    result = run(
        Graph(same(ExplodesWhenRead()), add(1, 2)),
        on_error="continue",
    )
    assert len(result.failures) == (0 if kind in IN_THIS_PROCESS else 1)
    assert result.graph.targets[1].resolve() == 3


# Order


def test_priorities_decide_what_starts_first(alone):
    started = []

    def hear(event):
        if type(event).__name__ == "Started":
            started.append(event.name)

    step = Node(abs)
    calls = [step.options(name=f"low{n}")(n) for n in range(6)]
    urgent = step.options(name="urgent", priority=5)(1)
    run(Graph(*calls, urgent), progress=hear)
    assert started[0] == "urgent"
    assert sorted(started) == sorted([*(f"low{n}" for n in range(6)), "urgent"])


def test_order_without_data_is_kept(kind, tmp_path):
    @Node
    def note(path, word):
        with path.open("a") as file:
            file.write(word)

    path = tmp_path / "words"
    first = note(path, "a")
    second = note(path, "b").after(first)
    note(path, "c").after(second).resolve()
    assert path.read_text() == "abc"


# Size


def test_a_long_chain_and_a_wide_fan_are_ordinary(kind):
    length = 20_000 if kind in ("inline", "threads") else 300
    future = same(0)
    for _ in range(length):
        future = add(future, 1)
    assert future.resolve() == length
    assert Node(sum)([same(1) for _ in range(length)]).resolve() == length


def test_a_chain_of_100_000_runs_inline():
    future = same(0)
    for _ in range(100_000):
        future = add(future, 1)
    assert future.resolve(executor="inline") == 100_000


# Runs beside each other


def test_several_threads_share_an_executor(kind):
    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(_fibonacci_with(kind), range(8)))
    assert found == [0, 1, 1, 2, 3, 5, 8, 13]


def _fibonacci_with(kind):
    from contextvars import copy_context

    contexts = [copy_context() for _ in range(8)]
    return lambda n: contexts[n].run(lambda: fibonacci(n).resolve())


def test_a_run_that_does_not_block_can_be_cancelled(kind):
    result = run(Node(sum)([fibonacci(n) for n in range(8)]), block=False)
    result.cancel()
    try:
        assert result.value == 33
    except CancelledError:
        pass
    assert add(1, 2).resolve() == 3


def test_a_future_that_was_resolved_travels_with_its_value(kind):
    future = Node(bytes)(200_000)
    future.resolve()
    assert pickle.loads(pickle.dumps(future)) is future
    assert Node(len)(future).resolve() == 200_000
    assert future.resolve() == bytes(200_000)


# One contract for the options of a node


@Node
class Ledger:
    """Counts what is made and closed by lines in a file."""

    def __init__(self, path):
        self.path = path
        self._note("made")

    def __call__(self, x):
        return x + 1

    def close(self):
        self._note("closed")

    def _note(self, what):
        with open(self.path, "a") as file:
            file.write(f"{what}\n")


@pytest.mark.parametrize("where", ["driver", "thread", "process"])
def test_every_executor_takes_every_where(kind, where):
    here = Node(add.function, where=where)
    assert here(here(1, 2), 3).resolve(timeout=25) == 6


def wait_for(path):
    for _ in range(2_000):  # not for ever: a given pool could not stop it
        if os.path.exists(path):
            return
        threading.Event().wait(0.01)


def test_a_call_beyond_its_timeout_fails_and_the_others_go_on(kind, tmp_path):
    if kind == "inline":
        pytest.skip("inline there is nobody who could look at the clock while a body runs: see the test of its own")
    held = Node(wait_for, name="held", timeout=0.2)
    graph = Graph(held(str(tmp_path / "go on")), add(1, 2))
    result = run(graph, on_error="continue")
    (tmp_path / "go on").touch()  # for executors that cannot stop a body
    [failure] = result.failures
    assert isinstance(failure.exception, NodeTimeout)
    assert failure.future.name == "held"
    assert graph.targets[1].resolve() == 3


def test_a_second_run_knows_the_failures_of_the_first(kind):
    graph = Graph(divide(1, 0), add(1, 2))
    first = run(graph, on_error="continue").failures
    again = run(graph, on_error="continue").failures
    assert [failure.exception for failure in again] == [failure.exception for failure in first]
    assert [failure.future for failure in again] == [failure.future for failure in first]


def test_what_was_made_for_a_run_is_closed_with_it(kind, tmp_path):
    if kind in ("spawn", "forkserver", "loky"):
        pytest.skip("a given pool of processes does not say when a run is over: its workers close at their exit")
    path = str(tmp_path / "ledger")
    ledger = Ledger(path)
    assert add(ledger(1), ledger(2)).resolve() == 5
    lines = (tmp_path / "ledger").read_text().split()
    assert lines.count("closed") == lines.count("made") >= 1
