"""Other libraries on the same shapes, for a look side by side: those of them that can be imported.

Each is used as its own documentation begins, so this is no contest; what a peer cannot do, it is not measured on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from floors import dispatch
from shapes import Shape, sinks


class Peer:
    """One library: how it takes a shape, and how it runs it."""

    module = ""  # what is imported to find out whether it is there
    records = False  # whether `build` makes a graph that has not run yet
    kinds: tuple[str, ...] = ()  # of "inline", "threads", "processes"
    at_most = 1_000_000  # tasks; beyond, it takes minutes

    def build(self, shape: Shape) -> Any:
        """Return the shape as this library's graph."""
        return shape

    def start(self, kind: str, workers: int) -> None:
        """Start its workers."""

    def run(self, graph: Any, wanted: Sequence[int]) -> list[Any]:
        """Run a graph and return the values of the wanted tasks."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop its workers."""


class Joblib(Peer):
    """joblib has no graph: one Parallel call for each layer."""

    module, kinds = "joblib", ("inline", "threads", "processes")

    def build(self, shape: Shape) -> Any:
        depth: list[int] = []
        layers: dict[int, list[int]] = {}
        for i, (_, _, needs) in enumerate(shape):
            depth.append(1 + max((depth[need] for need in needs), default=-1))
            layers.setdefault(depth[-1], []).append(i)
        return shape, [layers[key] for key in sorted(layers)]

    def start(self, kind: str, workers: int) -> None:
        from joblib import Parallel

        backend = {"inline": "sequential", "threads": "threading", "processes": "loky"}[kind]
        self._parallel = Parallel(n_jobs=workers, backend=backend).__enter__()

    def run(self, graph: Any, wanted: Sequence[int]) -> list[Any]:
        from joblib import delayed

        shape, layers = graph
        values: list[Any] = [None] * len(shape)
        for layer in layers:
            calls = [(shape[i][0], (*shape[i][1], *[values[need] for need in shape[i][2]])) for i in layer]
            got = self._parallel(delayed(function)(*args) for function, args in calls)
            for i, value in zip(layer, got, strict=True):
                values[i] = value
        return [values[i] for i in wanted]

    def stop(self) -> None:
        self._parallel.__exit__(None, None, None)


class Dask(Peer):
    """dask.delayed on its local schedulers."""

    module, records, kinds, at_most = "dask", True, ("inline", "threads", "processes"), 10_000

    def build(self, shape: Shape) -> Any:
        from dask import delayed

        calls: dict[Callable[..., Any], Any] = {}
        graph: list[Any] = []
        for function, literals, needs in shape:
            if function not in calls:
                calls[function] = delayed(function, pure=False)
            graph.append(calls[function](*literals, *[graph[need] for need in needs]))
        return graph

    def start(self, kind: str, workers: int) -> None:
        self._how = {"scheduler": {"inline": "synchronous"}.get(kind, kind), "num_workers": workers}

    def run(self, graph: Any, wanted: Sequence[int]) -> list[Any]:
        import dask

        return list(dask.compute(*[graph[i] for i in wanted], **self._how))


class Networkx(Peer):
    """networkx as the graph, and a loop over its topological order."""

    module, records, kinds = "networkx", True, ("inline",)

    def build(self, shape: Shape) -> Any:
        from networkx import DiGraph

        graph = DiGraph()
        for i, task in enumerate(shape):
            graph.add_node(i, task=task)
            graph.add_edges_from([(need, i) for need in task[2]])
        return graph

    def run(self, graph: Any, wanted: Sequence[int]) -> list[Any]:
        from networkx import topological_sort

        values: dict[int, Any] = {}
        for i in topological_sort(graph):
            function, literals, needs = graph.nodes[i]["task"]
            values[i] = function(*literals, *[values[need] for need in needs])
        return [values[i] for i in wanted]


class Loky(Peer):
    """loky's pool under the dispatcher of the floor."""

    module, kinds = "loky", ("processes",)

    def start(self, kind: str, workers: int) -> None:
        from loky import get_reusable_executor

        self._pool = get_reusable_executor(max_workers=workers)

    def run(self, graph: Any, wanted: Sequence[int]) -> list[Any]:
        values = dispatch(self._pool.submit, graph)
        return [values[i] for i in wanted]

    def stop(self) -> None:
        self._pool.shutdown(wait=True)


PEERS: dict[str, type[Peer]] = {"joblib": Joblib, "dask": Dask, "networkx": Networkx, "loky": Loky}


def importable(name: str) -> bool:
    """Whether a peer is installed."""
    try:
        importlib.import_module(PEERS[name].module)
    except ImportError:
        return False
    return True


def wanted_values(peer: Peer, shape: Shape) -> Callable[[], list[Any]]:
    """Return what runs a shape once and gives the values of its sinks; the graph is built here, untimed."""
    graph, wanted = peer.build(shape), sinks(shape)
    return lambda: peer.run(graph, wanted)
