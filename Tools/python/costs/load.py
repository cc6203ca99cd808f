"""Peers that send the broker the same frames in lock-step, so that its turns repeat."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

from sluice import wire
from sluice.codes import ALPN, Kind, Role

_PAYLOAD = b"x" * 32
_BODY = b"p" * 200
_MODEL = "costs/model"
_PATIENCE_SECONDS = 120


class Place(NamedTuple):
    """Where the broker listens and what it takes."""

    host: str
    port: int
    ca_file: str
    key: str
    token: str


class Peer:
    """One connection after its handshake."""

    def __init__(self, place: Place, role: Role) -> None:
        tls = ssl.create_default_context(cafile=place.ca_file)
        tls.set_alpn_protocols([ALPN])
        raw = socket.create_connection((place.host, place.port), _PATIENCE_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = tls.wrap_socket(raw, server_hostname=place.host)
        self._socket.settimeout(_PATIENCE_SECONDS)
        self._decoder = wire.Decoder()
        client = role == Role.CLIENT
        self.send(wire.pack(wire.Hello(
            role, credential_kind=1 if client else 2,
            credential=(place.key if client else place.token).encode(),
            body_credit=0 if client else 1 << 20)))
        self.take(1, Kind.WELCOME)

    def send(self, data: bytes) -> None:
        """In one write: one record for each 16 KiB."""
        self._socket.sendall(data)

    def take(self, count: int, kind: Kind) -> list[wire.Header]:
        """Reads until so many frames of this kind have come."""
        found: list[wire.Header] = []
        while len(found) < count:
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("the broker closed the connection")
            for header, _ in self._decoder.feed(data):
                if header.kind == Kind.PING:
                    raise TimeoutError("the broker sent a PING: a round took too long")
                if header.kind == kind:
                    found.append(header)
        return found

    def close(self) -> None:
        """At once."""
        self._socket.close()


class Rig:
    """One supplier, some clients, and the tasks between them."""

    def __init__(self, place: Place, clients: int) -> None:
        self.supplier = Peer(place, Role.SUPPLIER)
        self.supplier.send(wire.pack(wire.Offer(1, _MODEL)) + wire.pack(wire.Grant(1, 1_024)))
        self.clients = [Peer(place, Role.CLIENT) for _ in range(clients)]
        self._frame = b""

    def submit(self, tasks: int) -> list[int]:
        """Every client opens tasks 1…``tasks``; answers their streams at the supplier."""
        frames = b"".join(
            wire.pack(wire.Submit(_MODEL, len(_BODY), _BODY, credit=1 << 50), stream)
            for stream in range(1, tasks + 1))
        for client in self.clients:
            client.send(frames)
        assigned = self.supplier.take(tasks * len(self.clients), Kind.ASSIGN)
        return [header.stream for header in assigned]

    def relay(self, streams: list[int], frames: int, rounds: int) -> None:
        """In each round ``frames`` TOKENS on every stream, and back before the next."""
        burst = b"".join(wire.pack(wire.Tokens(_PAYLOAD), stream, tokens=1)
                         for _ in range(frames) for stream in streams)
        each = frames * len(streams) // len(self.clients)
        for _ in range(rounds):
            self.supplier.send(burst)
            for client in self.clients:
                client.take(each, Kind.TOKENS)

    def answer(self, tasks: int, rounds: int) -> None:
        """In each round every client has ``tasks`` tasks of one token."""
        for _ in range(rounds):
            streams = self.submit(tasks)
            self.supplier.send(b"".join(
                wire.pack(wire.Started(50), stream)
                + wire.pack(wire.Tokens(_PAYLOAD), stream, tokens=1)
                + wire.pack(wire.End(0, output_tokens=1), stream) for stream in streams))
            for client in self.clients:
                client.take(tasks, Kind.END)

    def close(self) -> None:
        """All connections."""
        for peer in (*self.clients, self.supplier):
            peer.close()


class Case(NamedTuple):
    """What is counted for one unit of work."""

    unit: str
    clients: int
    #: Units of one round.
    units: int
    rounds: int
    run: Callable[[Rig, int], None]
    #: callgrind runs one thread at a time, and does not see that io_uring waits.
    options: tuple[str, ...] = ("--shards", "1")


def _tokens(streams: int, frames: int) -> Callable[[Rig, int], None]:
    return lambda rig, rounds: rig.relay(rig.submit(streams), frames, rounds)


CASES: dict[str, Case] = {
    # Many frames in a turn: what a busy broker spends on each.
    "frame": Case("frame", 8, 8 * 32 * 4, 40, _tokens(32, 4)),
    # The same, one stream a connection.
    "frame-spread": Case("frame", 64, 64 * 8, 40, _tokens(1, 8)),
    # One frame a turn: what waking up costs.
    "frame-alone": Case("frame", 1, 1, 400, _tokens(1, 1)),
    # The same between two shards: what crosses, and whom it wakes.
    "frame-crossing": Case("frame", 8, 8 * 32 * 4, 40, _tokens(32, 4),
                           ("--shards", "2", "--backend", "epoll")),
    "task": Case("task", 4, 4 * 32, 40, lambda rig, rounds: rig.answer(32, rounds)),
}
