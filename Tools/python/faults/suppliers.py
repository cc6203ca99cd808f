"""Faults of suppliers: killed, stopped, slow."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator

from sluice.codes import Code
from sluice.supplier import Assignment, Offer, Piece

from .cases import PATIENCE, case, check
from .deployment import Deployment
from .load import Watched, ask, connect, supply, watch, words


def check_usage(deployment: Deployment, watched: Watched, status: str) -> None:
    """The record says what the client was told, and that is what it received."""
    result = watched.task.result
    check(result.output_tokens == watched.tokens,
          f"END says {result.output_tokens} tokens, {watched.tokens} were received")
    record = deployment.records()[result.task_id]
    check(record["status"] == status, f"recorded as {record['status']}, not {status}")
    check(record["outputTokens"] == watched.tokens,
          f"recorded {record['outputTokens']} tokens, {watched.tokens} were received")
    check(record["consumerCostMicroUSD"] == result.cost_micro_usd,
          f"recorded cost {record['consumerCostMicroUSD']}, told {result.cost_micro_usd}")
    check(watched.prompt.startswith(watched.received), "what was delivered is no prefix")


@case("the only supplier that has the task is killed (SIGKILL) before its first token; another "
      "one is there",
      "the task is dispatched again and the client sees a whole answer", sharded=True)
async def supplier_killed_before_output(deployment: Deployment) -> str:
    """The first has all tasks and says nothing; the second comes after they were assigned."""
    deployment.make(suppliers=2)
    await deployment.start_sidecar()
    await deployment.start_broker()
    silent = await deployment.start_silent_supplier("echo", slots=8)
    async with await connect(deployment) as client:
        prompts = [words(12, salt) for salt in range(8)]
        tasks = [await client.submit("echo", prompt) for prompt in prompts]
        for task in tasks:
            await task.accepted()
        await deployment.until(lambda: deployment.statistic("tasksDispatched") >= 8, 5, "dispatch")
        await deployment.start_worker(supplier=1)
        silent.signal(signal.SIGKILL)
        async with asyncio.timeout(PATIENCE * 10):
            answers = [await task.text() for task in tasks]
        check(answers == prompts, "an answer after a second dispatch is not the whole prompt")
        used = [task.result.output_tokens for task in tasks]
        check(used == [12] * 8, f"billed {used} tokens")
    counts = await deployment.settled()
    records = deployment.records()
    check(all(each["status"] == "completed" for each in records.values()), "not all completed")
    await deployment.until(lambda: deployment.statistic("tasksDispatchedAgain") >= 8, 5,
                           "the second dispatches in the statistics")
    return (f"8 tasks dispatched again and whole; {counts.accepted} accepted = {counts.final} "
            "final, all completed")


@case("the supplier is killed (SIGKILL) in the middle of 8 answers",
      "END supplier_lost; usage in END, in the record and in what was received is equal",
      sharded=True)
async def supplier_killed_mid_answer(deployment: Deployment) -> str:
    """Each stream at another place."""
    deployment.make()
    await deployment.start_sidecar()
    await deployment.start_broker()
    worker = await deployment.start_worker("--tokens-per-second", "40")
    async with await connect(deployment) as client:
        streams = []
        for salt in range(8):
            streams.append(await watch(client, 2_000, salt=salt))
            await asyncio.sleep(0.05)
        await deployment.until(lambda: all(each.tokens > 10 for each in streams), 10, "10 tokens")
        worker.signal(signal.SIGKILL)
        began = time.monotonic()
        for each in streams:
            assert each.job is not None
            async with asyncio.timeout(PATIENCE * 15):
                result = await each.job
            check(result is not None and result.code == Code.SUPPLIER_LOST,
                  f"ended {result.code.label if result else 'with its connection'}")
        took = time.monotonic() - began
    counts = await deployment.settled()
    for each in streams:
        check_usage(deployment, each, "supplier_lost")
    tokens = [each.tokens for each in streams]
    return (f"8 ENDs supplier_lost after {took:.1f} s, {min(tokens)} to {max(tokens)} tokens each, "
            f"records exact; {counts.accepted} accepted = {counts.final} final")


@case("the supplier is stopped (SIGSTOP) in the middle of an answer with a deadline; later it "
      "goes on",
      "END deadline_exceeded in time, its slot quarantined, usage exact; once it goes on it serves "
      "again", seconds=25, sharded=True)
async def supplier_stopped(deployment: Deployment) -> str:
    """The deadline is the only thing that ends a task whose supplier says nothing."""
    deployment.make()
    await deployment.start_sidecar()
    await deployment.start_broker()
    worker = await deployment.start_worker("--tokens-per-second", "40", slots=1)
    async with await connect(deployment) as client:
        began = time.monotonic()
        stream = await watch(client, 4_000, deadline_ms=4_000)
        await deployment.until(lambda: stream.tokens > 5, 3, "5 tokens")
        worker.signal(signal.SIGSTOP)
        assert stream.job is not None
        async with asyncio.timeout(PATIENCE * 10):
            result = await stream.job
        took = time.monotonic() - began
        check(result is not None and result.code == Code.DEADLINE_EXCEEDED,
              f"ended {result.code.label if result else 'with its connection'}")
        check(took >= 4, f"ended after {took:.1f} s, before its deadline")
        waiting = await client.submit("echo", words(3, 1), deadline_ms=60_000)
        await waiting.accepted()
        await asyncio.sleep(1)
        check(not waiting._ended.done(), "a task ended while the only slot was quarantined")
        worker.signal(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE * 10):
            text = await waiting.text()
        check(text == words(3, 1), "the answer after the quarantine is not the prompt")
    counts = await deployment.settled()
    check_usage(deployment, stream, "deadline_exceeded")
    return (f"END deadline_exceeded {took:.1f} s after SUBMIT (deadline 4 s, at most 2 s for the "
            f"supplier's END), {stream.tokens} tokens, records exact; the next task waited and was "
            f"served after SIGCONT; {counts.accepted} accepted = {counts.final} final")


@case("a supplier trickles one byte every 100 ms, and one never answers CANCEL",
      "END deadline_exceeded, usage exact, a neighbour's answers are whole", sharded=True)
async def supplier_trickles(deployment: Deployment) -> str:
    """Both in one process; the neighbour is a worker."""
    deployment.make(suppliers=2)
    await deployment.start_sidecar()
    await deployment.start_broker()
    await deployment.start_worker()
    supplier = await supply(deployment, token=1)
    supplier.offer(Offer("trickle", output_price=600_000), _trickle, slots=8)
    supplier.offer(Offer("deaf", output_price=600_000), _deaf, slots=8)
    await asyncio.sleep(0.3)
    async with await connect(deployment) as client:
        streams = [await watch(client, 1, model="trickle", deadline_ms=2_500) for _ in range(4)]
        streams += [await watch(client, 1, model="deaf", deadline_ms=2_500) for _ in range(4)]
        neighbours = 0
        while not all(each.job is not None and each.job.done() for each in streams):
            await ask(client, 20, neighbours)
            neighbours += 1
        for each in streams:
            assert each.job is not None
            result = each.job.result()
            check(result is not None and result.code == Code.DEADLINE_EXCEEDED,
                  f"ended {result.code.label if result else 'with its connection'}")
            # Their answers are no echo of the prompt.
            each.prompt = each.received
    await supplier.close()
    counts = await deployment.settled()
    for each in streams:
        check_usage(deployment, each, "deadline_exceeded")
    trickled = [each.tokens for each in streams[:4]]
    return (f"8 ENDs deadline_exceeded, {min(trickled)} to {max(trickled)} tokens of the trickle "
            f"exact in the records; {neighbours} whole answers of the neighbour meanwhile; "
            f"{counts.accepted} accepted = {counts.final} final")


async def _trickle(task: Assignment) -> AsyncGenerator[Piece, None]:
    await task.body()
    while True:
        yield Piece(b"x")
        await asyncio.sleep(0.1)


async def _deaf(task: Assignment) -> AsyncGenerator[Piece, None]:
    """Writes once, then does not stop when it is told to."""
    await task.body()
    yield Piece(b"x")
    limit = time.monotonic() + 7  # the broker waits 2 s for an END
    while time.monotonic() < limit:
        try:
            await asyncio.sleep(limit - time.monotonic())
        except asyncio.CancelledError:
            continue


