"""A client: submits tasks over one connection and reads their answers as they come.

    async with await Client.connect(host, port, ca_file=…, key=…) as client:
        task = await client.submit("demo", "Say hi")
        async for piece in task:
            print(piece.text, end="")
        print(task.result.output_tokens, task.result.cost_micro_usd)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from . import wire
from .codes import (
    FREE_BODY_BYTES, HEADER_BYTES, MAX_PAYLOAD_BYTES, SMALLEST_BODY_BYTES, Code, Flag, Retry, Role,
)
from .session import ConnectionLost, Credential, Session, hello

DEFAULT_WINDOW_BYTES = 65_536
SMALLEST_WINDOW_BYTES = 8_192
MAX_EVENT_BYTES = 1_048_576
CHAT, COMPLETION = 1, 2
TEXT, OPENAI = 1, 2


@dataclass(frozen=True)
class Piece:
    """One TOKENS frame: a part of the answer and the tokens that it adds."""

    content: bytes
    tokens: int
    reasoning: bool = False
    error: bool = False

    @property
    def text(self) -> str:
        """The content of an answer with encoding text [P3]."""
        return self.content.decode()


@dataclass(frozen=True)
class Result:
    """How a task ended. ``task_id`` is empty where it was not accepted [Q4]."""

    code: Code
    task_id: str
    finish_reason: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    retry_after_ms: int
    cost_micro_usd: int


class TaskFailed(Exception):
    """An accepted task that did not complete; its usage and cost are in ``result``."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.code.label)
        self.result = result

    @property
    def code(self) -> Code:
        """The END's code."""
        return self.result.code

    @property
    def retry(self) -> Retry:
        """Whether sending the same again can help."""
        return self.code.retry


class Refused(TaskFailed):
    """A task that was not accepted: nothing ran and nothing is charged."""


class Duplicate(Refused):
    """An earlier task has the idempotency key [Q15]: ``result`` has its id, usage and cost.

    The id is empty where the broker answered before the body was complete; usage and cost are 0
    while the earlier task is open.
    """


def _failure(result: Result) -> TaskFailed:
    """What an iteration raises for an END that is not ``completed``."""
    if result.code is Code.DUPLICATE:
        return Duplicate(result)
    return TaskFailed(result) if result.task_id else Refused(result)


