"""Index: where the record of a key lies. An SQLite file that holds nothing which the journals do not say as well.

::

    rows    key -> token, flags, where its record lies, node, when; each sealed, so that a spoilt one is never believed
    state   how many rows there are, and how far each journal has been read; sealed
    used    which keys were found, and when: one line for all those of a run; now and then put together as `last`
    costs   seconds that calls of a node take
    gone    keys that were removed to save room

Whatever is wrong with the file is raised as :class:`sqlite3.Error` or :class:`Spoilt`: then it is made anew.
"""

from __future__ import annotations

import marshal
import sqlite3
from collections.abc import Iterable, Iterator
from operator import itemgetter
from struct import Struct
from time import monotonic, sleep
from typing import Any, NamedTuple

from tinygraph.store.seal import SIZE, Seal

FORMAT = 1

_PATIENCE = 10.0  # seconds to wait for another program that writes
_WEIGHT = 0.3  # of the newest duration in the mean
_LINES = 256  # of `used`, until they are put together
_SHORT = Struct("<q")
_FACTS = Struct("<IQI")

_SCHEMA = """
CREATE TABLE rows(short INT, key BLOB, token BLOB, flags INT, pack TEXT, at INT, length INT,
                  node TEXT, made REAL, seal BLOB);
CREATE INDEX by_key ON rows(short);
CREATE TABLE state(id INTEGER PRIMARY KEY, facts BLOB);
CREATE TABLE used(at REAL, keys BLOB);
CREATE TABLE last(key BLOB PRIMARY KEY, at REAL) WITHOUT ROWID;
CREATE TABLE costs(node TEXT PRIMARY KEY, seconds REAL) WITHOUT ROWID;
CREATE TABLE gone(key BLOB PRIMARY KEY) WITHOUT ROWID;
"""
# Only the first bytes of a key are indexed, and rows are seldom replaced, the newest counts: so a new row is appended,
# and touches one small page besides. With the key as the primary key, a row cost 25 us in a store of 100,000.
_INSERT = "INSERT INTO rows VALUES(?,?,?,?,?,?,?,?,?,?)"
_FIND = "SELECT key,token,flags,pack,at,length,seal,made FROM rows WHERE short=?"
_ALL = "SELECT key,token,flags,pack,at,length,seal,node,made FROM rows ORDER BY made, rowid"
_NEWEST = "SELECT made,pack,at FROM rows WHERE short=? AND key=? ORDER BY made DESC LIMIT 1"
_THIN = """DELETE FROM rows WHERE rowid IN (SELECT rowid FROM (
    SELECT rowid, row_number() OVER (PARTITION BY key ORDER BY made DESC, rowid DESC) AS place FROM rows
) WHERE place > 1)"""
_DELETE = "DELETE FROM rows WHERE short=? AND key=?"
_DELETE_OLDER = _DELETE + " AND made<=?"
_LATEST = "SELECT key,token,flags,pack,at,length,seal FROM rows WHERE node=? ORDER BY made DESC, rowid DESC LIMIT ?"


class Found(NamedTuple):
    """What the index says of a key, and what is enough to read its entry."""

    token: bytes
    flags: int
    pack: str  # the journal
    at: int
    length: int


class Row(NamedTuple):
    """A line of the index."""

    key: bytes
    found: Found
    node: str
    made: float


class Spoilt(Exception):
    """The index does not hold together: something in it is not what was written."""


