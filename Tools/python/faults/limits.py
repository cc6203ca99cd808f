"""Faults of a limit that the kernel holds the broker to: the memory of its control group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib

from sluice.client import TaskFailed
from sluice.codes import Code

from .cases import Skipped, case, check
from .deployment import Deployment
from .load import Load, connect

_MIB = 1 << 20
_BODIES_MIB, _ANSWERS_MIB = 24, 16
# ARCHITECTURE.md, "Memory": what one shard needs beside its content and its instance's files.
_BESIDE_MIB = 48
_INSTANCE_MIB = 21
_BODY_BYTES = 4 * _MIB


def writable_group() -> pathlib.Path:
    """A directory of cgroup v2 in which a group with a memory limit can be made, made for this
    case. Raises ``Skipped`` with what is missing."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    roots = [pathlib.Path(fields[4]) for line in mounts
             if (fields := line.split()) and fields[fields.index("-") + 1] == "cgroup2"]
    if not roots:
        raise Skipped("THIS MACHINE HAS NO CGROUP V2: the case did not run")
    own = next((line[3:] for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()
                if line.startswith("0::")), "/")
    parent = roots[0] / own.lstrip("/")
    while parent != roots[0] and _controls_memory(parent) is None:
        parent = parent.parent
    if _controls_memory(parent) is None:
        raise Skipped(f"CGROUP V2 AT {roots[0]} DOES NOT CONTROL MEMORY (another version may, or "
                      "its parent keeps it): the case did not run")
    group = parent / f"sluice-limits-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.max").read_text()
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise Skipped(f"NO GROUP CAN BE MADE IN {parent} ({error.strerror}): the case did not "
                      "run") from None
    return group


def _controls_memory(group: pathlib.Path) -> bool | None:
    try:
        return True if "memory" in (group / "cgroup.subtree_control").read_text().split() else None
    except OSError:
        return None


@case(f"the broker's control group has no more memory than its flags add up to ({_BODIES_MIB} and "
      f"{_ANSWERS_MIB} MiB of content), and bodies that wait take all of theirs",
      "the kernel kills nothing; who finds no room is refused, others are served", seconds=30)
async def memory_limited(deployment: Deployment) -> str:
    """Bodies of 4 MiB for a supplier that never answers, beside usual tasks."""
    group = writable_group()
    limit = (_BODIES_MIB + _ANSWERS_MIB + _BESIDE_MIB + _INSTANCE_MIB) * _MIB
    try:
        (group / "memory.max").write_text(str(limit))
        with contextlib.suppress(OSError):
            (group / "memory.swap.max").write_text("0")

        def join() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

        deployment.make()
        await deployment.start_sidecar()
        await deployment.start_broker(
            "--shards", "1", "--body-memory", str(_BODIES_MIB), "--answer-memory",
            str(_ANSWERS_MIB), preexec_fn=join)
        await deployment.start_worker()
        await deployment.start_silent_supplier("silent", 1)
        refused = 0
        async with await connect(deployment) as client, Load(deployment) as load:
            waiting = []
            for _ in range(_BODIES_MIB * _MIB // _BODY_BYTES + 2):
                task = await client.submit("silent", bytes(_BODY_BYTES))
                try:
                    async with asyncio.timeout(30):
                        await task.accepted()
                    waiting.append(task)
                except TaskFailed as failure:
                    check(failure.code in (Code.BODY_ARENA_FULL, Code.QUEUE_FULL,
                                           Code.RATE_LIMITED), f"ended {failure.code.label}")
                    refused += 1
            check(refused > 0, "the body memory was never full")
            before = load.completed_count
            await deployment.until(lambda: load.completed_count > before + 50, 15, "50 answers")
            for task in waiting:
                task.cancel()
            await load.stop()
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        check(events.get("oom_kill") == "0", f"the kernel killed: {events}")
        most = int((group / "memory.peak").read_text()) if (group / "memory.peak").exists() else 0
        return (f"{len(waiting)} bodies of 4 MiB waited, {refused} refused; at most "
                f"{most >> 20} of {limit >> 20} MiB, nothing killed")
    finally:
        for program in deployment.programs:
            program.kill()
        with contextlib.suppress(OSError):
            group.rmdir()
