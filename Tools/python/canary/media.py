"""Where a needle may have stayed: files, databases, memory of processes, cores.

What cannot be searched is listed with its reason: it shows nothing, and no run with it is clean.
"""

from __future__ import annotations

import bz2
import lzma
import os
import pathlib
import re
import shutil
import sqlite3
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .needles import KEY, Canaries, Hit

_CHUNK_BYTES = 8 * 1_024 * 1_024
_SQLITE_MAGIC = b"SQLite format 3\0"
# A database that is written to while it is copied is copied again.
_COPIES_MAX = 5
# What the kernel maps into every process and lets nobody read from outside, and the rings of
# io_uring, which hold descriptors of operations and no data.
_KERNELS = ("[vvar]", "[vvar_vclock]", "[vsyscall]", "anon_inode:[io_uring]")


def _gunzip() -> Any:
    return zlib.decompressobj(wbits=47)


# How a compressed file begins, and what unpacks one of its parts.
_COMPRESSED: tuple[tuple[bytes, str, Callable[[], Any] | None], ...] = (
    (b"\x1f\x8b", "gzip", _gunzip),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", "xz", lzma.LZMADecompressor),
    (b"\x28\xb5\x2f\xfd", "zstd", None),
    (b"\x04\x22\x4d\x18", "lz4", None),
)


