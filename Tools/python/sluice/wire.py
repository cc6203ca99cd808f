"""The frames of version 1: bytes to values and back, with the specification's errors.

``unpack(header, payload)`` reads one payload and raises ``WireError`` with the code that a receiver
answers. ``pack(frame, stream)`` writes a whole frame. ``Decoder`` cuts a stream of bytes into
frames and refuses a length from the header alone [F1]. Nothing here knows of states or sockets.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeVar, dataclass_transform

from .codes import (
    HEADER_BYTES, MAX_CREDENTIAL_BYTES, MAX_CREDIT, MAX_EXTENSION_BYTES, MAX_MODEL_BYTES,
    MAX_PAYLOAD_BYTES, MAX_PRICE, MAX_REPORT_COUNTS, MAX_SLOTS, MAX_STREAMS, NO_CEILING, Code, Flag,
    Kind,
)
from .fields import (
    AGENT, BROKERS, REGION_OF_OFFER, SUBMIT_EXTENSIONS, TRACE, Reader, WireError, check_model,
    malformed, read_extensions, require, write_extensions,
)

__all__ = [
    "FRAMES", "HEADER_BYTES", "Ask", "Assign", "Body", "Cancel", "Credit", "Decoder", "End",
    "Error", "Frame", "GoAway", "Grant", "Header", "Hello", "Offer", "Ping", "Pong", "Queued",
    "Report", "Started", "Submit", "Tokens", "Welcome", "WireError", "Withdraw", "pack", "unpack",
]

_HEADER = struct.Struct("<IBBHI")


class Header(NamedTuple):
    """The first 12 bytes of every frame."""

    payload_bytes: int
    kind: int
    flags: int
    tokens: int
    stream: int

    @property
    def ignorable(self) -> bool:
        """Whether a receiver that does not know the kind skips the frame [V3]."""
        return bool(self.flags & Flag.IGNORABLE)

    def pack(self) -> bytes:
        """The 12 bytes."""
        return _HEADER.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Reads 12 bytes; refuses a length above the limit before anything else [F1]."""
        header = cls(*_HEADER.unpack_from(data))
        if header.payload_bytes > MAX_PAYLOAD_BYTES:
            raise WireError(Code.FRAME_TOO_LARGE)
        return header


# MARK: Frames


@dataclass(frozen=True)
class Frame:
    """A payload with its fields. ``kind`` is that of the header."""

    kind: ClassVar[Kind]

    def payload(self) -> bytes:
        """The payload's bytes; the fields are taken as they are, in range or not."""
        raise NotImplementedError

    @classmethod
    def read(cls, payload: bytes) -> Frame:
        """Reads a whole payload or raises ``WireError``."""
        raise NotImplementedError


class _Plain(Frame):
    """A frame of numbers alone: ``layout`` in the order of its dataclass fields."""

    layout: ClassVar[struct.Struct]
    names: ClassVar[tuple[str, ...]]

    def payload(self) -> bytes:
        return self.layout.pack(*(getattr(self, name) for name in self.names))

    @classmethod
    def read(cls, payload: bytes) -> Frame:
        reader = Reader(payload)
        frame = cls(*reader.fields(cls.layout))
        reader.finish()
        frame.check()
        return frame

    def check(self) -> None:
        """Raises ``WireError`` for a number outside its range."""


PlainType = TypeVar("PlainType", bound=_Plain)


@dataclass_transform(frozen_default=True)
def _plain(kind: Kind, layout: str) -> Callable[[type[PlainType]], type[PlainType]]:
    def decorate(cls: type[PlainType]) -> type[PlainType]:
        cls = dataclass(frozen=True)(cls)
        cls.kind, cls.layout = kind, struct.Struct(layout)
        cls.names = tuple(entry.name for entry in dataclasses.fields(cls))
        return cls

    return decorate


def _check_code(code: int, scope: Callable[[Code], bool]) -> None:
    """[N1]: a code of the table and of this frame's scope."""
    try:
        require(scope(Code(code)))
    except ValueError:
        raise malformed("value_out_of_range") from None


@_plain(Kind.PING, "<Q")
class Ping(_Plain):
    value: int


@_plain(Kind.PONG, "<Q")
class Pong(_Plain):
    value: int


@_plain(Kind.GO_AWAY, "<H2xI")
class GoAway(_Plain):
    code: int
    grace_ms: int = 0

    def check(self) -> None:
        _check_code(self.code, lambda code: code.of_connection)


@_plain(Kind.ERROR, "<HBxI")
class Error(_Plain):
    code: int
    kind_at_fault: int = 0
    stream_at_fault: int = 0

    def check(self) -> None:
        _check_code(self.code, lambda code: code.of_connection)


