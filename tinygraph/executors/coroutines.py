"""Run the bodies of `async def` nodes: all of a run on one event loop, in a thread of its own."""

from __future__ import annotations

import threading
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tinygraph.engine import Engine, expands, why_unusable
from tinygraph.executors.bodies import Bodies, as_raised, too_slow, touch
from tinygraph.future import FINISHED, SETTLED, Future, Recorder, recording
from tinygraph.seeds import Source, source

if TYPE_CHECKING:
    import asyncio


class Coroutines:
    """The event loop of one run; it starts with the first call that needs it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bodies = Bodies(engine, -1)
        self._tasks: set[Any] = set()
        self._closing = False

    def __enter__(self) -> Coroutines:
        return self

    def __exit__(self, *exception: object) -> None:
        """Cancel what still runs and end the loop."""
        self._closing = True
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def start(self, call: Future[Any]) -> None:
        """Begin the body of a call; the caller holds the engine's lock, which the loop takes when the body ends."""
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._serve, args=(self._loop,), name="tinygraph-async", daemon=True).start()
        self._loop.call_soon_threadsafe(self._begin, call, copy_context())

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        finally:
            self._bodies.close()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def _begin(self, call: Future[Any], context: Any) -> None:
        import asyncio

        task = asyncio.get_running_loop().create_task(self._run(call), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, call: Future[Any]) -> None:
        import asyncio

        engine = self._engine
        recorder = Recorder(call, call.depth + 1)
        claimed = 0

        async def demand(future: Future[Any]) -> Any:
            nonlocal claimed
            if engine.elsewhere:
                touch(engine, call)
            with engine.lock:
                engine.demand([*recorder.calls[claimed:], future], future, call)
                claimed = len(recorder.calls)
            engine.driver.wake.put(None)
            try:
                return self._bodies.usable(await _value(engine, future))
            finally:
                with engine.lock:
                    engine.received(future, call)

        recorder.demand = demand
        recording.set(recorder)
        if engine.seeds is not None:
            source.set(Source(engine.seeds.of(call)))
        began = perf_counter()
        limit = asyncio.timeout(call.definition.timeout)
        try:
            args, kwargs = self._bodies.arguments(call)
            async with limit:
                value = await call.definition.function(*args, **kwargs)
            if recorder.error is not None:
                raise recorder.error
        except BaseException as error:
            if self._closing:
                return  # the run is over, and this body was cancelled with it: it may run again another time
            error = as_raised(call.name, error)
            if engine.elsewhere:
                touch(engine, call)
            with engine.lock:
                if isinstance(error, TimeoutError) and limit.expired():
                    engine.gave_up(call, too_slow(call, "it was cancelled"), began, 0)
                else:
                    engine.raised(call, error, began, 0)
        else:
            recorder.caller = recorder.demand = None  # hold nothing while the engine looks who still holds what
            ended = perf_counter()
            if engine.elsewhere:
                touch(engine, call)
            if engine.recall is not None and not expands(call, value, recorder.calls):
                value = engine.recall.keep(call, value, ended - began)
            with engine.lock:
                engine.settle(call, value, recorder.calls, began, 0, ended)
        call = value = None  # type: ignore[assignment]
        engine.driver.wake.put(None)


async def _value(engine: Engine, future: Future[Any]) -> Any:
    """Wait for a future that the run has in hand, without holding a worker."""
    import asyncio

    loop = asyncio.get_running_loop()
    settled = loop.create_future()

    def finish() -> None:
        if not settled.done():
            settled.set_result(None)

    def tell(_: Future[Any]) -> None:
        try:
            loop.call_soon_threadsafe(finish)
        except RuntimeError:  # the run has ended, and its loop with it: nobody waits any more
            return

    if future.state not in SETTLED:
        engine.watch(future, tell)
        await settled
    if future.state is FINISHED:
        return future.value
    raise why_unusable(future)
