"""Peers that send the broker the same frames in lock-step, so that its turns repeat."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
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
    keys: list[str]
    token: str


class Peer:
    """One connection after its handshake."""

    def __init__(self, place: Place, role: Role, number: int = 0) -> None:
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
            credential=(place.keys[number % len(place.keys)] if client else place.token).encode(),
            body_credit=0 if client else 1 << 20)))
        collect([self], 1, Kind.WELCOME)

    def send(self, data: bytes) -> None:
        """In one write: one record for each 16 KiB."""
        self._socket.sendall(data)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def read(self, kind: Kind) -> list[int]:
        """The streams of the frames of this kind among what has come; waits for something."""
        found: list[int] = []
        while True:
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("the broker closed the connection")
            for header, payload in self._decoder.feed(data):
                if header.kind == Kind.PING:
                    self.send(wire.Header(len(payload), Kind.PONG, 0, 0, 0).pack() + payload)
                if header.kind == kind:
                    found.append(header.stream)
            if self._socket.pending() == 0:
                return found

    def close(self) -> None:
        """At once."""
        self._socket.close()


def collect(peers: list[Peer], count: int, kind: Kind) -> list[list[int]]:
    """Waits for so many frames of this kind at all peers together; their streams by peer."""
    found: list[list[int]] = [[] for _ in peers]
    places = {peer: place for place, peer in enumerate(peers)}
    waiter = selectors.DefaultSelector()
    for peer in peers:
        waiter.register(peer, selectors.EVENT_READ)
    end = time.monotonic() + _PATIENCE_SECONDS
    with waiter:
        while count > 0:
            # Of all together: PINGs come for ever.
            ready = waiter.select(end - time.monotonic())
            if not ready or time.monotonic() > end:
                raise TimeoutError(f"{count} frames {kind.name} are missing")
            for key, _ in ready:
                streams = key.fileobj.read(kind)  # type: ignore[union-attr]
                found[places[key.fileobj]] += streams  # type: ignore[index]
                count -= len(streams)
    return found


class Rig:
    """Suppliers, clients, and the tasks between them."""

    def __init__(self, place: Place, clients: int, suppliers: int = 1, offers: int = 1,
                 slots: int = 1_024) -> None:
        self.suppliers = [Peer(place, Role.SUPPLIER) for _ in range(suppliers)]
        self._slots = suppliers * offers * slots
        for supplier in self.suppliers:
            supplier.send(b"".join(
                wire.pack(wire.Offer(offer, _MODEL)) + wire.pack(wire.Grant(offer, slots))
                for offer in range(1, offers + 1)))
        self.clients = [Peer(place, Role.CLIENT, number) for number in range(clients)]

    def submit(self, tasks: int) -> None:
        """Every client opens streams 1…``tasks``."""
        frames = b"".join(map(_submit, range(1, tasks + 1)))
        for client in self.clients:
            client.send(frames)

    def relay(self, tasks: int, frames: int, rounds: int) -> None:
        """In each round ``frames`` TOKENS on every stream, and back before the next."""
        self.submit(tasks)
        total = tasks * len(self.clients)
        bursts = [b"".join(wire.pack(wire.Tokens(_PAYLOAD), stream, tokens=1)
                           for _ in range(frames) for stream in own)
                  for own in collect(self.suppliers, total, Kind.ASSIGN)]
        for _ in range(rounds):
            for supplier, burst in zip(self.suppliers, bursts):
                supplier.send(burst)
            collect(self.clients, frames * total, Kind.TOKENS)

    def answer(self, tasks: int, rounds: int) -> None:
        """In each round every client has ``tasks`` tasks of one token."""
        total = tasks * len(self.clients)
        for _ in range(rounds):
            self.submit(tasks)
            assigned = collect(self.suppliers, total, Kind.ASSIGN)
            for supplier, own in zip(self.suppliers, assigned):
                supplier.send(b"".join(map(_answer, own)))
            collect(self.clients, total, Kind.END)

    def match(self, pending: int, rounds: int) -> None:
        """So many tasks wait, and no slot is free. In each round all that run are answered, each
        slot takes one of those that wait, and whoever had an answer asks again."""
        slots = self._slots
        self.submit((pending + slots) // len(self.clients))
        running = collect(self.suppliers, slots, Kind.ASSIGN)
        for _ in range(rounds):
            for supplier, own in zip(self.suppliers, running):
                supplier.send(b"".join(map(_answer, own)))
            running = collect(self.suppliers, slots, Kind.ASSIGN)
            for client, streams in zip(self.clients, collect(self.clients, slots, Kind.END)):
                client.send(b"".join(map(_submit, streams)))

    def close(self) -> None:
        """All connections."""
        for peer in (*self.clients, *self.suppliers):
            peer.close()


def _submit(stream: int) -> bytes:
    """A task of the one model."""
    return wire.pack(wire.Submit(_MODEL, len(_BODY), _BODY, credit=1 << 50), stream)


def _answer(stream: int) -> bytes:
    """One token and the end."""
    return (wire.pack(wire.Started(50), stream) + wire.pack(wire.Tokens(_PAYLOAD), stream, tokens=1)
            + wire.pack(wire.End(0, output_tokens=1), stream))


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
    suppliers: int = 1
    offers: int = 1
    slots: int = 1_024


def _tokens(streams: int, frames: int) -> Callable[[Rig, int], None]:
    return lambda rig, rounds: rig.relay(streams, frames, rounds)


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

# How costs grow: the same work among ten and a hundred times as much. Too long for every landing.
GROWTH: dict[str, Case] = {
    "streams-1000": Case("frame", 8, 1_000, 20, _tokens(125, 1), suppliers=10),
    "streams-10000": Case("frame", 16, 10_000, 8, _tokens(625, 1), suppliers=10),
    "match-10-100": Case("task", 2, 10, 400, lambda rig, rounds: rig.match(100, rounds),
                         suppliers=10, slots=1),
    # As many as may wait for one model, nearly. Many rounds: whoever looks ten times a second at
    # all offers looks often while callgrind counts.
    "match-1000-4000": Case("task", 8, 1_000, 40, lambda rig, rounds: rig.match(4_000, rounds),
                            suppliers=10, offers=100, slots=1),
}
