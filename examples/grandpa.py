"""Parts that are built once and used again: a class node, a component and a workflow.

A class node has two stages. `Divide(10)` records an object with its settings, `Divide(10)(23)` records a call of it;
the object itself is made when a worker first needs it. A component is a named part made of nodes. A workflow is a
component that one starts from: it has typed parameters with defaults. What is inside both is known before anything
runs, so it can be looked at first.

    python examples/grandpa.py
"""

from tinygraph import Component, Node, Workflow


@Node("divide")
class Divide:
    """Divides by a number that was set once."""

    def __init__(self, divisor):
        self.divisor = divisor

    def __call__(self, number):
        return number // self.divisor


@Node("multiply")
def multiply(a, b):
    return a * b


@Node("subtract")
def subtract(a, b):
    return a - b


@Component("remainder")
def remainder(number, divisor):
    divide = Divide(divisor)
    return subtract(number, multiply(divide(number), divisor))


@Workflow("last digits")
def last_digits(first: int = 23, second: int = 5):
    return remainder(first, 10), remainder(second, 10)


def show(future):
    """Print what a call will do, each call under the one that makes it."""
    under = {None: [future]}
    for caller, call in future.graph.calls:
        under.setdefault(caller, []).append(call)

    def walk(caller, indent):
        for call in under.get(caller, []):
            print(f"{indent}{call.name}")
            walk(call, indent + "    ")

    walk(None, "    ")


if __name__ == "__main__":
    future = last_digits()
    print("Recorded, nothing has run yet:\n")
    show(future)

    first, second = future.resolve()
    print(f"\nremainder(23, 10) = {first}")
    print(f"remainder(5, 10) = {second}")
