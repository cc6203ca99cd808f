"""A broker with a fault: a TLS proxy that reads frames and breaks one rule on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading

from broker_faults import FROM_BROKER, TO_BROKER, Fault, Link
from support import Broker
from sluice import wire
from sluice.codes import ALPN

logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # writes after a close, of the cases
_READ_BYTES = 65_536
_CLOSING_SECONDS = 0.1
_WRITE_SECONDS = 60


class FaultyBroker:
    """Listens in front of a broker, with its certificate, and applies one fault."""

    def __init__(self, broker: Broker, fault: Fault) -> None:
        self._broker = broker
        self._fault = fault
        self.port = 0
        self._links: list[Link] = []
        self._outward = ssl.create_default_context(cafile=broker.ca_file)
        self._outward.set_alpn_protocols([ALPN])
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._ready.wait(5)

    def stop(self) -> None:
        """Stops listening and drops every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    # MARK: Connections

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = (ssl.TLSVersion.TLSv1_2 if self._fault.tls == "old"
                                   else ssl.TLSVersion.TLSv1_3)
        context.num_tickets = 2 if self._fault.tls == "tickets" else 0
        context.set_alpn_protocols([ALPN])
        context.load_cert_chain(self._broker.ca_file, str(self._broker.folder / "key.pem"))
        return context

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._turn = asyncio.Lock()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context()))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.wait([*tasks, self._loop.create_task(
            asyncio.sleep(_CLOSING_SECONDS))], timeout=_CLOSING_SECONDS * 10))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, to_peer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(
            self._broker.host, self._broker.port, ssl=self._outward)
        if self._fault.one_at_a_time:  # full soon, whatever the kernel would keep
            to_peer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        link = Link(to_peer, to_broker)
        link.task = asyncio.current_task()  # the loop itself holds it weakly
        self._links.append(link)
        try:
            await self._relay(link, reader, from_broker)
        finally:
            if not self._fault.goodbye:
                to_peer.transport.abort()
            to_peer.close()
            to_broker.close()
            self._links.remove(link)

    async def _relay(self, link: Link, reader: asyncio.StreamReader,
                     from_broker: asyncio.StreamReader) -> None:
        """Until one side ends; both, where the broker is not to notice that the peer has gone."""
        up = asyncio.create_task(self._pump(link, TO_BROKER, reader, link.to_broker))
        down = asyncio.create_task(self._pump(link, FROM_BROKER, from_broker, link.to_peer))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if self._fault.keeps_lost_peers and up.done():
                await down
        finally:
            up.cancel()
            down.cancel()

    # MARK: Frames

    async def _pump(self, link: Link, way: str, reader: asyncio.StreamReader,
                    writer: asyncio.StreamWriter) -> None:
        pending = bytearray()
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError, TimeoutError):
            while data := await reader.read(_READ_BYTES):
                pending += data
                for part in self._frames(link, way, pending):
                    writer.write(part)
                if self._fault.loses_parts and way == TO_BROKER:
                    pending.clear()
                await self._drain(writer)
            if self._fault.fills_cut_frames and way == TO_BROKER and len(pending) > 12:
                missing = 12 + int.from_bytes(pending[:4], "little") - len(pending)
                pending += bytes(max(0, missing))
                for part in self._frames(link, way, pending):
                    writer.write(part)

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        if not self._fault.one_at_a_time:
            await writer.drain()
            return
        async with self._turn, asyncio.timeout(_WRITE_SECONDS):
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
            out += self._fault.change(link, way, header, payload)
        return out
