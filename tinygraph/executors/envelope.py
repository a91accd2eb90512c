"""How a call and what came out of it cross to a worker elsewhere: decode, run, encode, all inside one `try`."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from tinygraph.blame import text_of
from tinygraph.capture import parts_of
from tinygraph.checks import parameters_of
from tinygraph.definition import Definition
from tinygraph.errors import NodeError, PayloadError
from tinygraph.executors.ambient import dumps
from tinygraph.executors.bodies import as_raised, run_body
from tinygraph.future import Future, Recorder, recording
from tinygraph.portable import pack, unpack
from tinygraph.seeds import Source, source, sow


class RemoteTraceback(Exception):
    """The traceback of an exception, as text from the worker in which it was raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one call: a value with the calls that its body made, or an exception."""

    value: Any
    error: BaseException | None
    seconds: float
    worker: int
    made: list[Future[Any]] = field(default_factory=list)


def encode(definition: Definition, args: list[Any], kwargs: dict[str, Any], seed: int | None = None) -> bytes:
    """Return a call as bytes for a worker; raises :class:`PayloadError` naming the argument that cannot travel."""
    try:
        return dumps((definition, args, kwargs, seed))
    except Exception as error:
        raise why_unpicklable(definition, args, kwargs, error) from error


def why_unpicklable(
    definition: Definition, args: list[Any], kwargs: dict[str, Any], error: BaseException
) -> PayloadError:
    """Return the error for a call that cannot travel, naming the part at fault: ``argument 'model'['lock']``."""
    names = parameters_of(definition.function)
    named = {names[i] if i < len(names) else str(i + 1): arg for i, arg in enumerate(args)} | kwargs
    for name, arg in named.items():
        reason = _refusal(arg)
        if reason is not None:
            path, part = _part_at_fault(arg)
            return PayloadError(
                f"{definition.name}: argument {name!r}{path} ({type(part).__name__}) cannot be pickled for a worker: "
                f"{reason}; build it in the body of the node, or use executor='threads'"
            )
    return PayloadError(f"{definition.name}: the node cannot be pickled for a worker: {error}")


def _part_at_fault(thing: Any) -> tuple[str, Any]:
    """Follow what cannot be pickled to its innermost part."""
    path = ""
    for _ in range(100):
        inner = next(((where, part) for where, part in parts_of(thing) if _refusal(part) is not None), None)
        if inner is None:
            break
        path, thing = path + inner[0], inner[1]
    return path, thing


def _refusal(thing: Any) -> BaseException | None:
    import cloudpickle

    try:
        cloudpickle.dumps(thing)
    except Exception as error:
        return error
    return None


def perform(payload: bytes) -> bytes:
    """Run one call in this process and return what came out as bytes, for `decode`."""
    began = perf_counter()
    name = "a call"
    try:
        definition, args, kwargs, seed = pickle.loads(payload)
        name = definition.name
        if seed is not None:
            sow(seed, definition.function)
        value, made = _run(definition, args, kwargs)
        return _encoded_value(name, value, made, perf_counter() - began)
    except BaseException as error:
        error = as_raised(name, error)
        return pickle.dumps((False, os.getpid(), perf_counter() - began, describe_error(error), b""))


def perform_here(definition: Definition, args: list[Any], kwargs: dict[str, Any], seed: int | None = None) -> Outcome:
    """Run one call in a thread of the driver's process, where nothing needs to be encoded."""
    began, worker = perf_counter(), threading.get_ident()
    source.set(None if seed is None else Source(seed))
    try:
        value, made = _run(definition, args, kwargs)
        return Outcome(value, None, perf_counter() - began, worker, made)
    except BaseException as error:
        return Outcome(None, as_raised(definition.name, error), perf_counter() - began, worker)


def decode(reply: bytes) -> Outcome:
    """Return what a worker sent. Nothing that a user's class does when it is unpickled gets past here."""
    is_value, worker, seconds, extra, body = pickle.loads(reply)
    if not is_value:
        return Outcome(None, rebuild_error(*extra), seconds, worker)
    try:
        value = pickle.loads(body)
        made: list[Future[Any]] = []
        if extra:
            value, made = unpack(*value)
    except BaseException as error:
        return Outcome(None, PayloadError(f"the result cannot be unpickled here: {error!r}"), seconds, worker)
    return Outcome(value, None, seconds, worker, made)


