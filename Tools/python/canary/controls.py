"""Positive controls: what is planted must be found where it was planted."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pathlib
import sqlite3
import subprocess
import sys

from faults.cases import check

from .media import Search
from .needles import Canaries, spaced
from .outcome import Outcome
from .rig import Rig, is_root

# What Swift's runtime writes of a register that points to memory.
_REGISTER = "rsi 0x00005582f5e73950  {}  ················\n"


def plant(rig: Rig, outcome: Outcome) -> None:
    """In files of the disk that is searched, in a process, and in PostgreSQL."""
    _files(rig, outcome)
    _needles(rig, outcome)
    if is_root():
        _process(rig, outcome)
    if rig.server:
        _postgres(rig, outcome)


def _found(search: Search) -> set[str]:
    return {pathlib.Path(place.split(",")[0]).name for place, _ in search.findings}


def _files(rig: Rig, outcome: Outcome) -> None:
    planted = rig.disk / "planted"
    planted.mkdir()
    text = rig.canaries.new("planted value")
    value = text.encode()
    forms = {
        "plain": b"x" * 100 + value,
        "a part": b"x" * 100 + value[20:36] + b"x" * 100,
        "hex": value.hex().upper().encode(),
        "hex with colons": value.hex(":").encode(),
        "list of numbers": str(list(value)).encode(),
        "utf-16le": text.encode("utf-16-le"), "utf-16be": text.encode("utf-16-be"),
        "reversed": value[::-1],
        "gzip": gzip.compress(value), "gzip in two parts": gzip.compress(b"x") +
        gzip.compress(value), "bzip2": bz2.compress(value), "xz": lzma.compress(value),
        "log": json.dumps({"event": "leak", "prompt": text}).encode(),
    }
    for shift in range(3):
        forms[f"base64-{shift}"] = base64.b64encode(b"z" * shift + value)
    # Every 16 bytes that a register may point to.
    windows = {f"crash report {at}": _REGISTER.format(spaced(value[at:at + 16]).decode()).encode()
               for at in range(29)}
    for name, data in (forms | windows).items():
        (planted / name).write_bytes(data)
    database = sqlite3.connect(planted / "database")
    database.execute("CREATE TABLE leak (text TEXT)")
    database.execute("INSERT INTO leak VALUES (?)", ("y" * 10_000 + text,))
    database.commit()
    database.close()
    search = rig.search()
    search.directory(planted)
    places = _found(search)
    for name in (*forms, "database"):
        outcome.controls[f"planted as {name}"] = name in places
    outcome.controls["planted as a crash report, at every offset"] = all(
        name in places for name in windows)


def _needles(rig: Rig, outcome: Outcome) -> None:
    """Keys are found outside the files of whoever issued them, and addresses anywhere."""
    planted = rig.disk / "planted keys"
    planted.mkdir()
    key = rig.deployment.tokens[0].encode()
    six, four = rig.canaries.foreign_address(), rig.canaries.loopback_address()
    for address in (six, four):
        rig.canaries.address("a planted address", address, 443)
    forms = {
        "plain": b"Bearer " + key, "hex": key.hex().encode(),
        "base64": base64.b64encode(b":" + key),
        "spaced hex": spaced(key[20:36]),
        "address": f"from {four}:443".encode(), "longer address": f"from [{six}]:443".encode(),
        "address in base64": base64.b64encode(six.encode()),
        "address as bytes": b"\x02\x00\x01\xbb" + bytes(map(int, four.split("."))),
    }
    for name, data in forms.items():
        (planted / name).write_bytes(data)
    search = rig.search()
    search.directory(planted)
    search.directory(rig.deployment.certificates)
    places = _found(search)
    for name in forms:
        outcome.controls[f"planted, key or address, {name}"] = name in places
    outcome.controls["a token in its keeper's file is left out"] = places == set(forms)


def _process(rig: Rig, outcome: Outcome) -> None:
    value = rig.canaries.new("planted value")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys,time; kept=sys.stdin.read(); print(1, flush=True); "
         "time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin and holder.stdout
    try:
        holder.stdin.write(value)
        holder.stdin.close()
        holder.stdout.readline()
        memory = Search(rig.canaries)
        memory.memory(holder.pid, "a process that keeps one")
        outcome.controls["kept by a process"] = bool(memory.findings)
    finally:
        holder.kill()
        holder.wait()


def _postgres(rig: Rig, outcome: Outcome) -> None:
    """In its pages, in its log of changes, and in the dump, where alone long values are whole: in
    its pages they are compressed."""
    server = rig.server
    assert server is not None
    short = rig.canaries.new("planted in PostgreSQL")
    long = Canaries()
    text = "y" * 100_000 + long.new("planted in PostgreSQL, compressed")
    done = subprocess.run(
        [str(server._programs / "psql"), "--quiet", "--dbname", server.url, "--set",
         "ON_ERROR_STOP=1"], capture_output=True, text=True, input=(
            "CREATE TABLE planted (text TEXT);"
            f"INSERT INTO planted VALUES ('{short}'), ('{text}'); CHECKPOINT;"))
    check(done.returncode == 0, f"psql failed: {done.stderr.strip()[-300:]}")
    data = server.folder / "data"
    for name, folder in (("pages", data / "base"), ("log of changes", data / "pg_wal")):
        search = rig.search()
        search.directory(folder)
        outcome.controls[f"planted in PostgreSQL's {name}"] = bool(search.findings)
    for name, needles in (("", rig.canaries), (", where it was compressed", long)):
        search = Search(needles)
        search.content("dump of PostgreSQL", "dump of PostgreSQL", server.dump())
        outcome.controls[f"planted in PostgreSQL, in its dump{name}"] = bool(search.findings)
