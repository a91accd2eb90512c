"""What type checkers must accept. Each line is a claim: `assert_type` fails where the type is another one."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_type

from tinygraph import Component, Event, Future, Graph, Input, Node, Workflow, options, run


@Node
def double(x: int) -> int:
    return 2 * x


@Node()
def show(x: int, *, digits: int = 2) -> str:
    return f"{x:.{digits}f}"


@Node("named", retries=2, timeout=1.5, where="thread", memory="2GiB", isolate=True, check=False)
def halve(x: float) -> float:
    return x / 2


@Node
def outer(x: int) -> Future[int]:
    return double(double(x))


@Node(cost=3)
def choose(x: int) -> Future[str]:
    return show(x)


@Node
def ends(text: str) -> tuple[str, str]:
    return text[0], text[-1]


class Scale:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, x: int) -> int:
        return self.by * x


scale = Node(Scale, cost=3)  # by a call, because mypy does not look at what decorates a class


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
    assert_type(double.options(retries=3, name="doubled")(3), Future[int])

    # A class node: its construction is typed, a call of the object may return anything.
    assert_type(scale(3), Future[Scale])
    assert_type(scale(3).resolve().by, int)
    assert_type(scale(3)(double(4)), Any)


def operators(f: Future[int], g: Future[list[int]]) -> None:
    """What Python computes with values is recorded with futures, whichever side they are on."""
    for future in (f + 1, f - 1, f * 2, f / 2, f // 2, f % 2, f**2, f @ f, f & 1, f | 1, f ^ 1, f << 1, f >> 1):
        assert_type(future, Future[Any])
    for future in (1 + f, 1 - f, 2 * f, 2 / f, 2 // f, 2 % f, 2**f, 1 & f, 1 | f, 1 ^ f, 1 << f, 1 >> f, 1.5 - f):
        assert_type(future, Future[Any])
    for future in (f == 4, f != 4, f < 4, f <= 4, f > 4, f >= 4, 4 < f, 4 >= f, f < f):  # noqa: SIM300
        assert_type(future, Future[Any])
    for future in (-f, +f, abs(f), ~f, pow(f, 2, 5), g[0], g[1:], g[f]):
        assert_type(future, Future[Any])
    assert_type(divmod(f, 2), Future[Any])
    assert_type(divmod(7, f), Future[Any])
    assert_type((double(3) + 1).resolve(), Any)
    first, last = ends("abc")
    assert_type(first, Future[Any])
    assert_type(show(-f + last, digits=f * 2), Future[str])


def maps(numbers: Future[list[int]]) -> None:
    assert_type(double.map([1, 2]), list[Future[int]])
    assert_type(halve.map(x / 2 for x in range(3)), list[Future[float]])
    assert_type(double.map(numbers), Future[list[int]])
    assert_type(show.map(numbers, [1, 2]).resolve(), list[str])
    assert_type(scale.map([1, 2]), list[Future[Scale]])


def runs(f: Future[int], heard: list[Event]) -> None:
    assert_type(run(f).value, Any)
    assert_type(Graph(f, f).run(executor="threads").value, Any)
    assert_type(f.resolve(executor="inline", workers=2, on_error="continue", timeout=1.5, seed=7), int)
    assert_type(f.resolve(inputs={"x": 1}, progress=True, max_depth=100), int)
    assert_type(f.resolve(progress=heard.append), int)
    for name in ("inline", "threads", "processes"):
        assert_type(f.resolve(executor=name), int)
    with ThreadPoolExecutor() as pool, options(executor=pool, timeout=None):
        assert_type(f.resolve(), int)


async def waits() -> None:
    assert_type(await double(3), int)