class Task:
    """One task: iterate it for its pieces; ``result`` is there when the iteration has ended."""

    def __init__(self, client: Client, stream: int, body: bytes, window_bytes: int) -> None:
        self.stream = stream
        self._client = client
        self._body = body
        self._window = window_bytes
        self._limit = window_bytes
        self._received = 0  # cost of TOKENS so far [C4]
        self._read = 0  # cost of what the reader has taken
        self._sent_body = 0
        self._body_limit = 0
        self._changed = asyncio.Condition()
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._accepted: asyncio.Future[wire.Queued] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._cancelled = False
        for future in (self._accepted, self._ended):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    # MARK: For the application

    async def accepted(self) -> wire.Queued:
        """Waits for QUEUED: the task's id and its place in the queue."""
        return await asyncio.shield(self._accepted)

    @property
    def result(self) -> Result:
        """How the task ended; raises what the iteration raised where it failed."""
        return self._ended.result()

    async def finished(self) -> Result:
        """Drops what is left of the answer and says how the task ended, failed or not."""
        while not self._ended.done() or not self._pieces.empty():
            piece = await self._pieces.get()
            if piece is None:
                break
            self._take(piece)
        return await asyncio.shield(self._ended)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while (piece := await self._pieces.get()) is not None:
            self._take(piece)
            yield piece
        result = await asyncio.shield(self._ended)
        if result.code is not Code.COMPLETED:
            raise _failure(result)

    async def text(self) -> str:
        """The whole answer of encoding text, without reasoning [P2]."""
        return "".join([piece.text async for piece in self
                        if not piece.reasoning and not piece.error])

    async def events(self) -> AsyncIterator[bytes]:
        """The events of an answer with encoding openai [P10]; [P17] [P18] are held to."""
        pending = bytearray()
        async for piece in self:
            if piece.error:
                continue
            pending += piece.content
            while len(pending) >= 4:
                size = int.from_bytes(pending[:4], "little")
                if not 1 <= size <= MAX_EVENT_BYTES:
                    self.cancel()
                    await self.finished()
                    raise ValueError("an event of impossible length")
                if len(pending) < 4 + size:
                    break
                event = bytes(pending[4:4 + size])
                del pending[:4 + size]
                yield event

    async def body(self) -> bytes:
        """The JSON object that answers a request for embeddings or images [P27]."""
        return b"".join([piece.content async for piece in self if not piece.error])

    def cancel(self) -> None:
        """Asks the broker to end the task. The END still comes [E1]."""
        if not self._ended.done() and not self._cancelled:
            self._cancelled = True
            self._client.session.send(wire.Cancel(Code.CANCELLED), self.stream)

    # MARK: Credit for the answer

    def _take(self, piece: Piece) -> None:
        """[C11]: raises the limit by halves of the window, as the reader takes pieces."""
        self._read += HEADER_BYTES + len(piece.content)
        if self._ended.done() or self._cancelled:
            return
        if self._read + self._window - self._limit >= self._window // 2:
            self._limit = self._read + self._window
            self._client.session.send(wire.Credit(self._limit), self.stream)

    # MARK: Upload

    def _inline_bytes(self, room: int) -> int:
        """How much of the body SUBMIT takes along.

        What is left of the free part must be nothing or one whole BODY, for a piece of less than
        1,024 bytes may not travel alone [U5].
        """
        free = min(len(self._body), FREE_BODY_BYTES)
        if free <= room:
            return free
        return min(room, free - SMALLEST_BODY_BYTES)

    def _body_room(self) -> int:
        """Body bytes that may be sent now, by the free part and the stream's credit [U1] [U4]."""
        return min(len(self._body), max(self._body_limit, FREE_BODY_BYTES)) - self._sent_body

    async def _upload(self) -> None:
        """Sends the rest of the body as credit comes."""
        try:
            while self._sent_body < len(self._body):
                async with self._changed:
                    await self._changed.wait_for(self._may_send)
                async with self._client.session.data_turn() as send:
                    if self._ended.done() or self._cancelled:
                        return  # [U8]
                    size = min(self._body_room(), MAX_PAYLOAD_BYTES)
                    start = self._sent_body
                    self._sent_body += size
                    send(wire.Body(self._body[start:self._sent_body]), self.stream)
        except ConnectionLost:
            return

    def _may_send(self) -> bool:
        room, rest = self._body_room(), len(self._body) - self._sent_body
        return self._ended.done() or self._cancelled or room >= min(rest, SMALLEST_BODY_BYTES)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # MARK: What the broker says

    def _received_frame(self, header: wire.Header, frame: wire.Frame) -> None:
        """The table "client stream at the client" of section 16."""
        if isinstance(frame, wire.Queued):
            if self._accepted.done():
                raise wire.WireError(Code.UNEXPECTED_FRAME)
            self._accepted.set_result(frame)
        elif isinstance(frame, wire.Tokens):
            if not self._accepted.done():
                raise wire.WireError(Code.UNEXPECTED_FRAME)
            self._received += HEADER_BYTES + len(frame.content)
            if self._received > self._limit:
                raise wire.WireError(Code.CREDIT_EXCEEDED)
            if not frame.content and not header.tokens:
                self._client.session.unproductive()  # [L9]
            error = bool(header.flags & Flag.ERROR)
            tokens = 0 if error else header.tokens  # [K6]
            self._pieces.put_nowait(
                Piece(frame.content, tokens, bool(header.flags & Flag.REASONING), error))
        elif isinstance(frame, wire.Credit):
            if frame.limit <= self._body_limit:
                self._client.session.unproductive()
            self._body_limit = max(self._body_limit, frame.limit)  # [C3]
            self._client.session.run(self._wake())
        elif isinstance(frame, wire.End):
            self._end(frame)

    def _end(self, end: wire.End) -> None:
        queued = self._accepted.result() if self._accepted.done() else None
        result = Result(
            Code(end.code), queued.task_id if queued else "", end.finish_reason, end.input_tokens,
            end.cached_tokens, end.output_tokens, end.reasoning_tokens, end.retry_after_ms,
            end.cost)
        if not self._accepted.done():
            self._accepted.set_exception(_failure(result))
        self._ended.set_result(result)
        self._pieces.put_nowait(None)
        self._client.session.run(self._wake())

    def _lost(self, error: ConnectionLost) -> None:
        for future in (self._accepted, self._ended):
            if not future.done():
                future.set_exception(error)
        self._pieces.put_nowait(None)


