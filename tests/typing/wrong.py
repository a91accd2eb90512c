"""What type checkers must refuse: each line that ends in a comment `wrong`, and no other."""

from tinygraph import Future, Node, Workflow, options


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

    # Options are known by name and type.
    double(3).resolve(executr="inline")  # wrong
    double(3).resolve(workers="two")  # wrong
    double(3).resolve(on_error="go on")  # wrong
    options(timeot=3)  # wrong
    Node(retris=3)  # wrong
    Node(len, retris=3)  # wrong
    Node("named", retries="often")  # wrong
    Node(where="there")  # wrong
    Workflow("named", retris=3)  # wrong
    double.options(retris=3)  # wrong

    # What may be a list is no future, and the other way round.
    double.map([1, 2]).resolve()  # wrong
    len(double.map(double(3)).resolve() + 1)  # wrong

    right: int = double(3).resolve()
    also: Future[object] = double(3)
    return text, future, number, plain, right, also
