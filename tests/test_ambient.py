"""What surrounds a node is what surrounds the thread that resolves; what a node changes of it stays with that node.

The names with a number are those of the rows in the table of hard cases.
"""

from __future__ import annotations

import decimal
import importlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from itertools import pairwise
from pathlib import Path

import loky
import numpy as np
import pytest

from tests import surroundings
from tinygraph import Graph, Node, OptionError, generator, options
from tinygraph.executors.ambient import THREAD_LIMITS
from tinygraph.executors.pool import _pools

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]

here: ContextVar[object] = ContextVar("here")


def anew(function, *args):
    """Call in a copy of this context, so that the tests do not meet."""
    return copy_context().run(function, *args)


def on_one_worker(*calls):
    """The values of calls that run one after the other in one process."""
    for before, after in pairwise(calls):
        after.after(before)
    return Graph(*calls).run(executor="processes", workers=1).value


# Context variables


def test_X22_context_variables_are_those_of_the_thread_that_resolves() -> None:
    def resolve(name: str) -> object:
        surroundings.user.set(name)
        return on_one_worker(surroundings.who(), surroundings.who())

    assert anew(resolve, "ada") == ("ada", "ada")  # what the first one set is not seen by the second
    assert anew(resolve, "grace") == ("grace", "grace")
    assert on_one_worker(surroundings.who(), surroundings.who()) == ("nobody", "nobody")


def test_a_variable_that_no_module_holds_works_as_well() -> None:
    local: ContextVar[str] = ContextVar("local", default="default")
    unset: ContextVar[str] = ContextVar("unset")

    @Node
    def look() -> tuple[str, str]:
        return local.get(), unset.get("unset")

    def resolve(name: str) -> object:
        local.set(name)
        unset.set(name)
        return look().resolve(executor="processes", workers=1)

    assert look().resolve(executor="processes", workers=1) == ("default", "unset")
    assert anew(resolve, "one") == ("one", "one")
    assert anew(resolve, "two") == ("two", "two")
    assert look().resolve(executor="processes", workers=1) == ("default", "unset")


def test_what_cannot_travel_stays() -> None:
    @Node
    def look() -> object:
        return here.get("nothing")

    def resolve() -> object:
        here.set(threading.Lock())
        return look().resolve(executor="processes", workers=1)

    assert anew(resolve) == "nothing"


def test_decimals_are_computed_as_precisely_as_in_the_parent() -> None:
    @Node
    def third() -> decimal.Decimal:
        return decimal.Decimal(1) / 3

    def resolve() -> object:
        decimal.getcontext().prec = 5
        return third().resolve(executor="processes", workers=1)

    assert anew(resolve) == decimal.Decimal("0.33333")


def test_a_variable_of_main_works(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from contextvars import ContextVar
            from tinygraph import Node

            user = ContextVar("user", default="nobody")

            @Node
            def who():
                return user.get()

            print(who().resolve(workers=1))
            user.set("ada")
            print(who().resolve(workers=1))
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "nobody\nada\n"


def test_a_cached_function_of_main_works(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import colorsys, functools
            from tinygraph import Node

            @functools.lru_cache(maxsize=7, typed=True)
            def helper(x):
                return 2 * x

            @functools.cache
            def fibonacci(n):
                return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

            class Table:
                @functools.lru_cache
                def get(self, x):
                    return x + 1

            @Node
            def node(x):
                own = helper.cache_parameters(), helper.cache_info().currsize
                return helper(x), fibonacci(60), fibonacci.cache_info().currsize, Table().get(x), own

            @Node
            def back(table, function):
                return table, function, function(3)

            helper(1)
            print(node(2).resolve(executor="processes", workers=1))
            table, function, found = back(Table(), helper).resolve(executor="processes", workers=1)
            print(table.get(2), function(2), found)
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "(4, 1548008755920, 61, 3, ({'maxsize': 7, 'typed': True}, 0))\n3 4 6\n", done.stderr


# Folder, environment, path


@Node
def look(name: str = "") -> tuple[str, str | None, list[str]]:
    return os.getcwd(), os.environ.get(name), sys.path


@Node
def disturb(folder: str) -> None:
    os.chdir(folder)
    os.environ["DISTURBED"] = "yes"
    os.environ.pop("KEPT", None)


def test_X22_folder_environment_and_path_are_those_of_the_parent_when_it_resolves(tmp_path: Path, monkeypatch) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("SURROUNDED", name)
        monkeypatch.syspath_prepend(str(folder))
        cwd, value, path = look("SURROUNDED").resolve(executor="processes", workers=1)
        assert (cwd, value, path[0]) == (str(folder), name, str(folder))
    monkeypatch.delenv("SURROUNDED")
    assert look("SURROUNDED").resolve(executor="processes", workers=1)[1] is None


def test_X22_what_a_node_changes_does_not_leak_to_the_next(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KEPT", "yes")
    _, disturbed, kept = on_one_worker(disturb(str(tmp_path)), look("DISTURBED"), look("KEPT"))
    assert disturbed[:2] == (os.getcwd(), None)
    assert kept[:2] == (os.getcwd(), "yes")


def close_streams() -> None:
    with sys.stdout, sys.stderr:
        sys.stdout.buffer.close()
    sys.stderr.detach()


def set_timer() -> None:
    def late(*_: object) -> None:
        raise RuntimeError("the time of another is over")

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01, 0.01)
    signal.alarm(1)
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0


def ignore_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def forget_path() -> None:
    sys.path[:] = ["/nowhere"]


def rebind_path() -> None:
    sys.path = []


def warnings_are_errors() -> None:
    warnings.simplefilter("error")


def warnings_raise() -> None:
    def show(*_: object, **__: object) -> None:
        raise RuntimeError("no warnings")

    warnings.showwarning = show


def recurse_little() -> None:
    sys.setrecursionlimit(60)


def innocent() -> str:
    """What goes wrong where any of it has leaked."""
    print("well said")
    print("well said", file=sys.stderr)
    warnings.warn("innocent", UserWarning, stacklevel=1)
    importlib.import_module("this_is_on_the_path")
    sys.modules.pop("colorsys", None)
    importlib.import_module("colorsys")

    def deep(n: int) -> int:
        return n and 1 + deep(n - 1)

    assert deep(500) == 500
    handlers = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGCHLD)]
    assert handlers == [signal.SIG_DFL] * 3
    assert [signal.getitimer(which) for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL)] == [(0.0, 0.0)] * 2
    return "fine"


