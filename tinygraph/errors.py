"""What can go wrong, as a tree.

::

    TinygraphError
    ├── RecordError (TypeError)             a future used as a value, or something that cannot be recorded
    │   ├── FutureAttributeError (AttributeError)   an attribute of a value that is not there yet
    │   └── NestedResolveError              `.resolve()` inside the body of a node
    ├── ArgumentError (TypeError)           wrong arity, unknown keyword or wrong type: names node and argument
    ├── DefinitionError (TypeError)         something that cannot be a node, refused at the decorator
    ├── CycleError (ValueError)             calls that wait for each other; holds the cycle
    ├── DepthError (RecursionError)         calls nested deeper than the limit
    ├── InputError (ValueError)             an input that is missing, unknown or of the wrong type
    ├── OptionError (TypeError)             an option that does not exist, or a value that it cannot take
    ├── OutputError (ValueError)            a node returned another number of outputs than it declares
    ├── UpstreamFailed                      skipped because of a failure upstream; holds its root cause
    ├── NodeError                           an exception that could not cross a process border as itself
    ├── NodeExit                            a node called `sys.exit`
    ├── NodeTimeout (TimeoutError)          a node, or the whole run, took longer than allowed
    ├── WorkerLost                          the process that ran the node died
    ├── PayloadError (TypeError)            an argument or a result that cannot be pickled; names the part
    ├── CancelledError                      the run, or the future, was cancelled
    ├── ReleasedError (LookupError)         a value that nobody held and that was let go
    ├── UnhashableArgumentError (TypeError)  a value that has no key; names its path, and the way out
    ├── StoreError                          a store that cannot be used, or read
    │   ├── StoreUntrusted                  somebody else could have written to it
    │   ├── DamagedEntry                    what lies in it is not what was put there
    │   └── UnknownRun (LookupError)        no run of that id
    ├── DrawError (RuntimeError)            a picture that cannot be made here; says every way out
    └── MissingExtra (ImportError)          an optional library is missing; names the command that installs it

An exception that a node raises is not wrapped: it arrives as itself, so that `except ValueError` goes on
working, with notes that say which node raised it, where that node was called, and what to do.
"""

from __future__ import annotations

from typing import Any


class TinygraphError(Exception):
    """Whatever this library raises by itself.

    >>> issubclass(RecordError, TinygraphError) and issubclass(RecordError, TypeError)
    True
    """


class RecordError(TinygraphError, TypeError):
    """A future was used where its value is needed, or a call could not be recorded.

    >>> from tinygraph import Node
    >>> double = Node(lambda x: 2 * x, name="double")
    >>> if double(2): ...
    Traceback (most recent call last):
    tinygraph.errors.RecordError: the truth of 'double' is not known yet...
    """


class FutureAttributeError(RecordError, AttributeError):
    """An attribute was asked of a future, which has no value yet.

    >>> issubclass(FutureAttributeError, AttributeError)
    True
    """


class NestedResolveError(RecordError):
    """A node's body called `resolve()`, where it should return the future, or await it.

    >>> issubclass(NestedResolveError, RecordError)
    True
    """


class ArgumentError(TinygraphError, TypeError):
    """A call does not fit the signature of its node; names the node and the argument.

    >>> from tinygraph import Node
    >>> double = Node(lambda x: 2 * x, name="double")
    >>> double(1, 2)
    Traceback (most recent call last):
    tinygraph.errors.ArgumentError: double(x): too many positional arguments
    """


class DefinitionError(TinygraphError, TypeError):
    """What was decorated cannot be a node.

    >>> from tinygraph import Node
    >>> Node(42)
    Traceback (most recent call last):
    tinygraph.errors.DefinitionError: a node is made from a function or a class, not from 42 (int)
    """


class CycleError(TinygraphError, ValueError):
    """Calls wait for each other; `cycle` holds their names, the first one again at the end.

    >>> CycleError("a -> b -> a", ["a", "b", "a"]).cycle
    ['a', 'b', 'a']
    """

    def __init__(self, message: str, cycle: list[str]) -> None:
        super().__init__(message, cycle)
        self.cycle = cycle

    def __str__(self) -> str:
        return str(self.args[0])


