"""A supplier: offers models and runs the tasks that the broker assigns.

A model is an async generator that takes an ``Assignment`` and yields pieces of the answer:

    async def echo(task: Assignment) -> AsyncGenerator[Piece, None]:
        async for word in words(await task.text()):
            yield Piece(word)

    async with await Supplier.connect(host, port, ca_file=…, token=…) as supplier:
        supplier.offer(Offer("echo", output_price=600_000), echo, slots=8)
        await supplier.wait()
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace

from . import wire
from .codes import (
    CANCEL_GRACE_MS, HEADER_BYTES, MAX_CREDIT, MAX_PAYLOAD_BYTES, NO_CEILING, REPORT_PAUSE_MS,
    WAITING_CREDIT_BYTES, Code, Flag, Role,
)
from .session import ConnectionLost, Credential, Session, hello

STOP, LENGTH, OTHER = 0, 1, 2
_HELD_BYTES = 65_536  # [P22]
_ERROR_BODY_BYTES = 65_536  # [P5]
_MOST_TOKENS = 65_535  # [K4]
_COUNTED = frozenset({3, 4})  # operations whose answer is one JSON object of results [P27]
_MOST_ROWS = 1_024


@dataclass(frozen=True)
class Piece:
    """A part of the answer and the tokens it adds. Text is split at code points only [P3]."""

    content: str | bytes
    tokens: int = 1
    reasoning: bool = False

    @property
    def flags(self) -> Flag:
        """The flags of its TOKENS frames."""
        return Flag.REASONING if self.reasoning else Flag.NONE


class Declined(Exception):
    """Raised by a model before output: not started, no strike [S9]."""


class UpstreamUnavailable(Exception):
    """Raised by a model: its engine is unreachable or broke off; another supplier may do."""


class UpstreamRefused(Exception):
    """Raised by a model: the engine refuses this request, with its error body [D7]."""

    def __init__(self, body: bytes = b"") -> None:
        super().__init__("the engine refused the request")
        self.body = body[:_ERROR_BODY_BYTES]


class Assignment:
    """One task as its model sees it: limits in ``request``, the body, and what to report."""

    def __init__(self, request: wire.Assign, read: Callable[[int], None], window: int) -> None:
        self.request = request
        self.finish_reason = STOP
        self.input_tokens = 0
        self.cached_tokens = 0
        self._read = read
        self._window = window
        self._limit = window
        self._taken = 0
        self._received = 0
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._started: Callable[[int, int], None] = lambda _input, _cached: None
        self._put(request.body)

    def started(self, input_tokens: int, cached_tokens: int = 0) -> None:
        """Says once how many tokens the prompt has [D3]. A generator's thread may call it too."""
        self.input_tokens, self.cached_tokens = input_tokens, cached_tokens
        if threading.get_ident() == self._thread:
            self._started(input_tokens, cached_tokens)
        else:
            self._loop.call_soon_threadsafe(self._started, input_tokens, cached_tokens)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Reading it gives the broker credit for more [U11]."""
        while self._taken < self.request.body_bytes:
            chunk = await self._chunks.get()
            self._taken += len(chunk)
            wanted = self._taken + self._window
            if self._limit < self.request.body_bytes and wanted - self._limit >= self._window // 2:
                self._limit = wanted
                self._read(wanted)
            yield chunk

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def text(self) -> str:
        """The whole body of encoding text [P1]."""
        try:
            return (await self.body()).decode()
        except UnicodeDecodeError:
            raise UpstreamRefused(b"the body is not UTF-8") from None

    def _put(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self.request.body_bytes:
            raise wire.WireError(Code.PROTOCOL_VIOLATION)
        if self._received > self._limit:
            raise wire.WireError(Code.CREDIT_EXCEEDED)
        if data:
            self._chunks.put_nowait(data)


Model = Callable[[Assignment], AsyncGenerator[Piece, None]]


def from_generator(function: Callable[[Assignment, bytes], Iterator[Piece | str]]) -> Model:
    """Makes a model of a plain generator; each step runs on a thread, off the loop."""
    async def model(task: Assignment) -> AsyncGenerator[Piece, None]:
        pieces = function(task, await task.body())
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece if isinstance(piece, Piece) else Piece(piece)
        finally:
            # A step that still runs on its thread cannot be closed; it ends with its yield.
            with contextlib.suppress(ValueError, AttributeError):
                pieces.close()  # type: ignore[attr-defined]

    return model


@dataclass(frozen=True)
class Offer:
    """What a supplier says of a model; prices in micro-USD per million tokens."""

    model: str
    input_price: int = 0
    cached_price: int = 0
    output_price: int = 0
    reasoning_price: int = 0
    context_tokens: int = 0
    supply_type: int = 1
    data_policy: int = 0
    quantisation: int = 0
    operations: int = 0x03
    encodings: int = 0x03
    region: str = ""


def split(content: bytes, room: int, whole_text: bool) -> int:
    """How many bytes of ``content`` fit ``room``, at a code point's border for text [P3]."""
    if len(content) <= room:
        return len(content)
    end = room
    while whole_text and end > 0 and content[end] & 0xC0 == 0x80:
        end -= 1
    return end


