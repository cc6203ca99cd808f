"""The command: drives, waits until all is over, searches, and says what it found."""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import json
import os
import pathlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from faults.cases import Failed, check
from faults.deployment import Deployment, Options

from throwaway.postgres import Missing, Postgres

from .against import against
from .drive import Drive
from .engine import MODEL, Engine, GatewayWays
from .media import Search
from .needles import Canaries

ROOT = pathlib.Path(__file__).resolve().parents[3]
_LIBRARY_SOURCE = pathlib.Path(__file__).with_name("undefended.c")


@dataclass
class Outcome:
    """What one run showed."""

    ends: dict[str, str] = field(default_factory=dict)
    controls: dict[str, bool] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    media: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Nothing was found that must not be, and everything that must be was."""
        return not self.findings and all(self.controls.values())

    def take(self, search: Search) -> None:
        """Adds what a search did and found."""
        for medium, count in search.media.items():
            self.media[medium] = self.media.get(medium, 0) + count
        self.findings += [f"{place}: {hit.canary} ({hit.form}) at {hit.offset}"
                          for place, hit in search.findings]
        self.notes += [f"not searched: {text}" for text in search.unreadable]


    def report(self, search: Search) -> None:
        """Adds what a search did, and what it found as a report: worker and gateway overwrite what
        they free, but a connection that stays may keep the last that went over it."""
        for medium, count in search.media.items():
            self.media[medium] = self.media.get(medium, 0) + count
        places = Counter(f"{medium.partition(' (')[0]}: {hit.canary} ({hit.form})"
                         for medium, hit in search.findings)
        self.kept |= places
        self.notes += [f"not searched: {text}" for text in search.unreadable]


class Rig:
    """Directories of one run, and the processes in them."""

    def __init__(self, programs: pathlib.Path, backend: str) -> None:
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.disk = pathlib.Path(tempfile.mkdtemp(prefix="sluice-canary-"))
        self.shared = pathlib.Path(tempfile.mkdtemp(prefix="sluice-canary-", dir=shared))
        self.cores = self.disk / "cores"
        self.cores.mkdir()
        options = Options(programs, self.disk, self.shared, backend, ())
        self.deployment = Deployment(options)
        self.canaries = Canaries()
        self.server: Postgres | None = None

    @property
    def directories(self) -> list[pathlib.Path]:
        """Everything that the processes could write to."""
        return [self.disk, self.shared] + ([self.server.folder] if self.server else [])

    def use_postgres(self) -> None:
        """Keeps the store on a PostgreSQL server of its own. Raises ``Missing``."""
        self.server = Postgres().__enter__()
        self.deployment.store = self.server.url

    def remove(self) -> None:
        """Ends the processes and removes the directories."""
        self.deployment.stop()
        if self.server:
            self.server.__exit__(None, None, None)
        for folder in (self.disk, self.shared):
            shutil.rmtree(folder, ignore_errors=True)


def _is_root() -> bool:
    return os.geteuid() == 0


# MARK: The whole suite


async def suite(rig: Rig, outcome: Outcome) -> None:
    """All ends, all media, with the positive controls of each.

    Searches run on a thread: the peers of this process must not fall silent meanwhile.
    """
    deployment = rig.deployment
    deployment.make(suppliers=3)
    payer = deployment.issue_prepaid("payer")
    await deployment.start_sidecar()
    await _start_broker(rig)
    drive = Drive(deployment, rig.canaries, payer)
    await drive.suppliers.connect(deployment)
    stalled = asyncio.create_task(drive.stalled())

    # A task that runs is in the broker's memory: where the search must find something.
    client, task = await drive.open_task("running task")
    if _is_root():
        live = Search(rig.canaries)
        await asyncio.to_thread(live.memory, deployment.broker.pid, "broker")
        outcome.controls["a running task is found in the broker's memory"] = bool(live.findings)
    else:
        outcome.notes.append("not searched: memory of processes, which needs root")
    task.cancel()
    await client.close()

    await drive.tasks()
    await _beside_broker(rig, outcome, drive)
    await stalled
    await _barrier(deployment)
    outcome.take(await asyncio.to_thread(_search_all, rig))

    # Processes that die with tasks open, and what they leave.
    await drive.process("sidecar killed", signal.SIGKILL, broker=False)
    await deployment.start_sidecar()
    for number, name in ((signal.SIGKILL, "broker killed"), (signal.SIGSEGV, "broker crashed"),
                         (signal.SIGTERM, "broker drained")):
        await drive.process(name, number, broker=True)
        outcome.take(await asyncio.to_thread(_search_files, rig))
        outcome.findings += [f"{core}: a core, with all guards in place"
                             for core in rig.cores.iterdir()]
        await _start_broker(rig)
        await drive.suppliers.connect(deployment)
    await _barrier(deployment)
    outcome.take(await asyncio.to_thread(_search_all, rig))
    outcome.ends |= drive.ends
    _plant(rig, outcome)


async def _beside_broker(rig: Rig, outcome: Outcome, drive: Drive) -> None:
    """A real worker in front of an engine, and the gateway in front of the broker: the ways
    through them, then their memory."""
    deployment = rig.deployment
    engine = Engine(rig.canaries)
    engine.start()
    try:
        worker = await deployment.start_worker(
            "--upstream", engine.url, supplier=2, engine="", slots=16)
        gateway = await deployment.start_gateway()
        if _is_root():
            async with await drive.client() as client:
                body = {"messages": [{"role": "user", "content": "endless " + drive.prompt(
                    "a worker's running task")}]}
                task = await client.submit(MODEL, body)
                async for _ in task:
                    break
                live = Search(rig.canaries)
                await asyncio.to_thread(live.memory, worker.pid, "worker")
                outcome.controls["a running task is found in the worker's memory"] = bool(
                    live.findings)
                task.cancel()
                await drive.end("worker, cancelled in the answer", task)
        ways = GatewayWays(int((await gateway.event("listening"))["port"]), deployment.key,
                           rig.canaries)
        await asyncio.to_thread(ways.all)
        drive.ends |= ways.ends
        await _barrier(deployment)
        if _is_root():
            search = Search(rig.canaries)
            await asyncio.to_thread(search.memory, worker.pid, "worker")
            await asyncio.to_thread(search.memory, gateway.pid, "gateway")
            outcome.report(search)
        for program in (gateway, worker):
            program.signal(signal.SIGTERM)
            check(await program.ended(30) == 0, f"{program.name}: {program.end_status()}")
    finally:
        await asyncio.to_thread(engine.stop)


async def _start_broker(rig: Rig) -> None:
    """Where cores would be written and found, if its own guards did not forbid them. With little
    memory for answers, so that it can be filled."""
    await rig.deployment.start_broker(
        "--drain-seconds", "2", "--answer-memory", "2", cwd=str(rig.cores),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)))


async def _barrier(deployment: Deployment) -> None:
    """All tasks have ended and are written down."""
    await deployment.settled(30)
    await asyncio.sleep(1.2)  # record buffers of connections in use live for a second


def _search_files(rig: Rig) -> Search:
    search = Search(rig.canaries)
    for directory in rig.directories:
        search.directory(directory)
    if rig.server:
        search.content("dump of PostgreSQL", "dump of PostgreSQL", rig.server.dump())
    return search


def _search_all(rig: Rig) -> Search:
    search = _search_files(rig)
    if _is_root():
        search.memory(rig.deployment.broker.pid, "broker")
        search.memory(rig.deployment.sidecar.pid, "sidecar")
    return search


def _plant(rig: Rig, outcome: Outcome) -> None:
    """Positive controls: what is planted must be found where it was planted."""
    planted = rig.disk / "planted"
    planted.mkdir()
    value = rig.canaries.new("planted value")
    (planted / "plain").write_text("x" * 100 + value)
    (planted / "hex").write_text(value.encode().hex().upper())
    (planted / "wide").write_bytes(value.encode("utf-16-le"))
    (planted / "wide-be").write_bytes(value.encode("utf-16-be"))
    (planted / "reversed").write_text(value[::-1])
    for shift in range(3):
        (planted / f"base64-{shift}").write_bytes(base64.b64encode(b"z" * shift + value.encode()))
    (planted / "gzip").write_bytes(gzip.compress(value.encode()))
    database = sqlite3.connect(planted / "database")
    database.execute("CREATE TABLE leak (text TEXT)")
    database.execute("INSERT INTO leak VALUES (?)", ("y" * 10_000 + value,))
    database.commit()
    database.close()
    log = rig.disk / "planted.log"
    log.write_text(json.dumps({"event": "leak", "prompt": value}) + "\n")
    search = Search(rig.canaries)
    search.directory(rig.disk)
    places = {pathlib.Path(place.split(",")[0]).name for place, _ in search.findings}
    for name in ("plain", "hex", "wide", "wide-be", "reversed", "base64-0", "base64-1", "base64-2",
                 "gzip", "database", "planted.log"):
        outcome.controls[f"planted in {name}"] = name in places
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys,time; kept=sys.stdin.read(); print(1, flush=True); "
         "time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin and holder.stdout
    try:
        holder.stdin.write(value)
        holder.stdin.close()
        holder.stdout.readline()
        if _is_root():
            memory = Search(rig.canaries)
            memory.memory(holder.pid, "a process that keeps one")
            outcome.controls["kept by a process"] = bool(memory.findings)
    finally:
        holder.kill()
        holder.wait()


# MARK: Without a defence


def build_library(folder: pathlib.Path) -> pathlib.Path | None:
    """The library that takes defences away; nil without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "undefended.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library),
                    str(_LIBRARY_SOURCE), "-ldl"], check=True, capture_output=True)
    return library


