"""Faults at a chosen stage of a task, and peers of other versions of the protocol."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter

from conformance.peer import Peer, Target
from sluice import Client, wire
from sluice.codes import Code
from sluice.session import Session

from .cases import case, check
from .deployment import Deployment
from .load import Burst, ask, connect, raw_hello, watch, words


async def _killed(deployment: Deployment, client: Client) -> None:
    """kill -9 of the broker, the end of its peers, and a new start."""
    deployment.broker.kill()
    for program in deployment.programs:
        if program.name.startswith(("worker", "silent")):
            program.kill()
    await client.close()
    await deployment.start_broker()


@case("kill -9 of the broker with one shard at each stage of a task: uploading, waiting for a "
      "slot, dispatched, streaming, just ended",
      "each accepted task has one record: broker_lost without output where there was none, with "
      "at least what the client received in the middle, completed at the end", seconds=30)
async def broker_killed_at_each_stage(deployment: Deployment) -> str:
    """The stage is seen in the statistics or by the client before the kill."""
    deployment.options = dataclasses.replace(
        deployment.options, broker_options=("--shards", "1"))
    deployment.make()
    await deployment.start_sidecar()
    await deployment.start_broker()

    # Uploading: the supplier has a slot, but the body never becomes whole.
    await deployment.start_silent_supplier("echo", slots=1)
    session = await Session.open(
        deployment.host, deployment.port, deployment.ca_file, raw_hello(deployment))
    session.start(Burst(session, "echo", None, 0))
    session.send(wire.Submit("echo", 1 << 20, b"x" * 4_096, credit=65_536), 1)
    await asyncio.sleep(0.3)
    check(deployment.statistic("tasksDispatched") == 0, "half a body was dispatched")
    client = await connect(deployment)

    # Dispatched, and behind it one that waits for the slot.
    for salt in range(2):
        await (await client.submit("echo", words(5, salt))).accepted()
    await deployment.until(lambda: deployment.statistic("tasksDispatched") == 1, 5, "a dispatch")
    session.close()
    await _killed(deployment, client)
    await deployment.settled()
    records = deployment.records()
    check(len(records) >= 2, f"{len(records)} records of at least 2 tasks")
    silent_tasks = set(records)
    for record in records.values():
        check(record["status"] in ("broker_lost", "client_lost") and record["outputTokens"] == 0,
              f"recorded {record['status']} with {record['outputTokens']} tokens")

    # Streaming.
    await deployment.start_worker("--tokens-per-second", "40")
    client = await connect(deployment)
    watched = await watch(client, 2_000)
    await deployment.until(lambda: watched.tokens > 20, 10, "20 tokens")
    task_id = (await watched.task.accepted()).task_id
    await _killed(deployment, client)
    assert watched.job is not None
    await watched.job
    await deployment.settled()
    record = deployment.records()[task_id]
    check(record["status"] == "broker_lost", f"recorded as {record['status']}")
    check(watched.tokens <= record["outputTokens"] < 2_000,
          f"{record['outputTokens']} tokens are recorded, {watched.tokens} were received")

    # Just ended.
    await deployment.start_worker()
    client = await connect(deployment)
    result = await ask(client, 5)
    await _killed(deployment, client)
    counts = await deployment.settled()
    records = deployment.records()
    check(records[result.task_id]["status"] == "completed", "a task that ended is not completed")
    statuses = Counter(records[task]["status"] for task in silent_tasks)
    return (f"before output {dict(statuses)}; in the middle {watched.tokens} tokens received, "
            f"{record['outputTokens']} recorded; at the end completed; {counts.accepted} accepted "
            f"= {counts.final} final")


@case("HELLOs that offer the versions 0 to 1, 1 to 9, 0, and 2 to 3 to a broker of version 1",
      "served as version 1 where that is in the range, ERROR version_mismatch where not; a stream "
      "beside them runs on")
async def other_versions(deployment: Deployment) -> str:
    """There is no release before version 1: neighbouring versions are ranges of HELLO."""
    await deployment.start()
    target = Target(deployment.host, deployment.port, deployment.ca_file, deployment.key, ())
    async with await connect(deployment) as client:
        watched = await watch(client, 3_000)
        for oldest, newest in ((0, 1), (1, 9)):
            await asyncio.to_thread(_served, deployment, target, oldest, newest)
        for oldest, newest in ((0, 0), (2, 3)):
            await asyncio.to_thread(_refused, deployment, target, oldest, newest)
        await watched.whole(20)
    counts = await deployment.settled()
    return (f"2 served as version 1, 2 refused; {counts.accepted} accepted = "
            f"{counts.final} final")


def _hello(deployment: Deployment, oldest: int, newest: int) -> wire.Hello:
    return dataclasses.replace(
        raw_hello(deployment), oldest_version=oldest, newest_version=newest)


def _served(deployment: Deployment, target: Target, oldest: int, newest: int) -> None:
    """A whole task on a connection whose peer knows these versions."""
    peer = Peer(target)
    welcome = peer.hello(_hello(deployment, oldest, newest))
    check(welcome.version == 1, f"version {welcome.version} was chosen of {oldest} to {newest}")
    peer.say(wire.Submit("echo", 3, b"a b", credit=65_536), 1)
    peer.expect_end(Code.COMPLETED, skip=(wire.Queued, wire.Tokens, wire.Credit))
    peer.close()


def _refused(deployment: Deployment, target: Target, oldest: int, newest: int) -> None:
    """No version in common."""
    peer = Peer(target)
    peer.say(_hello(deployment, oldest, newest))
    peer.expect_error(Code.VERSION_MISMATCH)
    peer.close()
