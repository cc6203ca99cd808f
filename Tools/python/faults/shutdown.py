"""Ends of a broker: in order, and not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import signal
import sqlite3
import time
from collections import Counter

from sluice.codes import Code
from sluice.session import ConnectionLost

from .cases import PATIENCE, case, check
from .deployment import Deployment, Options
from .load import Load, Watched, ask, connect, watch

_DRAIN_SECONDS = 30


async def _begin(deployment: Deployment, rate: int) -> None:
    deployment.make()
    await deployment.start_sidecar()
    await deployment.start_broker()
    await deployment.start_worker("--tokens-per-second", str(rate), slots=200)


async def _gone(deployment: Deployment) -> None:
    """The instance was closed in order: the sidecar removes it once its records are safe."""
    path = deployment.run / f"{deployment.instance:016x}"
    await deployment.until(lambda: not path.exists(), 10, "the instance is removed")
    await deployment.until(lambda: _open_rows(deployment) == 0, 10, "its row is closed")


def _open_rows(deployment: Deployment) -> int:
    """Instances of the store of which nobody has said that they are closed."""
    place = f"file:{deployment.data}/sluice.sqlite?mode=ro"
    with contextlib.closing(sqlite3.connect(place, uri=True)) as database:
        return int(database.execute(
            "SELECT count(*) FROM instance WHERE closed_at_us IS NULL").fetchone()[0])


@case("SIGTERM while 90 streams run that end by themselves within some seconds",
      "every stream completes, new tasks are refused as draining, exit status 0, the instance is "
      "closed and removed", seconds=30, sharded=True)
async def drain_completes(deployment: Deployment) -> str:
    """On three connections, so that several shards have some."""
    await _begin(deployment, 20)
    clients = [await connect(deployment) for _ in range(3)]
    streams: list[Watched] = []
    for number in range(90):
        streams.append(await watch(clients[number % 3], 40 + number % 40, salt=number))
    began = time.monotonic()
    deployment.broker.signal(signal.SIGTERM)
    await deployment.until(lambda: all(client.draining for client in clients), 5, "GO-AWAY")
    refused = 0
    try:
        await connect(deployment)
    except ConnectionLost:
        refused += 1
    for client in clients:
        try:
            await client.submit("echo", "late")
        except ConnectionLost as lost:
            refused += lost.code == Code.SHUTTING_DOWN
    for each in streams:
        await each.whole(25)
    status = await deployment.broker.ended(20)
    took = time.monotonic() - began
    check(status == 0, f"the broker ended with {deployment.broker.end_status()}")
    for client in clients:
        await client.close()
    counts = await deployment.settled()
    check(counts.accepted == 90, f"{counts.accepted} tasks recorded")
    await _gone(deployment)
    return (f"90 of 90 answers whole, {refused} new ones refused, exit status 0 after "
            f"{took:.1f} s; {counts.accepted} accepted = {counts.final} final, instance removed")


@case("SIGTERM while 60 streams run that would take minutes",
      "what is open after 30 s ends drained with exact usage, exit status 0, the instance is "
      "closed and removed", seconds=55, quick=False, sharded=True)
async def drain_limit(deployment: Deployment) -> str:
    """The grace is the broker's own; GO-AWAY names it."""
    await _begin(deployment, 5)
    clients = [await connect(deployment) for _ in range(3)]
    streams = [await watch(clients[number % 3], 3_000, salt=number) for number in range(60)]
    await deployment.until(lambda: all(each.tokens > 2 for each in streams), 10, "tokens")
    began = time.monotonic()
    deployment.broker.signal(signal.SIGTERM)
    ends: Counter[str] = Counter()
    for each in streams:
        assert each.job is not None
        async with asyncio.timeout(PATIENCE * 40):
            result = await each.job
        ends[result.code.label if result else "connection lost"] += 1
        if result:
            check(result.output_tokens == each.tokens,
                  f"END says {result.output_tokens} tokens, {each.tokens} were received")
    took = time.monotonic() - began
    check(ends == Counter(drained=60), f"ended {dict(ends)}")
    check(took >= _DRAIN_SECONDS - 1, f"drained after {took:.1f} s already")
    status = await deployment.broker.ended(15)
    check(status == 0, f"the broker ended with {deployment.broker.end_status()}")
    for client in clients:
        await client.close()
    counts = await deployment.settled()
    records = deployment.records()
    check(all(each["status"] == "drained" for each in records.values()), "not all are drained")
    await _gone(deployment)
    return (f"60 ENDs drained after {took:.1f} s with exact usage, exit status 0; "
            f"{counts.accepted} accepted = {counts.final} final, instance removed")


