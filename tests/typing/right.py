"""What type checkers must accept. Each line is a claim: `assert_type` fails where the type is another one."""

from typing import assert_type

from tinygraph import Component, Future, Input, Node, Workflow


@Node
def double(x: int) -> int:
    return 2 * x


@Node()
def show(x: int, *, digits: int = 2) -> str:
    return f"{x:.{digits}f}"


@Node("named", retries=2)
def halve(x: float) -> float:
    return x / 2


@Node
def outer(x: int) -> Future[int]:
    return double(double(x))


@Node(cost=3)
def choose(x: int) -> Future[str]:
    return show(x)


@Component
def twice(x: int) -> Future[int]:
    return double(double(x))


@Workflow("whole")
def whole(x: int = 1) -> Future[str]:
    return show(twice(x))


def claims() -> None:
    assert_type(double(3), Future[int])
    assert_type(double(3).resolve(), int)
    assert_type(show(3, digits=1).resolve(), str)
    assert_type(halve(1.5), Future[float])

    # Futures are accepted where values are.
    assert_type(double(double(3)), Future[int])
    assert_type(show(double(3), digits=double(1)), Future[str])
    assert_type(double(Input("x", int)), Future[int])

    # A body that returns a future is a node of what the future stands for.
    assert_type(outer(3), Future[int])
    assert_type(choose(3).resolve(), str)
    assert_type(twice(double(3)).resolve(), int)
    assert_type(whole().resolve(), str)

    assert_type(double(3).after(show(1)), Future[int])
    assert_type(Node(len)("abc"), Future[int])


async def waits() -> None:
    assert_type(await double(3), int)
