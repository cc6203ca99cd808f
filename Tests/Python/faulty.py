"""A broker with a fault: a TLS proxy that reads frames and breaks one rule on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable

from support import Broker
from sluice import wire
from sluice.codes import ALPN, Code, Kind

FROM_BROKER, TO_BROKER = "from broker", "to broker"


class Link:
    """One connection through the proxy, for faults that answer by themselves."""

    def __init__(self, to_peer: asyncio.StreamWriter, to_broker: asyncio.StreamWriter) -> None:
        self.to_peer = to_peer
        self.to_broker = to_broker
        self.count = 0
        self.marked: set[int] = set()


Fault = Callable[[Link, str, wire.Header, bytes], list[bytes]]


def _raw(header: wire.Header, payload: bytes) -> bytes:
    return header.pack() + payload


def faithful(_link: Link, _way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """No fault: what the tests compare with."""
    return [_raw(header, payload)]


def drops_end(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """No client ever gets END."""
    lost = way == FROM_BROKER and header.kind == Kind.END
    return [] if lost else [_raw(header, payload)]


def deaf_to_cancel(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """CANCEL has no effect, so that TOKENS are forwarded after it."""
    lost = way == TO_BROKER and header.kind == Kind.CANCEL
    return [] if lost else [_raw(header, payload)]


def ignores_credit(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Every answer has all the credit there is."""
    if way == TO_BROKER and header.kind == Kind.SUBMIT and len(payload) >= 48:
        payload = payload[:32] + (1 << 62).to_bytes(8, "little") + payload[40:]
    return [_raw(header, payload)]


def wrong_codes(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """ERROR always says protocol_violation, and every refusal queue_full."""
    if way == FROM_BROKER and header.kind == Kind.ERROR:
        payload = Code.PROTOCOL_VIOLATION.to_bytes(2, "little") + payload[2:]
    if way == FROM_BROKER and header.kind == Kind.END and 48 <= payload[0] <= 79:
        payload = Code.QUEUE_FULL.to_bytes(2, "little") + payload[2:]
    return [_raw(header, payload)]


def skips_unknown_kinds(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Unknown kinds are skipped with or without the flag."""
    lost = way == TO_BROKER and header.kind not in wire.FRAMES
    return [] if lost else [_raw(header, payload)]


def loses_pongs(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """PING is not answered."""
    lost = way == FROM_BROKER and header.kind == Kind.PONG
    return [] if lost else [_raw(header, payload)]


def queues_twice(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """QUEUED comes twice."""
    twice = way == FROM_BROKER and header.kind == Kind.QUEUED
    return [_raw(header, payload)] * (2 if twice else 1)


def loses_tokens(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Every fourth TOKENS frame gets lost."""
    if way == FROM_BROKER and header.kind == Kind.TOKENS:
        link.count += 1
        if link.count % 4 == 0:
            return []
    return [_raw(header, payload)]


def keeps_flags(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """TOKENS reach the client with a flag that nobody knows."""
    if way == FROM_BROKER and header.kind == Kind.TOKENS:
        header = header._replace(flags=header.flags | 0x40)
    return [_raw(header, payload)]


def grants_more(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Every GRANT counts as one of 64 slots."""
    if way == TO_BROKER and header.kind == Kind.GRANT:
        payload = payload[:4] + (64).to_bytes(4, "little")
    return [_raw(header, payload)]


def no_quarantine(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """A cancelled supplier stream counts as ended at once; its late frames are swallowed."""
    if way == FROM_BROKER and header.kind == Kind.CANCEL:
        link.marked.add(header.stream)
        link.to_broker.write(wire.pack(wire.End(Code.CANCELLED), header.stream))
    if way == FROM_BROKER and header.kind == Kind.ASSIGN:
        link.marked.discard(header.stream)
    lost = way == TO_BROKER and header.stream in link.marked and header.kind in (
        Kind.TOKENS, Kind.END, Kind.STARTED)
    return [] if lost else [_raw(header, payload)]


def reads_oversize(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Payloads of a wrong length are cut or filled to the right one."""
    sizes = {Kind.PING: 8, Kind.CREDIT: 8, Kind.CANCEL: 4, Kind.GRANT: 8, Kind.END: 32}
    if way == TO_BROKER and header.kind in sizes:
        size = sizes[Kind(header.kind)]
        payload = payload[:size].ljust(size, b"\0")
        header = header._replace(payload_bytes=size)
    return [_raw(header, payload)]


class FaultyBroker:
    """Listens in front of a broker, with its certificate, and applies one fault."""

    def __init__(self, broker: Broker, fault: Fault, goodbye: bool = True) -> None:
        self._broker = broker
        self._fault = fault
        self._goodbye = goodbye
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._ready.wait(5)

    def stop(self) -> None:
        """Stops listening and drops every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.set_alpn_protocols([ALPN])
        context.load_cert_chain(self._broker.ca_file, str(self._broker.folder / "key.pem"))
        server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, to_peer: asyncio.StreamWriter) -> None:
        context = ssl.create_default_context(cafile=self._broker.ca_file)
        context.set_alpn_protocols([ALPN])
        from_broker, to_broker = await asyncio.open_connection(
            self._broker.host, self._broker.port, ssl=context)
        link = Link(to_peer, to_broker)
        ways = [asyncio.create_task(self._pump(link, TO_BROKER, reader, to_broker)),
                asyncio.create_task(self._pump(link, FROM_BROKER, from_broker, to_peer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        # What one side said before its end still goes out to the other.
        await asyncio.wait(ways, timeout=0.1)
        if self._goodbye:
            to_peer.close()
        else:
            to_peer.transport.abort()
        to_broker.close()

    async def _pump(self, link: Link, way: str, reader: asyncio.StreamReader,
                    writer: asyncio.StreamWriter) -> None:
        pending = bytearray()
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
            while data := await reader.read(65_536):
                pending += data
                for part in self._frames(link, way, pending):
                    writer.write(part)
                await writer.drain()

    def _frames(self, link: Link, way: str, pending: bytearray) -> list[bytes]:
        """Whole frames through the fault; a length above the limit goes on as it is."""
        out: list[bytes] = []
        while len(pending) >= wire.HEADER_BYTES:
            try:
                header = wire.Header.unpack(bytes(pending[:wire.HEADER_BYTES]))
            except wire.WireError:
                out.append(bytes(pending))
                pending.clear()
                break
            end = wire.HEADER_BYTES + header.payload_bytes
            if len(pending) < end:
                break
            payload = bytes(pending[wire.HEADER_BYTES:end])
            del pending[:end]
            out += self._fault(link, way, header, payload)
        return out
