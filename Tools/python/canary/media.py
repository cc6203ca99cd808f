"""Where a canary may have stayed: files, databases, memory of processes, cores."""

from __future__ import annotations

import gzip
import pathlib
import re
import shutil
import sqlite3
import stat
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from .needles import Canaries, Hit

_CHUNK_BYTES = 8 * 1_024 * 1_024
_SQLITE_MAGIC = b"SQLite format 3\0"


@dataclass
class Search:
    """What was looked through and what was found, by medium."""

    canaries: Canaries
    findings: list[tuple[str, Hit]] = field(default_factory=list)
    media: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def count(self, medium: str, byte_count: int) -> None:
        """Notes that so many bytes of a medium were searched."""
        self.media[medium] = self.media.get(medium, 0) + byte_count

    def _stream(self, medium: str, place: str, chunks: Iterator[tuple[int, bytes]]) -> None:
        kept, expected = b"", -1
        for begin, chunk in chunks:
            self.count(medium, len(chunk))
            if begin != expected:
                kept = b""
            data = kept + chunk
            for hit in self.canaries.search(data, begin - len(kept)):
                self.findings.append((place, hit))
            kept = data[-self.canaries.overlap_bytes:]
            expected = begin + len(chunk)

    # MARK: Files

    def directory(self, path: pathlib.Path, medium: str = "files") -> None:
        """Every regular file below; links are not followed."""
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            try:
                if stat.S_ISREG(file.lstat().st_mode):
                    self.file(file, medium)
            except FileNotFoundError:
                continue  # Removed by the deployment that runs.
            except (OSError, sqlite3.Error) as error:
                self.unreadable.append(f"{file}: {error}")

    def file(self, path: pathlib.Path, medium: str = "files") -> None:
        """Its bytes, its cells if it is a database, and what it holds if it is compressed."""
        def chunks() -> Iterator[tuple[int, bytes]]:
            with open(path, "rb") as file:
                begin = 0
                while chunk := file.read(_CHUNK_BYTES):
                    yield begin, chunk
                    begin += len(chunk)

        self._stream(medium, str(path), chunks())
        with open(path, "rb") as file:
            head = file.read(16)
        if head == _SQLITE_MAGIC:
            self._database(path)
        elif head[:2] == b"\x1f\x8b" or head[:1] == b"\x78":
            self._compressed(path)

    def _compressed(self, path: pathlib.Path) -> None:
        raw = path.read_bytes()
        for unpack in (gzip.decompress, zlib.decompress):
            try:
                plain = unpack(raw)
            except (OSError, EOFError, zlib.error):
                continue
            self._stream("compressed files", str(path), iter([(0, plain)]))

    def _database(self, path: pathlib.Path) -> None:
        """Every cell of a copy, with its log: one longer than a page lies in pieces."""
        with tempfile.TemporaryDirectory(prefix="sluice-canary-") as folder:
            copy = pathlib.Path(folder) / "copy"
            shutil.copyfile(path, copy)
            log = path.with_name(path.name + "-wal")
            if log.exists():
                shutil.copyfile(log, copy.with_name("copy-wal"))
            database = sqlite3.connect(copy)
            database.text_factory = bytes
            names = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            for (name,) in names.fetchall():
                quoted = name.decode().replace('"', '""')
                for row in database.execute(f'SELECT * FROM "{quoted}"'):
                    for cell in row:
                        if isinstance(cell, bytes):
                            place = f"{path}, table {name.decode()}"
                            self._stream("database cells", place, iter([(0, cell)]))
            database.close()

    def content(self, medium: str, place: str, data: bytes) -> None:
        """What was read from somewhere else."""
        self._stream(medium, place, iter([(0, data)]))

    # MARK: Memory

    def memory(self, pid: int, name: str) -> None:
        """All readable memory of a process. Root, or the right to trace it, is needed."""
        def chunks() -> Iterator[tuple[int, bytes]]:
            with open(f"/proc/{pid}/maps") as file:
                maps = file.read()
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                for line in maps.splitlines():
                    match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
                    if not match or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                        continue
                    begin, end = (int(part, 16) for part in match.groups())
                    while begin < end:
                        try:
                            memory.seek(begin)
                            chunk = memory.read(min(_CHUNK_BYTES, end - begin))
                        except OSError:
                            break  # A device's mapping, or it is gone.
                        if not chunk:
                            break
                        yield begin, chunk
                        begin += len(chunk)

        try:
            self._stream(f"memory of {name}", f"memory of {name} ({pid})", chunks())
        except OSError as error:
            self.unreadable.append(f"memory of {name} ({pid}): {error.strerror}")
