"""Faults of what the kernel grants: descriptors and memory."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time

from sluice import Client
from sluice.session import ConnectionLost

from .cases import PATIENCE, Failed, case, check
from .deployment import Deployment
from .load import ask, connect, end_watched, serve_paced, watch

_MIB = 1 << 20


@case("the broker may open four more descriptors (RLIMIT_NOFILE) while 12 clients connect",
      "accepting pauses and says so, streams go on, and clients are served as soon as others "
      "leave", seconds=25, sharded=True)
async def out_of_descriptors(deployment: Deployment) -> str:
    """The ring keeps the limit of the moment when it began to accept, so it is set at the start.

    Clients that find no room wait in the listener's queue or are cut, and come again.
    """
    deployment.make()
    await deployment.start_sidecar()
    # What a broker holds before its first connection, found by one that is not limited.
    trial = await deployment.start_broker()
    spare, peers = 4, 3
    most = trial.descriptor_count() + peers + spare
    trial.kill()

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    await deployment.start_broker(preexec_fn=restrict)
    await deployment.start_worker()
    supplier = await serve_paced(deployment)
    first = await connect(deployment)
    watched = await watch(first, 6_000, model="paced")
    connected: list[Client] = []

    async def arrive() -> None:
        limit = time.monotonic() + PATIENCE * 40
        while True:
            check(time.monotonic() < limit, "a client was never served")
            with contextlib.suppress(ConnectionLost):
                connected.append(await connect(deployment))
                return
            await asyncio.sleep(0.2)

    arrivals = [asyncio.create_task(arrive()) for _ in range(12)]
    await deployment.until(lambda: bool(deployment.broker.logged("accepting_paused")), 5,
                           "accepting_paused in the log")
    await deployment.until(lambda: bool(connected), 5, "some are served")
    tokens = watched.tokens
    await deployment.until(lambda: watched.tokens > tokens + 40, 5, "the stream runs on")
    for number in range(3):
        await ask(first, 10, number)
    while_short = len(connected)
    check(while_short < 12, "there was no shortage")
    # Whoever leaves makes room for another.
    served = 0
    while served < len(arrivals):
        await deployment.until(lambda: bool(connected), 20, "a place that came free")
        client = connected.pop(0)
        await ask(client, 5)
        await client.close()
        served += 1
    await asyncio.gather(*arrivals)
    await end_watched(watched)
    await first.close()
    await supplier.close()
    counts = await deployment.settled()
    paused = len(deployment.broker.logged("accepting_paused"))
    return (f"{while_short} of 12 served under the limit, accepting paused {paused} times, "
            f"{watched.tokens} tokens streamed meanwhile; {counts.accepted} accepted = "
            f"{counts.final} final")


@case("the kernel grants the broker's start 64 to 700 MiB of address space (RLIMIT_AS)",
      "the start succeeds or is refused with a clear error and status, never a signal")
async def memory_refused(deployment: Deployment) -> str:
    """Content memory is reserved at the start: that is where a limit shows."""
    deployment.make()
    seen = []
    for mebibytes in (64, 200, 400, 700, 1_400):
        def restrict(limit: int = mebibytes * _MIB) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        broker = deployment.launch_broker("--shards", "1", preexec_fn=restrict)
        await deployment.until(lambda: not broker.running or bool(broker.events()), 10, "a start")
        if broker.events():
            seen.append(f"{mebibytes} MiB: serves")
            broker.kill()
            continue
        status = await broker.ended(1)
        check(status > 0, f"{mebibytes} MiB: the start ended with {broker.end_status()}")
        check(bool(broker.log_text().strip()), f"{mebibytes} MiB: no word of why")
        seen.append(f"{mebibytes} MiB: refused, status {status}")
    check("refused" in " ".join(seen), f"no limit was felt: {seen}")
    return "; ".join(seen)


@case("the port is taken when the broker starts",
      "a clear error and status; what serves there is not disturbed")
async def port_taken(deployment: Deployment) -> str:
    """Also with a broker of the same run directory as the other."""
    await deployment.start()
    serving = deployment.broker
    second = deployment.launch_broker()
    status = await second.ended(10)
    check(status > 0, f"the second broker ended with {second.end_status()}")
    check(bool(second.log_text().strip()), "no word of why")
    with socket.create_connection((deployment.host, deployment.port), 5):
        pass
    async with await connect(deployment) as client:
        await ask(client)
    if not serving.running:
        raise Failed(f"the first broker ended with {serving.end_status()}")
    counts = await deployment.settled()
    return f"status {status}; {counts.accepted} accepted = {counts.final} final"
