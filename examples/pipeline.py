"""The first example: plain functions become a graph, the graph is run and drawn.

    python examples/pipeline.py              # draws images/pydot_graph.png
    python examples/pipeline.py -gv nx       # draws images/nx_graph.png, from the graph as networkx has it

In the picture every box is a call. `_add` stands inside `add`, which called it, and everything stands inside
`pipeline`; the arrows are the values that go from one call to another. `add` and `subtract` need nothing from each
other, so they run at the same time.
"""

import argparse
from pathlib import Path

from tinygraph import Node

IMAGES = Path(__file__).resolve().parents[1] / "images"


@Node()
def _add(a, b):
    return a + b


@Node()
def add(a, b):
    return _add(a, b)


@Node()
def subtract(a, b):
    return a - b


@Node()
def multiply(a, b, c):
    return a * b * c


@Node()
def pipeline(a, b, c, d):
    return multiply(add(a, b), c, subtract(c, d))


def main():
    parser = argparse.ArgumentParser(description="Run a small graph and draw it.")
    parser.add_argument("-gv", choices=["pydot", "nx"], default="pydot", help="what draws the graph (default: pydot)")
    engine = parser.parse_args().gv

    future = pipeline(10, 2, 5, 6)  # recorded: nothing has run
    print(f"(10 + 2) * 5 * (5 - 6) = {future.resolve()}")

    picture = IMAGES / f"{engine}_graph.png"
    future.graph.draw(picture, times=False, engine=engine)
    print(f"The graph is drawn in images/{picture.name}")


if __name__ == "__main__":
    main()
