"""Faults of clients: they do not read, give no credit, or vanish at any frame boundary."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable

from conformance.peer import Closed, Peer, Target
from sluice import Client, wire
from sluice.codes import Code, Role
from sluice.session import ConnectionLost, Session

from .cases import PATIENCE, case, check
from .deployment import Deployment
from .load import connect, piece, raw_hello, serve_large

_CHUNK = 4_096
_SEALED = 65_536
_STREAMS = 48
_STALLED_SECONDS = 30


class Creditless:
    """A client that reads its socket and never raises a limit."""

    def __init__(self) -> None:
        self.reserves = 0
        self.bytes: Counter[int] = Counter()
        self.ends: dict[int, Code] = {}
        self.over: ConnectionLost | None = None

    def received(self, header: wire.Header, frame: wire.Frame) -> None:
        """Counts what comes."""
        if isinstance(frame, wire.Queued):
            self.reserves += frame.reserve_bytes
        elif isinstance(frame, wire.Tokens):
            self.bytes[header.stream] += len(frame.content)
        elif isinstance(frame, wire.End):
            self.ends[header.stream] = Code(frame.code)

    def lost(self, error: ConnectionLost) -> None:
        """The connection ended."""
        self.over = error


async def _creditless(deployment: Deployment) -> tuple[Session, Creditless]:
    """All its streams want far more than the credit of one window."""
    session = await Session.open(
        deployment.host, deployment.port, deployment.ca_file, raw_hello(deployment))
    client = Creditless()
    session.start(client)
    body = b"2000x4000"
    for stream in range(1, _STREAMS + 1):
        session.send(wire.Submit("large", len(body), body, credit=16_384, reserve_bytes=65_536),
                     stream)
    return session, client


def _deaf(deployment: Deployment) -> Peer:
    """A client that submits with all the credit there is, and then reads nothing."""
    peer = small_peer(deployment)
    body = b"2000x4000"
    for stream in range(1, _STREAMS + 1):
        peer.say(wire.Submit("large", len(body), body, credit=1 << 40, reserve_bytes=65_536),
                 stream)
    return peer


def small_peer(deployment: Deployment) -> Peer:
    """A client by hand, after its handshake."""
    target = Target(deployment.host, deployment.port, deployment.ca_file, deployment.key,
                    tuple(deployment.tokens))
    peer = Peer(target)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    peer.hello(raw_hello(deployment))
    return peer


def _formula(streams: int, reserves: int, connections: int) -> int:
    """ARCHITECTURE.md: whole chunks of r and one more for each task; TLS for each connection."""
    return reserves + streams * 2 * _CHUNK + connections * (3 * _SEALED + 256 * 1_024)


@case("48 streams of large fast answers on each of 8 clients: 2 freeze, 2 send on but do not read, "
      "4 read but give no credit; another reads on",
      "the broker's memory stays under the formula of ARCHITECTURE.md, the reading client gets "
      "every byte, the others' tasks end after 30 s: stalled, or lost with a frozen client",
      seconds=60, quick=False, sharded=True)
async def stalled_readers(deployment: Deployment) -> str:
    """The supplier writes as fast as its credit allows."""
    deployment.make()
    await deployment.start_sidecar()
    await deployment.start_broker()
    supplier = await serve_large(deployment, slots=1_024)
    reader = await connect(deployment)
    await _read_whole(reader)
    before = deployment.broker.memory_bytes()
    began = time.monotonic()
    deaf = [await asyncio.to_thread(_deaf, deployment) for _ in range(4)]
    creditless = [await _creditless(deployment) for _ in range(4)]
    whole, highest, pinged = 0, before, began
    pending = 4 * _STREAMS
    while sum(len(client.ends) for _, client in creditless) < pending or \
            deployment.statistic("connectionsOpen") > 6:
        check(time.monotonic() - began < PATIENCE * 50, "the stalled did not end in time: "
              f"{sum(len(client.ends) for _, client in creditless)} of {pending} streams, "
              f"{deployment.statistic('connectionsOpen')} connections are open")
        await _read_whole(reader)
        whole += 1
        if time.monotonic() - pinged > 4:
            pinged = time.monotonic()
            for peer in deaf[:2]:
                await asyncio.to_thread(peer.say, wire.Ping(1))
        highest = max(highest, deployment.broker.memory_bytes())
        await asyncio.sleep(0.05)
    took = time.monotonic() - began
    for _, client in creditless:
        check(client.over is None, "a client that reads lost its connection")
        check(set(client.ends.values()) == {Code.STALLED}, f"ended {set(client.ends.values())}")
        check(all(count <= 16_384 for count in client.bytes.values()), "credit was exceeded")
    check(took >= _STALLED_SECONDS, f"they were ended after {took:.1f} s already")
    streams = 8 * _STREAMS
    # Reserves of the deaf, who never read their QUEUED, are those of the others.
    reserves = 2 * sum(client.reserves for _, client in creditless)
    bound = _formula(streams, reserves, 9)
    check(highest - before <= bound,
          f"memory grew by {highest - before} bytes, the formula says {bound}")
    for peer in deaf:
        peer.close(clean=False)
    for session, _ in creditless:
        session.close()
    await reader.close()
    await supplier.close()
    counts = await deployment.settled(25)
    statuses = Counter(record["status"] for record in deployment.records().values())
    # Silence is found by keep-alive in the same 30 s: which of the two is first is no matter.
    frozen = statuses["client_lost"]
    check(statuses["completed"] == whole + 1, f"recorded {dict(statuses)}")
    check(frozen in (0, _STREAMS, 2 * _STREAMS) and statuses["cancelled"] == streams - frozen,
          f"recorded {dict(statuses)}; {streams - 2 * _STREAMS} to {streams} must be stalled")
    return (f"memory grew by {(highest - before) / 1_048_576:.1f} MiB of "
            f"{bound / 1_048_576:.1f} MiB allowed; {whole} whole answers of 200 kB read meanwhile; "
            f"all {streams} other streams ended by {took:.0f} s ({streams - frozen} stalled, "
            f"{frozen} lost); {counts.accepted} accepted = "
            f"{counts.final} final")


async def _read_whole(client: Client) -> None:
    """One answer of 200 kB, every byte of which is known."""
    task = await client.submit("large", b"50x4000")
    count = 0
    async for each in task:
        check(each.content == piece(count, 4_000), "an answer's piece is not what was sent")
        count += 1
    check(count == 50, f"{count} pieces of 50 arrived")


# MARK: Clients that vanish


def reset(peer: Peer) -> None:
    """Closes with RST."""
    with contextlib.suppress(OSError):
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close(clean=False)


class _Bench:
    """A supplier by hand, and clients that are reset at a boundary."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._target = Target(deployment.host, deployment.port, deployment.ca_file,
                              deployment.key, tuple(deployment.tokens))
        self.supplier = Peer(self._target)
        self.supplier.hello(raw_hello(deployment, Role.SUPPLIER))
        self.supplier.say(wire.Offer(1, "by-hand", output_price=600_000))
        self.supplier.say(wire.Grant(1, 16))
        self.supplier.alive()
        self.accepted = 0
        self.cancels = 0

    def client(self) -> Peer:
        """A client before HELLO."""
        return Peer(self._target)

    def hello(self) -> Peer:
        """A client after WELCOME."""
        peer = self.client()
        peer.hello(raw_hello(self._deployment))
        return peer

    def submit(self, body: bytes = b"hi", declared: int | None = None) -> Peer:
        """A client that has sent SUBMIT."""
        peer = self.hello()
        size = len(body) if declared is None else declared
        peer.say(wire.Submit("by-hand", size, body, credit=65_536), 1)
        return peer

    def assigned(self) -> tuple[Peer, int]:
        """A client whose task the supplier has."""
        peer = self.submit()
        peer.expect(wire.Queued, 1, seconds=20)
        slot = self.supplier.expect(wire.Assign, seconds=20).header.stream
        self.accepted += 1
        return peer, slot

    def tokens(self, peer: Peer, slot: int, count: int) -> None:
        """So many frames that the client has received."""
        for number in range(count):
            self.supplier.say(wire.Tokens(b"word "), slot, tokens=1)
            peer.expect(wire.Tokens, 1, seconds=20)

    def cancelled(self, slot: int) -> None:
        """The supplier gets CANCEL and answers with END, as it must."""
        self.supplier.expect(wire.Cancel, slot, seconds=20, skip=(wire.Credit, wire.Body))
        self.supplier.taken.discard(slot)
        self.supplier.say(wire.End(Code.CANCELLED), slot)
        self.cancels += 1


