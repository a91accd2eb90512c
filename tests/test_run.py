"""A run drives futures to their values and tells what happened: failures, retries, options, threads, events."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinygraph import (
    CancelledError,
    Event,
    Expanded,
    Failed,
    Finished,
    Graph,
    Node,
    NodeError,
    NodeExit,
    NodeTimeout,
    OptionError,
    RecordError,
    Retried,
    Run,
    Skipped,
    Started,
    TinygraphError,
    UpstreamFailed,
    options,
    run,
)

pytestmark = pytest.mark.timeout(60)

HERE = ["inline", "threads"]


@Node
def add(a, b):
    return a + b


@Node
def divide(a, b):
    return a / b


@Node
def fibonacci(n):
    return n if n < 2 else add(fibonacci(n - 1), fibonacci(n - 2))


def all_of(*values):
    return list(values)


everything = Node(all_of, name="everything")


# What can be resolved


def undecorated(a):
    return a


@pytest.mark.parametrize("thing", [undecorated, 3, None, add, [add(1, 2)], "name"])
def test_only_futures_can_be_resolved(thing):
    with pytest.raises(RecordError, match=r"only futures can be resolved.*is @Node missing") as caught:
        run(thing)
    assert isinstance(caught.value, TypeError)


def test_a_run_of_a_graph_has_a_value_for_each_target():
    first, second = add(1, 2), add(3, 4)
    assert run(Graph(first, second), executor="inline").value == (3, 7)
    assert run(Graph(first), executor="inline").value == 3
    assert Graph(add(1, 1), second).run(executor="inline").value == (2, 7)


# Failures


@pytest.mark.parametrize("executor", HERE)
def test_an_exception_arrives_as_itself_with_a_note(executor):
    """
    outer ─ inner ─ divide ✗
    """
    inner = Node(lambda: divide(1, b=0), name="inner")
    outer = Node(lambda: add(inner(), 1), name="outer")
    with pytest.raises(ZeroDivisionError) as caught:
        outer().resolve(executor=executor)
    [note] = caught.value.__notes__
    assert note.startswith(f"in node outer -> inner -> divide, called at {__file__}:")
    assert note.endswith("with (1, b=0)")
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("executor", HERE)
def test_the_traceback_ends_in_the_body(executor):
    with pytest.raises(ZeroDivisionError) as caught:
        divide(1, 0).resolve(executor=executor)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.name, Path(last.filename).name) == ("divide", "test_run.py")


def test_an_exception_says_with_which_attempt_and_values():
    @Node(retries=2)
    def stubborn(numbers, key):
        raise KeyError(key)

    with pytest.raises(KeyError) as caught:
        stubborn([add(1, 2), "x" * 1000], key=add(3, 4)).resolve(executor="inline")
    [note] = caught.value.__notes__
    assert "attempt 3 of 3" in note
    assert "[3, 'xxxx" in note
    assert "key=7" in note
    assert len(note) < 500


class TwoArguments(Exception):
    def __init__(self, first, second):
        super().__init__(first, second)
        self.first = first


class CannotPrint(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class TakesNoNotes(Exception):
    __slots__ = ()

    def add_note(self, note):
        raise RuntimeError("no notes")


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class RefusesAttributes(Exception):
    def __setattr__(self, name, value):
        raise TypeError("no attributes")


class HasNoNotesToShow(Exception):
    @property
    def __notes__(self):
        raise RuntimeError("no notes")


class CannotBeAsked(Exception):
    def __getattribute__(self, name):
        raise RuntimeError("no questions")


class EqualToEverything(Exception):
    def __eq__(self, other):
        raise RuntimeError("no comparing")

    __hash__ = None


def _group():
    raise ExceptionGroup("several", [ValueError(1), TypeError(2)])


def _chained():
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error


def _raising(make):
    def raises():
        raise make()

    return raises


FAULTS = {
    "two arguments": (_raising(lambda: TwoArguments(1, 2)), TwoArguments),
    "cannot print": (_raising(lambda: CannotPrint()), CannotPrint),
    "takes no notes": (_raising(lambda: TakesNoNotes()), TakesNoNotes),
    "frozen": (_raising(lambda: Frozen(3)), Frozen),
    "refuses attributes": (_raising(lambda: RefusesAttributes(3)), RefusesAttributes),
    "has no notes to show": (_raising(lambda: HasNoNotesToShow()), HasNoNotesToShow),
    "cannot be asked": (_raising(lambda: CannotBeAsked()), NodeError),
    "equal to everything": (_raising(lambda: EqualToEverything()), EqualToEverything),
    "group": (_group, ExceptionGroup),
    "chained": (_chained, ValueError),
    "stop iteration": (_raising(lambda: StopIteration(3)), StopIteration),
    "recursion": (_raising(lambda: RecursionError("deep")), RecursionError),
    "memory": (_raising(lambda: MemoryError()), MemoryError),
    "exit": (_raising(lambda: SystemExit(3)), NodeExit),
    "generator exit": (_raising(lambda: GeneratorExit()), BaseException),
    "holds a lock": (_raising(lambda: ValueError(threading.Lock())), ValueError),
    "many words": (_raising(lambda: ValueError("x" * 1_000_000)), ValueError),
}


@pytest.mark.parametrize("executor", [*HERE, "processes"])
@pytest.mark.parametrize("fault", FAULTS)
def test_x9_x10_no_exception_breaks_the_run(fault, executor):
    body, kind = FAULTS[fault]
    node = Node(lambda: body(), name="failing")
    with pytest.raises(kind):
        node().resolve(executor=executor, workers=2)
    result = run(Graph(add(node(), 1), add(1, 2)), executor=executor, workers=2, on_error="continue")
    assert [failure.future.state for failure in result.failures] == ["failed"]
    assert isinstance(result.failures[0].exception, kind)
    assert result.graph.targets[1].resolve() == 3
    assert isinstance(result.events, list)


@dataclass(frozen=True)
class FrozenWithAnother(Exception):
    """What its constructor takes is not what its base was given: it is rebuilt without it."""

    code: int

    def __post_init__(self):
        BaseException.__init__(self, self.code, "and another")


def test_an_exception_that_refuses_attributes_arrives_whole():
    def fails():
        raise FrozenWithAnother(7)

    for executor in (*HERE, "processes"):
        with pytest.raises(FrozenWithAnother) as caught:
            Node(fails)().resolve(executor=executor, workers=1)
        assert (caught.value.code, caught.value.args) == (7, (7, "and another"))
        assert traceback.format_exception(caught.value)


class HoldsALock(ValueError):
    def __init__(self, text, more):
        super().__init__(text)
        self.lock, self.more = threading.Lock(), more


def test_what_cannot_travel_of_an_exception_is_left_behind():
    """Whoever catches it in the driver catches it all the same."""

    def fails(how):
        if how == "attribute":
            raise HoldsALock("bad", 7)
        raise ValueError("bad", threading.Lock(), 7)

    node = Node(fails)
    with pytest.raises(HoldsALock, match="bad") as caught:
        node("attribute").resolve(executor="processes", workers=1)
    assert (caught.value.more, hasattr(caught.value, "lock")) == (7, False)
    with pytest.raises(ValueError, match="bad") as caught:
        node("argument").resolve(executor="processes", workers=1)
    first, second, third = caught.value.args
    assert (first, third) == ("bad", 7)
    assert second.startswith("<unlocked _thread.lock")


def test_the_members_of_a_group_arrive_each_for_itself():
    def fails():
        class CannotBePickled(Exception):
            lock = threading.Lock()

        inner = ExceptionGroup("inner", [KeyError("k"), ValueError(threading.Lock())])
        raise ExceptionGroup("outer", [ValueError(3), TwoArguments(1, 2), inner, CannotBePickled()])

    with pytest.raises(ExceptionGroup, match="outer") as caught:
        Node(fails)().resolve(executor="processes", workers=1)
    first, second, inner, last = caught.value.exceptions
    assert (type(first), first.args) == (ValueError, (3,))
    assert (type(second), second.args, second.first) == (TwoArguments, (1, 2), 1)
    assert [type(member) for member in inner.exceptions] == [KeyError, ValueError]
    assert (type(last), last.type_name) == (NodeError, "CannotBePickled")
    handled = []
    try:
        raise caught.value
    except* ValueError as some:
        handled.append(len(some.exceptions))
    except* Exception as others:
        handled.append(len(others.exceptions))
    assert handled == [2, 3]


@pytest.mark.parametrize("executor", HERE)
def test_x10_a_node_that_exits_does_not_end_the_program(executor):
    with pytest.raises(NodeExit, match=r"'quits' called sys.exit\(3\)") as caught:
        Node(lambda: sys.exit(3), name="quits")().resolve(executor=executor)
    assert isinstance(caught.value, TinygraphError)
    assert not isinstance(caught.value, SystemExit)


def test_x10_a_keyboard_interrupt_of_a_body_in_a_thread_is_its_failure():
    def interrupts():
        raise KeyboardInterrupt

    result = run(Graph(Node(interrupts)(), add(1, 2)), executor="threads", on_error="continue")
    assert [type(failure.exception) for failure in result.failures] == [KeyboardInterrupt]
    assert result.graph.targets[1].state == "finished"


def test_a_cause_chain_is_kept():
    with pytest.raises(ValueError, match="second") as caught:
        Node(_chained)().resolve(executor="inline")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("executor", HERE)
def test_what_does_not_depend_on_a_failure_goes_on(executor):
    """
    divide ✗ ──► add ──► add        skipped
    divide ──► add                  finished
    """
    bad = divide(1, 0)
    middle = add(bad, 1)
    late, fine = add(middle, 1), add(divide(4, 2), 1)
    result = run(Graph(late, fine), executor=executor, on_error="continue")
    assert [failure.future for failure in result.failures] == [bad]
    assert [call.state for call in (bad, middle, late, fine)] == ["failed", "skipped", "skipped", "finished"]
    assert fine.resolve() == 3
    with pytest.raises(ZeroDivisionError):
        result.value
    assert isinstance(late.value, UpstreamFailed)
    assert late.value.root_cause is bad.value
    assert late.value.path == ["divide", "add", "add"]
    assert "'divide' failed" in str(late.value)


def test_a_failure_is_told_once_however_many_depend_on_it():
    """
    divide ✗ ──► 20 × add ──► everything
    """
    bad = divide(1, 0)
    result = run(everything(*[add(bad, n) for n in range(20)]), executor="inline", on_error="continue")
    assert len(result.failures) == 1
    several = run(everything(divide(1, 0), divide(2, 0), add(1, 2)), executor="inline", on_error="continue")
    assert len(several.failures) == 2


def test_a_failure_in_a_nested_call_fails_its_callers_once():
    inner = Node(lambda: divide(1, 0), name="inner")
    outer = Node(lambda: inner(), name="outer")
    future = outer()
    result = run(everything(future, add(1, 2)), executor="inline", on_error="continue")
    [failure] = result.failures
    assert failure.future.name == "divide"
    assert future.state == "failed"
    with pytest.raises(ZeroDivisionError):
        future.resolve()


def test_the_first_failure_ends_a_run_that_raises():
    ran = []
    bad = divide(1, 0)
    late = Node(ran.append)("late").after(bad)
    beside = Node(ran.append, priority=-1)("beside")
    with pytest.raises(ZeroDivisionError):
        everything(bad, late, beside).resolve(executor="inline")
    assert ran == []
    assert beside.state == "waiting"
    assert beside.resolve(executor="inline") is None


def test_a_new_run_of_what_failed_raises_the_same():
    bad = divide(1, 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            add(bad, 1).resolve(executor="inline")
        assert len(caught.value.__notes__) == 1


@pytest.mark.parametrize("executor", HERE)
def test_a_result_that_is_refused_fails_its_own_call(executor):
    """
    hides ✗      add
    """
    hides = Node(lambda: SimpleNamespace(future=add(1, 2)), name="hides")()
    result = run(Graph(hides, add(3, 4)), executor=executor, on_error="continue")
    [failure] = result.failures
    assert (failure.future, type(failure.exception)) == (hides, RecordError)
    assert result.graph.targets[1].state == "finished"
    assert "in node hides, called at" in failure.exception.__notes__[0]


# Retries


@pytest.mark.parametrize("executor", HERE)
def test_exceptions_are_retried_as_often_as_asked(executor):
    left = [OSError("busy"), OSError("busy")]

    @Node(retries=2)
    def flaky():
        if left:
            raise left.pop()
        return "value"

    future = flaky()
    result = run(future, executor=executor)
    assert result.value == "value"
    assert [event.attempt for event in result.events if isinstance(event, Retried)] == [1, 2]
    left.extend([OSError("busy")] * 3)
    with pytest.raises(OSError, match="busy"):
        flaky().resolve(executor=executor)


def test_nothing_is_retried_unasked():
    ran = []

    @Node
    def fails():
        ran.append(1)
        raise ValueError

    with pytest.raises(ValueError):
        fails().resolve(executor="inline")
    assert ran == [1]


def test_calls_of_an_attempt_that_failed_do_not_stay():
    left = [ValueError("once")]
    ran = []
    note = Node(ran.append)

    @Node(retries=1)
    def flaky():
        note("noted")
        if left:
            raise left.pop()
        return "value"

    future = flaky()
    assert future.resolve(executor="inline") == "value"
    assert ran == ["noted"]
    assert len(future.graph.nodes) == 2


# Options


def test_options_are_looked_up_from_the_nearest_outwards(monkeypatch):
    where = Node(lambda: threading.current_thread() is threading.main_thread())
    monkeypatch.setenv("TINYGRAPH_EXECUTOR", "threads")
    monkeypatch.setenv("TINYGRAPH_WORKERS", "1")
    assert run(where()).options["workers"] == 1
    assert where().resolve() is False
    with options(executor="inline"):
        assert where().resolve() is True
        with options(workers=2):
            assert run(where()).options["workers"] == 2
            assert where().resolve() is True
        assert where().resolve(executor="threads") is False
    assert where().resolve() is False


@pytest.mark.parametrize(
    "bad",
    [
        {"executor": "cluster"},
        {"executor": 3},
        {"workers": 0},
        {"workers": 1.5},
        {"workers": True},
        {"on_error": "ignore"},
        {"timeout": 0},
        {"timeout": "1"},
        {"seed": 1.5},
        {"progress": "yes"},
        {"max_depth": 0},
        {"worker": 2},
    ],
)
def test_wrong_options_are_refused_before_anything_runs(bad):
    ran = []
    future = Node(ran.append)(1)
    with pytest.raises(OptionError, match=next(iter(bad))):
        future.resolve(**bad)
    with pytest.raises(OptionError, match=next(iter(bad))), options(**bad):
        pass
    assert ran == []


def test_a_wrong_environment_is_named(monkeypatch):
    monkeypatch.setenv("TINYGRAPH_WORKERS", "many")
    with pytest.raises(OptionError, match="TINYGRAPH_WORKERS='many'"):
        add(1, 2).resolve()


def test_the_default_workers_are_the_usable_cores():
    if hasattr(os, "sched_getaffinity"):
        assert run(add(1, 2), executor="inline").options["workers"] == len(os.sched_getaffinity(0))


def test_options_do_not_leak_into_other_threads():
    with options(executor="inline", workers=3), ThreadPoolExecutor(1) as pool:
        outside = pool.submit(lambda: run(add(1, 2), executor="inline").options["workers"]).result()
        assert run(add(1, 2)).options["workers"] == 3
    assert outside != 3 or os.cpu_count() == 3


# Threads, loops, contexts


@pytest.mark.parametrize("executor", HERE)
def test_x18_many_threads_resolve_at_once(executor):
    """Every thread resolves its own, and all of them one that they share."""
    shared = fibonacci(9)

    def work(n):
        return fibonacci(n % 7).resolve(executor=executor, workers=2), add(shared, n).resolve(executor=executor)

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(work, range(64)))
    small = [0, 1, 1, 2, 3, 5, 8]
    assert found == [(small[n % 7], 34 + n) for n in range(64)]


def test_a_call_that_two_runs_need_runs_once():
    ran = []
    entered, go_on = threading.Event(), threading.Event()

    @Node
    def slow():
        ran.append(1)
        entered.set()
        go_on.wait()
        return 5

    shared = slow()
    first = run(add(shared, 1), executor="threads", block=False)
    entered.wait()
    second = run(add(shared, 2), executor="threads", block=False)
    go_on.set()
    assert (first.value, second.value, ran) == (6, 7, [1])


def test_a_call_that_another_run_gives_up_is_taken_over():
    entered, go_on = threading.Event(), threading.Event()

    @Node
    def fails():
        entered.set()
        go_on.wait()
        raise ValueError("first")

    shared = add(20, 1)
    first = run(everything(fails(), Node(all_of, priority=-1)(shared)), executor="threads", workers=1, block=False)
    entered.wait()
    second = run(add(shared, 1), executor="threads", block=False)
    go_on.set()
    with pytest.raises(ValueError, match="first"):
        first.value
    assert second.value == 22


def test_asyncio_may_resolve_many():
    async def main():
        with options(executor="threads", workers=2):
            return await asyncio.gather(*[_await(fibonacci(n)) for n in range(8)])

    async def _await(future):
        return await future

    assert asyncio.run(main()) == [0, 1, 1, 2, 3, 5, 8, 13]


name_of_the_run = contextvars.ContextVar("name_of_the_run", default="none")


async def _read_later():
    await asyncio.sleep(0)
    return name_of_the_run.get()


@pytest.mark.parametrize("executor", [*HERE, ThreadPoolExecutor(1)])
def test_context_variables_reach_the_bodies(executor):
    token = name_of_the_run.set("mine")
    try:
        read = Node(name_of_the_run.get)
        assert everything(read(), Node(_read_later)()).resolve(executor=executor) == ["mine", "mine"]
    finally:
        name_of_the_run.reset(token)


def test_async_bodies_overlap_whatever_the_number_of_workers():
    """Each of three waits for the others: with one at a time this would never end."""

    async def meet():
        arrived.append(1)
        while len(arrived) < 3:
            await asyncio.sleep(0)
        return len(arrived)

    for executor in HERE:
        arrived = []
        node = Node(meet)
        assert everything(node(), node(), node()).resolve(executor=executor, workers=1) == [3, 3, 3]


def test_an_async_body_that_raises_is_a_failure_like_any_other():
    async def fails():
        await asyncio.sleep(0)
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        add(Node(fails, name="fails")(), 1).resolve(executor="inline")
    assert "in node fails" in caught.value.__notes__[0]


def test_an_awaited_failure_can_be_caught():
    async def careful():
        try:
            return await divide(1, 0)
        except ZeroDivisionError:
            return "caught"

    for on_error in ("raise", "continue"):
        result = run(Node(careful)(), executor="inline", on_error=on_error)
        assert (result.value, result.failures) == ("caught", [])


def test_an_awaited_failure_that_is_not_caught_has_its_own_root_cause():
    async def careless():
        return await divide(1, 0)

    result = run(Node(careless)(), executor="inline", on_error="continue")
    assert [failure.future.name for failure in result.failures] == ["divide"]


# Not blocking, cancelling, timeouts


def test_a_run_that_does_not_block_is_there_at_once():
    go_on = threading.Event()
    result = run(Node(go_on.wait)(), executor="threads", block=False)
    assert isinstance(result, Run)
    assert result.wait(timeout=0.01) is False
    go_on.set()
    assert result.value is True
    assert result.wait() is True


def test_a_run_that_does_not_block_raises_when_asked():
    result = run(divide(1, 0), executor="inline", block=False)
    with pytest.raises(ZeroDivisionError):
        result.value


@pytest.mark.parametrize("executor", HERE)
def test_a_cancelled_run_starts_nothing_more(executor):
    entered, go_on, ran = threading.Event(), threading.Event(), []

    def body():
        entered.set()
        go_on.wait()

    first = Node(body)()
    late = Node(ran.append)("late").after(first)
    result = run(late, executor=executor, workers=1, block=False)
    entered.wait()
    result.cancel()
    go_on.set()
    with pytest.raises(CancelledError, match="cancelled"):
        result.value
    assert ran == []
    result.cancel()  # a second time is harmless


def test_a_cancelled_future_raises():
    entered, go_on = threading.Event(), threading.Event()

    def body():
        entered.set()
        go_on.wait()
        return 1

    first = Node(body)()
    last = add(first, 1)
    result = run(last, executor="threads", workers=1, block=False)
    entered.wait()
    last.cancel()
    go_on.set()
    with pytest.raises(CancelledError, match="'add' was cancelled"):
        result.value
    assert last.state == "cancelled"
    with pytest.raises(CancelledError):
        last.resolve(executor="inline")


def test_a_future_that_waits_can_be_cancelled_before_any_run():
    future = add(1, 2)
    future.cancel()
    with pytest.raises(CancelledError):
        future.resolve(executor="inline")
    done = add(1, 2)
    done.resolve(executor="inline")
    done.cancel()
    assert done.resolve() == 3


def test_a_run_that_takes_too_long_is_given_up():
    go_on = threading.Event()
    stuck = Node(go_on.wait)()
    try:
        with pytest.raises(NodeTimeout) as caught:
            stuck.resolve(executor="threads", timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
    finally:
        go_on.set()


def test_a_timeout_inline_is_seen_between_bodies():
    ran = []
    first = Node(lambda: threading.Event().wait(0.06))()
    last = Node(ran.append)(1).after(first)
    with pytest.raises(NodeTimeout):
        last.resolve(executor="inline", timeout=0.05)
    assert ran == []


def test_what_a_given_up_run_did_not_reach_can_be_resolved_again():
    go_on = threading.Event()
    stuck = Node(go_on.wait)()
    beside = add(1, 2).after(stuck)
    with pytest.raises(NodeTimeout):
        beside.resolve(executor="threads", timeout=0.05)
    go_on.set()
    assert beside.resolve(executor="threads") == 3


# Telling


def test_events_tell_what_happened_in_order():
    """
    outer ─ add ──► divide ✗ ──► add
    """
    outer = Node(lambda: add(divide(add(1, 2), 0), 1), name="outer")
    result = run(outer(), executor="inline", on_error="continue")
    told = [(type(event).__name__, event.name) for event in result.events]
    assert told[:2] == [("Started", "outer"), ("Expanded", "outer")]
    assert ("Finished", "add") in told
    assert told.index(("Finished", "add")) < told.index(("Failed", "divide")) < told.index(("Skipped", "add"))
    assert [event.at for event in result.events] == sorted(event.at for event in result.events)
    [expanded] = [event for event in result.events if isinstance(event, Expanded)]
    assert expanded.calls == 3
    kinds = {type(event) for event in result.events}
    assert {Started, Expanded, Finished, Failed, Skipped} >= kinds


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("way", ["driver", "thread", "composite", "async", "made here"])
def test_a_large_array_that_a_body_here_changes_is_sent_anew(way):
    """
    first(a) ──► change(a), here ──► first(a)    whatever the size of a
    """
    import numpy

    def fill(array):
        array[:] = 7

    async def fill_async(array):
        array[:] = 7
        return await first(array)

    first = Node(lambda array: int(array[0]), name="first")
    changes = {
        "composite": Node(lambda array: (fill(array), first(array))[1]),
        "async": Node(fill_async),
        "driver": Node(fill, where="driver"),
    }
    change = changes.get(way) or Node(fill, where="thread")
    for size in (10, 1 << 20):
        array = numpy.zeros(size)
        if way == "made here":
            array = Node(lambda size=size: numpy.zeros(size), where="thread")()
        before = first(array)
        changed = change(array).after(before)
        after = first(array).after(changed)
        assert run(Graph(before, after), executor="processes", workers=1).value == (0, 7)


@pytest.mark.parametrize("executor", HERE)
def test_a_progress_function_hears_everything_as_it_happens(executor):
    heard = []
    add(add(1, 2), add(3, 4)).resolve(executor=executor, progress=heard.append)
    assert all(isinstance(event, Event) for event in heard)
    assert [type(event) for event in heard].count(Started) == 3
    assert [type(event) for event in heard].count(Finished) == 3
    for number in {event.number for event in heard}:
        assert [type(event) for event in heard if event.number == number] == [Started, Finished]


@pytest.mark.parametrize("executor", [*HERE, "processes"])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_broken_progress_function_breaks_nothing_and_is_told(error, executor):
    told = []

    def broken(event):
        told.append(event)
        raise error("no screen")

    with pytest.warns(UserWarning, match="no screen"):
        assert add(add(1, 2), 3).resolve(executor=executor, workers=1, progress=broken) == 6
    assert len(told) == 1


def test_progress_writes_a_line(capsys):
    add(1, 2).resolve(executor="inline", progress=True)
    assert "1 finished" in capsys.readouterr().err
    add(1, 2).resolve(executor="inline")
    assert capsys.readouterr().err == ""


def test_a_run_knows_its_graph_and_its_times():
    future = add(add(1, 2), 3)
    result = run(future, executor="inline")
    assert result.graph.nodes == future.graph.nodes
    assert result.critical_path[-1] is future
    assert result.makespan >= sum(call.duration for call in result.graph.nodes) * 0.5
    again = run(future)
    assert (again.value, again.failures, again.events) == (6, [], [])


# Order and memory


def test_equal_graphs_run_in_the_same_order_inline():
    def once():
        order = []
        note = Node(lambda name, *needs: order.append(name))
        first = [note(n) for n in range(10)]
        second = [note((a, b), first[a], first[b]) for a in range(10) for b in range(a)]
        note("end", second).resolve(executor="inline")
        return order

    assert once() == once() == once()


def test_priority_goes_before_the_critical_path():
    order = []
    note = Node(lambda name, *needs: order.append(name))
    urgent = note.options(priority=1)
    chained = note("b", note("a"))
    note("end", chained, note("c"), urgent("now")).resolve(executor="inline")
    assert order == ["now", "a", "b", "c", "end"] or order[0] == "now"
    assert order[-1] == "end"


def test_a_value_that_nobody_needs_any_more_is_let_go():
    import gc
    import weakref

    class Big:
        pass

    alive = []

    @Node
    def make():
        big = Big()
        alive.append(weakref.ref(big))
        return big

    @Node
    def use(big):
        return 1

    @Node
    def look(one):
        gc.collect()
        return alive[0]() is None

    gone = look(use(make())).resolve(executor="inline")  # outside the assertion, which would hold every part of it
    assert gone is True
    held = make()
    alive.clear()
    gone = look(use(held)).resolve(executor="inline")
    assert gone is False
    assert isinstance(held.resolve(), Big)


def test_a_finished_call_lets_go_of_its_arguments():
    import gc
    import weakref

    class Big:
        pass

    big = Big()
    gone = weakref.ref(big)
    future = Node(lambda b: 1)(big)
    future.resolve(executor="inline")
    del big
    gc.collect()
    assert gone() is None


# In a script, on standard input, in an interactive session

SCRIPT = """
from tinygraph import Node

