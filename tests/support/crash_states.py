"""Builds the states in which a power cut may leave the files of a program, for every moment of the program.

A file system writes to disk in its own order. After a power cut, only what a program has synchronized is certain: the
content of a file by ``fsync`` of the file, and the names in a folder by ``fsync`` of the folder. Everything else may or
may not be there. Cutting the power shows a few of these states by chance. Here they are computed:

1. ``record`` runs a program under strace, which writes down each system call that changes a file, a name or the disk.
2. ``crash_states`` replays every prefix of that record, and yields the states that the disk may be in at its end.
3. ``explore`` writes each distinct state into a folder and asks the caller what a reader finds there.

This is what ALICE (Pillai et al., OSDI 2014) and CrashMonkey (Mohan et al., OSDI 2018) do for databases and file
systems. It needs no root and no file system of its own, but strace and the permission to trace.
"""

import contextlib
import dataclasses
import gc
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from file_calls import UNKNOWN, Call, traced

_MARK = b"mark: "

# What a recorded program starts with. A mark is a line in the record: what the program had promised up to there.
PRELUDE = f"""
import os, sys
from pathlib import Path
root = Path(sys.argv[1])
def mark(text):
    os.write(2, {_MARK!r} + str(text).encode() + b"\\n")
"""


@dataclasses.dataclass(eq=False)
class _File:
    data: bytes = b""
    synced: bytes = b""
    torn: bytes | None = None  # without the second half of the last write


@dataclasses.dataclass(eq=False)
class _Folder:
    entries: dict[str, "_Node"] = dataclasses.field(default_factory=dict)
    synced: dict[str, "_Node"] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class _Link:
    target: str


_Node = _File | _Folder | _Link

# A folder's content: the bytes of each file, the target of each symbolic link, and None for each folder, by path.
Tree = dict[str, bytes | str | None]


@dataclasses.dataclass
class Record:
    """What a program did to a folder.

    Attributes:
        root: The folder.
        before: The folder before the program started, all of it on disk.
        calls: The program's calls, as ``traced`` returns them.
    """

    root: Path
    before: Tree
    calls: list[tuple[Call, bool]]


@dataclasses.dataclass(frozen=True)
class State:
    """A state in which a power cut may leave the disk.

    Attributes:
        tree: The folder's content.
        marks: What the program had promised.
        prefix: Number of changes before the cut.
        where: The last call, and what of the calls is on disk.
    """

    tree: Tree
    marks: tuple[str, ...]
    prefix: int
    where: str


def record(root: Path, program: str, *arguments: str) -> Record:
    """Runs a Python program and records what it does to a folder.

    Args:
        root: The folder, which exists. What is in it counts as being on disk.
        program: The program. ``root`` is the folder, and ``mark(text)`` records a promise. States are built from the
            first mark on.
        arguments: The program's arguments, from ``sys.argv[2]`` on.

    Raises:
        ValueError: If the program changed a file in a way that is not modeled.
        RuntimeError: If the program failed.
    """
    root = root.resolve()
    before = read(root)
    support = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    calls = traced(
        [sys.executable, "-c", PRELUDE + program, root, *arguments],
        root.with_name(f"{root.name}.strace"),
        env=os.environ | {"PYTHONPATH": support},
        cwd=root,
    )
    found = Record(root, before, calls)
    disk = _Disk(root, before)
    for call, ended in found.calls:
        disk.apply(call, ended)
    if disk.tree(_current, _data) != read(root):
        raise ValueError("the replayed record does not give the files that the program left")
    return found


def _current(folder: _Folder) -> dict[str, _Node]:
    return folder.entries


def _synced(folder: _Folder) -> dict[str, _Node]:
    return folder.synced


def _data(file: _File) -> bytes:
    return file.data


def _synced_data(file: _File) -> bytes:
    return file.synced


def _zeros(file: _File) -> bytes:
    return file.synced + bytes(max(len(file.data) - len(file.synced), 0))


