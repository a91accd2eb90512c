"""What happened in a run, as events: read off the calls afterwards, or told to a listener as it happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from tinygraph.engine import Engine
from tinygraph.events import Event, Expanded, Failed, Finished, Printed, Recalled, Retried, Skipped, Started
from tinygraph.future import SETTLED, State, recording
from tinygraph.notes import Note

_ORDER = {Started: 0, Expanded: 1}


def events_of(engine: Engine) -> list[Event]:
    """Return what happened in a run, in order of time."""
    found: list[Event] = [_event(note) for note in engine.notes]
    for call in engine.calls:
        if call.state not in SETTLED or not hasattr(call, "began"):
            continue
        began = call.began - engine.began
        if call.number in engine.recalled:
            found.append(Recalled(call.name, call.number, call.ended - engine.began, call.ended - call.began))
            continue
        if call.state in (State.FINISHED, State.FAILED):
            found.append(Started(call.name, call.number, began, call.worker))
        if call.expansion is not None:
            found.append(Expanded(call.name, call.number, began, len(call.expansion.calls)))
        if call.state is State.FINISHED:
            found.append(Finished(call.name, call.number, call.ended - engine.began, call.ended - call.began))
    return sorted(found, key=lambda event: (event.at, _ORDER.get(type(event), 2), event.number))


def teller(listener: Callable[[Event], Any]) -> Callable[[Note], None]:
    """Return a function that tells the engine's notes to a listener; one that fails is not called again."""
    broken = False

    def tell(note: Note) -> None:
        nonlocal broken
        if broken:
            return
        token = recording.set(None)  # what a listener does is no part of any body
        try:
            listener(_event(note))
        except (Exception, SystemExit) as error:  # it must not break the run, nor go unnoticed
            import warnings

            broken = True
            warnings.warn(f"the progress function failed and is not called again: {error!r}", stacklevel=2)
        finally:
            recording.reset(token)

    return tell


def _event(note: Note) -> Event:
    what, call, at, more = note
    match what:
        case "started":
            return Started(call.name, call.number, at, more)
        case "expanded":
            return Expanded(call.name, call.number, at, more)
        case "finished":
            return Finished(call.name, call.number, at, more)
        case "recalled":
            return Recalled(call.name, call.number, at, more)
        case "printed":
            return Printed(call.name, call.number, at, *more)
        case "retried":
            attempt, error = more
            return Retried(call.name, call.number, at, attempt, error)
        case "failed":
            return Failed(call.name, call.number, at, more)
        case "skipped":
            return Skipped(call.name, call.number, at, more)
        case _:
            assert_never(what)