class _Running:
    """A supplier stream: sends pieces within the credit and ends once."""

    def __init__(self, session: Session, stream: int, request: wire.Assign,
                 window: int) -> None:
        self._session = session
        self._stream = stream
        self._limit = request.credit
        self._sent = 0
        self._changed = asyncio.Condition()
        self._output = 0
        self._reasoning = 0
        self._held: list[Piece] = []
        self._held_bytes = 0
        self._counted = False
        self.task = Assignment(
            request, lambda limit: session.send(wire.Credit(limit), stream), window)
        self.task._started = lambda reads, cached: session.send(
            wire.Started(reads, cached), stream)
        self.cancelled = False
        self.ended = False
        self.job: asyncio.Task[None] | None = None

    # MARK: Credit

    def raise_limit(self, limit: int) -> None:
        """[C3]."""
        if limit <= self._limit:
            self._session.unproductive()
            return
        self._limit = limit
        self._session.run(self._wake())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _credit(self, wanted: int) -> int:
        """Waits for credit for ``wanted`` bytes or at least 2,048 of them [C6]; says how many."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._limit - self._sent >= min(wanted, WAITING_CREDIT_BYTES))
        return self._limit - self._sent

    # MARK: Pieces

    async def send(self, piece: Piece) -> None:
        """Sends a piece; holds back what comes before the first counted token [K7] [P22]."""
        if not self._counted and piece.tokens == 0 and self._held_bytes < _HELD_BYTES:
            self._held.append(piece)
            self._held_bytes += len(piece.content)
            return
        self._counted = True
        held, self._held = self._held, []
        for each in [*held, piece]:
            await self._send_now(each)

    async def flush(self) -> None:
        """Sends what is still held back."""
        for each in self._held:
            await self._send_now(each)
        self._held = []

    async def _send_now(self, piece: Piece) -> None:
        content, text = piece.content, self.task.request.encoding == 1
        data = content.encode() if isinstance(content, str) else content
        tokens = piece.tokens
        while tokens > _MOST_TOKENS:  # [K4]: ahead, in frames without payload
            await self._send_frame(b"", piece.flags, _MOST_TOKENS)
            tokens -= _MOST_TOKENS
        while data:
            room = min(await self._credit(HEADER_BYTES + len(data)) - HEADER_BYTES,
                       MAX_PAYLOAD_BYTES)
            size = split(data, room, text)
            last = size == len(data)
            await self._send_frame(data[:size], piece.flags, tokens if last else 0)  # [K3]
            data, tokens = data[size:], 0 if last else tokens
        if tokens:
            await self._send_frame(b"", piece.flags, tokens)

    async def send_error(self, body: bytes) -> None:
        """An engine's error body [D7]; counts for nothing [K6]."""
        while body:
            room = await self._credit(HEADER_BYTES + len(body)) - HEADER_BYTES
            size = min(len(body), room, MAX_PAYLOAD_BYTES)
            await self._send_frame(body[:size], Flag.ERROR, 0)
            body = body[size:]

    async def _send_frame(self, data: bytes, flags: Flag, tokens: int) -> None:
        await self._credit(HEADER_BYTES + len(data))
        async with self._session.data_turn() as send:
            if self.ended:
                raise asyncio.CancelledError  # a model that would not stop [E10]
            self._sent += HEADER_BYTES + len(data)
            self._output += tokens
            if flags & Flag.REASONING:
                self._reasoning += tokens
            send(wire.Tokens(data), self._stream, flags, tokens)

    # MARK: End

    @property
    def tokens_left(self) -> int:
        """Tokens until the task's limit of output."""
        limit = self.task.request.max_output_tokens
        return limit - self._output if limit else NO_CEILING

    def end(self, code: Code) -> None:
        """Sends END once, with the usage so far as the claim [E4]."""
        if self.ended:
            return
        self.ended = True
        task = self.task
        self._session.send(wire.End(
            code, task.finish_reason, task.input_tokens, task.cached_tokens, self._output,
            self._reasoning), self._stream)


