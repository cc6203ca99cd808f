"""One connection to a broker: TLS, handshake, keep-alive, and frames in and out.

A ``Session`` knows the rules that hold for every connection; what frames of tasks and offers mean
is left to its ``Handler``, the client or the supplier. Everything runs on one asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

from . import wire
from .codes import ALPN, VERSION, Code, Kind, Retry, Role

_FROM_BROKER = {
    Role.CLIENT: {Kind.QUEUED, Kind.TOKENS, Kind.END, Kind.CREDIT},
    Role.SUPPLIER: {Kind.REPORT, Kind.ASSIGN, Kind.BODY, Kind.CANCEL, Kind.CREDIT},
}
_FROM_BROKER_ANY = {Kind.PING, Kind.PONG, Kind.GO_AWAY, Kind.ERROR}
_TASK_KINDS = 0x20
_HANDSHAKE_SECONDS = 10
_READ_BYTES = 65_536
_UNSENT_BYTES = 65_536
_UNPRODUCTIVE = 1_000  # [L10]


class ConnectionLost(Exception):
    """The connection is over. ``code`` is the ERROR's, None when it ended without one."""

    def __init__(self, code: Code | None, told_by_peer: bool = False) -> None:
        super().__init__(code.label if code else "connection closed")
        self.code = code
        self.told_by_peer = told_by_peer

    @property
    def retry(self) -> Retry:
        """The advice; a loss without a code may be tried again at once, on a new connection."""
        return self.code.retry if self.code else Retry.NOW


class Handler(Protocol):
    """What a role does with its frames."""

    def received(self, header: wire.Header, frame: wire.Frame) -> None:
        """A task's frame, CREDIT, or GO-AWAY; raises ``WireError`` for a rule that it breaks."""

    def lost(self, error: ConnectionLost) -> None:
        """Nothing follows."""


class Certificate(NamedTuple):
    """A client certificate with its chain and its private key: PEM files."""

    chain_file: str
    key_file: str


Credential = str | Certificate
"""An API key or supplier token, or a client certificate."""


def hello(role: Role, credential: Credential, body_credit: int = 0) -> wire.Hello:
    """HELLO with a credential; a certificate was shown in the handshake already [H7] [H11]."""
    kind, secret = ((3, b"") if isinstance(credential, Certificate)
                    else (int(role), credential.encode()))
    return wire.Hello(role, kind, secret, body_credit, agent="sluice-python/1")