async def undefended(rig: Rig, library: pathlib.Path, taken: str, crash: bool) -> list[str]:
    """What a broker without these defences leaves in its memory, or in its core."""
    deployment = rig.deployment
    deployment.make(suppliers=2)
    await deployment.start_sidecar()
    environment = {**os.environ, "LD_PRELOAD": str(library), "SLUICE_UNDEFENDED": taken}
    await deployment.start_broker(
        env=environment, cwd=str(rig.cores),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)))
    drive = Drive(deployment, rig.canaries)
    await drive.suppliers.connect(deployment)
    search = Search(rig.canaries)
    if crash:
        await drive.process("broker crashed", signal.SIGSEGV, broker=True)
        search.directory(rig.cores, "cores")
        return [f"{place}: {hit.canary}" for place, hit in search.findings] + [
            f"{file}" for file in rig.cores.iterdir() if not search.findings]
    async with await drive.client() as client:
        task = await client.submit("answers", drive.prompt("completed", copies=200))
        await task.finished()
    await _barrier(deployment)
    search.memory(deployment.broker.pid, "broker")
    return [f"{place}: {hit.canary}" for place, hit in search.findings]


def _cores_are_files() -> bool:
    """Whether a crash writes its core beside the process, where this run can look at it."""
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    return "/" not in pattern and not pattern.startswith("|")


