"""A peer that does exactly what a case tells it, right or wrong, and reads what comes back.

Unlike ``sluice.session`` it keeps no rules of its own, but it holds the broker to those that any
frame must keep: form, reserved fields, flags, length [F1] [F2] [F3] [F4].
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import NamedTuple, TypeVar, cast

from sluice import wire
from sluice.codes import ALPN, Code, Flag, Kind

FrameType = TypeVar("FrameType", bound=wire.Frame)
_ALLOWED_FLAGS = {Kind.TOKENS: int(Flag.REASONING | Flag.ERROR),
                  Kind.REPORT: int(Flag.IGNORABLE)}


class Failed(Exception):
    """The broker did something else than the specification says."""


class Skipped(Exception):
    """The case needs what this run does not have."""


class Target(NamedTuple):
    """Where the broker is and who may talk to it."""

    host: str
    port: int
    ca_file: str
    key: str
    tokens: tuple[str, ...]
    patience: float = 1
    """How many times longer than usual to wait for what must come: for a loaded machine."""
    prepaid: bool | None = None
    """Whether the key's account prepays; None = not known."""
    certificate: tuple[str, str] | None = None
    """PEM files of a client's certificate that the broker takes, and of its private key."""


class Seen(NamedTuple):
    """A frame that arrived."""

    header: wire.Header
    frame: wire.Frame


class Closed(Exception):
    """The broker closed the connection; ``clean`` with close_notify."""

    def __init__(self, clean: bool) -> None:
        super().__init__("closed" if clean else "closed without close_notify")
        self.clean = clean


