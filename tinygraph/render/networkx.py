"""networkx: the graph as a `networkx.DiGraph`, whole, and back to what a picture is made from."""

from __future__ import annotations

from typing import Any

from tinygraph.future import State
from tinygraph.graph import Graph
from tinygraph.render.calls import Call, Listing, listing_of

_ALWAYS = ("node", "kind", "returned", "used", "closed", "line")
_SOMETIMES = ("caller", "step", "seconds")  # left out where there is none: GraphML, GEXF and GML know no None


def to_networkx(graph: Graph, *, times: bool = True) -> Any:
    """Return a `networkx.DiGraph` with a node for each call and an edge for each pair in ``graph.edges``.

    >>> from tinygraph import Node
    >>> load, train = Node(lambda: 1, name="load"), Node(lambda x: x, name="train")
    >>> G = train(load()).graph.to_networkx()
    >>> [G.nodes[a]["label"] + " -> " + G.nodes[b]["label"] for a, b in G.edges]
    ['load -> train']

    Nodes are numbers (``future.number``). All attributes are plain texts and numbers, so that every writer of
    networkx takes them:

    - ``label``: the name; ``node``: calls with equal numbers here call the same node; ``kind``, ``state``, ``line``;
    - ``caller``: the number of the call whose body made this one, absent for the outermost; ``returned``: whether it
      is among what its caller returned; ``used``: whether its value flows there; ``closed``: its body will call nodes;
    - ``seconds``: how long it took, if that is known; ``step``: its place on the critical path, if it is there.

    The graph itself has ``title`` and, after a run, ``seconds``. With ``times=False`` it is as if nothing had been
    measured.
    """
    import networkx

    listing = listing_of(graph, times=times)
    result = networkx.DiGraph(title=listing.title)
    if listing.seconds is not None:
        result.graph["seconds"] = listing.seconds
    for call in listing.calls:
        attributes = {name: getattr(call, name) for name in _ALWAYS}
        attributes |= {name: value for name in _SOMETIMES if (value := getattr(call, name)) is not None}
        result.add_node(call.number, label=call.name, state=str(call.state), **attributes)
    result.add_edges_from((need, call.number) for call in listing.calls for need in call.dependencies)
    return result


def listing_from(networkx_graph: Any) -> Listing:
    """Return the rows of a graph that `to_networkx` made.

    >>> from tinygraph import Node
    >>> graph = Node(abs)(Node(min)(2, 1)).graph
    >>> listing_from(graph.to_networkx()) == listing_of(graph)
    True
    """
    rows = []
    for number, attributes in networkx_graph.nodes(data=True):
        known = {name: attributes[name] for name in (*_ALWAYS, *_SOMETIMES) if name in attributes}
        dependencies = tuple(networkx_graph.predecessors(number))
        state = State(attributes["state"])
        rows.append(Call(number=number, name=attributes["label"], state=state, dependencies=dependencies, **known))
    return Listing(networkx_graph.graph["title"], tuple(rows), networkx_graph.graph.get("seconds"))