@_plain(Kind.GRANT, "<II")
class Grant(_Plain):
    offer: int
    slots: int

    def check(self) -> None:
        require(self.slots <= MAX_SLOTS)


@_plain(Kind.WITHDRAW, "<I")
class Withdraw(_Plain):
    offer: int


@_plain(Kind.ASK, "<I4x")
class Ask(_Plain):
    question: int


@_plain(Kind.QUEUED, "<QQII")
class Queued(_Plain):
    instance: int
    counter: int
    reserve_bytes: int
    position: int = 0

    @property
    def task_id(self) -> str:
        """The task's id as 32 hexadecimal digits [Q5]."""
        return f"{self.instance:016x}{self.counter:016x}"


@_plain(Kind.STARTED, "<II")
class Started(_Plain):
    input_tokens: int
    cached_tokens: int = 0

    def check(self) -> None:
        require(self.cached_tokens <= self.input_tokens)


@_plain(Kind.END, "<HBxIIIIIQ")
class End(_Plain):
    code: int
    finish_reason: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    retry_after_ms: int = 0
    cost: int = 0

    def check(self) -> None:
        _check_code(self.code, lambda code: not code.of_connection)
        require(self.finish_reason <= 2 and self.cached_tokens <= self.input_tokens)
        require(self.reasoning_tokens <= self.output_tokens and self.cost <= MAX_CREDIT)


@_plain(Kind.CANCEL, "<H2x")
class Cancel(_Plain):
    code: int = Code.CANCELLED

    def check(self) -> None:
        _check_code(self.code, lambda code: 32 <= code <= 47)


@_plain(Kind.CREDIT, "<Q")
class Credit(_Plain):
    limit: int

    def check(self) -> None:
        require(self.limit <= MAX_CREDIT)


@dataclass(frozen=True)
class Body(Frame):
    """Bytes of a request. The form allows any length; [U5] asks for more by state."""

    kind: ClassVar[Kind] = Kind.BODY
    body: bytes

    def payload(self) -> bytes:
        return self.body

    @classmethod
    def read(cls, payload: bytes) -> Body:
        return cls(payload)


@dataclass(frozen=True)
class Tokens(Frame):
    """A piece of the answer. The increment travels in the header: ``pack(..., tokens=)``."""

    kind: ClassVar[Kind] = Kind.TOKENS
    content: bytes

    def payload(self) -> bytes:
        return self.content

    @classmethod
    def read(cls, payload: bytes) -> Tokens:
        return cls(payload)


@dataclass(frozen=True)
class Hello(Frame):
    """The first frame of a peer, section 5."""

    kind: ClassVar[Kind] = Kind.HELLO
    role: int
    credential_kind: int
    credential: bytes = field(repr=False)
    body_credit: int = 0
    oldest_version: int = 1
    newest_version: int = 1
    agent: str = ""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HHBBHQH")

    def payload(self) -> bytes:
        run = write_extensions(self, (AGENT,))
        return self._LAYOUT.pack(
            self.oldest_version, self.newest_version, self.role, self.credential_kind,
            len(self.credential), self.body_credit, len(run)) + self.credential + run

    @classmethod
    def read(cls, payload: bytes) -> Hello:
        reader = Reader(payload)
        oldest, newest, role, kind, size, credit, run = reader.fields(cls._LAYOUT)
        require(oldest <= newest and role in (1, 2) and kind in (1, 2, 3))
        require(size <= MAX_CREDENTIAL_BYTES and credit <= MAX_CREDIT)
        require(run <= MAX_EXTENSION_BYTES)
        credential = reader.take(size)
        found = read_extensions(reader.take(run), (AGENT,))
        reader.finish()
        return cls(role, kind, credential, credit, oldest, newest,
                   **found)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Welcome(Frame):
    """The broker's answer to HELLO and the limits of the connection, section 5."""

    kind: ClassVar[Kind] = Kind.WELCOME
    version: int
    shard: int
    shards: int
    max_streams: int
    max_body_bytes: int
    upload_limit: int
    instance: int
    max_deadline_ms: int
    keep_alive_ms: int
    brokers: str = ""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HHHHIIQQII")

    def payload(self) -> bytes:
        run = write_extensions(self, (BROKERS,))
        return self._LAYOUT.pack(
            self.version, self.shard, self.shards, len(run), self.max_streams,
            self.max_body_bytes, self.upload_limit, self.instance, self.max_deadline_ms,
            self.keep_alive_ms) + run

    @classmethod
    def read(cls, payload: bytes) -> Welcome:
        reader = Reader(payload)
        version, shard, shards, run, *limits = reader.fields(cls._LAYOUT)
        require(shard < shards and run <= MAX_EXTENSION_BYTES)
        found = read_extensions(reader.take(run), (BROKERS,))
        reader.finish()
        welcome = cls(version, shard, shards, *limits, **found)  # type: ignore[arg-type]
        require(1 <= welcome.max_streams <= MAX_STREAMS and welcome.keep_alive_ms >= 1)
        return welcome


