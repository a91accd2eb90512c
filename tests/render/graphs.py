"""Graphs that are worth drawing, and names that try to break out of a picture."""

from tinygraph import Component, Node

NASTY = (
    '"]; n1 [URL="javascript:alert(1)"]; x["',
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<lambda>",
    "<b>",
    "back\\slash\\N\\",
    "new\nline\r\n\ttab",
    "x" * 1_000_000,
    "🦊 👩‍👩‍👧",
    "مرحبا",
    "\u202eevil",
    "\ud800",
    "\x00\x1b[31mred\x07",
    "node",
    "a:b",
    "&lt;&#60;",
    "]]>",
    "-->",
    "%%{init: {}}%%",
    "end",
    "\ufffe",
    "",
)


@Node
def _add(a, b):
    return a + b


@Node
def add(a, b):
    return _add(a, b)


@Node
def subtract(a, b):
    return a - b


@Node
def multiply(a, b, c):
    return a * b * c


@Node
def pipeline(a, b, c, d):
    return multiply(add(a, b), c, subtract(c, d))


plus = Node(lambda a, b: a + b, name="plus")


@Node
def fib(n):
    return n if n < 2 else plus(fib(n - 1), fib(n - 2))


load = Node(lambda source: [source], name="load")
log = Node(lambda rows: None, name="log")
clean = Node(lambda rows: rows, name="clean")


@Component
def prepare(source):
    rows = load(source)
    log(rows)
    return clean(rows)


join = Node(lambda *parts: len(parts), name="join")
embed = Node(lambda text: text, name="embed")


def nasty():
    """Return a graph with a node for each nasty name, in a component with the nastiest."""

    def body():
        return join.options(name=NASTY[0])(*[Node(lambda: 1, name=name)() for name in NASTY])

    return Component(body, name=NASTY[1])()


def wide(calls):
    """Return many calls of one node, and a call that needs them all."""
    return join(*[embed(i) for i in range(calls)])
