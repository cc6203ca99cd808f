"""The floods: what each sends, how the broker must meet it, and the loops that send it.

A flood runs in a process of its own, so that it has one core at most. It goes on until its time is
over: where the broker cuts it, it comes back on a new connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from conformance.libssl import KeyUpdater
from conformance.peer import Closed, Failed, Peer, Target, context
from sluice import wire
from sluice.codes import Code, Flag, Role

LATE_SECONDS = 55.0
_HELD_MAX = 400  # connections that a flood holds open at once
_BATCH = 200  # frames in one write
_STREAMS = 64
_UNKNOWN_KIND = 0x7E
_CLIENT_HELLO_START = bytes.fromhex("160301020001")  # a record whose rest never comes


@dataclass
class Offender:
    """What a flood has and what it has seen so far."""

    target: Target
    until: float
    sent: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    closed: int = 0
    _tls: ssl.SSLContext | None = None

    def goes_on(self) -> bool:
        """Whether its time is not over."""
        return time.monotonic() < self.until

    @property
    def left(self) -> float:
        """Seconds that it still has."""
        return max(0.0, self.until - time.monotonic())

    def tls(self) -> ssl.SSLContext:
        """One context for all connections."""
        self._tls = self._tls or context(self.target)
        return self._tls

    def peer(self, receive_bytes: int = 0) -> Peer:
        """A client after its handshake."""
        peer = Peer(self.target, self.tls(), receive_bytes=receive_bytes)
        self.connections += 1
        peer.hello(hello(self.target))
        return peer

    def take(self, peer: Peer, seconds: float = 0.0005) -> bool:
        """Takes what came; counts END and ERROR codes. False once the connection is over."""
        try:
            while (seen := peer.next(seconds)) is not None:
                if isinstance(seen.frame, (wire.End, wire.Error)):
                    self.codes[Code(seen.frame.code).label] += 1
                seconds = 0.0005
        except Closed:
            self.closed += 1
            peer.close(clean=False)
            return False
        return True

    def pour(self, batch: bytes, frames: int, seconds: float = 0.0005) -> None:
        """Sends a batch again and again on one connection, until that or the time is over."""
        peer = self.peer()
        while self.goes_on():
            peer.send(batch)
            self.sent += frames
            if not self.take(peer, seconds):
                return
        peer.close()


def hello(target: Target) -> wire.Hello:
    """A client's HELLO."""
    return wire.Hello(Role.CLIENT, 1, target.key.encode())


Run = Callable[[Offender], None]


@dataclass(frozen=True)
class Flood:
    """A flood; ``counted`` names counters of the statistics page of which each must grow,
    ``answers`` the codes of END or ERROR of which the offender must see each, and ``late`` those of
    either that must show in a flood of ``LATE_SECONDS`` or more. ``never`` names counters that must
    not grow and codes that must not be seen; of ``open_tasks`` so many must be open at once."""

    name: str
    sends: str
    met: str
    counted: tuple[str, ...]
    answers: tuple[str, ...]
    late: tuple[str, ...]
    never: tuple[str, ...]
    open_tasks: int
    run: Run


FLOODS: dict[str, Flood] = {}


def flood(sends: str, met: str, counted: tuple[str, ...],
          answers: tuple[str, ...] = (), late: tuple[str, ...] = (), never: tuple[str, ...] = (),
          open_tasks: int = 0) -> Callable[[Run], Run]:
    """Registers a function as the flood of its name."""
    def register(function: Run) -> Run:
        name = function.__name__.replace("_", "-")
        FLOODS[name] = Flood(name, sends, met, counted, answers, late, never, open_tasks, function)
        return function

    return register


@contextlib.contextmanager
def _ends_with_connection(offender: Offender) -> Iterator[None]:
    """A connection that breaks in the middle of a step is one that was closed."""
    try:
        yield
    except (OSError, ssl.SSLError, Closed, Failed):
        offender.closed += 1


# MARK: Before HELLO


@flood("connections that send six bytes of a ClientHello and then nothing, 400 at once",
       "each is cut 5 s after it came", ("connectionsCut",))