def _vanish_everywhere(bench: _Bench) -> list[str]:
    """Every boundary once; answers their names."""
    before: list[tuple[str, Callable[[], Peer]]] = [
        ("TLS", bench.client), ("WELCOME", bench.hello),
        ("SUBMIT without its body", lambda: bench.submit(b"", 40_000)),
        ("half a free body", lambda: bench.submit(b"x" * 8_000, 40_000))]
    names = []
    for name, make in before:
        reset(make())
        names.append(name)
    peer = bench.hello()
    # Cut inside a frame: half a header.
    peer.send(wire.pack(wire.Ping(1))[:6])
    reset(peer)
    names.append("half a header")
    peer, slot = bench.assigned()
    reset(peer)
    bench.cancelled(slot)
    names.append("QUEUED")
    for count in (1, 2, 7):
        peer, slot = bench.assigned()
        bench.tokens(peer, slot, count)
        reset(peer)
        bench.cancelled(slot)
        names.append(f"{count} TOKENS")
    peer, slot = bench.assigned()
    bench.tokens(peer, slot, 1)
    peer.say(wire.Cancel(), 1)
    bench.cancelled(slot)
    reset(peer)
    names.append("CANCEL")
    peer, slot = bench.assigned()
    bench.tokens(peer, slot, 2)
    bench.supplier.say(wire.Tokens(b"unread"), slot, tokens=1)
    bench.supplier.taken.discard(slot)
    bench.supplier.say(wire.End(Code.COMPLETED, 0, 1, 0, 3), slot)
    bench.supplier.alive(skip=(wire.Credit,))
    reset(peer)
    names.append("END on its way")
    return names


@case("clients reset their connection (SO_LINGER 0) at eleven frame boundaries",
      "the supplier gets CANCEL for every task it has, each accepted task has one record",
      sharded=True)
async def client_reset(deployment: Deployment) -> str:
    """Before, in and after every step of a task."""
    deployment.make()
    await deployment.start_sidecar()
    await deployment.start_broker()
    bench = await asyncio.to_thread(_Bench, deployment)
    names = await asyncio.to_thread(_vanish_everywhere, bench)
    counts = await deployment.settled()
    check(counts.accepted == bench.accepted,
          f"{counts.accepted} tasks recorded, {bench.accepted} accepted")
    statuses = Counter(record["status"] for record in deployment.records().values())
    check(statuses["client_lost"] >= 4, f"recorded {dict(statuses)}")
    with contextlib.suppress(Closed):
        await asyncio.to_thread(bench.supplier.alive)
    bench.supplier.close()
    await deployment.until(lambda: deployment.statistic("connectionsOpen") == 0, 10,
                           "all connections closed")
    return (f"{len(names)} boundaries, {bench.cancels} CANCELs, {counts.accepted} accepted = "
            f"{counts.final} final ({dict(statuses)})")
