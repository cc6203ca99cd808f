"""Faults of the surroundings: clocks that jump, an io_uring that is refused, locked memory."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any

from sluice.codes import Code

from .cases import PATIENCE, Skipped, case, check
from .deployment import Deployment
from .load import Load, ask, connect, watch

_NOBODY = 65_534
_DAY = 86_400


def _movable_clock(deployment: Deployment) -> tuple[dict[str, str], Callable[[int], None]]:
    """Surroundings in which a process's wall clock can be moved, and what moves it."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise Skipped("THIS MACHINE HAS NO C COMPILER for the clock: the case did not run")
    library = deployment.options.disk / "wallclock.so"
    source = pathlib.Path(__file__).with_name("wallclock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)],
                   check=True)
    offset = deployment.options.disk / "clock"

    def move(seconds: int) -> None:
        with open(offset, "r+b" if offset.exists() else "wb") as file:
            file.write(struct.pack("<q", seconds))

    move(0)
    return dict(os.environ, LD_PRELOAD=str(library), SLUICE_WALL_CLOCK=str(offset)), move


@case("the wall clock of broker and sidecar jumps by +90 days, then back by an hour",
      "deadlines keep to real time, nothing expires or is lost, accepted = final", seconds=25)
async def clock_jump(deployment: Deployment) -> str:
    """Only CLOCK_REALTIME jumps; what measures time uses the monotonic clock."""
    surroundings, move = _movable_clock(deployment)
    deployment.make()
    await deployment.start_sidecar(env=surroundings)
    await deployment.start_broker(env=surroundings)
    await deployment.start_worker("--tokens-per-second", "20")
    async with await connect(deployment) as client:
        long = await watch(client, 3_000, deadline_ms=120_000)
        ends = []
        for jump in (0, 90 * _DAY, 90 * _DAY - 3_600):
            move(jump)
            began = time.monotonic()
            short = await watch(client, 3_000, salt=jump, deadline_ms=2_000)
            assert short.job is not None
            async with asyncio.timeout(PATIENCE * 10):
                result = await short.job
            took = time.monotonic() - began
            check(result is not None and result.code == Code.DEADLINE_EXCEEDED,
                  f"ended {result.code.label if result else 'with its connection'}")
            check(took >= 2, f"a deadline of 2 s passed after {took:.1f} s")
            ends.append(f"{took:.1f} s")
            check(long.job is not None and not long.job.done(), "a long task ended with the jump")
        # The sidecar looks for tasks of vanished brokers every 5 s: none may be taken for one.
        await asyncio.sleep(6)
        assert long.job is not None
        check(not long.job.done(), "a long task ended")
        check(deployment.counts().open == 1, f"{deployment.counts()} while one task is open")
        long.task.cancel()
        async with asyncio.timeout(PATIENCE * 5):
            await long.job
    counts = await deployment.settled()
    statuses = [record["status"] for record in deployment.records().values()]
    years = [record["acceptedAt"][:7] for record in deployment.records().values()]
    check(sorted(statuses) == ["cancelled"] + ["deadline_exceeded"] * 3, f"recorded {statuses}")
    check(len(set(years)) > 1, "the clock did not jump for the broker")
    return (f"deadlines of 2 s passed after {', '.join(ends)}; a task open over the jumps stayed "
            f"open; {counts.accepted} accepted = {counts.final} final")


# MARK: io_uring


def refuse_io_uring(code: int) -> Callable[[], None]:
    """A seccomp filter under which the three calls of io_uring fail with ``code``."""
    return_errno, return_allow = 0x0005_0000 | code, 0x7FFF_0000
    # Load the call's number; each of three comparisons jumps to the last instruction.
    filters = [(0x20, 0, 0, 0)]
    filters += [(0x15, 3 - index, 0, 425 + index) for index in range(3)]
    filters += [(0x06, 0, 0, return_allow), (0x06, 0, 0, return_errno)]
    program = b"".join(struct.pack("<HBBI", *each) for each in filters)

    def restrict() -> None:
        library = ctypes.CDLL(None, use_errno=True)
        memory = ctypes.create_string_buffer(program)

        class Program(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

        described = Program(len(filters), ctypes.cast(memory, ctypes.c_void_p))
        if library.prctl(38, 1, 0, 0, 0) or library.prctl(22, 2, ctypes.byref(described), 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp")

    return restrict


@case("io_uring is refused by a seccomp filter, with EPERM and with ENOSYS",
      "`--backend auto` falls back to epoll, says so with the error, and serves",
      seconds=40)
async def io_uring_refused(deployment: Deployment) -> str:
    """As a container does it."""
    deployment.make()
    await deployment.start_sidecar()
    seen = []
    for code in (errno.EPERM, errno.ENOSYS):
        # The later option counts.
        broker = await deployment.start_broker(
            "--backend", "auto", preexec_fn=refuse_io_uring(code))
        check(deployment.backend == "epoll", f"it says that it runs on {deployment.backend}")
        refused = broker.logged("ring_refused")
        check(bool(refused) and refused[0]["errno"] == code, f"logged {refused}")
        worker = await deployment.start_worker()
        async with Load(deployment) as load:
            await deployment.until(lambda: load.completed_count > 30, 10, "30 answers")
            await load.stop()
        seen.append(f"{errno.errorcode[code]}: epoll")
        worker.kill()
        broker.kill()
        forced = deployment.launch_broker("--backend", "ring", preexec_fn=refuse_io_uring(code))
        status = await forced.ended(10)
        check(status > 0, f"--backend ring ended with {forced.end_status()}")
        check(bool(forced.log_text().strip()), "no word of why")
        seen.append(f"--backend ring: status {status}")
    await deployment.start_broker()
    counts = await deployment.settled()
    return f"{'; '.join(seen)}; {counts.accepted} accepted = {counts.final} final"


@case("broker and sidecar run as another user who may lock no memory (RLIMIT_MEMLOCK 0)",
      "they serve, on either backend", seconds=25)
async def memory_lock_refused(deployment: Deployment) -> str:
    """Locking keeps content out of swap; where it is refused the broker still serves."""
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        if not os.access(deployment.options.programs, os.X_OK):
            raise Skipped("the programs are not within reach of another user")
    deployment.make()
    _give_away(deployment)

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))

    await deployment.start_sidecar(preexec_fn=restrict, **user)
    seen = []
    for backend in ("auto", "epoll"):
        broker = await deployment.start_broker("--backend", backend, preexec_fn=restrict, **user)
        worker = await deployment.start_worker()
        async with await connect(deployment) as client:
            for salt in range(10):
                await ask(client, 20, salt)
        refused = broker.logged("ring_refused")
        reason = f" (io_uring: {errno.errorcode[refused[0]['errno']]})" if refused else ""
        seen.append(f"{backend}: {deployment.backend}{reason}")
        worker.kill()
        broker.signal(signal.SIGTERM)
        check(await broker.ended(20) == 0, f"the broker ended with {broker.end_status()}")
    counts = await deployment.settled()
    return f"{', '.join(seen)}; {counts.accepted} accepted = {counts.final} final"


def _give_away(deployment: Deployment) -> None:
    """Makes the other user the owner of the files, and lets it pass to them."""
    if os.getuid() != 0:
        return
    for folder in (deployment.options.disk, deployment.options.memory):
        os.chmod(folder, 0o777)
        for path, _, names in os.walk(folder):
            for each in [path, *(os.path.join(path, name) for name in names)]:
                shutil.chown(each, _NOBODY, _NOBODY)