def stalled_handshakes(offender: Offender) -> None:
    """Those that were cut are replaced."""
    held: list[socket.socket] = []
    while offender.goes_on():
        if len(held) < _HELD_MAX:
            with _ends_with_connection(offender):
                made = socket.create_connection((offender.target.host, offender.target.port), 5)
                made.sendall(_CLIENT_HELLO_START)
                made.setblocking(False)
                held.append(made)
                offender.connections += 1
                offender.sent += 1
            continue
        time.sleep(0.05)
        for each in list(held):
            with contextlib.suppress(BlockingIOError):
                with contextlib.suppress(ConnectionError):
                    if each.recv(1_024):
                        continue
                offender.closed += 1
                held.remove(each)
                each.close()
    # The last of them are left to the broker: it must cut them by itself.
    limit = time.monotonic() + 30
    for each in held:
        each.settimeout(max(0.1, limit - time.monotonic()))
        with contextlib.suppress(OSError):
            while each.recv(1_024):
                pass
            offender.closed += 1
        each.close()


@flood("whole TLS handshakes, each connection closed behind it",
       "served, one at a time: a handshake costs its sender as much; nothing stays",
       ("handshakesCompleted",))
def handshakes(offender: Offender) -> None:
    """No HELLO."""
    while offender.goes_on():
        with _ends_with_connection(offender):
            peer = Peer(offender.target, offender.tls())
            offender.connections += 1
            offender.sent += 1
            peer.close(clean=False)


@flood("TCP connections opened and closed at once, half of them by RST",
       "taken and let go; nothing stays", ("connectionsAccepted", "handshakesFailed"))
def connections(offender: Offender) -> None:
    """Not a byte is sent."""
    while offender.goes_on():
        with _ends_with_connection(offender):
            made = socket.create_connection((offender.target.host, offender.target.port), 5)
            if offender.sent % 2:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            made.close()
            offender.connections += 1
            offender.sent += 1


@flood("KeyUpdates that ask for one back, without data between them",
       "closed after 32 [T7]", ("connectionsCut",))
def key_updates(offender: Offender) -> None:
    """Through libssl: Python's own TLS sends none."""
    while offender.goes_on():
        with _ends_with_connection(offender):
            updater = KeyUpdater(offender.target)
            offender.connections += 1
            updater.write(wire.pack(hello(offender.target)))
            sent = 0
            while offender.goes_on() and sent < 1_000 and updater.key_update():
                sent += 1
            offender.sent += sent
            offender.closed += 1 if sent < 1_000 else 0
            updater.close()


# MARK: Frames that do nothing


@flood("PING without end", "ERROR flood after 1,000 and what is regained [L10]",
       ("protocolErrors", "connectionsCut"), ("flood",))
def pings(offender: Offender) -> None:
    """PONGs are read."""
    batch = b"".join(wire.pack(wire.Ping(number)) for number in range(_BATCH))
    while offender.goes_on():
        with _ends_with_connection(offender):
            offender.pour(batch, _BATCH)


@flood("BODY frames of no and of one byte, on idle slots",
       "ERROR flood after 1,000 and what is regained [L9] [L10]",
       ("protocolErrors", "connectionsCut"), ("flood",))
def small_frames(offender: Offender) -> None:
    """The shortest frames that need no open stream."""
    batch = b"".join(wire.pack(wire.Body(b"x" * (number % 2)), 1 + number % _STREAMS)
                     for number in range(_BATCH))
    while offender.goes_on():
        with _ends_with_connection(offender):
            offender.pour(batch, _BATCH)


@flood("whole tasks of which every byte travels in a TLS record of its own",
       "served: bytes cost their sender more than the broker", ("tasksCompleted",), ("completed",))
def one_byte_records(offender: Offender) -> None:
    """22 bytes of TLS for each byte."""
    body = b"one two three"
    frame = wire.pack(wire.Submit("echo", len(body), body, credit=65_536), 1)
    while offender.goes_on():
        with _ends_with_connection(offender):
            peer = offender.peer()
            while offender.goes_on():
                for place in range(len(frame)):
                    peer.send(frame[place:place + 1])
                offender.sent += len(frame)
                end = peer.expect_end(None, skip=(wire.Queued, wire.Tokens, wire.Credit))
                offender.codes[Code(end.code).label] += 1
            peer.close()


@flood("frames of an unknown kind: 9 connections of 10 mark them ignorable, one does not",
       "ERROR flood for those that are skipped [L9], ERROR unknown_kind for the others",
       ("protocolErrors", "connectionsCut"), ("flood", "unknown_kind"))
