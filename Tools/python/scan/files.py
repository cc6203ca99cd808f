"""Everything that a directory holds, as bytes to be searched."""

from __future__ import annotations

import pathlib
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from scan.needles import Needle

CHUNK_BYTES = 8 * 1024 * 1024
SQLITE_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True)
class Finding:
    value: str
    form: str
    path: str
    # Byte in the file, or `table.column` of a database.
    place: str


@dataclass
class Report:
    findings: set[Finding] = field(default_factory=set)
    files: int = 0
    bytes: int = 0
    cells: int = 0
    unreadable: list[str] = field(default_factory=list)


def search(data: bytes, needles: list[Needle]) -> Iterator[tuple[Needle, int]]:
    for needle in needles:
        for match in needle.pattern.finditer(data):
            yield needle, match.start()


def scan_file(
    path: pathlib.Path, needles: list[Needle], report: Report, chunk_bytes: int = CHUNK_BYTES
) -> None:
    """Chunk after chunk; each begins with the end of the one before, so that nothing is cut. What
    only one side of a cut decides is decided by the chunk that sees both sides."""
    overlap = max(needle.length for needle in needles) + 1
    with open(path, "rb") as file:
        kept = b""
        begin = 0
        while chunk := file.read(chunk_bytes):
            report.bytes += len(chunk)
            data = kept + chunk
            for needle, offset in search(data, needles):
                report.findings.add(
                    Finding(needle.value, needle.form, str(path), str(begin + offset)))
            kept = data[-overlap:]
            begin += len(data) - len(kept)


def scan_database(path: pathlib.Path, needles: list[Needle], report: Report) -> None:
    """Every cell: one that is longer than a page lies in pieces. It is a copy that is opened, with
    its log, so that nothing of the original is changed."""
    with tempfile.TemporaryDirectory(prefix="sluice-scan-") as folder:
        copy = pathlib.Path(folder) / "copy"
        shutil.copyfile(path, copy)
        log = path.with_name(path.name + "-wal")
        if log.exists():
            shutil.copyfile(log, copy.with_name("copy-wal"))
        database = sqlite3.connect(copy)
        database.text_factory = bytes
        tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for (name,) in tables:
            table = name.decode()
            quoted = table.replace('"', '""')
            rows = database.execute(f'SELECT * FROM "{quoted}"')
            for row in rows:
                for column, cell in zip(rows.description, row):
                    if not isinstance(cell, bytes):
                        continue
                    report.cells += 1
                    for needle, _ in search(cell, needles):
                        report.findings.add(
                            Finding(
                                needle.value, needle.form, str(path), f"{table}.{column[0]}"))
        database.close()


def scan(
    directories: list[pathlib.Path], needles: list[Needle], excepted: set[pathlib.Path],
    chunk_bytes: int = CHUNK_BYTES
) -> Report:
    """Regular files only; links are not followed."""
    report = Report()
    for directory in directories:
        paths = [directory] if directory.is_file() else sorted(directory.rglob("*"))
        if not directory.exists():
            report.unreadable.append(str(directory))
        for path in paths:
            try:
                if not stat.S_ISREG(path.lstat().st_mode) or path.resolve() in excepted:
                    continue
                scan_file(path, needles, report, chunk_bytes)
                with open(path, "rb") as file:
                    is_database = file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
                if is_database:
                    scan_database(path, needles, report)
                report.files += 1
            except FileNotFoundError:
                # Removed by the deployment that runs.
                continue
            except (OSError, sqlite3.Error):
                report.unreadable.append(str(path))
    return report