@Node
def add(a, b):
    return a + b

@Node
def fibonacci(n):
    return n if n < 2 else add(fibonacci(n - 1), fibonacci(n - 2))

@Node
def down(n):
    return down(n - 1) if n else "end"

@Node
def fails(x):
    raise ValueError(f"no {x}")

scale = 3
base = add(3, 4)
times = Node(lambda x: x * scale)
shown = Node(lambda: f"{base:03d}")

@Node
class Scaler:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return self.by * x

print(fibonacci(8).resolve(EXECUTOR))
print(down(20).resolve(EXECUTOR))
print(times(add(1, 2)).resolve(EXECUTOR))
print(shown().resolve(EXECUTOR))
print(Scaler(add(1, 2))(4).resolve(EXECUTOR))
try:
    add(fails(1), 2).resolve(EXECUTOR)
except ValueError as error:
    print(error, "/", error.__notes__[0].split(",")[0])
"""
PRINTED = ["21", "end", "9", "007", "12", "no 1 / in node fails"]
ROOT = Path(__file__).parents[1]


def told_by(arguments, text=None, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=50,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout.splitlines(), done.stderr


def script(executor):
    return SCRIPT.replace("EXECUTOR", f"executor={executor!r}, workers=2")


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_a_script_needs_no_guard(tmp_path, executor):
    path = tmp_path / "script.py"
    path.write_text(script(executor))
    assert told_by([path], cwd=tmp_path) == (PRINTED, "")


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_script_may_come_from_standard_input_or_the_command_line(executor, tmp_path):
    assert told_by(["-"], script(executor), cwd=tmp_path) == (PRINTED, "")
    assert told_by(["-c", script(executor)], cwd=tmp_path) == (PRINTED, "")


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_an_interactive_session_works_statement_by_statement(executor, tmp_path):
    session = (
        "import ast, code, sys\n"
        "console, text = code.InteractiveConsole({'__name__': '__main__'}), sys.argv[1]\n"
        "lines = text.splitlines()\n"
        "for statement in ast.parse(text).body:\n"
        "    first = min([d.lineno for d in getattr(statement, 'decorator_list', [])] or [statement.lineno])\n"
        "    console.runsource('\\n'.join(lines[first - 1 : statement.end_lineno]) + '\\n', '<console>', 'single')\n"
    )
    printed, complaints = told_by(["-c", session, script(executor)], cwd=tmp_path)
    assert (printed, complaints) == (PRINTED, "")


def test_an_uncaught_exception_shows_the_users_own_and_where(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "from tinygraph import Node\n"
        "@Node\n"
        "def fails(x):\n"
        "    raise ValueError('mine')\n"
        "@Node\n"
        "def outer():\n"
        "    return fails(1)\n"
        "outer().resolve(executor='threads')\n"
    )
    _, words = told_by([path], cwd=tmp_path)
    assert words.splitlines()[-2:] == [
        "ValueError: mine",
        f"in node outer -> fails, called at {path}:7, with (1)",
    ]
    assert words.count("Traceback (most recent call last)") == 1


def test_a_program_ends_with_futures_that_nobody_resolved(tmp_path):
    text = "from tinygraph import Node\nf = Node(abs)(-1)\ng = Node(lambda: f)()\nprint('end')\n"
    assert told_by(["-c", text], cwd=tmp_path) == (["end"], "")


def test_a_misspelt_variable_of_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("TINYGRAPH_TIMOUT", "3")
    with pytest.raises(OptionError, match="TINYGRAPH_TIMOUT in the environment is no option of a run"):
        add(1, 2).resolve()


def test_cancelling_an_await_cancels_the_run():
    """
    held ──► late        the waiting is cancelled while held runs: late never does
    """
    begun, go_on, ran = threading.Event(), threading.Event(), []

    def held():
        begun.set()
        go_on.wait()

    async def main():
        future = Node(ran.append)(Node(held)())

        async def waiting():
            await future

        task = asyncio.ensure_future(waiting())
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with options(executor="threads"):
        asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "tinygraph-run":
            thread.join()
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("tinygraph-"):
            thread.join(5)
    assert ran == []