@dataclass(frozen=True)
class Offer(Frame):
    """One model that a supplier serves; prices in micro-USD per million tokens, section 7."""

    kind: ClassVar[Kind] = Kind.OFFER
    offer: int
    model: str
    context_tokens: int = 0
    input_price: int = 0
    cached_price: int = 0
    output_price: int = 0
    reasoning_price: int = 0
    supply_type: int = 1
    data_policy: int = 0
    quantisation: int = 0
    operations: int = 0x03
    encodings: int = 0x03
    region: str = ""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQQQQBBBBBxHH")

    def payload(self) -> bytes:
        run, model = write_extensions(self, (REGION_OF_OFFER,)), self.model.encode()
        return self._LAYOUT.pack(
            self.offer, self.context_tokens, self.input_price, self.cached_price,
            self.output_price, self.reasoning_price, self.supply_type, self.data_policy,
            self.quantisation, self.operations, self.encodings, len(model), len(run)) + model + run

    @classmethod
    def read(cls, payload: bytes) -> Offer:
        reader = Reader(payload)
        *numbers, size, run = reader.fields(cls._LAYOUT)
        require(1 <= size <= MAX_MODEL_BYTES, "invalid_text")
        require(run <= MAX_EXTENSION_BYTES)
        model = check_model(reader.take(size))
        found = read_extensions(reader.take(run), (REGION_OF_OFFER,))
        reader.finish()
        offer = cls(numbers[0], model, *numbers[1:], **found)  # type: ignore[arg-type]
        require(offer.offer >= 1 and max(numbers[2:6]) <= MAX_PRICE)
        require(1 <= offer.supply_type <= 5 and offer.data_policy <= 2)
        require(offer.quantisation <= 9 and 1 <= offer.operations <= 0x0F)
        require(1 <= offer.encodings <= 0x03)
        return offer


@dataclass(frozen=True)
class Report(Frame):
    """A row of the answer to ASK, section 7; ``counts`` are numbers of its table with values."""

    kind: ClassVar[Kind] = Kind.REPORT
    question: int
    rows_left: int = 0
    model: str = ""
    counts: tuple[tuple[int, int], ...] = ()

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IHHH2x")
    _COUNT: ClassVar[struct.Struct] = struct.Struct("<HQ")

    def payload(self) -> bytes:
        model = self.model.encode()
        return self._LAYOUT.pack(
            self.question, self.rows_left, len(model), len(self.counts)) + model + b"".join(
                self._COUNT.pack(*count) for count in self.counts)

    @classmethod
    def read(cls, payload: bytes) -> Report:
        reader = Reader(payload)
        question, rows_left, size, count = reader.fields(cls._LAYOUT)
        model = reader.take(size)
        name = check_model(model) if model else ""
        require(count <= MAX_REPORT_COUNTS)
        counts: list[tuple[int, int]] = []
        for _ in range(count):
            number, value = reader.fields(cls._COUNT)
            require(not counts or counts[-1][0] < number)
            counts.append((number, value))
        reader.finish()
        return cls(question, rows_left, name, tuple(counts))