@pytest.mark.parametrize(
    "change",
    [
        close_streams,
        set_timer,
        ignore_children,
        forget_path,
        rebind_path,
        warnings_are_errors,
        warnings_raise,
        recurse_little,
    ],
)
def test_X22_whatever_a_node_changes_the_next_finds_it_as_it_was(change, tmp_path: Path, monkeypatch, capfd) -> None:
    """
    change ──► innocent    in the same worker, and in the same message
    """
    (tmp_path / "this_is_on_the_path.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    start = Node(lambda: None, name="start")()
    changed = Node(change)().after(start)
    with pytest.warns(UserWarning, match="innocent"):
        assert on_one_worker(start, changed, Node(innocent)(), Node(innocent)())[-2:] == ("fine", "fine")
    out, err = capfd.readouterr()
    assert (out.count("well said"), err.count("well said")) == (2, 2)


def test_X22_recursion_is_as_deep_as_in_the_parent() -> None:
    @Node
    def deep(n: int) -> int:
        def down(n: int) -> int:
            return n and 1 + down(n - 1)

        return down(n)

    assert deep(100).resolve(executor="processes", workers=1) == 100
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(5_000 + before)
    try:
        assert deep(4_000 + before).resolve(executor="processes", workers=1) == 4_000 + before
    finally:
        sys.setrecursionlimit(before)
    with pytest.raises(RecursionError):
        deep(4_000 + before).resolve(executor="processes", workers=1)


def test_what_a_module_sets_when_a_node_imports_it_stays() -> None:
    @Node
    def first() -> str | None:
        import tests.surroundings as module  # imported in the body, so that it is there for all that come

        assert module
        return os.environ.get("SURROUNDINGS_IMPORTED")

    del os.environ["SURROUNDINGS_IMPORTED"]
    try:
        call = first()
        again = look("SURROUNDINGS_IMPORTED").after(call)
        with options(executor="processes", workers=1):
            fresh_pool()
            assert Graph(call, again).run().value[0] == "yes"
            assert again.resolve()[1] == "yes"
    finally:
        os.environ["SURROUNDINGS_IMPORTED"] = "yes"


def fresh_pool() -> None:
    """Have the next call run in a process that has imported nothing."""
    for pool in list(_pools.values()):
        pool.shut_down()


def test_a_run_that_asks_for_nothing_new_sends_nothing_new(monkeypatch) -> None:
    """Counted, because it is paid for by each run: the same surroundings cross once."""
    from tinygraph.executors.machine import Member

    sent: list[int] = []
    send = Member.send
    monkeypatch.setattr(Member, "send", lambda self, message: (sent.append(len(message)), send(self, message))[1])
    nothing = Node(lambda: None, name="nothing")
    monkeypatch.setenv("LONG", "x" * 10_000)
    for _ in range(3):
        nothing().resolve(executor="processes", workers=1)
    assert sent[0] > 10_000 > 1_000 > max(sent[1:])


def test_X17_threads_times_workers_are_no_more_than_the_cores() -> None:
    @Node
    def limits() -> list[str | None]:
        return [os.environ.get(name) for name in THREAD_LIMITS]

    cores = os.cpu_count() or 1
    given = [os.environ.get(name) for name in THREAD_LIMITS]
    fresh_pool()
    for workers in (1, cores):
        found = limits().resolve(executor="processes", workers=workers)
        assert all(limit is not None for limit in found)
        assert all(own or 1 <= int(limit) * workers <= cores for own, limit in zip(given, found, strict=True))
        fresh_pool()


# Random numbers


@Node
def draw() -> float:
    return random.random()


@Node
def draw_numpy() -> float:
    return float(np.random.rand())


@Node
def draw_own(times: int) -> list[float]:
    return [generator().random() for _ in range(times)]


@Node
def several(n: int) -> list:
    return [draw() for _ in range(n)] + [draw_numpy()]


@Node
def add(*values: float) -> float:
    return sum(values)


def drawing() -> Graph:
    """
    draw ──► add ◄── draw          several(3) opens to draw x 3, draw_numpy
    """
    return Graph(add(draw(), draw()), draw_numpy(), several(3), draw_own(2))


EXECUTORS = {
    "inline": lambda: {"executor": "inline"},
    "one worker": lambda: {"executor": "processes", "workers": 1},
    "two workers": lambda: {"executor": "processes", "workers": 2},
    "four workers": lambda: {"executor": "processes", "workers": 4},
    "loky": lambda: {"executor": loky.get_reusable_executor(max_workers=2)},
}


def test_X23_a_seed_gives_the_same_on_any_executor_with_any_number_of_workers() -> None:
    values = {name: drawing().run(seed=7, **how()).value for name, how in EXECUTORS.items()}
    assert len({str(value) for value in values.values()}) == 1, values
    assert drawing().run(seed=8, executor="inline").value != values["inline"]


def test_X23_equal_calls_draw_different_numbers() -> None:
    drawn = Graph(*[draw() for _ in range(10)], *[draw_numpy() for _ in range(10)], *[draw_own(1) for _ in range(10)])
    values = drawn.run(seed=7, executor="inline").value
    assert len({str(value) for value in values}) == 30


def test_X23_a_retry_draws_the_same_again(tmp_path: Path) -> None:
    @Node(retries=1)
    def unlucky(folder: str) -> float:
        found = random.random()
        drawn = Path(folder, "drawn")
        if not drawn.exists():
            drawn.write_text(repr(found))
            raise OSError("once")
        return found

    value = unlucky(str(tmp_path)).resolve(seed=7, executor="processes", workers=1)
    assert repr(value) == (tmp_path / "drawn").read_text()


def test_X23_a_call_draws_the_same_whatever_is_recorded_beside_it() -> None:
    alone = draw()
    assert (
        alone.resolve(seed=7, executor="inline") == Graph(draw_numpy(), draw()).run(seed=7, executor="inline").value[1]
    )


def test_X23_a_call_draws_the_same_whether_its_input_has_run_before() -> None:
    def chain(first: bool) -> float:
        after = Node(lambda _: random.random(), name="draw")
        inner = draw()
        outer = after(inner)
        if first:
            inner.resolve(seed=7, executor="inline")
        return outer.resolve(seed=7, executor="inline")

    assert chain(True) == chain(False)


def test_a_body_that_imports_numpy_itself_is_seeded_as_well() -> None:
    @Node
    def late() -> float:
        import numpy

        return float(numpy.random.rand())

    values = []
    for _ in range(2):
        fresh_pool()
        values.append(late().resolve(seed=7, executor="processes", workers=1))
    assert values[0] == values[1] == late().resolve(seed=7, executor="inline")


def test_inline_gives_the_caller_its_random_state_back() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    drawing().run(seed=7, executor="inline")
    assert (random.random(), np.random.rand()) == expected
    assert generator().random() != generator().random()


@pytest.mark.parametrize("executor", ["threads", "inline", "pool"])
def test_nodes_on_threads_have_a_generator_of_their_own(executor: str) -> None:
    calls = [draw_own(2) for _ in range(50)]
    with ThreadPoolExecutor(4) as pool:
        how = pool if executor == "pool" else executor
        values = Graph(*calls).run(executor=how, workers=4, seed=7).value
    assert len({str(value) for value in values}) == 50
    assert values == Graph(*[draw_own(2) for _ in range(50)]).run(executor="processes", workers=2, seed=7).value
    assert all(one != other for one, other in values)


def test_async_nodes_have_a_generator_of_their_own() -> None:
    @Node
    async def inner() -> float:
        return generator().random()

    @Node
    async def outer() -> list[float]:
        one, other = inner(), inner()
        return [await other, await one, generator().random()]

    def drawn() -> object:
        return Graph(outer(), outer()).run(executor="inline", seed=7).value

    first = drawn()
    assert first == drawn()
    assert len({*first[0], *first[1]}) == 6
    # Whatever is recorded in between, and on whatever executor.
    for how in ({"executor": "inline"}, {"executor": "processes", "workers": 2}, {"executor": "threads"}):
        graph = Graph(several(2), outer(), several(5), outer(), several(1))
        found = graph.run(seed=7, **how).value
        assert [found[1], found[3]] == list(first), how


def test_without_a_seed_nothing_is_touched() -> None:
    random.seed(1)
    state = random.getstate()
    add(generator_free(), generator_free()).resolve(executor="inline")
    assert random.getstate() == state


@Node
def generator_free() -> float:
    return 1.0


def test_a_seed_comes_from_the_environment_as_well(monkeypatch) -> None:
    monkeypatch.setenv("TINYGRAPH_SEED", "7")
    assert draw().resolve(executor="inline") == draw().resolve(executor="inline", seed=7)
    monkeypatch.setenv("TINYGRAPH_SEED", "seven")
    with pytest.raises(OptionError):
        draw().resolve(executor="inline")