def context(target: Target, alpn: str | None = ALPN,
            certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
    """TLS 1.3 as a peer should speak it."""
    made = ssl.create_default_context(cafile=target.ca_file)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    if alpn is not None:
        made.set_alpn_protocols([alpn])
    if certificate is not None:
        made.load_cert_chain(*certificate)
    return made


def _connect(target: Target, seconds: float, receive_bytes: int) -> socket.socket:
    """TCP. A buffer's size is told before connecting: TCP agrees on its scale then."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        target.host, target.port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.settimeout(seconds)
        if receive_bytes > 0:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.connect(address)
    except OSError:
        made.close()
        raise
    return made


class Peer:
    """One connection. Waits are bounded; what the broker breaks raises ``Failed``."""

    def __init__(self, target: Target, tls: ssl.SSLContext | None = None,
                 seconds: float = 10, receive_bytes: int = 0) -> None:
        """``receive_bytes``: what the kernel keeps for a peer that does not read; 0: its choice."""
        self.raw = _connect(target, seconds, receive_bytes)
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket = (tls or context(target)).wrap_socket(
                self.raw, server_hostname=target.host, suppress_ragged_eofs=False)
        except (OSError, ssl.SSLError):
            self.raw.close()
            raise
        self._patience = target.patience
        self._decoder = wire.Decoder()
        self._inbox: list[Seen] = []
        self.welcome: wire.Welcome | None = None
        self.pinged = 0
        self.upload_limit = 0
        self.taken: set[int] = set()

    # MARK: Out

    def send(self, *frames: bytes) -> None:
        """Sends bytes in one write. A broker that has closed shows when it is read."""
        self.socket.settimeout(10)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.socket.sendall(b"".join(frames))

    def say(self, frame: wire.Frame, stream: int = 0, flags: int = 0, tokens: int = 0) -> None:
        """Sends one frame."""
        self.send(wire.pack(frame, stream, flags, tokens))

    def hello(self, hello: wire.Hello) -> wire.Welcome:
        """The handshake."""
        self.say(hello)
        return self.welcomed()

    def welcomed(self) -> wire.Welcome:
        """Takes WELCOME, which must be the first frame [H8]."""
        self.welcome = cast(wire.Welcome, self.expect(wire.Welcome).frame)
        self.upload_limit = self.welcome.upload_limit
        return self.welcome

    # MARK: In

    def _check(self, header: wire.Header, payload: bytes) -> Seen:
        """What holds for every frame that a broker sends."""
        try:
            frame = wire.unpack(header, payload)
        except wire.WireError as error:
            raise Failed(f"a frame of kind 0x{header.kind:02x} that breaks its form: {error}")
        if frame is None:
            raise Failed(f"a frame of the unknown kind 0x{header.kind:02x} [V2]")
        if header.flags & ~_ALLOWED_FLAGS.get(Kind(header.kind), 0):
            raise Failed(f"flags 0x{header.flags:02x} on {Kind(header.kind).name} [F3]")
        tokens = header.tokens if header.kind == Kind.TOKENS else 0
        if wire.pack(frame, header.stream, header.flags, tokens) != header.pack() + payload:
            raise Failed(f"reserved fields of {Kind(header.kind).name} are not 0 [F2]")
        return Seen(header, frame)

    def _note(self, seen: Seen) -> None:
        """[D1]: no ASSIGN on a taken slot; and PING is answered so that waits may be long."""
        header, frame = seen
        if isinstance(frame, wire.Ping):
            self.pinged += 1
            self.say(wire.Pong(frame.value))
        elif isinstance(frame, wire.Assign):
            if header.stream in self.taken:
                raise Failed(f"ASSIGN on the taken slot {header.stream} [D1]")
            self.taken.add(header.stream)
        elif isinstance(frame, wire.Credit) and header.stream == 0:
            self.upload_limit = max(self.upload_limit, frame.limit)

    def next(self, seconds: float = 5) -> Seen | None:
        """The next frame; None when none came in time. Raises ``Closed``."""
        limit = time.monotonic() + seconds
        while not self._inbox:
            left = limit - time.monotonic()
            if left <= 0:
                return None
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65_536)
            except TimeoutError:
                return None
            except (ssl.SSLError, OSError):
                raise Closed(clean=False) from None
            if not data:
                raise Closed(clean=True)
            try:
                for header, payload in self._decoder.feed(data):
                    self._inbox.append(self._check(header, payload))
            except wire.WireError as error:
                raise Failed(f"a frame above the limit: {error} [F1]") from None
        seen = self._inbox.pop(0)
        self._note(seen)
        return seen

    def next_of_case(self, seconds: float = 5) -> Seen | None:
        """The next frame that is not PING or CREDIT on stream 0, which may come at any time."""
        limit = time.monotonic() + seconds
        while (seen := self.next(max(0.001, limit - time.monotonic()))) is not None:
            if not isinstance(seen.frame, wire.Ping) and not (
                    isinstance(seen.frame, wire.Credit) and seen.header.stream == 0):
                return seen
        return None

    # MARK: Expectations

    def expect(self, kind: type[FrameType], stream: int | None = None, seconds: float = 5,
               skip: tuple[type[wire.Frame], ...] = ()) -> Seen:
        """The next frame must be of this kind; those in ``skip`` may come before."""
        seconds *= self._patience
        limit = time.monotonic() + seconds
        while True:
            try:
                seen = self.next_of_case(max(0.001, limit - time.monotonic()))
            except Closed as closed:
                raise Failed(f"expected {kind.__name__.upper()}, the connection was {closed}")
            if seen is None:
                raise Failed(f"expected {kind.__name__.upper()}, nothing came in {seconds:g} s")
            if isinstance(seen.frame, kind) and stream in (None, seen.header.stream):
                return seen
            if not isinstance(seen.frame, skip):
                where = "" if stream is None else f" on stream {stream}"
                raise Failed(f"expected {kind.__name__.upper()}{where}, saw {show(seen)}")

    def expect_end(self, code: Code | None, stream: int = 1, seconds: float = 5,
                   skip: tuple[type[wire.Frame], ...] = (wire.Credit,)) -> wire.End:
        """END with this code."""
        end = cast(wire.End, self.expect(wire.End, stream, seconds, skip).frame)
        if code is not None and end.code != code:
            raise Failed(f"expected END {code.label}, saw END {Code(end.code).label}")
        return end

    def expect_error(self, code: Code, seconds: float = 5) -> wire.Error:
        """ERROR with this code, as the last frame, and close_notify [L4] [T5].

        What was on its way before the fault may come first.
        """
        seconds *= self._patience
        limit = time.monotonic() + seconds
        try:
            while (seen := self.next(max(0.001, limit - time.monotonic()))) is not None:
                if isinstance(seen.frame, wire.Error):
                    if seen.frame.code != code:
                        saw = Code(seen.frame.code).label
                        raise Failed(f"expected ERROR {code.label}, saw ERROR {saw}")
                    self.expect_closed()
                    return seen.frame
        except Closed as closed:
            raise Failed(f"expected ERROR {code.label}, the connection was {closed}")
        raise Failed(f"expected ERROR {code.label}, nothing came in {seconds:g} s")

    def expect_closed(self, seconds: float = 5) -> None:
        """The end of the connection, with close_notify and without another frame."""
        seconds *= self._patience
        try:
            seen = self.next_of_case(seconds)
        except Closed as closed:
            if not closed.clean:
                raise Failed("closed without close_notify [T5]") from None
            return
        raise Failed("expected the end of the connection, "
                     + (f"saw {show(seen)}" if seen else f"it was open after {seconds:g} s"))

    def quiet(self, seconds: float = 0.4) -> None:
        """Nothing comes."""
        try:
            seen = self.next_of_case(seconds)
        except Closed as closed:
            raise Failed(f"expected silence, the connection was {closed}")
        if seen is not None:
            raise Failed(f"expected silence, saw {show(seen)}")

    def alive(self, value: int = 0x5A5A, skip: tuple[type[wire.Frame], ...] = ()) -> None:
        """The broker answers a PING: it has read everything before and kept the connection."""
        self.say(wire.Ping(value))
        pong = cast(wire.Pong, self.expect(wire.Pong, 0, skip=skip).frame)
        if pong.value != value:
            raise Failed(f"PONG with {pong.value:x} answers PING with {value:x} [L1]")

    # MARK: Close

    def close(self, clean: bool = True) -> None:
        """Closes, with or without close_notify."""
        with contextlib.suppress(OSError, ssl.SSLError, ValueError):
            if clean:
                self.socket.settimeout(0.2)
                self.socket.unwrap()
        with contextlib.suppress(OSError):
            self.socket.close()


def show(seen: Seen) -> str:
    """A frame for a message: its kind, stream and code, never its content."""
    code = getattr(seen.frame, "code", None)
    name = type(seen.frame).__name__.upper()
    detail = f" {Code(code).label}" if code is not None else ""
    return f"{name}{detail} on stream {seen.header.stream}"
