"""What type checkers must refuse: each line that ends in a comment `wrong`, and no other."""

from tinygraph import Future, Node


@Node
def double(x: int) -> int:
    return 2 * x


@Node()
def show(x: int) -> str:
    return str(x)


def claims() -> tuple[object, ...]:
    text: str = double(3).resolve()  # wrong
    future: Future[str] = double(3)  # wrong
    number: int = show(3).resolve()  # wrong
    plain: int = double(3)  # wrong
    double(3).resolve().upper()  # wrong
    double.retrys  # wrong
    double(3).after(1)  # wrong

    right: int = double(3).resolve()
    also: Future[object] = double(3)
    return text, future, number, plain, right, also
