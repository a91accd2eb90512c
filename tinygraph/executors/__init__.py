"""Executors: where ready calls run.

An executor has one duty: `drive(engine, deadline)` takes ready calls from an engine, has them run, and hands back
what came out, until `engine.over` is set. Three do it here: `local` (the thread that resolves), `crew` (threads and
worker processes) and `jobs` (any `concurrent.futures.Executor`); beside each of them, `coroutines` has one event loop
for all `async def` nodes of a run.
"""

from __future__ import annotations

from typing import Any, Protocol

from tinygraph.engine import Engine


class Executor(Protocol):
    """What a run needs of an executor."""

    @property
    def home(self) -> str:
        """The lane of calls whose node does not say where it runs: ``"driver"``, ``"thread"`` or ``"process"``."""

    @property
    def lanes(self) -> frozenset[str]:
        """The lanes that it has workers for."""

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline (of `time.monotonic`) has passed."""


def executor_for(executor: Any, workers: int) -> Executor:
    """Return the executor that an option names; a `concurrent.futures.Executor` is taken as it is."""
    if executor == "inline":
        from tinygraph.executors.local import Inline

        return Inline()
    if executor in ("threads", "processes"):
        from tinygraph.executors.crew import Crew

        return Crew("thread" if executor == "threads" else "process", workers)
    if hasattr(executor, "drive"):
        return executor  # type: ignore[no-any-return]
    from tinygraph.executors.jobs import Jobs

    return Jobs(executor, workers)
