"""Executors: where ready calls run.

An executor has one duty: `drive(engine, deadline)` takes ready calls from an engine, has them run, and hands back
what came out, until `engine.over` is set. Three do it here: `local` (this thread, or threads), `jobs` (any
`concurrent.futures.Executor`), and `coroutines` beside either of them (one event loop for all `async def` nodes).
"""

from __future__ import annotations

from typing import Any, Protocol

from tinygraph.engine import Engine


class Executor(Protocol):
    """What a run needs of an executor."""

    apart: bool  # whether its workers are elsewhere, so that bodies that only record calls run here

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline (of `time.monotonic`) has passed."""
        ...


def executor_for(executor: Any, workers: int) -> Executor:
    """Return the executor that an option names; a `concurrent.futures.Executor` is taken as it is."""
    if executor == "inline":
        from tinygraph.executors.local import Inline

        return Inline()
    if executor == "threads":
        from tinygraph.executors.local import Threads

        return Threads(workers)
    if executor == "processes":
        from tinygraph.executors.processes import Processes

        return Processes(workers)
    if hasattr(executor, "drive"):
        return executor  # type: ignore[no-any-return]
    from tinygraph.executors.jobs import Jobs

    return Jobs(executor, workers)