class DepthError(TinygraphError, RecursionError):
    """Calls were nested deeper than the limit, as in a recursion without an end.

    >>> issubclass(DepthError, RecursionError)
    True
    """


class InputError(TinygraphError, ValueError):
    """An input of a graph is missing, unknown or of the wrong type.

    >>> from tinygraph import Input, Node
    >>> Node(abs)(Input("x")).resolve()
    Traceback (most recent call last):
    tinygraph.errors.InputError: input 'x' has no value: pass resolve(inputs={'x': ...})
    """


class OptionError(TinygraphError, TypeError):
    """An option does not exist, or cannot take this value.

    >>> from tinygraph import Node
    >>> Node(abs)(-1).resolve(workers=0)
    Traceback (most recent call last):
    tinygraph.errors.OptionError: workers must be a whole number from 1 on, not 0
    """


class OutputError(TinygraphError, ValueError):
    """A node returned another number of outputs than it declares.

    >>> issubclass(OutputError, ValueError)
    True
    """


class UpstreamFailed(TinygraphError):
    """A call was skipped because something that it needs failed.

    `root_cause` is the exception of the node that failed, `path` the names from that node to the skipped one.

    >>> UpstreamFailed("skipped", root_cause=ValueError("bad"), path=["load", "train"]).path
    ['load', 'train']
    """

    def __init__(self, message: str, *, root_cause: BaseException, path: list[str]) -> None:
        super().__init__(message)
        self.root_cause = root_cause
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class NodeError(TinygraphError):
    """A node raised an exception that could not be carried over as itself.

    `type_name` is the name of its class and `traceback` the text of its traceback.

    >>> NodeError("Odd: one", type_name="Odd", traceback="...").type_name
    'Odd'
    """

    def __init__(self, message: str, *, type_name: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback = traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class NodeExit(TinygraphError):
    """A node called `sys.exit`, which ends the node and not your program.

    >>> issubclass(NodeExit, SystemExit)
    False
    """


class NodeTimeout(TinygraphError, TimeoutError):
    """A node, or the whole run, took longer than its `timeout`.

    >>> issubclass(NodeTimeout, TimeoutError)
    True
    """


class WorkerLost(TinygraphError):
    """The worker process that ran the node died.

    >>> issubclass(WorkerLost, TinygraphError)
    True
    """


class PayloadError(TinygraphError, TypeError):
    """Something cannot travel to a worker or back; names the node and the part.

    >>> issubclass(PayloadError, TypeError)
    True
    """


class CancelledError(TinygraphError):
    """The run, or this future, was cancelled before it had a value.

    >>> issubclass(CancelledError, TinygraphError)
    True
    """


class ReleasedError(TinygraphError, LookupError):
    """The value was let go when its last consumer had it, because nobody else held the future.

    >>> issubclass(ReleasedError, LookupError)
    True
    """


class UnhashableArgumentError(TinygraphError, TypeError):
    """A value has no key, because nothing says what it means: names where it is, and the way out.

    >>> issubclass(UnhashableArgumentError, TypeError)
    True
    """


class StoreError(TinygraphError):
    """A store cannot be used, or what it should have is not there.

    >>> issubclass(StoreUntrusted, StoreError)
    True
    """


class StoreUntrusted(StoreError):
    """Somebody else owns a store, or could have written to it: nothing in it is read.

    >>> issubclass(StoreUntrusted, StoreError)
    True
    """


class DamagedEntry(StoreError):
    """What lies in a store is not what was put there; it was never decoded.

    >>> issubclass(DamagedEntry, StoreError)
    True
    """


class UnknownRun(StoreError, LookupError):
    """A store has no run of that id.

    >>> issubclass(UnknownRun, LookupError)
    True
    """


class DrawError(TinygraphError, RuntimeError):
    """The picture cannot be made on this machine; the message says every way out.

    >>> issubclass(DrawError, RuntimeError)
    True
    """


class MissingExtra(TinygraphError, ImportError):
    """An optional library is missing; the message is the command that installs it.

    >>> issubclass(MissingExtra, ImportError)
    True
    """


def _rebuild(kind: type[TinygraphError], args: tuple[Any, ...], state: dict[str, Any]) -> TinygraphError:
    """Make an error again from a pickle: keyword-only arguments do not fit the default way."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
