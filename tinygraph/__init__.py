"""tinygraph: plain Python functions become a graph that runs in parallel.

>>> from tinygraph import Node
>>> @Node
... def add(a, b):
...     return a + b
>>> add(add(1, 2), 3).resolve(executor="inline")
6
"""

from typing import TYPE_CHECKING, Any

from tinygraph.errors import (
    ArgumentError,
    CancelledError,
    CycleError,
    DefinitionError,
    DepthError,
    DrawError,
    FutureAttributeError,
    InputError,
    MissingExtra,
    NestedResolveError,
    NodeError,
    NodeExit,
    NodeTimeout,
    OptionError,
    OutputError,
    PayloadError,
    RecordError,
    ReleasedError,
    TinygraphError,
    UpstreamFailed,
    WorkerLost,
)
from tinygraph.future import Future, State
from tinygraph.graph import Graph
from tinygraph.inputs import Input
from tinygraph.node import Component, Node, Workflow
from tinygraph.options import options
from tinygraph.run import Failure, Run, run
from tinygraph.seeds import generator

if TYPE_CHECKING:
    from tinygraph.events import Event, Expanded, Failed, Finished, Printed, Retried, Skipped, Started

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "CancelledError",
    "Component",
    "CycleError",
    "DefinitionError",
    "DepthError",
    "DrawError",
    "Event",
    "Expanded",
    "Failed",
    "Failure",
    "Finished",
    "Future",
    "FutureAttributeError",
    "generator",
    "Graph",
    "Input",
    "InputError",
    "MissingExtra",
    "NestedResolveError",
    "Node",
    "NodeError",
    "NodeExit",
    "NodeTimeout",
    "OptionError",
    "options",
    "OutputError",
    "PayloadError",
    "Printed",
    "RecordError",
    "ReleasedError",
    "Retried",
    "run",
    "Run",
    "Skipped",
    "Started",
    "State",
    "TinygraphError",
    "UpstreamFailed",
    "WorkerLost",
    "Workflow",
]

_EVENTS = ("Event", "Expanded", "Failed", "Finished", "Printed", "Retried", "Skipped", "Started")


def __getattr__(name: str) -> Any:
    # Events are dataclasses, and the machinery for those takes as long to import as all the rest.
    if name in _EVENTS:
        from tinygraph import events

        return getattr(events, name)
    raise AttributeError(f"module 'tinygraph' has no attribute {name!r}")