def _run(definition: Definition, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Future[Any]]]:
    recorder = Recorder()
    token = recording.set(recorder)
    try:
        value = run_body(definition, args, kwargs)
    finally:
        recording.reset(token)
    if recorder.error is not None:  # raised in the body, and swallowed there
        raise recorder.error
    return value, recorder.calls


def _encoded_value(name: str, value: Any, made: list[Future[Any]], seconds: float) -> bytes:
    import cloudpickle

    travels = bool(made) or isinstance(value, Future)
    try:
        body = cloudpickle.dumps(pack(value, made) if travels else value)
    except Exception as error:
        raise why_no_way_back(name, value, error) from error
    return pickle.dumps((True, os.getpid(), seconds, travels, body))


def why_no_way_back(name: str, value: Any, error: BaseException) -> PayloadError:
    """Return the error for a result that cannot be pickled, naming the part at fault."""
    path, part = _part_at_fault(value)
    return PayloadError(f"{name}: result{path} ({type(part).__name__}) cannot be pickled on its way back: {error}")


def describe_error(error: BaseException) -> tuple[str, str, str, bytes]:
    """Return an exception as type name, one line, traceback and, where it can be pickled, itself."""
    import cloudpickle

    body = b""
    for form in (_itself, _without_constructor, _what_travels):
        try:
            body = cloudpickle.dumps(form(error))
            _rebuilt(pickle.loads(body))
            break
        except BaseException:  # whatever a user's class does when it is pickled
            body = b""
    return type(error).__name__, text_of(error), _traceback_of(error), body


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # notes, a cause or a class that it cannot be asked for
        lines = traceback.format_tb(BaseException.__getattribute__(error, "__traceback__"))
        return "".join(["Traceback (most recent call last):\n", *lines, text_of(error), "\n"])


# Forms of an exception. Its attributes are got and set past what its class may say to that.


def _itself(error: BaseException) -> Any:
    return error


def _without_constructor(error: BaseException) -> Any:
    """For a class whose constructor wants other arguments than it hands on."""
    args, state = (BaseException.__getattribute__(error, name) for name in ("args", "__dict__"))
    return type(error), args, state


def _what_travels(error: BaseException) -> Any:
    """Without what cannot be pickled, so that it is caught where it should be; of a group, each member for itself."""
    kind, args, state = _without_constructor(error)
    state = {name: value for name, value in state.items() if _travels(value)}
    if isinstance(error, BaseExceptionGroup):
        return kind, error.message, [describe_error(member) for member in error.exceptions], state
    return kind, tuple([arg if _travels(arg) else _words_for(arg) for arg in args]), state


def _travels(thing: Any) -> bool:
    import cloudpickle

    try:
        pickle.loads(cloudpickle.dumps(thing))
    except BaseException:
        return False
    return True


def _words_for(thing: Any) -> str:
    try:
        return repr(thing)
    except BaseException:
        return f"<{type(thing).__name__}>"


def rebuild_error(type_name: str, words: str, text: str, body: bytes) -> BaseException:
    """Return the exception that was described; one that cannot be rebuilt becomes a :class:`NodeError`."""
    error = _rebuilt_or_told(type_name, words, text, body)
    if BaseException.__getattribute__(error, "__cause__") is None:
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(text))
    return error


def _rebuilt_or_told(type_name: str, words: str, text: str, body: bytes) -> BaseException:
    try:
        return _rebuilt(pickle.loads(body))
    except BaseException:  # there is none, or a user's class again
        return NodeError(words, type_name=type_name, traceback=text)


def _rebuilt(form: Any) -> BaseException:
    if isinstance(form, BaseException):
        return form
    error: BaseException
    if len(form) == 4:
        cls, message, members, state = form
        error = BaseExceptionGroup.__new__(cls, message, [_rebuilt_or_told(*member) for member in members])
    else:
        cls, args, state = form
        error = cls.__new__(cls, *args)
        BaseException.__setattr__(error, "args", args)
    BaseException.__getattribute__(error, "__dict__").update(state)
    return error