def unknown_kinds(offender: Offender) -> None:
    """Without and with payload."""
    skipped = (wire.Header(0, _UNKNOWN_KIND, Flag.IGNORABLE, 0, 0).pack()
               + wire.Header(9, _UNKNOWN_KIND, Flag.IGNORABLE, 0, 7).pack() + bytes(9))
    bad = wire.Header(0, _UNKNOWN_KIND, 0, 0, 0).pack()
    number = 0
    while offender.goes_on():
        with _ends_with_connection(offender):
            offender.pour(bad if number % 10 == 9 else skipped * (_BATCH // 2),
                          1 if number % 10 == 9 else _BATCH)
        number += 1


# MARK: Credit


@flood("CREDIT that raises nothing, on a running stream",
       "ERROR flood after 1,000 and what is regained [L9] [L10]",
       ("protocolErrors", "connectionsCut"), ("flood",))
def repeated_credit(offender: Offender) -> None:
    """The stream is a paced one, so it stays open."""
    body = b"w " * 4_000 + b"w"
    batch = wire.pack(wire.Credit(65_536), 1) * _BATCH
    while offender.goes_on():
        with _ends_with_connection(offender):
            peer = offender.peer()
            peer.say(wire.Submit("paced", len(body), body, credit=65_536), 1)
            peer.expect(wire.Queued, 1)
            while offender.goes_on():
                peer.send(batch)
                offender.sent += _BATCH
                if not offender.take(peer):
                    break
            else:
                peer.close()


@flood("CREDIT that raises the limit of a running stream by one byte each",
       "served: each raises something, so none is unproductive; the supplier is told only when "
       "its own limit has grown by half the reserve", (),
       never=("flood", "protocolErrors", "connectionsCut", "lateFramesIgnored"))
def tiny_credit(offender: Offender) -> None:
    """Beyond what the stream will ever use."""
    body = b"w " * 4_000 + b"w"
    while offender.goes_on():
        with _ends_with_connection(offender):
            peer = offender.peer()
            limit = 65_536
            peer.say(wire.Submit("paced", len(body), body, credit=limit), 1)
            peer.expect(wire.Queued, 1)
            while offender.goes_on():
                peer.send(*(wire.pack(wire.Credit(limit + more), 1)
                            for more in range(1, _BATCH + 1)))
                limit += _BATCH
                offender.sent += _BATCH
                if not offender.take(peer):
                    break
            else:
                peer.close()


# MARK: Tasks


@flood("SUBMIT and CANCEL in one write, on 64 streams, each again when it has ended",
       "served: every one that is accepted ends cancelled and is recorded",
       ("tasksAccepted", "tasksEnded"), ("cancelled",))
def submit_and_cancel(offender: Offender) -> None:
    """As fast as END comes back."""
    both = [wire.pack(wire.Submit("paced", 1, b"x", credit=65_536), stream)
            + wire.pack(wire.Cancel(), stream) for stream in range(1, _STREAMS + 1)]
    while offender.goes_on():
        with _ends_with_connection(offender):
            peer = offender.peer()
            peer.send(*both)
            offender.sent += _STREAMS
            while offender.goes_on():
                seen = peer.next(0.5)
                if seen is None:
                    continue
                if isinstance(seen.frame, (wire.End, wire.Error)):
                    offender.codes[Code(seen.frame.code).label] += 1
                if isinstance(seen.frame, wire.End):
                    peer.send(both[seen.header.stream - 1])
                    offender.sent += 1
            peer.close()


@flood("32 streams on each of 24 connections, with all the credit there is, that read nothing",
       "their answers stop at the reserve; after 30 s they end stalled", (),
       late=("readersStalled",), open_tasks=24 * 32 // 2)
def slow_readers(offender: Offender) -> None:
    """Small socket buffers, so that the answers wait in the broker; few large tokens, so that it
    is the broker and not the worker that is asked.
    """
    body = b" ".join([b"x" * 1_000] * 15)
    submit = wire.Submit("echo", len(body), body, credit=1 << 40, reserve_bytes=4_096)
    held: list[Peer] = []
    while offender.goes_on():
        if len(held) >= 24:
            time.sleep(min(0.2, offender.left))
            for peer in held:
                peer.say(wire.Ping(1))  # alive, but it reads nothing
                offender.sent += 1
            continue
        with _ends_with_connection(offender):
            peer = offender.peer(receive_bytes=4_096)
            held.append(peer)
            for stream in range(1, _STREAMS // 2 + 1):
                peer.say(submit, stream)
                offender.sent += 1
    for peer in held:
        peer.close(clean=False)


@flood("SUBMITs that declare 4 MiB, then 1 KiB of it a second",
       "above the 64 MiB that one account may have waiting: rate_limited; after 30 s without a byte "
       "upload_timeout", ("tasksRefused",), ("rate_limited",), late=("upload_timeout",))
def slow_uploads(offender: Offender) -> None:
    """What is refused is asked for again at once."""
    peer: Peer | None = None
    open_streams: dict[int, int] = {}
    idle: list[int] = []
    trickled = 0.0
    while offender.goes_on():
        with _ends_with_connection(offender):
            if peer is None:
                peer = offender.peer()
                open_streams, idle = {}, list(range(_STREAMS, 0, -1))
            while idle:
                stream = idle.pop()
                peer.say(wire.Submit("echo", 4 << 20, b"x" * 1_024, credit=65_536), stream)
                open_streams[stream] = 1_024
                offender.sent += 1
            if time.monotonic() - trickled > 1:
                trickled = time.monotonic()
                for stream, sent in open_streams.items():
                    if sent < 14 * 1_024:
                        peer.say(wire.Body(b"x" * 1_024), stream)
                        open_streams[stream] += 1_024
                        offender.sent += 1
            seen = peer.next(0.05)
            while seen is not None:
                if isinstance(seen.frame, (wire.End, wire.Error)):
                    offender.codes[Code(seen.frame.code).label] += 1
                if isinstance(seen.frame, wire.End):
                    open_streams.pop(seen.header.stream, None)
                    idle.append(seen.header.stream)
                seen = peer.next(0.0005)
            continue
        peer = None
    if peer is not None:
        peer.close()


# MARK: Suppliers


@flood("a supplier's TOKENS frames with neither tokens nor payload, in a running task",
       "none is forwarded; ERROR flood after 1,000 and what is regained [L9] [L10], its task ends "
       "supplier_lost; once its breaker is open it gets no task, and the same frames are ERROR "
       "unexpected_frame [E10]",
       ("protocolErrors", "connectionsCut", "tasksEnded"), ("flood", "supplier_lost"))
def empty_tokens(offender: Offender) -> None:
    """Its client asks for its own model and must get no frame of it."""
    batch = wire.pack(wire.Tokens(b""), 1) * _BATCH
    target = offender.target
    asked: Peer | None = None
    while offender.goes_on():
        with _ends_with_connection(offender):
            supplier = Peer(target, offender.tls())
            offender.connections += 1
            supplier.hello(wire.Hello(Role.SUPPLIER, 2, target.tokens[0].encode(), 1 << 16))
            supplier.say(wire.Offer(1, "hollow"))
            supplier.say(wire.Grant(1, 1))
            if asked is None:
                asked = offender.peer()
            with contextlib.suppress(Failed):
                time.sleep(0.05)  # until the offer stands
                asked.say(wire.Submit("hollow", 1, b"x", credit=1 << 30), 1)
                supplier.expect(wire.Assign, seconds=0.5)
            while offender.goes_on():
                supplier.send(batch)
                offender.sent += _BATCH
                if not offender.take(supplier):
                    break
            else:
                supplier.close()
        # How the task ended that the supplier had, or why there was none.
        if asked is not None and not _hear_of(offender, asked):
            asked = None
    if asked is not None:
        asked.close()


def _hear_of(offender: Offender, asked: Peer) -> bool:
    """Waits for the END of the client's task. False when its stream cannot be used again."""
    try:
        limit = time.monotonic() + 0.5
        while time.monotonic() < limit:
            if (seen := asked.next(0.1)) is None:
                continue
            if isinstance(seen.frame, wire.Tokens):
                raise AssertionError("an empty TOKENS frame was forwarded")
            if isinstance(seen.frame, wire.End):
                offender.codes[Code(seen.frame.code).label] += 1
                return True
    except Closed:
        return False
    asked.close(clean=False)
    return False
