"""Defences taken away, to see that the search finds what they hide.

Some defences cover the same thing: a core needs a process that is dumpable *and* a limit that lets
it be written, a crash report needs the setting at the start *and* the runtime's handlers. One of
these taken away alone therefore leaves nothing to be found; that the other still holds is what is
shown then, and both away must be noticed.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from faults.cases import check
from sluice.codes import Code
from sluice.session import ConnectionLost

from .deaths import Deaths
from .drive import Drive
from .engine import Engine
from .media import Search
from .outcome import Outcome
from .rig import Rig, cores_are_files, is_root
from .suppliers import COUNT

_LIBRARY_SOURCE = pathlib.Path(__file__).with_name("undefended.c")
_SECONDS = 30.0
# What a crash report begins with.
_REPORT = "*** Program crashed"
_TASKS = 20

# What can be left: content in memory after the tasks, a core, content in it, a crash report,
# content in it.
MEMORY, CORE, CORE_CONTENT, REPORT, REPORT_CONTENT = (
    "memory", "a core", "content in a core", "a crash report", "content in a crash report")


@dataclass(frozen=True)
class Mutation:
    """Defences taken away together, how the program ends then, and exactly what is left."""

    taken: tuple[str, ...]
    way: str
    left: frozenset[str]
    words: str
    who: str = "broker"
    # Whether what is left is the same in every run; else it is told and fails nothing.
    judged: bool = True


def _mutation(taken: str, way: str, *left: str, words: str) -> Mutation:
    return Mutation(tuple(taken.split()), way, frozenset(left), words)


def _cores_of(who: str) -> tuple[Mutation, ...]:
    """Worker and gateway hold content in ordinary memory: no core of theirs may be left at all."""
    return tuple(Mutation(tuple(taken.split()), "segv", frozenset(left), f"{who}, {words}", who)
                 for taken, left, words in (
        ("dumpable", (), "dumpable: no core is left, the limit of cores still holds"),
        ("limit", (), "no limit of cores: no core is left, it is still not dumpable"),
        ("dumpable limit", (CORE, CORE_CONTENT),
         "dumpable without a limit of cores: its core holds content")))


MUTATIONS = (
    _mutation("", "trap", words="with all defences, a trap on content leaves nothing"),
    _mutation("", "segv", words="with all defences, a crash leaves nothing"),
    _mutation("", "run", words="with all defences, ended tasks leave nothing in memory"),
    _mutation("dumpable", "segv",
              words="dumpable: no core is left, the limit of cores still holds"),
    _mutation("limit", "segv",
              words="no limit of cores: no core is left, the process is still not dumpable"),
    _mutation("exclusion", "segv",
              words="the arena is not excluded: no core is left that could show it"),
    _mutation("backtraces", "trap",
              words="crash reports are left on: none is left, the handlers are still removed"),
    _mutation("handlers", "trap",
              words="the handlers stay: no report is left, the process started with them off"),
    _mutation("dumpable limit", "segv", CORE,
              words="dumpable without a limit of cores: a core is left, the arena is not in it"),
    _mutation("dumpable limit exclusion", "segv", CORE, CORE_CONTENT,
              words="the arena is not excluded either: the core holds content"),
    _mutation("backtraces handlers", "trap", REPORT, REPORT_CONTENT,
              words="crash reports are left on and the handlers stay: the report holds content"),
    _mutation("chunks", "run", MEMORY,
              words="bodies and answers that waited are not wiped: content stays in memory"),
    _mutation("incoming", "run", MEMORY,
              words="plaintext as it came is not wiped: content stays in memory"),
    _mutation("outgoing", "run", MEMORY,
              words="plaintext on its way out is not wiped: content stays in memory"),
    Mutation(("heap",), "run", frozenset(), "OpenSSL's heap is not wiped", judged=False),
    Mutation(("cleansing",), "run", frozenset(), "keys and records are not cleansed", judged=False),
    *_cores_of("worker"),
    *_cores_of("gateway"),
)


def build_library(folder: pathlib.Path) -> pathlib.Path | None:
    """The library that takes defences away; nil without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "undefended.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-fno-builtin", "-o", str(library),
                    str(_LIBRARY_SOURCE), "-ldl"], check=True, capture_output=True)
    return library