class Index:
    """An index that is open. Not for several threads at once, nor for a forked child."""

    def __init__(self, path: str, secret: bytes, durable: bool) -> None:
        self._row_seal = Seal(secret, b"row")
        self._state_seal = Seal(secret, b"state")
        self._connection = sqlite3.connect(path, _PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(durable)
            self._execute = self._connection.execute
            self._version = 0
            self.was_changed()
            self.state()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, durable: bool) -> None:
        execute = self._connection.execute
        execute("PRAGMA trusted_schema=OFF")
        execute("PRAGMA synchronous=OFF")  # what is lost of a new index is nothing
        end = monotonic() + _PATIENCE
        while True:
            try:
                execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:  # for this, SQLite itself does not wait
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > end:
                    raise
                sleep(0.005)
        (version,) = execute("PRAGMA user_version").fetchone()
        execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        execute("PRAGMA cache_size=-16000")
        execute("PRAGMA temp_store=MEMORY")
        if version == FORMAT:
            return
        with self._writing(execute):
            if execute("PRAGMA user_version").fetchone() == (FORMAT,):
                return  # another program was first
            if execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
                raise Spoilt("it is no index of this format")
            for statement in _SCHEMA.split(";"):
                execute(statement)
            execute("INSERT INTO state VALUES(1,?)", (self._facts(0, {}),))
            execute(f"PRAGMA user_version={FORMAT}")

    def _writing(self, execute: Any = None) -> _Transaction:
        return _Transaction(execute or self._execute)

    # What it says

    def state(self) -> tuple[int, dict[str, int]]:
        """Return how many rows there are, and how far each journal has been read."""
        row = self._execute("SELECT facts FROM state WHERE id=1").fetchone()
        facts = row and row[0]
        if type(facts) is not bytes or self._state_seal(facts[SIZE:]) != facts[:SIZE]:
            raise Spoilt("its state is not what was written")
        rows, upto = marshal.loads(facts[SIZE:])
        return rows, upto

    def _facts(self, rows: int, upto: dict[str, int]) -> bytes:
        facts = marshal.dumps((rows, upto), 2)
        return self._state_seal(facts) + facts

    def find(self, key: bytes) -> Found | None:
        """Return what is known of a key."""
        rows = self._execute(_FIND, _SHORT.unpack_from(key)).fetchall()
        if len(rows) > 1:
            rows.sort(key=itemgetter(7))
        best = None
        for row in rows:
            found = self._checked(row)  # of all of them: this key may be the one that was spoilt
            if row[0] == key:
                best = found
        return best

    def newest(self, key: bytes) -> tuple[float, str, int] | None:
        """Return when the newest entry of a key was made, and where it lies, or None."""
        row: tuple[float, str, int] | None = self._execute(_NEWEST, (*_SHORT.unpack_from(key), key)).fetchone()
        return row

    def all(self) -> list[Row]:
        """Return all rows, the newest last; raises :class:`Spoilt` if some are missing."""
        self._execute("BEGIN")
        try:
            rows = self._execute(_ALL).fetchall()
            count, _ = self.state()
        finally:
            self._execute("COMMIT")
        if len(rows) != count:
            raise Spoilt("rows are missing")
        return [Row(row[0], self._checked(row), row[7], row[8]) for row in rows]

    def latest(self, node: str, limit: int) -> list[tuple[bytes, Found]]:
        """Return the rows of a node, the newest first."""
        return [(row[0], self._checked(row)) for row in self._execute(_LATEST, (node, limit))]

    def costs(self) -> dict[str, float]:
        """Return the seconds that calls take, by node."""
        found = self._execute("SELECT node, seconds FROM costs").fetchall()
        return {node: seconds for node, seconds in found if type(seconds) is float and 0 <= seconds < float("inf")}

    def used(self) -> dict[bytes, float]:
        """Return when keys were last found, of those that were."""
        found: dict[bytes, float] = dict(self._execute("SELECT key, at FROM last").fetchall())
        for at, keys in self._execute("SELECT at, keys FROM used ORDER BY at"):
            found.update(dict.fromkeys(split(keys), at))
        return found

    def is_gone(self, key: bytes) -> bool:
        """Say whether a key was removed to save room."""
        return self._execute("SELECT 1 FROM gone WHERE key=?", (key,)).fetchone() is not None

    def _checked(self, row: Any) -> Found:
        try:
            key, token, flags, pack, at, length, seal = row[:7]
            if self._row_seal(_FACTS.pack(flags, at, length) + key, pack.encode() + token) == seal:
                return Found(token, flags, pack, at, length)
        except Exception:  # a spoilt cell may hold anything
            pass
        raise Spoilt("a row is not what was written")

    # What it is told

    def write(
        self,
        rows: Iterable[Row] = (),
        upto: dict[str, int] | None = None,
        costs: Iterable[tuple[str, float]] = (),
        used: tuple[float, bytes] | None = None,
        gone: Iterable[tuple[bytes, float]] = (),
        removed: Iterable[str] = (),
        replaced: Iterable[bytes] = (),
    ) -> None:
        """Take up rows, how far journals have been read, durations, keys that were found or that are gone
        since then. All of it or nothing. ``removed`` are journals that are no more, and
        ``replaced`` keys that have older rows: these go.
        """
        seal, facts = self._row_seal, _FACTS.pack
        lines = [
            (*_SHORT.unpack_from(key), key, *found, node, made,
             seal(facts(found[1], found[3], found[4]) + key, found[2].encode() + found[0]))
            for key, found, node, made in rows
        ]  # fmt: skip
        with self._writing():
            count, known = self.state()
            for key, when in gone:
                count -= self._execute(_DELETE_OLDER, (*_SHORT.unpack_from(key), key, when)).rowcount
                self._execute("INSERT OR IGNORE INTO gone VALUES(?)", (key,))
            for pack in removed:
                count -= self._execute("DELETE FROM rows WHERE pack=?", (pack,)).rowcount
                known.pop(pack, None)
            for key in replaced:
                count -= self._execute(_DELETE, (*_SHORT.unpack_from(key), key)).rowcount
            if lines:
                self._connection.executemany(_INSERT, lines)
                if self._execute("SELECT 1 FROM gone LIMIT 1").fetchone():
                    self._connection.executemany("DELETE FROM gone WHERE key=?", [(line[1],) for line in lines])
            for pack, end in (upto or {}).items():
                known[pack] = max(end, known.get(pack, 0))
            self._learn(costs)
            if used is not None:
                self._execute("INSERT INTO used VALUES(?,?)", used)
                self._put_together()
            self._execute("UPDATE state SET facts=? WHERE id=1", (self._facts(count + len(lines), known),))

    def forget(self, key: bytes) -> None:
        """Remove what is known of a key."""
        with self._writing():
            count, known = self.state()
            done = self._execute(_DELETE, (*_SHORT.unpack_from(key), key))
            self._execute("UPDATE state SET facts=? WHERE id=1", (self._facts(count - done.rowcount, known),))

    def _learn(self, costs: Iterable[tuple[str, float]]) -> None:
        means: dict[str, float] = {}
        for node, seconds in costs:
            if node not in means:
                row = self._execute("SELECT seconds FROM costs WHERE node=?", (node,)).fetchone()
                means[node] = row[0] if row and type(row[0]) is float else seconds
            means[node] = mean_of(means[node], seconds)
        if means:
            self._connection.executemany("INSERT OR REPLACE INTO costs VALUES(?,?)", means.items())

    def _put_together(self) -> None:
        (lines,) = self._execute("SELECT count(*) FROM used").fetchone()
        if lines > _LINES:
            self._connection.executemany("INSERT OR REPLACE INTO last VALUES(?,?)", self.used().items())
            self._execute("DELETE FROM used")

    def thin(self) -> None:
        """Remove rows that newer ones have replaced."""
        with self._writing():
            count, known = self.state()
            done = self._execute(_THIN)
            self._execute("UPDATE state SET facts=? WHERE id=1", (self._facts(count - done.rowcount, known),))

    def has_gone(self) -> bool:
        """Say whether any key was removed to save room."""
        return self._execute("SELECT 1 FROM gone LIMIT 1").fetchone() is not None

    def was_changed(self) -> bool:
        """Say whether another program has written to the index since this was last asked."""
        before, self._version = self._version, self._execute("PRAGMA data_version").fetchone()[0]
        return before != self._version

    def pack(self) -> None:
        """Give room back that removed rows had."""
        self.thin()
        self._execute("DELETE FROM last WHERE key NOT IN (SELECT key FROM rows)")
        self._execute("VACUUM")
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class _Transaction:
    """All or nothing; what goes wrong in rolling back says nothing that is not known."""

    def __init__(self, execute: Any) -> None:
        self._execute = execute

    def __enter__(self) -> None:
        self._execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            try:
                self._execute("COMMIT")
            except BaseException:
                self._back()
                raise
        else:
            self._back()

    def _back(self) -> None:
        try:
            self._execute("ROLLBACK")
        except sqlite3.Error:
            pass


def mean_of(mean: float, seconds: float) -> float:
    """Return the mean when one more duration is known, in which newer ones weigh more.

    >>> mean_of(1.0, 2.0)
    1.3
    """
    return mean + (seconds - mean) * _WEIGHT


def split(keys: Any) -> Iterator[bytes]:
    """Yield the keys that were joined."""
    for at in range(0, len(keys), 20):
        yield keys[at : at + 20]