class _Disk:
    """The files of a folder, as programs see them and as far as they are on disk."""

    def __init__(self, root: Path, before: Tree):
        self._root = str(root)
        self._top = _Folder()
        self._open: dict[int, tuple[_Node, list[int], bool]] = {}  # file, offset, whether it is for appending
        self._deleted: set[_Node] = set()
        self._syncing: dict[int, tuple[_Node, bytes | dict[str, _Node]]] = {}
        self._written: _File | None = None
        self.marks: list[str] = []
        for path, content in sorted(before.items()):
            folder, name = self._parent(path)
            if content is None:
                folder.entries[name] = _Folder()
            else:
                folder.entries[name] = _File(content, content) if isinstance(content, bytes) else _Link(content)
            folder.synced = dict(folder.entries)

    def _inside(self, path: str) -> str | None:
        """Returns a path relative to the root, or None if it is outside."""
        path = os.path.normpath(path)
        if path == self._root:
            return ""
        return path.removeprefix(self._root + "/") if path.startswith(self._root + "/") else None

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._top
        for name in path.split("/") if path else ():
            node = node.entries.get(name) if isinstance(node, _Folder) else None
        return node

    def _parent(self, path: str) -> tuple[_Folder, str]:
        above, _, name = path.rpartition("/")
        folder = self._find(above)
        if not isinstance(folder, _Folder):
            raise ValueError(f"the record has no folder {above}")
        return folder, name

    def _paths(self, call: Call) -> list[str | None]:
        """Returns the paths that a call names, relative to the root; None for each that is outside."""
        strings = call.strings[1:] if call.name.startswith("symlink") else call.strings
        folders = [path for _, path in call.descriptors]
        paths = []
        for number, string in enumerate(strings):
            text = os.fsdecode(string)
            above = folders[min(number, len(folders) - 1)] if folders else self._root
            paths.append(self._inside(os.path.join(above, text)))  # noqa: PTH118 (the text may be absolute)
        return paths

    def apply(self, call: Call, ended: bool) -> bool:
        """Replays the start or the end of a call. Returns whether that may change what a power cut leaves."""
        name = call.name
        if name in UNKNOWN:
            used = [path for _, path in call.descriptors if self._inside(path) is not None] + list(self._paths(call))
            changes = name != "mmap" or ("MAP_SHARED" in call.rest and "PROT_WRITE" in call.rest)
            if changes and (any(path is not None for path in used) or not (call.descriptors or call.strings)):
                raise ValueError(f"{name} is not modeled")
            return False
        if name in ("fsync", "fdatasync"):
            return self._sync(call, ended)
        if not ended:
            return False
        if name in ("write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "lseek"):
            return self._write(call)
        paths = self._paths(call)
        if all(path is None for path in paths):
            if name in ("open", "openat", "creat"):
                self._open.pop(call.result, None)
            return False
        if None in paths:
            raise ValueError(f"{call} leads out of the folder")
        return self._change_names(call, [path for path in paths if path is not None])

    def _change_names(self, call: Call, paths: list[str]) -> bool:
        name, path = call.name, paths[0]
        if name in ("open", "openat", "creat"):
            return self._open_file(call, path)
        if name == "truncate":
            return self._resize(self._find(path), int(call.rest.rpartition(",")[2]))
        folder, last = self._parent(paths[-1])
        if name in ("mkdir", "mkdirat"):
            folder.entries[last] = _Folder()
        elif name in ("symlink", "symlinkat"):
            folder.entries[last] = _Link(os.fsdecode(call.strings[0]))
        elif name in ("unlink", "unlinkat", "rmdir"):
            self._deleted.add(folder.entries.pop(last))
        elif name in ("link", "linkat") and (linked := self._find(path)) is not None:
            folder.entries[last] = linked
        elif name in ("rename", "renameat", "renameat2") and "EXCHANGE" not in call.rest:
            source, first = self._parent(path)
            folder.entries[last] = source.entries.pop(first)
        else:
            raise ValueError(f"{call} is not modeled")
        return True

    def _open_file(self, call: Call, path: str) -> bool:
        flags = "O_CREAT|O_TRUNC" if call.name == "creat" else call.rest
        node, changed = self._find(path), False
        if "O_TMPFILE" in flags:
            node = _File()  # without a name, so no power cut leaves it
        elif node is None and "O_CREAT" in flags:
            folder, name = self._parent(path)
            node = folder.entries[name] = _File()
            changed = True
        elif node is None or isinstance(node, _Link):
            raise ValueError(f"{call}: the record has no such file")
        elif "O_TRUNC" in flags:
            changed = self._resize(node, 0)
        self._open[call.result] = node, [0], "O_APPEND" in flags
        return changed

    def _resize(self, node: _Node | None, size: int) -> bool:
        if not isinstance(node, _File):
            raise ValueError("the record truncates what is no file")
        changed = size != len(node.data)
        node.data, node.torn = node.data[:size].ljust(size, b"\0"), None
        return changed

    def _opened(self, call: Call) -> tuple[_Node, list[int], bool] | None:
        """Returns the open file of a call, or None if it is outside the root."""
        number, path = call.descriptors[0]
        opened = self._open.get(number)
        if self._inside(path) is None:
            return opened if opened and not path else None  # deleted files have no path
        if opened is None or opened[0] is not self._named(call):
            raise ValueError(f"{call}: the record has no such open file")
        return opened

    def _named(self, call: Call) -> _Node | None:
        """Returns what has the path of a call's descriptor now, or None if that is outside the root."""
        inside = self._inside(call.descriptors[0][1])
        return None if inside is None else self._find(inside)

    def _write(self, call: Call) -> bool:
        if call.name == "write" and call.descriptors[:1] and call.descriptors[0][0] == 2:
            marks = [line for line in call.strings[0].splitlines() if line.startswith(_MARK)]
            self.marks += [line.removeprefix(_MARK).decode() for line in marks]
            return bool(marks)
        if not call.descriptors:
            return False
        if call.name == "lseek" and not isinstance(self._named(call), _File):
            return False  # a folder is read, maybe by a copy of its descriptor
        if (opened := self._opened(call)) is None:
            return False
        node, offset, appends = opened
        if call.name == "lseek":
            offset[0] = call.result
            return False
        if call.name == "ftruncate":
            return self._resize(node, int(call.rest.rpartition(",")[2]))
        if not isinstance(node, _File):
            raise ValueError(f"{call} writes to a folder")
        data = b"".join(call.strings)[: call.result]
        placed = call.name.startswith("pwrite")
        numbers = [int(text) for text in re.findall(r"(?<=, )\d+", call.rest)]
        at = len(node.data) if appends else numbers[-1 if call.name != "pwritev2" else -2] if placed else offset[0]
        if not placed:
            offset[0] = at + len(data)
        whole = node.data.ljust(at, b"\0")
        half = data[: len(data) // 2]
        node.torn = whole[:at] + half + whole[at + len(half) :]
        node.data = whole[:at] + data + whole[at + len(data) :]
        self._written = node
        return True

    def _sync(self, call: Call, ended: bool) -> bool:
        if not ended:  # what is written while fsync runs need not be on disk when it ends
            if (opened := self._opened(call)) is not None:
                node = opened[0]
                if isinstance(node, _File):
                    self._syncing[id(call)] = node, node.data
                elif isinstance(node, _Folder):
                    self._syncing[id(call)] = node, dict(node.entries)
            return False
        node, content = self._syncing.pop(id(call), (None, None))
        if isinstance(node, _File) and isinstance(content, bytes):
            node.synced = content
            if node.data == content:
                node.torn = None
        elif isinstance(node, _Folder) and isinstance(content, dict):
            node.synced = content
        return node is not None

    def tree(
        self, entries: Callable[[_Folder], dict[str, _Node]], content: Callable[[_File], bytes], exact: bool = True
    ) -> Tree:
        """Returns the folder's content.

        Args:
            entries: Function that gives the names in a folder that are on disk.
            content: Function that gives the content of a file that is on disk.
            exact: Whether names of deleted files stay, if ``entries`` has them.
        """
        found: Tree = {}

        def add(folder: _Folder, above: str) -> None:
            for name, node in entries(folder).items():
                if not exact and node in self._deleted:
                    continue
                if isinstance(node, _Folder):
                    found[above + name] = None
                    add(node, f"{above}{name}/")
                else:
                    found[above + name] = content(node) if isinstance(node, _File) else node.target

        add(self._top, "")
        return found

    def after_a_cut(self) -> Iterator[tuple[str, Tree]]:
        """Yields the states that a power cut may leave now, and what of the changes they hold."""
        yield "everything is on disk", self.tree(_current, _data)
        yield "contents only as far as synchronized", self.tree(_current, _synced_data)
        yield "contents that are not synchronized are zeros", self.tree(_current, _zeros)
        yield "names only as far as synchronized", self.tree(_synced, _data)
        yield "only what is synchronized", self.tree(_synced, _synced_data)
        yield "only what is synchronized, and deletions", self.tree(_synced, _synced_data, exact=False)
        if (file := self._written) is not None and (torn := file.torn) is not None:
            yield "half of the last write", self.tree(_current, lambda one: torn if one is file else one.data)
        for path, node in self._not_synced():
            if isinstance(node, _File):
                yield (
                    f"all but the content of {path}",
                    self.tree(_current, lambda one, it=node: one.synced if one is it else one.data),
                )
            else:
                # The order in which folders reach the disk is not certain, either: one is behind, or one ahead.
                yield (
                    f"all but the names in {path}",
                    self.tree(lambda one, it=node: one.synced if one is it else one.entries, _data),
                )
                yield (
                    f"only what is synchronized, and the names in {path}",
                    self.tree(lambda one, it=node: one.entries if one is it else one.synced, _synced_data),
                )

    def _not_synced(self) -> list[tuple[str, _File | _Folder]]:
        found: list[tuple[str, _File | _Folder]] = []

        def add(node: _Node, path: str) -> None:
            if isinstance(node, _Folder):
                if node.entries != node.synced:
                    found.append((path or ".", node))
                for name, one in node.entries.items():
                    add(one, f"{path}/{name}" if path else name)
            elif isinstance(node, _File) and node.data != node.synced:
                found.append((path, node))

        add(self._top, "")
        return found


def crash_states(recorded: Record) -> Iterator[State]:
    """Yields every state in which a power cut may leave the folder, from the program's first mark on.

    Args:
        recorded: The record of the program.
    """
    disk = _Disk(recorded.root, recorded.before)
    prefix = 0
    for call, ended in recorded.calls:
        if disk.apply(call, ended) and disk.marks:
            prefix += 1
            for what, tree in disk.after_a_cut():
                where = f"after {call}: {what}".replace(f"{recorded.root}/", "")
                yield State(tree, tuple(disk.marks), prefix, where)


@dataclasses.dataclass
class Explored:
    """What readers found after all power cuts.

    Attributes:
        prefixes: Number of moments at which the power was cut.
        states: Number of distinct states.
        broken: One line for each state in which a promise is broken.
        found: Everything that readers found.
    """

    prefixes: int
    states: int
    broken: list[str]
    found: set[object]

    def __str__(self) -> str:
        return f"{self.prefixes} moments, {self.states} states, {len(self.broken)} broken"


def explore(
    recorded: Record, look: Callable[[Path], object], allowed: Callable[[object, tuple[str, ...]], bool]
) -> Explored:
    """Writes every state into a folder and compares what a reader finds there with what the program had promised.

    Args:
        recorded: The record of the program.
        look: Function that reads a folder and returns what it found, as a hashable value.
        allowed: Function that says whether a program with these marks may leave that.
    """
    found: dict[frozenset[tuple[str, bytes | str | None]], object] = {}
    judged: set[object] = set()
    explored, prefixes = Explored(0, 0, [], set()), set()
    # Thousands of files are made and removed, which is fast in memory.
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="crash-states-") as temporary, _frozen():
        for state in crash_states(recorded):
            prefixes.add(state.prefix)
            key = frozenset(state.tree.items())
            if (key, state.marks) in judged:
                continue
            judged.add((key, state.marks))
            if key not in found:
                # A name of its own, because libraries remember what they read by its path.
                folder = Path(temporary, str(len(found)))
                _write(state.tree, folder)
                found[key] = _look(look, folder)
                shutil.rmtree(folder)
            if not allowed(found[key], state.marks):
                explored.broken.append(
                    f"{state.prefix}, {state.where}; promised: {state.marks[-1]}; found: {str(found[key])[:500]}"
                )
    explored.prefixes, explored.states, explored.found = len(prefixes), len(found), set(found.values())
    return explored


def _look(look: Callable[[Path], object], folder: Path) -> object:
    try:
        return look(folder)
    except Exception as error:  # whatever a reader raises, it did not find what was promised
        return f"{type(error).__name__}: {error}".replace(str(folder), "")


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Hides the objects that there are now from the garbage collector, which a reader of damaged files may call."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def read(folder: Path) -> Tree:
    """Returns the content of a folder."""
    found: Tree = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def _write(tree: Tree, folder: Path) -> None:
    folder.mkdir()
    for name, content in sorted(tree.items()):
        if content is None:
            (folder / name).mkdir()
        elif isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).symlink_to(content)