@dataclass
class Search:
    """What was looked through and what was found, by medium."""

    canaries: Canaries
    # The files in which whoever issued keys keeps them.
    keepers: frozenset[pathlib.Path] = frozenset()
    # All that is searched: a link into it leads nowhere else.
    named: tuple[pathlib.Path, ...] = ()
    findings: list[tuple[str, Hit]] = field(default_factory=list)
    media: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def count(self, medium: str, byte_count: int) -> None:
        """Notes that so many bytes of a medium were searched."""
        self.media[medium] = self.media.get(medium, 0) + byte_count

    def _stream(self, medium: str, place: str, chunks: Iterable[tuple[int, bytes]], *,
                memory: bool = False, may_hold_keys: bool = False) -> int:
        kept, expected, total = b"", -1, 0
        for begin, chunk in chunks:
            self.count(medium, len(chunk))
            total += len(chunk)
            if begin != expected:
                kept = b""
            data = kept + chunk
            for hit in self.canaries.search(data, begin - len(kept), memory=memory):
                if not (may_hold_keys and hit.kind == KEY):
                    self.findings.append((place, hit))
            kept = data[-self.canaries.overlap_bytes:]
            expected = begin + len(chunk)
        return total

    def _cannot(self, place: object, error: object) -> None:
        reason = error.strerror if isinstance(error, OSError) else error
        self.unreadable.append(f"{place}: {reason or error}")

    # MARK: Files

    def directory(self, path: pathlib.Path, medium: str = "files") -> None:
        """Every regular file below, or the file itself, also where a link names it. Links further
        down are not followed; where they lead out of what is searched, they are listed."""
        try:
            root = pathlib.Path(os.path.realpath(path, strict=True))
            kind = root.stat().st_mode
        except OSError as error:
            self._cannot(path, error)
            return
        if stat.S_ISREG(kind):
            self._try_file(root, medium)
        elif stat.S_ISDIR(kind):
            self._below(root, root, medium)
        else:
            self._cannot(path, "neither a file nor a directory")

    def _below(self, root: pathlib.Path, folder: pathlib.Path, medium: str) -> None:
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except FileNotFoundError:
            if folder == root:
                self._cannot(folder, "it is gone")
            return  # Removed by the deployment that runs.
        except OSError as error:
            self._cannot(folder, error)
            return
        for entry in entries:
            place = folder / entry.name
            try:
                kind = entry.stat(follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            except OSError as error:
                self._cannot(place, error)
                continue
            if stat.S_ISDIR(kind):
                self._below(root, place, medium)
            elif stat.S_ISREG(kind):
                self._try_file(place, medium)
            elif stat.S_ISLNK(kind):
                self._link(root, place)
            elif stat.S_ISBLK(kind) or stat.S_ISCHR(kind):
                self._cannot(place, "a device")
            # Sockets and pipes keep nothing.

    def _link(self, root: pathlib.Path, place: pathlib.Path) -> None:
        target = pathlib.Path(os.path.realpath(place))
        if not any(target.is_relative_to(each.resolve()) for each in (root, *self.named)):
            self._cannot(place, f"a link to {target}, which was not named")

    def _try_file(self, path: pathlib.Path, medium: str) -> None:
        try:
            self.file(path, medium)
        except FileNotFoundError:
            return  # Removed by the deployment that runs.
        except (OSError, sqlite3.Error) as error:
            self._cannot(path, error)

    def file(self, path: pathlib.Path, medium: str = "files") -> None:
        """Its bytes, its cells if it is a database, and what it holds if it is compressed."""
        def chunks() -> Iterator[tuple[int, bytes]]:
            with open(path, "rb") as file:
                begin = 0
                while chunk := file.read(_CHUNK_BYTES):
                    yield begin, chunk
                    begin += len(chunk)

        self._stream(medium, str(path), chunks(), may_hold_keys=path in self.keepers)
        with open(path, "rb") as file:
            head = file.read(16)
        if head == _SQLITE_MAGIC:
            self._database(path)
        for magic, name, unpacker in _COMPRESSED:
            if head.startswith(magic):
                self._compressed(path, name, unpacker)

    def _compressed(self, path: pathlib.Path, name: str,
                    unpacker: Callable[[], Any] | None) -> None:
        """What a compressed file holds, as far as it has been written."""
        if unpacker is None:
            self._cannot(path, f"compressed with {name}, which cannot be unpacked here")
            return

        def chunks() -> Iterator[tuple[int, bytes]]:
            begin, part = 0, unpacker()
            with open(path, "rb") as file:
                while packed := file.read(_CHUNK_BYTES // 8):
                    while packed:
                        if part.eof:
                            part = unpacker()
                        plain = part.decompress(packed)
                        packed = part.unused_data if part.eof else b""
                        yield begin, plain
                        begin += len(plain)

        try:
            self._stream("compressed files", f"{path}, unpacked", chunks())
        except (zlib.error, lzma.LZMAError, ValueError, EOFError) as error:
            self._cannot(path, f"compressed with {name}: {error}")

    def _database(self, path: pathlib.Path) -> None:
        """Every cell of a copy, with its log: one longer than a page lies in pieces."""
        for attempt in range(_COPIES_MAX):
            try:
                self._cells(path)
                return
            except sqlite3.DatabaseError:
                if attempt == _COPIES_MAX - 1:
                    raise
                time.sleep(0.2)

    def _cells(self, path: pathlib.Path) -> None:
        with tempfile.TemporaryDirectory(prefix="sluice-canary-") as folder:
            copy = pathlib.Path(folder) / "copy"
            shutil.copyfile(path, copy)
            log = path.with_name(path.name + "-wal")
            if log.exists():
                shutil.copyfile(log, copy.with_name("copy-wal"))
            database = sqlite3.connect(copy)
            try:
                database.text_factory = bytes
                names = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
                for (name,) in names.fetchall():
                    quoted = name.decode().replace('"', '""')
                    place = f"{path}, table {name.decode()}"
                    for row in database.execute(f'SELECT * FROM "{quoted}"'):
                        for cell in row:
                            if isinstance(cell, bytes):
                                self._stream("database cells", place, [(0, cell)])
            finally:
                database.close()

    def content(self, medium: str, place: str, data: bytes) -> None:
        """What was read from somewhere else."""
        self._stream(medium, place, [(0, data)])

    # MARK: Memory

    def memory(self, pid: int, name: str) -> None:
        """All readable memory of a process. Root, or the right to trace it, is needed."""
        place = f"memory of {name} ({pid})"
        left: list[tuple[int, int, str]] = []
        try:
            total = self._stream(f"memory of {name}", place, _memory(pid, left), memory=True)
            still = _regions(pid) if left else []
        except OSError as error:
            self._cannot(place, error)
            return
        for begin, end, what in left:
            # What was given back meanwhile holds nothing any more.
            if any(other[0] < end and begin < other[1] for other in still):
                self._cannot(f"{place}, {begin:x}-{end:x} {what}".rstrip(), "cannot be read")
        if total == 0:
            self._cannot(place, "it has none: it has ended")


def _regions(pid: int) -> list[tuple[int, int, str]]:
    """Beginning, end and name of what a process may read of its own memory."""
    with open(f"/proc/{pid}/maps") as file:
        lines = file.read().splitlines()
    found = []
    for line in lines:
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r\S* \S+ \S+ \S+ *(.*)", line)
        if match and match.group(3) not in _KERNELS:
            found.append((int(match.group(1), 16), int(match.group(2), 16), match.group(3)))
    return found


def _memory(pid: int, left: list[tuple[int, int, str]]) -> Iterator[tuple[int, bytes]]:
    """The memory in pieces; what could not be read is added to `left`."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for begin, end, name in _regions(pid):
            while begin < end:
                try:
                    memory.seek(begin)
                    chunk = memory.read(min(_CHUNK_BYTES, end - begin))
                except OSError:
                    chunk = b""
                if not chunk:
                    left.append((begin, end, name))
                    break
                yield begin, chunk
                begin += len(chunk)
