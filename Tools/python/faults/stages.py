"""Faults at a chosen stage of a task, and peers of other versions of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import pathlib
import signal
import sqlite3
from collections import Counter

from conformance.peer import Peer, Target
from sluice import Client, wire
from sluice.codes import Code
from sluice.session import ConnectionLost, Session

from .cases import PATIENCE, case, check
from .deployment import Deployment
from .load import ask, connect, raw_hello, watch, words


class _Uploader:
    """A client whose body never becomes whole: its task is not accepted [Q3]."""

    def __init__(self) -> None:
        self.answers: list[str] = []

    def received(self, header: wire.Header, frame: wire.Frame) -> None:
        """Takes the broker's frames; CREDIT for the body is none about the task."""
        if header.stream and not isinstance(frame, wire.Credit):
            self.answers.append(type(frame).__name__)

    def lost(self, error: ConnectionLost) -> None:
        """The broker is killed: so it is meant."""


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
      "each accepted task has one record: none of half a body, broker_lost without output where "
      "there was none, with at least what the client received in the middle, completed at the "
      "end", seconds=30)
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
    uploader = _Uploader()
    session.start(uploader)
    session.send(wire.Submit("echo", 1 << 20, b"x" * 4_096, credit=65_536), 1)
    await deployment.until(lambda: deployment.statistic("bodyBytesInUse") >= 1 << 20, 5,
                           "memory for a body")
    await asyncio.sleep(0.3)
    check(deployment.statistic("tasksDispatched") == 0, "half a body was dispatched")
    client = await connect(deployment)

    # Dispatched, and behind it one that waits for the slot.
    silent_tasks = set()
    for salt in range(2):
        accepted = await (await client.submit("echo", words(5, salt))).accepted()
        silent_tasks.add(accepted.task_id)
    await deployment.until(lambda: deployment.statistic("tasksDispatched") == 1, 5, "a dispatch")
    await _killed(deployment, client)
    session.close()
    await deployment.settled()
    records = deployment.records()
    check(not uploader.answers, f"half a body was answered with {uploader.answers}")
    check(records.keys() == silent_tasks, f"{len(records)} records of 2 accepted tasks")
    for record in records.values():
        check(record["status"] == "broker_lost" and record["outputTokens"] == 0,
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
    return (f"half a body: no record; before output {dict(statuses)}; in the middle {watched.tokens} tokens received, "
            f"{record['outputTokens']} recorded; at the end completed; {counts.accepted} accepted "
            f"= {counts.final} final")


_STAGE_TASKS = 20


def _byte_count(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


async def _answers(deployment: Deployment, salt: int) -> None:
    """So many whole answers, on a connection of their own."""
    async with await connect(deployment) as client:
        for number in range(_STAGE_TASKS):
            await ask(client, 5, salt + number)


@case("kill -9 of the sidecar at each stage of its records: in the ring alone, in segments that "
      "the database has not taken, in the database",
      "each accepted task has one record after the next start, none twice, and nothing that was "
      "applied changes", seconds=40)
async def sidecar_killed_at_each_stage(deployment: Deployment) -> str:
    """The stage is made: a sidecar that is stopped copies nothing, a database that is held takes
    nothing."""
    await deployment.start()

    # In the ring: whoever stands still has not copied it.
    deployment.sidecar.signal(signal.SIGSTOP)
    await _answers(deployment, 0)
    recorded = deployment.counts().final
    check(recorded == 0, f"a sidecar that stands still recorded {recorded} tasks")
    deployment.sidecar.kill()
    await deployment.start_sidecar()
    first = await deployment.settled()
    check(first.final == _STAGE_TASKS, f"{first.final} records of {_STAGE_TASKS} tasks")

    # In segments: the ring is free again, and the database has none of it.
    database, journal = deployment.data / "sluice.sqlite", deployment.data / "journal"
    empty = _byte_count(journal)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA busy_timeout = 5000")
        other.execute("BEGIN IMMEDIATE")
        await _answers(deployment, 100)
        await deployment.until(lambda: bool(deployment.sidecar.logged("storeBusy")), 10,
                               "the sidecar waits for the database")
        segments = _byte_count(journal) - empty
        check(segments >= 2 * _STAGE_TASKS * 128, f"{segments} bytes of segments are too few")
        check(deployment.counts().final == first.final, "the lock held nothing")
        deployment.sidecar.kill()
        other.execute("ROLLBACK")
    await deployment.start_sidecar()
    second = await deployment.settled()
    check(second.final == 2 * _STAGE_TASKS, f"{second.final} records after the second kill")

    # In the database.
    before = deployment.records()
    deployment.sidecar.kill()
    await deployment.start_sidecar()
    await _answers(deployment, 200)
    counts = await deployment.settled()
    records = deployment.records()
    check(counts.final == 3 * _STAGE_TASKS, f"{counts.final} records after the third kill")
    check(all(records.get(task) == record for task, record in before.items()),
          "a record changed after it was applied")
    check(all(record["status"] == "completed" for record in records.values()),
          "an answer that came whole is not completed")
    return f"{segments} bytes in segments; {counts.accepted} accepted = {counts.final} final"


@case("kill -9 of the gateway in the middle of an answer that it streams",
      "its task ends client_lost with at least what was received and reaches the supplier as a cancel; others "
      "run on; a gateway that is started again serves", seconds=30)
async def gateway_killed_mid_answer(deployment: Deployment) -> str:
    """The HTTP client sees its response break off, never a whole one."""
    deployment.make()
    await deployment.start_sidecar()
    await deployment.start_broker()
    await deployment.start_worker("--tokens-per-second", "40", slots=8)
    gateway = await deployment.start_gateway()
    port = int((await gateway.event("listening"))["port"])
    async with await connect(deployment) as client:
        watched = await watch(client, 200)
        asked = asyncio.create_task(asyncio.to_thread(_streamed, deployment, port, 2_000))
        await deployment.until(lambda: deployment.statistic("tasksOpen") == 2, 10, "both tasks")
        await asyncio.sleep(1)
        gateway.kill()
        events = await asked
        check(0 < events < 2_000, f"{events} events came of 2,000")
        await watched.whole(20)
        await deployment.until(lambda: deployment.statistic("tasksOpen") == 0, 10, "its end")
    again = await deployment.start_gateway()
    port = int((await again.event("listening"))["port"])
    whole = await asyncio.to_thread(_streamed, deployment, port, 5)
    check(whole >= 5, f"only {whole} events of a gateway that was started again")
    counts = await deployment.settled()
    statuses = Counter(record["status"] for record in deployment.records().values())
    check(statuses == {"completed": 2, "client_lost": 1}, f"recorded as {dict(statuses)}")
    lost = next(record for record in deployment.records().values()
                if record["status"] == "client_lost")
    check(deployment.statistic("cancelsSent") == 1, "the supplier was told of no cancel")
    check(events - 1 <= lost["outputTokens"] < 2_000,
          f"{lost['outputTokens']} tokens are recorded, {events} events were received")
    return (f"{events} events received and {lost['outputTokens']} tokens recorded; "
            f"{counts.accepted} accepted = {counts.final} final")


def _streamed(deployment: Deployment, port: int, count: int) -> int:
    """Events with text of a streamed chat; a response that breaks off ends the count."""
    body = json.dumps({"model": "echo", "stream": True,
                       "messages": [{"role": "user", "content": words(count)}]})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE * 20)
    seen = 0
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/v1/chat/completions", body, {
            "Authorization": f"Bearer {deployment.key}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        check(answer.status == 200, f"the gateway answered {answer.status}")
        for line in answer:
            seen += line.startswith(b"data: {") and b'"content"' in line
    return seen


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
