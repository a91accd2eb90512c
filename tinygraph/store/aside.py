"""Aside: where damaged things of a store are kept, so that they can be looked at and do not count any more."""

from __future__ import annotations

import os
from collections.abc import Callable

from tinygraph.errors import StoreError
from tinygraph.store import disk
from tinygraph.store.seal import trust

_MOST = 1_000  # things


class Aside:
    """The folder `damaged` of a store. Each thing is told once, whoever meets it again."""

    def __init__(self, root: str, warn: Callable[[str], None]) -> None:
        self.folder = os.path.join(root, "damaged")
        self._root = root
        self._warn = warn

    def copy(self, name: str, content: Callable[[], bytes], what: str, problem: object) -> None:
        """Keep a copy of something that cannot be taken out of its file."""
        path = os.path.join(self.folder, name)
        if os.path.lexists(path):
            return
        try:
            self._make()
            fd = disk.make(path)
            try:
                disk.write(fd, content())
            finally:
                disk.close(fd)
        except (OSError, StoreError):
            pass  # then it is not kept: nobody needs it to go on
        self._tell(what, problem)

    def move(self, path: str, name: str, what: str, problem: object) -> None:
        """Move a file here, over what had its name before."""
        try:
            self._make()
            disk.rename(path, os.path.join(self.folder, name))
        except (OSError, StoreError):
            try:
                disk.remove(path)
            except OSError:
                pass
        self._tell(what, problem)

    def move_silently(self, path: str) -> None:
        """Move a file here that can be made anew; raises OSError when that cannot be."""
        trust(self.folder, parents=False)
        try:
            disk.rename(path, os.path.join(self.folder, os.path.basename(path)))
        except FileNotFoundError:
            pass

    def _make(self) -> None:
        trust(self.folder, parents=False)
        if len(disk.names(self.folder)) >= _MOST:
            raise StoreError("there are enough of them to be looked at")

    def _tell(self, what: str, problem: object) -> None:
        self._warn(f"the store {self._root!r} had {what} that is damaged and does not count any more: {problem}")
