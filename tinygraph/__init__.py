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
    DamagedEntry,
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
    StoreError,
    StoreUntrusted,
    TinygraphError,
    UnhashableArgumentError,
    UnknownRun,
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
    from tinygraph.events import Event, Expanded, Failed, Finished, Printed, Recalled, Retried, Skipped, Started
    from tinygraph.keys.files import Directory, File
    from tinygraph.store import Store
    from tinygraph.store.codecs import codec
    from tinygraph.store.replay import replay

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "CancelledError",
    "codec",
    "Component",
    "CycleError",
    "DamagedEntry",
    "DefinitionError",
    "DepthError",
    "Directory",
    "DrawError",
    "Event",
    "Expanded",
    "Failed",
    "Failure",
    "File",
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
    "Recalled",
    "RecordError",
    "ReleasedError",
    "replay",
    "Retried",
    "run",
    "Run",
    "Skipped",
    "Started",
    "State",
    "Store",
    "StoreError",
    "StoreUntrusted",
    "TinygraphError",
    "UnhashableArgumentError",
    "UnknownRun",
    "UpstreamFailed",
    "WorkerLost",
    "Workflow",
]

# Where names are that few programs ask for. Events are dataclasses, and the machinery for those takes as long to import
# as all the rest; the store brings a database.
_ON_DEMAND = dict.fromkeys(
    ("Event", "Expanded", "Failed", "Finished", "Printed", "Recalled", "Retried", "Skipped", "Started"), "events"
) | {
    "codec": "store.codecs",
    "Directory": "keys.files",
    "File": "keys.files",
    "replay": "store.replay",
    "Store": "store",
}


def __getattr__(name: str) -> Any:
    room = _ON_DEMAND.get(name)
    if room is None:
        raise AttributeError(f"module 'tinygraph' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tinygraph.{room}"), name)