def _with(deployment: Deployment, *options: str) -> Options:
    """The case's options with these of the broker."""
    return dataclasses.replace(deployment.options, broker_options=options)


async def _kills(deployment: Deployment, kills: int) -> str:
    """Kills the broker again and again under load from several connections."""
    await deployment.start()
    # Some that are in the middle of an answer at any kill.
    await deployment.start_worker("--tokens-per-second", "60", "--model", "paced=echo")
    slowest = 0.0
    async with Load(deployment, clients=4, streams=3, reconnects=True) as load, \
            Load(deployment, clients=2, streams=3, model="paced", count=60,
                 reconnects=True) as large:
        for number in range(kills):
            done = load.completed_count + large.completed_count
            await deployment.until(
                lambda: load.completed_count + large.completed_count > done + 20, 15,
                f"20 answers before kill {number + 1}")
            await asyncio.sleep(random.uniform(0, 0.3))
            deployment.broker.kill()
            began = time.monotonic()
            await deployment.start_broker()
            slowest = max(slowest, time.monotonic() - began)
        done = load.completed_count
        await deployment.until(lambda: load.completed_count > done + 20, 15, "answers at the end")
        await load.stop(20)
        await large.stop(20)
    counts = await deployment.settled(20)
    records = deployment.records()
    for each in (load, large):
        each.check_recorded()
        strange = set(each.codes) - {"completed", "no_supplier", "model_unknown", "supplier_lost",
                                     "queue_full"}
        check(not strange, f"tasks ended {dict(each.codes)}")
    statuses = Counter(record["status"] for record in records.values())
    check(statuses["broker_lost"] >= kills, f"the kills met no running task: {dict(statuses)}")
    return (f"{kills} kills, slowest start {slowest * 1_000:.0f} ms, "
            f"{statuses['broker_lost']} tasks broker_lost; {counts.accepted} accepted = "
            f"{counts.final} final, none twice, every answer seen complete is recorded so")


@case("kill -9 of a broker with 2 shards five times under load across shards, and a new start",
      "accepted = final, none twice, what a client saw complete is recorded as completed",
      seconds=40)
async def broker_killed_2_shards(deployment: Deployment) -> str:
    """The dispatcher shares shard 0's thread."""
    deployment.options = _with(deployment, "--shards", "2")
    return await _kills(deployment, 5)


@case("kill -9 of a broker with 3 shards and a dispatcher's thread five times under load",
      "accepted = final, none twice, what a client saw complete is recorded as completed",
      seconds=40)
async def broker_killed_3_shards(deployment: Deployment) -> str:
    """Each message of a task crosses threads."""
    deployment.options = _with(deployment, "--shards", "3", "--dispatcher", "thread")
    return await _kills(deployment, 5)


@case("an idle broker that has served a few tasks is ended by SIGTERM",
      "its memory does not grow while it ends: a container's limit would turn the end into a kill",
      seconds=25)
async def memory_at_the_end(deployment: Deployment) -> str:
    """Content memory is reserved and mostly never used; wiping it must not bring it in."""
    await deployment.start("--shards", "1")
    async with await connect(deployment) as client:
        for salt in range(5):
            await ask(client, 20, salt)
    before = highest = deployment.broker.memory_bytes()
    began = time.monotonic()
    deployment.broker.signal(signal.SIGTERM)
    while deployment.broker.running:
        check(time.monotonic() - began < PATIENCE * 15, "the broker does not end")
        highest = max(highest, deployment.broker.memory_bytes())
        await asyncio.sleep(0.005)
    took = time.monotonic() - began
    status = await deployment.broker.ended(1)
    check(status == 0, f"the broker ended with {deployment.broker.end_status()}")
    grown = (highest - before) / 1_048_576
    check(grown <= 32, f"memory grew by {grown:.0f} MiB in the {took:.1f} s of its end")
    counts = await deployment.settled()
    return (f"memory grew by {grown:.0f} MiB in {took:.1f} s; {counts.accepted} accepted = "
            f"{counts.final} final")