@dataclass(frozen=True)
class Submit(Frame):
    """Opens a client stream, section 8. ``body`` is the start of the body [Q2].

    Only the form is checked here. A deadline, reserve or body size outside WELCOME's ranges is a
    fault of the stream, not of the frame [Q7].
    """

    kind: ClassVar[Kind] = Kind.SUBMIT
    model: str
    body_bytes: int
    body: bytes = field(default=b"", repr=False)
    operation: int = 1
    encoding: int = 1
    priority: int = 128
    preference: int = 0
    deadline_ms: int = 0
    max_input_tokens: int = 0
    max_output_tokens: int = 0
    max_reasoning_tokens: int = 0
    reserve_bytes: int = 0
    credit: int = 0
    budget: int = 0
    affinity_keys: tuple[bytes, ...] = ()
    trace: tuple[int, ...] = ()
    idempotency_key: bytes = b""
    price_ceilings: tuple[int, int] = (NO_CEILING, NO_CEILING)
    region: str = ""
    data_policy: int = 0
    supply_types: int = 255
    hedge_copies: int = 1

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<BBBBIIIIIIHHQQ")

    def payload(self) -> bytes:
        run, model = write_extensions(self, SUBMIT_EXTENSIONS), self.model.encode()
        return self._LAYOUT.pack(
            self.operation, self.encoding, self.priority, self.preference, self.body_bytes,
            self.deadline_ms, self.max_input_tokens, self.max_output_tokens,
            self.max_reasoning_tokens, self.reserve_bytes, len(model), len(run), self.credit,
            self.budget) + model + run + self.body

    @classmethod
    def read(cls, payload: bytes) -> Submit:
        reader = Reader(payload)
        (operation, encoding, priority, preference, body_bytes, deadline, max_input, max_output,
         max_reasoning, reserve, size, run, credit, budget) = reader.fields(cls._LAYOUT)
        require(1 <= operation <= 4 and encoding in (1, 2) and preference <= 3)
        require(credit <= MAX_CREDIT and budget <= MAX_CREDIT)
        require(1 <= size <= MAX_MODEL_BYTES, "invalid_text")
        require(run <= MAX_EXTENSION_BYTES)
        model = check_model(reader.take(size))
        found = read_extensions(reader.take(run), SUBMIT_EXTENSIONS)
        return cls(model, body_bytes, reader.rest(), operation, encoding, priority, preference,
                   deadline, max_input, max_output, max_reasoning, reserve, credit, budget,
                   **found)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Assign(Frame):
    """Opens a supplier stream, section 10. ``body`` is the start of the body."""

    kind: ClassVar[Kind] = Kind.ASSIGN
    instance: int
    counter: int
    offer: int
    body_bytes: int
    body: bytes = field(default=b"", repr=False)
    operation: int = 1
    encoding: int = 1
    priority: int = 128
    deadline_ms: int = 0
    max_input_tokens: int = 0
    max_output_tokens: int = 0
    max_reasoning_tokens: int = 0
    credit: int = 0
    trace: tuple[int, ...] = ()

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQBBBxIIIIIIH2xQ")

    @property
    def task_id(self) -> str:
        """The task's id as 32 hexadecimal digits [Q5]."""
        return f"{self.instance:016x}{self.counter:016x}"

    def payload(self) -> bytes:
        run = write_extensions(self, (TRACE,))
        return self._LAYOUT.pack(
            self.instance, self.counter, self.operation, self.encoding, self.priority, self.offer,
            self.body_bytes, self.deadline_ms, self.max_input_tokens, self.max_output_tokens,
            self.max_reasoning_tokens, len(run), self.credit) + run + self.body

    @classmethod
    def read(cls, payload: bytes) -> Assign:
        reader = Reader(payload)
        (instance, counter, operation, encoding, priority, offer, body_bytes, deadline, max_input,
         max_output, max_reasoning, run, credit) = reader.fields(cls._LAYOUT)
        require(1 <= operation <= 4 and encoding in (1, 2) and offer >= 1)
        require(credit <= MAX_CREDIT and run <= MAX_EXTENSION_BYTES)
        found = read_extensions(reader.take(run), (TRACE,))
        return cls(instance, counter, offer, body_bytes, reader.rest(), operation, encoding,
                   priority, deadline, max_input, max_output, max_reasoning, credit,
                   **found)  # type: ignore[arg-type]


FRAMES: dict[int, type[Frame]] = {
    cls.kind: cls
    for cls in (Hello, Welcome, Ping, Pong, GoAway, Error, Offer, Grant, Withdraw, Ask, Report,
                Submit, Body, Queued, Assign, Started, Tokens, End, Cancel, Credit)
}


def unpack(header: Header, payload: bytes) -> Frame | None:
    """The frame, or None for an unknown kind that is skipped [V3]."""
    if header.kind not in FRAMES:
        if header.ignorable:
            return None
        raise WireError(Code.UNKNOWN_KIND)
    return FRAMES[header.kind].read(payload)


def pack(frame: Frame, stream: int = 0, flags: int = 0, tokens: int = 0) -> bytes:
    """A whole frame in bytes."""
    payload = frame.payload()
    return Header(len(payload), frame.kind, flags, tokens, stream).pack() + payload


class Decoder:
    """Cuts bytes, however they arrive [T4], into headers and payloads."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """Yields the frames that are complete. A bad length raises at once [F1]."""
        self._buffer += data
        start, buffer = 0, self._buffer
        try:
            while len(buffer) - start >= HEADER_BYTES:
                header = Header.unpack(bytes(buffer[start:start + HEADER_BYTES]))
                end = start + HEADER_BYTES + header.payload_bytes
                if len(buffer) < end:
                    break
                payload = bytes(buffer[start + HEADER_BYTES:end])
                start = end
                yield header, payload
        finally:
            del buffer[:start]

    @property
    def partial_bytes(self) -> int:
        """Bytes of a frame that is not complete; a close cuts it off [T5]."""
        return len(self._buffer)
