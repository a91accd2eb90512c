"""A disk that loses its power: what was not synchronised is kept, lost or spoilt, each write and each name by itself.

::

    real disk, all that is done to it noted ──► cut at some moment ──► what the disk may have then ──► open the store
"""

import os
import random
import tempfile

from tests.crash import PUTS, QUICK, SECRET, check, key_of, put
from tinygraph.store import disk
from tinygraph.store.entries import Entries, Writer


class Tape:
    """Does what is asked of the disk, and notes it."""

    def __init__(self, root):
        self.root = root
        self.events = []
        self._real = {name: getattr(disk, name) for name in NOTED}
        self._files = {}  # the number of the file that is open
        self._count = 0

    def __enter__(self):
        for name in NOTED:
            setattr(disk, name, getattr(self, name))
        return self

    def __exit__(self, *_):
        for name, real in self._real.items():
            setattr(disk, name, real)

    def note(self, *event):
        self.events.append(event)

    def make(self, path):
        return self._opened(path, self._real["make"](path))

    def make_or_open(self, path):
        there = os.path.exists(path)
        fd = self._real["make_or_open"](path)
        return fd if there else self._opened(path, fd)

    def _opened(self, path, fd):
        self._count += 1
        self._files[os.fstat(fd).st_ino] = self._count
        self.note("make", path, self._count)
        return fd

    def _number(self, fd):
        return self._files.get(os.fstat(fd).st_ino)

    def write(self, fd, data):
        at = os.fstat(fd).st_size
        self._real["write"](fd, data)
        self.note("write", self._number(fd), at, bytes(data))

    def truncate(self, fd, size):
        self._real["truncate"](fd, size)
        self.note("truncate", self._number(fd), size)

    def sync(self, fd):
        self._real["sync"](fd)
        self.note("sync", self._number(fd))

    def sync_folder(self, path):
        self._real["sync_folder"](path)
        self.note("sync folder", path)

    def rename(self, path, to):
        self._real["rename"](path, to)
        self.note("rename", path, to)

    def remove(self, path):
        self._real["remove"](path)
        self.note("remove", path)

    def make_folder(self, path):
        self._real["make_folder"](path)
        self.note("make folder", path)


NOTED = (
    "make", "make_or_open", "write", "truncate", "sync", "sync_folder", "rename", "remove", "make_folder",
)  # fmt: skip


def left_after(events, chance):
    """Return what a disk may have when its power goes after these events: folders, and files with their content."""
    contents, names, unnamed = {}, [], {}
    for event in events:
        match event:
            case "make", path, number:
                contents[number] = (bytearray(), [])  # what is safe, and what is not
                unnamed.setdefault(os.path.dirname(path), []).append(len(names))
                names.append([event, False])
            case (("write" | "truncate"), number, *_):
                if number is not None:
                    contents[number][1].append(event)
            case "sync", number:
                safe, pending = contents[number]
                for one in pending:
                    _apply(safe, one)
                pending.clear()
            case "sync folder", path:
                for i in unnamed.pop(path, []):
                    names[i][1] = True
            case (("rename" | "remove" | "make folder"), path, *_):
                unnamed.setdefault(os.path.dirname(path), []).append(len(names))
                names.append([event, False])
    folders, files = set(), {}
    for event, is_safe in names:
        if not is_safe and chance.random() < 0.4:
            continue
        match event:
            case "make folder", path:
                folders.add(path)
            case "make", path, number:
                files[path] = number
            case "rename", path, to:
                if path in files:
                    files[to] = files.pop(path)
            case "remove", path:
                files.pop(path, None)
    for safe, pending in contents.values():
        for one in pending:
            match chance.choice(("kept", "kept", "lost", "spoilt", "empty")):
                case "kept":
                    _apply(safe, one)
                case "spoilt" if one[0] == "write":
                    data = bytearray(one[3])
                    for _ in range(1 + len(data) // 512):
                        if data:
                            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                    _apply(safe, (*one[:3], bytes(data)))
                case "empty" if one[0] == "write":
                    _apply(safe, (*one[:3], bytes(len(one[3]))))
    return folders, {path: bytes(contents[number][0]) for path, number in files.items()}


def _apply(content, event):
    match event:
        case "write", _, at, data:
            content.extend(bytes(max(0, at - len(content))))
            content[at : at + len(data)] = data
        case "truncate", _, size:
            del content[size:]


def lose_power(seeds, durable):
    """Put, lose power, open; return how many puts were acknowledged, and how many of them there are still."""
    acknowledged_in_all = survived = 0
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        for seed in seeds:
            chance = random.Random(seed)
            root, after = os.path.join(folder, f"{seed}"), os.path.join(folder, f"{seed}-after")
            os.mkdir(root, 0o700)
            with Tape(root) as tape:
                entries = Entries(root, SECRET, durable)
                for i in range(PUTS):
                    writer = Writer(root, SECRET, durable)
                    entries.note(key_of(i), put(writer, i), node="module:node", seconds=0.5)
                    tape.note("kept", i)
                    if chance.random() < 0.5:
                        writer.close()  # another goes on with its journal
                    if chance.random() < 0.3:
                        entries.flush()
                entries.close()
            cut = chance.randrange(len(tape.events) + 1)
            kept = {event[1] for event in tape.events[:cut] if event[0] == "kept"}
            os.mkdir(after, 0o700)
            _lay_out(root, after, *left_after(tape.events[:cut], chance), chance)
            told = []
            entries = Entries(after, SECRET, warn=told.append)
            there = {i for i in kept if entries.find(key_of(i)) is not None}
            entries.close()
            try:
                assert not durable or there == kept, f"lost {kept - there}"
                check(after, kept if durable else set())
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {error}; {told}") from error
            acknowledged_in_all += len(kept)
            survived += len(there)
    return acknowledged_in_all, survived


def _lay_out(root, after, folders, files, chance):
    for path in sorted(folders):
        if os.path.isdir(os.path.dirname(path.replace(root, after))):
            os.mkdir(path.replace(root, after), 0o700)
    for path, content in sorted(files.items()):
        to = path.replace(root, after)
        if os.path.isdir(os.path.dirname(to)) and ".sqlite" not in path:
            with open(os.open(to, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(content)
    # The index may be older than the rest, or newer, or anything.
    for name in os.listdir(root):
        if ".sqlite" in name and chance.random() < 0.6:
            with open(os.path.join(root, name), "rb") as file:
                content = bytearray(file.read())
            if chance.random() < 0.3:
                del content[chance.randrange(len(content) + 1) :]
            if content and chance.random() < 0.3:
                at = chance.randrange(len(content))
                content[at : at + 512] = chance.randbytes(len(content[at : at + 512]))
            with open(os.open(os.path.join(after, name), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(content)