def tls_context(ca_file: str, credential: Credential = "") -> ssl.SSLContext:
    """TLS 1.3 and nothing older, with the protocol's ALPN [T1] [T2]."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    if isinstance(credential, Certificate):
        context.load_cert_chain(credential.chain_file, credential.key_file)
    return context


class Session:
    """A connection after its handshake."""

    def __init__(self, role: Role, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                 unsent_bytes: int = _UNSENT_BYTES) -> None:
        self._role = role
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self._decoder = wire.Decoder()
        self._handler: Handler | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._heard = time.monotonic()
        self._pings: set[int] = set()
        self._allowance = float(_UNPRODUCTIVE)
        self._allowance_at = self._heard
        self._over: ConnectionLost | None = None
        writer.transport.set_write_buffer_limits(high=unsent_bytes)

    welcome: wire.Welcome

    @classmethod
    async def open(cls, host: str, port: int, ca_file: str, hello: wire.Hello,
                   server_name: str | None = None, credential: Credential = "") -> Session:
        """Dials, says HELLO and waits for WELCOME. Raises ``ConnectionLost`` where refused."""
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=tls_context(ca_file, credential),
                    server_hostname=server_name or host)
                session = cls(Role(hello.role), reader, writer)
                tls = writer.get_extra_info("ssl_object")
                if tls.selected_alpn_protocol() != ALPN:
                    session.close()
                    raise ConnectionLost(Code.PROTOCOL_VIOLATION)
                session.send(hello)
                session.welcome = await session._read_welcome(hello)
                return session
        except TimeoutError:
            raise ConnectionLost(Code.HANDSHAKE_TIMEOUT) from None
        except OSError:
            raise ConnectionLost(None) from None

    async def _read_welcome(self, hello: wire.Hello) -> wire.Welcome:
        """[H8]: WELCOME or ERROR is first; the frames behind it stay for ``start``."""
        try:
            header = wire.Header.unpack(await self._reader.readexactly(wire.HEADER_BYTES))
            payload = await self._reader.readexactly(header.payload_bytes)
            frame = wire.unpack(header, payload)
        except (wire.WireError, asyncio.IncompleteReadError, OSError) as error:
            self.close(getattr(error, "code", None))
            raise ConnectionLost(getattr(error, "code", None)) from None
        if isinstance(frame, wire.Error):
            self.close()
            raise ConnectionLost(Code(frame.code), told_by_peer=True)
        if not isinstance(frame, wire.Welcome):
            self.close(Code.UNEXPECTED_FRAME)
            raise ConnectionLost(Code.UNEXPECTED_FRAME)
        if not hello.oldest_version <= frame.version <= min(hello.newest_version, VERSION):
            self.close(Code.VERSION_MISMATCH)
            raise ConnectionLost(Code.VERSION_MISMATCH)
        return frame

    def start(self, handler: Handler) -> None:
        """Begins to read for ``handler``."""
        self._handler = handler
        self.run(self._read())
        self.run(self._keep_alive())

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``work`` beside the session; it is cancelled when the session ends."""
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    # MARK: Out

    def send(self, frame: wire.Frame, stream: int = 0, flags: int = 0) -> None:
        """Sends a control frame at once, ahead of data that waits for its turn [O2]."""
        if self._over is None:
            self._writer.write(wire.pack(frame, stream, flags))

    @contextlib.asynccontextmanager
    async def data_turn(self) -> Any:
        """A turn to send one frame of data: fair among streams [O3], and paced by the socket."""
        async with self._turn:
            if self._over is not None:
                raise self._over
            yield self.send_data
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()

    def send_data(self, frame: wire.Frame, stream: int, flags: int = 0, tokens: int = 0) -> None:
        """Writes one frame of data; only inside a turn."""
        self._writer.write(wire.pack(frame, stream, flags, tokens))

    def close(self, code: Code | None = None, fault: wire.Header | None = None) -> None:
        """Ends the connection: ERROR if there is a code to tell, then close_notify [L4] [T5]."""
        if self._over is not None:
            return
        if code is not None:
            kind, stream = (fault.kind, fault.stream) if fault else (0, 0)
            self.send(wire.Error(code, kind, stream))
        self._end(ConnectionLost(code))

    def _end(self, error: ConnectionLost) -> None:
        if self._over is None:
            self._over = error
            self._writer.close()
            if self._handler is not None:
                self._handler.lost(error)
            for job in self._jobs - {asyncio.current_task()}:
                job.cancel()

    # MARK: In

    async def _read(self) -> None:
        try:
            while self._over is None:
                data = await self._reader.read(_READ_BYTES)
                if not data:
                    break
                self._heard = time.monotonic()
                self._take(data)
        except (OSError, ssl.SSLError):
            pass
        self._end(ConnectionLost(None))

    def _take(self, data: bytes) -> None:
        header: wire.Header | None = None
        try:
            for header, payload in self._decoder.feed(data):
                self._dispatch(header, payload)
                if self._over is not None:
                    return  # [M2]
        except wire.WireError as error:
            self.close(error.code, None if error.code is Code.FRAME_TOO_LARGE else header)

    def _dispatch(self, header: wire.Header, payload: bytes) -> None:
        """The order of [M1]: length (by the decoder), kind, role and stream, payload, state."""
        known = header.kind in wire.FRAMES
        if known:
            self._check_place(header)
        frame = wire.unpack(header, payload)
        if frame is None:
            self.unproductive()
        elif isinstance(frame, wire.Ping):
            self.unproductive()
            self.send(wire.Pong(frame.value))
        elif isinstance(frame, wire.Pong):
            if frame.value in self._pings:
                self._pings.clear()
            else:
                self.unproductive()
        elif isinstance(frame, wire.Error):
            self._end(ConnectionLost(Code(frame.code), told_by_peer=True))  # [L5]
        elif self._handler is not None:
            self._handler.received(header, frame)

    def _check_place(self, header: wire.Header) -> None:
        """[F5] [F6]: the role and the stream that a kind may have."""
        kind = Kind(header.kind)
        if kind not in _FROM_BROKER_ANY | _FROM_BROKER[self._role]:
            raise wire.WireError(Code.UNEXPECTED_FRAME)
        if kind < _TASK_KINDS:
            if header.stream != 0:
                raise wire.WireError(Code.UNEXPECTED_FRAME)
        elif header.stream > self.welcome.max_streams or (header.stream == 0 and not (
                kind == Kind.CREDIT and self._role == Role.CLIENT)):
            raise wire.WireError(Code.STREAM_OUT_OF_RANGE)

    def unproductive(self) -> None:
        """Counts a frame of [L9]; ends the connection by [L10]."""
        now = time.monotonic()
        regained = (now - self._allowance_at) * 100
        self._allowance_at = now
        self._allowance = min(_UNPRODUCTIVE, self._allowance + regained) - 1
        if self._allowance < 0:
            raise wire.WireError(Code.FLOOD)

    def stream_ended(self) -> None:
        """Regains allowance with an END [L10]."""
        self._allowance = min(_UNPRODUCTIVE, self._allowance + 16)

    async def _keep_alive(self) -> None:
        """[L2]."""
        period, value = self.welcome.keep_alive_ms / 1_000, 0
        while True:
            quiet = time.monotonic() - self._heard
            if quiet < period:
                await asyncio.sleep(period - quiet)
                continue
            value += 1
            self._pings.add(value)
            self.send(wire.Ping(value))
            await asyncio.sleep(period)
            if time.monotonic() - self._heard >= 2 * period:
                self.close(Code.KEEP_ALIVE_TIMEOUT)
                return

    async def ping(self) -> None:
        """Asks the broker for a sign of life; returns at once."""
        value = time.monotonic_ns()
        self._pings.add(value)
        self.send(wire.Ping(value))

    async def closed(self) -> None:
        """Waits until the socket is closed."""
        with contextlib.suppress(OSError, ssl.SSLError):
            async with asyncio.timeout(5):
                await self._writer.wait_closed()
