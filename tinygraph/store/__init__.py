"""The store: what is kept between runs, and the keys by which it is found again.

::

    call ──► key ──────────► entry ──────► value
             (fingerprint,    (journal,     (inline, or
              canonical)       index)        a blob)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from tinygraph.errors import StoreError

if TYPE_CHECKING:
    from tinygraph.store.entries import Bad, Entry, Shrunk
    from tinygraph.store.fileshelf import FileShelf
    from tinygraph.store.history import RunRecord
    from tinygraph.store.shelf import Shelf


class Store:
    """A folder in which runs keep values and their history, with its settings.

    >>> import tempfile
    >>> from tinygraph import Node, Store
    >>> store = Store(tempfile.mkdtemp())
    >>> double = Node(lambda x: 2 * x, name="double")
    >>> double(3).resolve(store=store, executor="inline"), double(3).resolve(store=store, executor="inline")
    (6, 6)
    >>> [[(task.name, task.why) for task in run.tasks] for run in store.runs()]
    [[('double', 'never ran')], [('double', 'hit')]]

    Arguments: the ``path`` of the folder, which is made if it is not there; ``durable=True`` has what was kept survive
    a loss of power, and not only the death of the program; ``max_bytes`` (a number, or a text such as ``"2GiB"``) and
    ``max_age`` (seconds since it was last used) are limits that hold from the end of a run on.

    Raises :class:`OptionError` for settings that it cannot take. A folder that somebody else could have written to is
    refused with :class:`StoreUntrusted` when it is first used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool = False,
        max_bytes: int | str | None = None,
        max_age: float | None = None,
    ) -> None:
        from tinygraph.settings import flag, seconds, size

        self.path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self.durable = flag("durable", durable)
        self.max_bytes = None if max_bytes is None else size("max_bytes", max_bytes)
        self._file: FileShelf | None = None
        self.max_age = None if max_age is None else seconds("max_age", max_age)

    @staticmethod
    def at(given: Store | str | os.PathLike[str]) -> Store:
        """Return the store that an option names: itself, or the one at a path."""
        return given if isinstance(given, Store) else Store(given)

    @property
    def history(self) -> str:
        """The folder in which the history of runs lies."""
        if self.is_file:
            raise StoreError(f"{self.path!r} is a state file, and has no history: that takes a folder")
        return os.path.join(self.path, "runs")

    @property
    def is_file(self) -> bool:
        """Whether it is one state file, and no folder."""
        return self.path.endswith(".json")

    def values(self) -> Shelf | FileShelf:
        """Return where the values lie; raises :class:`StoreUntrusted` where somebody else could have put them."""
        if not self.is_file:
            return self.shelf()
        if self._file is None:
            from tinygraph.store.fileshelf import FileShelf
            from tinygraph.store.statefile import StateFile

            self._file = FileShelf(StateFile(self.path, durable=self.durable))
        return self._file

    def shelf(self) -> Shelf:
        """Return the values of a folder; raises :class:`StoreError` for a state file, which keeps values only."""
        if self.is_file:
            raise StoreError(f"{self.path!r} is a state file: it has no history, and nothing to list or to replay")
        from tinygraph.store.seal import secret, trust
        from tinygraph.store.shelf import Settings, shelf_at

        try:
            trust(self.path)
            return shelf_at(Settings(self.path, secret(), self.durable))
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(f"the store {self.path!r} cannot be used: {error.strerror or error}")

    def runs(self) -> list[RunRecord]:
        """Return the runs that used this store, oldest first. ``print(store.runs()[-1])`` shows the last."""
        from tinygraph.store.history import runs

        return runs(self.history)

    def run(self, id: str) -> RunRecord:
        """Return one run; raises :class:`UnknownRun`, which names what is near."""
        from tinygraph.store.history import run

        return run(self.history, id)

    def list(self) -> Sequence[Entry]:
        """Return what is kept, the oldest first: of calls, and what belongs to them."""
        return list(self.shelf().entries.list())

    def verify(self) -> Sequence[Bad]:
        """Read everything that is kept, and return what is not what was put there."""
        return self.shelf().entries.verify()

    def shrink(self, max_bytes: int | str | None = None, max_age: float | None = None) -> Shrunk:
        """Remove what was not used for longest, until limits hold; those of the store, if none are given.

        Nothing is removed while a run uses the store; then the result says so. Values that this program has found and
        not read yet stay.
        """
        from tinygraph.settings import seconds, size

        shelf = self.shelf()
        most = self.max_bytes if max_bytes is None else size("max_bytes", max_bytes)
        age = self.max_age if max_age is None else seconds("max_age", max_age)
        shelf.writer.close()  # so that its journal can be written anew
        return shelf.entries.shrink(most, age, spared=set(shelf.held))

    def enter(self) -> None:
        """Have nothing removed until :meth:`leave`; raises :class:`StoreError` where the store cannot be used."""
        if self.is_file:
            self.values()
            return
        try:
            self.shelf().entries.use()
        except OSError as error:
            raise self._unusable(error) from error

    def leave(self) -> None:
        """Have what was put found by other programs, and let others remove things."""
        if self.is_file:
            cast("FileShelf", self.values()).state.close()
            return
        entries = self.shelf().entries
        try:
            entries.flush()
        finally:
            entries.release()

    def keep_limits(self) -> None:
        """Make room, if there are limits and they are passed."""
        if not self.is_file and (self.max_bytes is not None or self.max_age is not None):
            self.shrink()

    def __repr__(self) -> str:
        return f"Store({self.path!r})"