def negative_controls(options: argparse.Namespace, outcome: Outcome) -> None:
    """With one defence gone the same search must find something."""
    with tempfile.TemporaryDirectory(prefix="sluice-canary-") as folder:
        library = build_library(pathlib.Path(folder))
        if library is None or not _is_root():
            outcome.notes.append("not shown: that a missing defence is noticed, which needs root "
                                 "and a C compiler")
            return
        cases = [("wiping", False, "without wiping, content stays in memory")]
        if _cores_are_files():
            cases.append(("cores,dumping", True, "without its guards, a core holds content"))
        else:
            outcome.notes.append("not shown: cores, which this machine hands to a program")
        for taken, crash, what in cases:
            rig = Rig(options.programs, options.backend)
            try:
                found = asyncio.run(undefended(rig, library, taken, crash))
                outcome.controls[what] = any("prompt" in text or "answer" in text
                                             for text in found)
            finally:
                rig.remove()
        if _cores_are_files():
            rig = Rig(options.programs, options.backend)
            try:
                found = asyncio.run(undefended(rig, library, "cores", True))
                outcome.controls["a core was written to be searched"] = bool(found)
                outcome.findings += [text for text in found if ": " in text]
            finally:
                rig.remove()


# MARK: Words


def _show(outcome: Outcome, seconds: float, as_json: bool) -> None:
    if as_json:
        print(json.dumps({
            "clean": outcome.is_clean, "ends": outcome.ends, "controls": outcome.controls,
            "findings": outcome.findings, "searchedBytes": outcome.media,
            "kept": outcome.kept, "notes": outcome.notes, "seconds": round(seconds, 1)}))
        return
    for name, end in outcome.ends.items():
        print(f"driven      {name}: {end}")
    for medium, count in outcome.media.items():
        print(f"searched    {medium}: {count / 1_048_576:.1f} MiB")
    for name, found in outcome.controls.items():
        print(f"control     {name}: {'found' if found else 'NOT FOUND'}")
    for name, count in outcome.kept.items():
        print(f"note: kept, not promised otherwise: {name} at {count} places")
    for note in outcome.notes:
        print(f"note: {note}")
    for finding in outcome.findings[:50]:
        print(f"FOUND       {finding}")
    print(f"canary: {len(outcome.ends)} ends, {len(outcome.findings)} findings, "
          f"{sum(outcome.controls.values())} of {len(outcome.controls)} controls, "
          f"{seconds:.0f} s")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="Tools/canary", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--backend", choices=("auto", "ring", "epoll"), default="auto")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path(
        os.environ.get("SLUICE_PROGRAMS", ROOT / ".build" / "release")))
    own = parser.add_argument_group("against a deployment of your own")
    own.add_argument("--broker", metavar="HOST:PORT")
    own.add_argument("--ca", metavar="FILE")
    own.add_argument("--key-file", metavar="FILE")
    own.add_argument("--model", action="append", default=[])
    own.add_argument("--search", action="append", default=[], type=pathlib.Path, metavar="PATH")
    own.add_argument("--pid", action="append", default=[], type=int)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """0: clean; 1: something was found, or a control was not; 2: it could not be run."""
    options = _arguments(words)
    outcome, began = Outcome(), time.monotonic()
    try:
        if options.broker:
            asyncio.run(against(options, outcome))
        else:
            rig = Rig(options.programs, options.backend)
            try:
                if options.store == "postgres":
                    rig.use_postgres()
                asyncio.run(suite(rig, outcome))
            finally:
                rig.remove()
            # They do not look at the store.
            if options.store == "sqlite":
                negative_controls(options, outcome)
    except (Failed, Missing, TimeoutError) as failure:
        print(f"canary: {failure or 'a step took too long'}", file=sys.stderr)
        return 2
    _show(outcome, time.monotonic() - began, options.json)
    return 0 if outcome.is_clean else 1
