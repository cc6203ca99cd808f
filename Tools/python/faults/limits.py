"""Faults of a limit that the kernel holds the broker to: the memory of its control group."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter

from sluice import Client
from sluice.client import Task, TaskFailed
from sluice.codes import Code
from sluice.session import ConnectionLost

from .cases import PATIENCE, case, check
from .deployment import Deployment
from .groups import MemoryGroup
from .load import Load, connect

_MIB = 1 << 20
_BODIES_MIB, _ANSWERS_MIB = 24, 16
# ARCHITECTURE.md, "Memory": what one shard needs beside its content and its instance's files.
_BESIDE_MIB = 48
_INSTANCE_MIB = 21
_BODY_BYTES = 4 * _MIB


async def _start(deployment: Deployment, group: MemoryGroup, bodies_mib: int) -> None:
    """A broker in the group beside a sidecar and suppliers that are not."""
    await deployment.start_sidecar()
    await _start_broker(deployment, group, bodies_mib)
    await deployment.start_worker()


async def _start_broker(deployment: Deployment, group: MemoryGroup, bodies_mib: int) -> None:
    await deployment.start_broker(
        "--shards", "1", "--body-memory", str(bodies_mib), "--answer-memory", str(_ANSWERS_MIB),
        preexec_fn=group.join)
    await deployment.start_silent_supplier("silent", 1)


async def _fill(client: Client, count: int) -> tuple[list[Task], int]:
    """Bodies that wait for a supplier that never answers: those accepted, and how many others
    were refused. Ends early with the connection."""
    waiting: list[Task] = []
    refused = 0
    for _ in range(count):
        try:
            async with asyncio.timeout(PATIENCE * 10):
                task = await client.submit("silent", bytes(_BODY_BYTES))
                await task.accepted()
            waiting.append(task)
        except TaskFailed as failure:
            check(failure.code in (Code.BODY_ARENA_FULL, Code.QUEUE_FULL, Code.RATE_LIMITED),
                  f"ended {failure.code.label}")
            refused += 1
        except ConnectionLost:
            break
    return waiting, refused


@case(f"the broker's control group has no more memory than its flags add up to ({_BODIES_MIB} and "
      f"{_ANSWERS_MIB} MiB of content), and bodies that wait take all of theirs",
      "the kernel kills nothing; who finds no room is refused, others are served; accepted = final",
      seconds=30)
async def memory_limited(deployment: Deployment) -> str:
    """Bodies of 4 MiB for a supplier that never answers, beside usual tasks."""
    group = MemoryGroup.make()
    limit = (_BODIES_MIB + _ANSWERS_MIB + _BESIDE_MIB + _INSTANCE_MIB) * _MIB
    try:
        group.limit(limit)
        deployment.make()
        await _start(deployment, group, _BODIES_MIB)
        async with await connect(deployment) as client, Load(deployment) as load:
            waiting, refused = await _fill(client, _BODIES_MIB * _MIB // _BODY_BYTES + 2)
            check(refused > 0, "the body memory was never full")
            before = load.completed_count
            await deployment.until(lambda: load.completed_count > before + 50, 15, "50 answers")
            for task in waiting:
                task.cancel()
            await load.stop()
        check(group.kills == 0, f"the kernel killed {group.kills} processes")
        counts = await deployment.settled()
        load.check_recorded()
        return (f"{len(waiting)} bodies of 4 MiB waited, {refused} refused; at most "
                f"{group.peak_bytes >> 20} of {limit >> 20} MiB (version {group.version}), nothing "
                f"killed; {counts.accepted} accepted = {counts.final} final")
    finally:
        deployment.stop()
        group.remove()


@case("the broker's control group has 64 MiB less than its flags add up to, and bodies take it "
      "under load, twice; each time the broker is started again in the same group",
      "the kernel ends the broker, and what it had accepted has one record each: accepted = final, "
      "none twice", seconds=60)
async def memory_limit_kills(deployment: Deployment) -> str:
    """What an operator gets who gives a container less than the broker was told that it has."""
    group = MemoryGroup.make()
    bodies_mib = 96
    limit = (bodies_mib - 64 + _ANSWERS_MIB + _BESIDE_MIB + _INSTANCE_MIB) * _MIB
    waited = []
    try:
        group.limit(limit)
        deployment.make()
        # One account may have 64 MiB waiting, and one model 128 MiB.
        fillers = [deployment.issue(f"filler-{number}") for number in range(2)]
        await _start(deployment, group, bodies_mib)
        await deployment.start_worker("--tokens-per-second", "60", "--model", "paced=echo")
        async with Load(deployment, reconnects=True) as load, \
                Load(deployment, model="paced", count=60, reconnects=True) as paced:
            for number in range(2):
                before = load.completed_count
                await deployment.until(lambda: load.completed_count > before + 20, 15,
                                       f"20 answers before kill {number + 1}")
                waited.append(await _until_killed(deployment, fillers))
                check(group.kills == number + 1, f"the kernel counts {group.kills} kills")
                await _start_broker(deployment, group, bodies_mib)
            before = load.completed_count
            await deployment.until(lambda: load.completed_count > before + 20, 15, "answers again")
            await load.stop(20)
            await paced.stop(20)
        counts = await deployment.settled(20)
        statuses = Counter(each["status"] for each in deployment.records().values())
        for each in (load, paced):
            each.check_recorded()
        check(statuses["broker_lost"] >= sum(waited), f"recorded {dict(statuses)}")
        return (f"ended by the kernel with {waited[0]} and {waited[1]} bodies of 4 MiB waiting, at "
                f"{group.peak_bytes >> 20} MiB (version {group.version}); "
                f"{statuses['broker_lost']} tasks broker_lost; {counts.accepted} accepted = "
                f"{counts.final} final, none twice")
    finally:
        deployment.stop()
        group.remove()


async def _until_killed(deployment: Deployment, keys: list[str]) -> int:
    """Bodies of these keys' accounts wait until the kernel ends the broker; answers how many were
    accepted."""
    broker = deployment.broker
    broker.expected_end = True
    accepted = 0
    clients = []
    for key in keys:
        with contextlib.suppress(ConnectionLost, OSError):
            client = await Client.connect(
                deployment.host, deployment.port, ca_file=deployment.ca_file, key=key)
            clients.append(client)
            waiting, _ = await _fill(client, 16)
            accepted += len(waiting)
    status = await broker.ended(10)
    check(status == -signal.SIGKILL, f"the broker ended with {broker.end_status()}")
    for client in clients:
        await client.close()
    for program in deployment.programs:
        if program.name.startswith("silent"):  # it ends with its connection
            program.kill()
    return accepted