class Client:
    """A connection in the role client. Any number of tasks up to ``maxStreams`` run at once."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.draining = False
        self._tasks: dict[int, Task] = {}
        self._idle = list(range(session.welcome.max_streams, 0, -1))
        self._upload_limit = session.welcome.upload_limit
        self._uploaded = 0  # free bytes sent [U2]
        self._changed = asyncio.Condition()
        self._lost: ConnectionLost | None = None
        session.start(self)

    @classmethod
    async def connect(cls, host: str, port: int, *, ca_file: str, key: Credential,
                      server_name: str | None = None) -> Client:
        """Connects with an API key, or a client certificate in its place."""
        return cls(await Session.open(
            host, port, ca_file, hello(Role.CLIENT, key), server_name, key))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes; the broker cancels what still runs [L7]."""
        self.session.close()
        await self.session.closed()

    async def submit(self, model: str, body: str | bytes | dict[str, Any], *,
                     window_bytes: int = DEFAULT_WINDOW_BYTES, **fields: Any) -> Task:
        """Submits one task. A dict is an OpenAI request; text and bytes are one message.

        ``fields`` are those of ``wire.Submit``: operation, deadline_ms, max_output_tokens, region…
        Waits while every slot is taken or ``uploadLimit`` has no room for the body's free part.
        Raises ``ConnectionLost`` once the broker goes away: open tasks go on, new ones belong on
        another connection.
        """
        if window_bytes < SMALLEST_WINDOW_BYTES:
            raise ValueError(f"a window below {SMALLEST_WINDOW_BYTES} bytes may starve its stream")
        if isinstance(body, dict):
            fields.setdefault("encoding", OPENAI)
            body = json.dumps(body, ensure_ascii=False)
        data = body.encode() if isinstance(body, str) else body
        free = min(len(data), FREE_BODY_BYTES)
        async with self._changed:
            await self._changed.wait_for(lambda: self._lost or self.draining or (
                self._idle and self._uploaded + free <= self._upload_limit))
            if self._lost:
                raise self._lost
            if self.draining:
                raise ConnectionLost(Code.SHUTTING_DOWN, told_by_peer=True)  # [G2]
            self._uploaded += free
            stream = self._idle.pop()
        task = Task(self, stream, data, window_bytes)
        self._tasks[stream] = task
        frame = wire.Submit(model, len(data), credit=window_bytes, **fields)
        inline = task._inline_bytes(MAX_PAYLOAD_BYTES - len(frame.payload()))
        async with self.session.data_turn() as send:
            first = wire.Submit(model, len(data), data[:inline], credit=window_bytes, **fields)
            send(first, stream)
            task._sent_body = inline
        if inline < len(data):
            self.session.run(task._upload())
        return task

    # MARK: Handler

    def received(self, header: wire.Header, frame: wire.Frame) -> None:
        """Frames from the broker, sections 14 and 16."""
        if isinstance(frame, wire.GoAway):
            self.draining = True
            self.session.run(self._wake())
            return
        if header.stream == 0 and isinstance(frame, wire.Credit):
            if frame.limit <= self._upload_limit:
                self.session.unproductive()
            self._upload_limit = max(self._upload_limit, frame.limit)
            self.session.run(self._wake())
            return
        task = self._tasks.get(header.stream)
        if task is None:
            if not isinstance(frame, wire.Credit):
                raise wire.WireError(Code.UNEXPECTED_FRAME)
            self.session.unproductive()  # [C13]
            return
        task._received_frame(header, frame)
        if isinstance(frame, wire.End):
            # Free bytes that were booked but will never be sent are no part of the sum [U2].
            unsent = max(0, min(len(task._body), FREE_BODY_BYTES) - task._sent_body)
            self._uploaded -= unsent
            del self._tasks[header.stream]
            self._idle.append(header.stream)  # [E2]
            self.session.stream_ended()
            self.session.run(self._wake())

    def lost(self, error: ConnectionLost) -> None:
        """Every open task ends with the loss."""
        self._lost = error
        for task in self._tasks.values():
            task._lost(error)
        asyncio.ensure_future(self._wake())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()