class Undefended:
    """Programs of one deployment, each without the defences of one mutation."""

    def __init__(self, rig: Rig, library: pathlib.Path, engine: Engine) -> None:
        self._rig = rig
        self._library = library
        self._engine = engine
        self._drive = Drive(rig)
        self._deaths = Deaths(rig, self._drive, Outcome())
        self._notes = rig.disk / "withheld"

    def _environment(self, mutation: Mutation) -> Mapping[str, str]:
        environment = {"LD_PRELOAD": str(self._library),
                       "SLUICE_UNDEFENDED": ",".join(mutation.taken),
                       "SLUICE_UNDEFENDED_NOTES": str(self._notes)}
        if mutation.way == "trap":
            environment["SLUICE_TRAP_AT"] = self._rig.canaries.mark
        return environment

    async def left(self, mutation: Mutation) -> frozenset[str]:
        """What a program without these defences leaves. Fails where one was not asked for: then
        it has no such defence, and taking it away shows nothing."""
        rig = self._rig
        for core in rig.core_files():
            core.unlink()
        self._notes.unlink(missing_ok=True)
        found = set()
        if mutation.who == "broker":
            await rig.start_broker(env=os.environ | self._environment(mutation))
            broker = rig.deployment.broker
            await self._drive.suppliers.connect(rig.deployment)
            if mutation.way == "run":
                found |= await self._run()
                broker.kill()
            else:
                await self._crash(mutation)
                found |= self._core() | self._report()
        else:
            await self._crash_beside(mutation)
            found |= self._core()
        withheld = set(self._notes.read_text().split()) if self._notes.exists() else set()
        check(withheld == set(mutation.taken),
              f"{mutation.words}: of {', '.join(mutation.taken)} it asked for "
              f"{', '.join(sorted(withheld)) or 'none'}")
        return frozenset(found)

    async def _run(self) -> set[str]:
        async with await self._drive.client() as client:
            for number in range(_TASKS):
                # From a small one, which passes through, to one that waits for its supplier.
                prompt = self._drive.prompt("completed", copies=50 * (number + 1))
                task = await client.submit("answers", prompt)
                check((await task.finished()).code is Code.COMPLETED, "a task did not complete")
        await self._rig.barrier()
        search = self._rig.search()
        await asyncio.to_thread(search.memory, self._rig.deployment.broker.pid, "broker")
        check(not search.unreadable, f"not searched: {search.unreadable}")
        return {MEMORY} if search.findings else set()

    async def _crash(self, mutation: Mutation) -> None:
        broker = self._rig.deployment.broker
        if mutation.way == "segv":
            client, task = await self._drive.open_task("a crash")
            number = signal.SIGSEGV
            broker.signal(number)
        else:
            # It traps at the first content that it is about to wipe.
            client, number = await self._drive.client(), signal.SIGILL
            task = await client.submit("answers", self._drive.prompt("a trap", copies=50))
        try:
            async with asyncio.timeout(_SECONDS):
                await task.finished()
            check(False, f"{mutation.words}: the broker went on")
        except ConnectionLost:
            pass
        check(await broker.ended(_SECONDS) == -number,
              f"{mutation.words}: the broker ended with {broker.end_status()}")
        client.session._writer.transport.abort()

    async def _crash_beside(self, mutation: Mutation) -> None:
        """Worker or gateway, with a broker that has all its defences."""
        await self._rig.start_broker()
        environment = self._environment(mutation)
        if mutation.who == "worker":
            worker = await self._deaths.start_worker(self._engine, environment)
            await self._deaths.worker(worker, signal.SIGSEGV)
        else:
            worker = await self._deaths.start_worker(self._engine)
            gateway = await self._deaths.start_gateway(environment)
            await self._deaths.gateway(gateway, signal.SIGSEGV)
        worker.kill()
        self._rig.deployment.broker.kill()

    def _core(self) -> set[str]:
        if not self._rig.core_files():
            return set()
        search = self._rig.search()
        search.directory(self._rig.cores, "cores")
        check(not search.unreadable, f"not searched: {search.unreadable}")
        return {CORE, CORE_CONTENT} if search.findings else {CORE}

    def _report(self) -> set[str]:
        text = self._rig.deployment.broker.log_text()
        search = Search(self._rig.canaries)
        search.content("crash reports", "crash report", text.encode())
        if _REPORT not in text:
            return {REPORT_CONTENT} if search.findings else set()
        return {REPORT, REPORT_CONTENT} if search.findings else {REPORT}

    def has_reporter(self) -> bool:
        """Whether Swift's runtime has the program that writes crash reports."""
        maps = pathlib.Path(f"/proc/{self._rig.deployment.broker.pid}/maps").read_text()
        match = re.search(r"(/\S*)/lib/swift/linux/libswiftCore\.so", maps)
        return bool(match and pathlib.Path(
            match.group(1), "libexec/swift/linux/swift-backtrace").exists())


async def _all(rig: Rig, library: pathlib.Path, engine: Engine, outcome: Outcome) -> None:
    rig.make(suppliers=COUNT)
    await rig.deployment.start_sidecar()
    await rig.start_broker()
    undefended = Undefended(rig, library, engine)
    reporter = undefended.has_reporter()
    rig.deployment.broker.kill()
    if not cores_are_files():
        outcome.notes.append("not shown: cores, which this machine hands to a program")
    if not reporter:
        outcome.notes.append("not shown: crash reports, for which this machine has no program")
    for mutation in MUTATIONS:
        if (CORE in mutation.left and not cores_are_files()) or (
                REPORT in mutation.left and not reporter):
            continue
        left = await undefended.left(mutation)
        if not mutation.judged:
            outcome.notes.append(f"{mutation.words}: of content was left in this run: "
                                 f"{', '.join(sorted(left)) or 'nothing'}")
            continue
        outcome.controls[mutation.words] = left == mutation.left
        if left != mutation.left:
            outcome.notes.append(f"{mutation.words}: left {', '.join(sorted(left)) or 'nothing'}, "
                                 f"expected {', '.join(sorted(mutation.left)) or 'nothing'}")


def negative_controls(programs: pathlib.Path, backend: str, outcome: Outcome) -> None:
    """With defences gone the same search must find something."""
    with tempfile.TemporaryDirectory(prefix="sluice-canary-") as folder:
        library = build_library(pathlib.Path(folder))
        if library is None or not is_root():
            outcome.notes.append("not shown: that a missing defence is noticed, which needs root "
                                 "and a C compiler")
            return
        rig = Rig(programs, backend)
        engine = Engine(rig.canaries)
        engine.start()
        try:
            asyncio.run(_all(rig, library, engine, outcome))
        finally:
            engine.stop()
            rig.remove()