class Supplier:
    """A connection in the role supplier."""

    def __init__(self, session: Session, body_credit: int) -> None:
        self.session = session
        self._body_credit = body_credit
        self._models: dict[int, tuple[str, Model]] = {}
        self._next_offer = 1
        self._running: dict[int, _Running] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._over: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()
        self.draining = False
        self._questions = 0
        self._rows: asyncio.Queue[wire.Report] = asyncio.Queue(_MOST_ROWS)
        session.start(self)

    @classmethod
    async def connect(cls, host: str, port: int, *, ca_file: str, token: Credential,
                      body_credit: int = 262_144, server_name: str | None = None) -> Supplier:
        """Connects with a token or a certificate. ``body_credit`` is the window of every body."""
        if not 2 * WAITING_CREDIT_BYTES <= body_credit <= MAX_CREDIT:
            raise ValueError("a window below 4,096 bytes may starve its stream")
        said = hello(Role.SUPPLIER, token, body_credit)
        return cls(
            await Session.open(host, port, ca_file, said, server_name, token), body_credit)

    async def __aenter__(self) -> Supplier:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def offer(self, offer: Offer, model: Model, slots: int = 1) -> int:
        """Offers a model and grants ``slots`` streams at once; says the offer's number."""
        number, self._next_offer = self._next_offer, self._next_offer + 1
        self._models[number] = (offer.model, model)
        self.session.send(wire.Offer(number, **vars(offer)))
        self.grant(slots, number)
        return number

    def grant(self, slots: int, offer: int = 0) -> None:
        """Replaces the number of streams of an offer, or of the whole connection [S4]."""
        self.session.send(wire.Grant(offer, slots))

    def withdraw(self, offer: int) -> None:
        """Takes an offer back; what runs goes on, what crosses is declined [S8] [S9]."""
        del self._models[offer]
        self.session.send(wire.Withdraw(offer))

    async def standing(self, patience: float = 5) -> dict[str, dict[int, int]] | None:
        """How this supplier stands, by model, as a whole under ``""``: numbers of section 7 and
        their values. None where the broker does not tell [S14]. One caller at a time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    self._questions += 1
                    self.session.send(wire.Ask(self._questions), flags=Flag.IGNORABLE)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(REPORT_PAUSE_MS / 1_000 + 0.1):  # [S17]
                            return await self._answered(self._questions)
        return None

    async def _answered(self, question: int) -> dict[str, dict[int, int]]:
        rows: dict[str, dict[int, int]] = {}
        while True:
            row = await self._rows.get()
            if row.question == question:
                rows[row.model] = dict(row.counts)
                if row.rows_left == 0:
                    return rows

    async def drain(self, grace_ms: int = 30_000) -> None:
        """Withdraws everything by GO-AWAY [G4], waits for what runs, and closes."""
        self.draining = True
        self._models.clear()
        self.session.send(wire.GoAway(Code.SHUTTING_DOWN, grace_ms))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_ms / 1_000):
                await self._idle.wait()
        await self.close()

    async def wait(self) -> ConnectionLost:
        """Waits for the end of the connection."""
        return await asyncio.shield(self._over)

    async def close(self) -> None:
        """Closes; the broker dispatches elsewhere what had no output yet [L7]."""
        self.session.close()
        await self.session.closed()

    # MARK: Handler

    def received(self, header: wire.Header, frame: wire.Frame) -> None:
        """Frames from the broker: the table "supplier stream at the supplier" of section 16."""
        if isinstance(frame, wire.GoAway):
            return
        if isinstance(frame, wire.Report):
            if self._rows.full():  # nobody asked
                raise wire.WireError(Code.FLOOD)
            self._rows.put_nowait(frame)
            return
        running = self._running.get(header.stream)
        if isinstance(frame, wire.Assign):
            if running is not None:
                raise wire.WireError(Code.STREAM_IN_USE)
            self._assign(header.stream, frame)
        elif running is None or running.cancelled:
            if not isinstance(frame, wire.Body) or (
                    running is None and len(frame.body) < 1_024):
                self.session.unproductive()  # [E11]
        elif isinstance(frame, wire.Body):
            running.task._put(frame.body)
        elif isinstance(frame, wire.Credit):
            running.raise_limit(frame.limit)
        elif isinstance(frame, wire.Cancel):
            running.cancelled = True
            self.session.run(self._cancel(running))

    def lost(self, error: ConnectionLost) -> None:
        """All tasks are lost here."""
        if not self._over.done():
            self._over.set_result(error)
        self._idle.set()

    def _assign(self, stream: int, request: wire.Assign) -> None:
        if request.offer not in self._models:
            self.session.send(wire.End(Code.DECLINED), stream)  # [S9]
            self.session.stream_ended()
            return
        running = _Running(self.session, stream, request, self._body_credit)
        self._running[stream] = running
        self._idle.clear()
        running.job = self.session.run(self._run(running, self._models[request.offer][1], stream))

    async def _run(self, running: _Running, model: Model, stream: int) -> None:
        """Runs one task to its END. Whatever a model raises ends this task alone."""
        code = Code.UPSTREAM_UNAVAILABLE
        try:
            async with asyncio.timeout(running.task.request.deadline_ms / 1_000):  # [D5]
                code = await self._answer(running, model)
        except TimeoutError:
            code = Code.DEADLINE_EXCEEDED
        except asyncio.CancelledError:
            code = Code.CANCELLED
        except Exception:  # a model's own fault must not end the others
            code = Code.UPSTREAM_UNAVAILABLE
        finally:
            self._finish(running, stream, code)

    async def _answer(self, running: _Running, model: Model) -> Code:
        try:
            async with contextlib.aclosing(model(running.task)) as pieces:
                async for piece in pieces:
                    left = running.tokens_left
                    await running.send(replace(piece, tokens=min(piece.tokens, left)))
                    # One JSON object is sent to its end; its model makes no more than was asked for.
                    if piece.tokens >= left and running.task.request.operation not in _COUNTED:
                        running.task.finish_reason = LENGTH
                        break
            await running.flush()
            return Code.COMPLETED
        except Declined:
            return Code.DECLINED
        except UpstreamRefused as refusal:
            await running.send_error(refusal.body)
            return Code.UPSTREAM_REFUSED
        except UpstreamUnavailable:
            return Code.UPSTREAM_UNAVAILABLE

    def _finish(self, running: _Running, stream: int, code: Code) -> None:
        if running.ended:
            return
        running.end(code)
        self.session.stream_ended()
        del self._running[stream]
        if not self._running:
            self._idle.set()

    async def _cancel(self, running: _Running) -> None:
        """Stops the model, and ends the stream in time even if the model does not stop [E7]."""
        assert running.job is not None
        running.job.cancel()
        await asyncio.wait([running.job], timeout=CANCEL_GRACE_MS / 4_000)
        self._finish(running, running._stream, Code.CANCELLED)
