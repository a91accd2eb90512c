"""Runs that share calls, that end early and that wait for each other: none takes from another, and none hangs."""

import asyncio
import threading

import pytest

from tinygraph import CycleError, Graph, Node, NodeTimeout, run

pytestmark = pytest.mark.timeout(30)

add = Node(lambda a, b: a + b, name="add")


def in_the_background(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_a_run_that_gave_up_leaves_its_calls_to_the_next():
    """
    slow ──► use        slow is in the hands of another run; the first run of use gives up
    other ──┘
    """
    begun, go_on = threading.Event(), threading.Event()

    def held():
        begun.set()
        go_on.wait()
        return 1

    slow, other = Node(held)(), Node(lambda: go_on.wait() and 2)()
    use = add(slow, other)
    first = in_the_background(lambda: slow.resolve(executor="threads"))
    begun.wait()
    with pytest.raises(NodeTimeout):
        use.resolve(executor="threads", workers=2, timeout=0.05)
    second = run(use, executor="threads", workers=2, block=False)
    go_on.set()
    assert second.value == 3
    first.join()


def test_a_call_of_another_run_can_be_awaited():
    begun, go_on = threading.Event(), threading.Event()

    def held():
        begun.set()
        go_on.wait()
        return [4]

    shared = Node(held)()

    async def body():
        asyncio.get_running_loop().call_later(0.01, go_on.set)
        return await shared

    other = in_the_background(lambda: shared.resolve(executor="threads"))
    begun.wait()
    assert Node(body)().resolve(executor="inline") == [4]
    other.join()


def test_a_body_that_is_given_up_does_not_hold_up_the_run():
    go_on = threading.Event()
    held = Node(go_on.wait, name="held", timeout=0.05)()
    result = run(held, executor="threads", workers=2, on_error="continue")
    assert [type(failure.exception) for failure in result.failures] == [NodeTimeout]
    assert not go_on.is_set()
    go_on.set()


def test_an_async_body_of_a_run_that_gave_up_runs_again():
    async def body():
        await asyncio.sleep(0.02)
        return 5

    node = Node(body)
    for _ in range(30):
        future = node()
        with pytest.raises(NodeTimeout):
            future.resolve(executor="inline", timeout=0.001)
        assert future.resolve(executor="inline") == 5


def test_a_listener_may_cancel_the_run_that_it_hears():
    future = 0
    for _ in range(20):
        future = add(future, 1)
    runs = []
    listening = threading.Event()

    def listener(event):
        listening.wait()
        runs[0].cancel()

    runs.append(run(future, executor="threads", block=False, progress=listener))
    listening.set()
    assert runs[0].wait(20)


def test_a_listener_may_resolve_something_else():
    heard = []
    listener = lambda event: heard.append(add(1, 2).resolve(executor="inline"))  # noqa: E731
    assert run(add(1, 1), executor="inline", progress=listener).value == 2
    assert set(heard) == {3}


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_a_body_that_awaits_itself_is_a_cycle(executor):
    box = []

    async def body():
        return await box[0]

    box.append(Node(body, name="itself")())
    with pytest.raises(CycleError, match="itself -> itself"):
        box[0].resolve(executor=executor)


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_what_a_body_returns_may_be_impossible_to_put_together(executor):
    """A set of lists: the user's own error, of the call that returned it, and of no other."""
    one = Node(lambda i: [i], name="one")
    impossible = Node(lambda: {one(1), one(2)}, name="impossible")
    result = run(Graph(impossible(), one(3)), executor=executor, workers=2, on_error="continue")
    [failure] = result.failures
    assert (failure.future.name, type(failure.exception)) == ("impossible", TypeError)
    assert result.graph.targets[1].resolve() == [3]
