"""Faults of a broker, each the breach of a rule: what ``faulty.FaultyBroker`` does to frames.

A fault gets every frame of a connection with its direction, and says what goes on instead. It may
answer by itself through the link.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import support  # noqa: F401 - puts the package on the path
from sluice import wire
from sluice.codes import MAX_CREDIT, MAX_STREAMS, Code, Flag, Kind

FROM_BROKER, TO_BROKER = "from broker", "to broker"


@dataclass
class Link:
    """One connection through the proxy."""

    to_peer: asyncio.StreamWriter
    to_broker: asyncio.StreamWriter
    task: asyncio.Task[None] | None = None
    count: int = 0
    marked: set[int] = field(default_factory=set)
    limits: dict[int, int] = field(default_factory=dict)

    def refuse(self, code: Code) -> list[bytes]:
        """Ends the connection with ERROR."""
        self.to_peer.write(wire.pack(wire.Error(code)))
        self.to_peer.close()
        return []


Change = Callable[[Link, str, wire.Header, bytes], list[bytes]]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a broker: its frames, or how its connections begin and end."""

    name: str
    summary: str
    change: Change
    goodbye: bool = True
    """Whether it closes with close_notify."""
    keeps_lost_peers: bool = False
    """Whether the broker is not told that a peer has gone."""
    fills_cut_frames: bool = False
    """Whether a frame cut off by the end of the connection is filled with zeros."""
    loses_parts: bool = False
    """Whether a frame must come in one TLS record."""
    one_at_a_time: bool = False
    """Whether all connections wait for one that does not read."""
    tls: str = "right"
    """``old``: TLS 1.2 too; ``tickets``: session tickets."""


FAULTS: dict[str, Fault] = {}


def fault(**options: object) -> Callable[[Change], Change]:
    """Registers a function as the fault of its name."""
    def register(change: Change) -> Change:
        name = change.__name__.replace("_", "-")
        summary = (change.__doc__ or "").strip()
        FAULTS[name] = Fault(name, summary, change, **options)  # type: ignore[arg-type]
        return change

    return register


def _raw(header: wire.Header, payload: bytes) -> list[bytes]:
    return [header._replace(payload_bytes=len(payload)).pack() + payload]


def _patch(payload: bytes, layout: str, offset: int, value: int) -> bytes:
    """The payload with another number at an offset; as it is where it is too short."""
    if len(payload) < offset + struct.calcsize(layout):
        return payload
    changed = bytearray(payload)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


def _loses(name: str, summary: str, way: str, kind: Kind,
           holds: Callable[[wire.Header, bytes], bool] = lambda *_: True) -> None:
    """Registers a fault that loses frames of a kind in one direction."""
    def change(_link: Link, going: str, header: wire.Header, payload: bytes) -> list[bytes]:
        lost = going == way and header.kind == kind and holds(header, payload)
        return [] if lost else _raw(header, payload)

    FAULTS[name] = Fault(name, summary, change)


def _patches(name: str, summary: str, way: str, kind: Kind,
             edit: Callable[[bytes], bytes]) -> None:
    """Registers a fault that changes the payloads of a kind in one direction."""
    def change(_link: Link, going: str, header: wire.Header, payload: bytes) -> list[bytes]:
        return _raw(header, edit(payload) if going == way and header.kind == kind else payload)

    FAULTS[name] = Fault(name, summary, change)


# MARK: Transport


def _faithful(_link: Link, _way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    return _raw(header, payload)


for _fault in (
    Fault("plain-tls", "TLS as a library does it: any group, KeyUpdate without end, no ALPN "
          "needed, a minute for the handshake", _faithful),
    Fault("no-goodbye", "closes without close_notify", _faithful, goodbye=False),
    Fault("old-tls", "takes TLS 1.2", _faithful, tls="old"),
    Fault("tickets", "issues session tickets", _faithful, tls="tickets"),
    Fault("loses-parts", "a frame that spans two records gets lost", _faithful, loses_parts=True),
    Fault("keeps-lost-peers", "does not notice that a peer has gone", _faithful,
          keeps_lost_peers=True),
    Fault("fills-cut-frames", "acts on a frame that was cut off", _faithful,
          fills_cut_frames=True),
    Fault("one-at-a-time", "stops reading everyone because one peer does not read", _faithful,
          one_at_a_time=True),
):
    FAULTS[_fault.name] = _fault

_patches("any-version", "takes every version", TO_BROKER, Kind.HELLO,
         lambda payload: b"\1\0\1\0" + payload[4:])
_patches("odd-version", "chooses a version that nobody asked for", FROM_BROKER, Kind.WELCOME,
         lambda payload: _patch(payload, "<H", 0, 2))


@fault()
def asks_nobody(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Lets everybody in: refusals of credentials turn into silence."""
    refuses = way == FROM_BROKER and header.kind == Kind.ERROR and payload[0] in (
        Code.UNAUTHENTICATED, Code.FORBIDDEN)
    if refuses:
        link.to_peer.write(wire.pack(wire.Welcome(1, 0, 1, 4, 1, 16_384, 1, 1, 1)))
    return [] if refuses else _raw(header, payload)


# MARK: Frames


@fault()
def wrong_codes(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """ERROR always says protocol_violation, and every refusal but no_supplier queue_full."""
    if way == FROM_BROKER and header.kind == Kind.ERROR:
        payload = _patch(payload, "<H", 0, Code.PROTOCOL_VIOLATION)
    refuses = header.kind == Kind.END and 48 <= payload[0] <= 79
    if way == FROM_BROKER and refuses and payload[0] != Code.NO_SUPPLIER:
        payload = _patch(payload, "<H", 0, Code.QUEUE_FULL)
    return _raw(header, payload)


@fault()
def skips_unknown_kinds(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Unknown kinds are skipped with or without the flag."""
    lost = way == TO_BROKER and header.kind not in wire.FRAMES
    return [] if lost else _raw(header, payload)


@fault()
def refuses_unknown_kinds(link: Link, way: str, header: wire.Header,
                          payload: bytes) -> list[bytes]:
    """Unknown kinds are refused with or without the flag."""
    if way == TO_BROKER and header.kind not in wire.FRAMES:
        return link.refuse(Code.UNKNOWN_KIND)
    return _raw(header, payload)


@fault()
def strict_about_reserved(link: Link, way: str, header: wire.Header,
                          payload: bytes) -> list[bytes]:
    """Flags without a meaning and `tokens` where they do not belong are refused."""
    meant = Flag.REASONING | Flag.ERROR if header.kind == Kind.TOKENS else 0
    odd = header.flags & 0x7F & ~meant or header.tokens and header.kind != Kind.TOKENS
    if way == TO_BROKER and odd and header.kind in wire.FRAMES:
        return link.refuse(Code.MALFORMED_PAYLOAD)
    return _raw(header, payload)


@fault()
def smaller_frames(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Frames above 8 KiB are too large."""
    if way == TO_BROKER and len(payload) > 8_192:
        return link.refuse(Code.FRAME_TOO_LARGE)
    return _raw(header, payload)


@fault()
def one_stream_fewer(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """The highest stream is out of range."""
    if way == TO_BROKER and header.stream == MAX_STREAMS:
        return link.refuse(Code.STREAM_OUT_OF_RANGE)
    return _raw(header, payload)


@fault()
def takes_any_length(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Payloads of a wrong length are cut or filled to the right one."""
    sizes = {Kind.PING: 8, Kind.CREDIT: 8, Kind.CANCEL: 4, Kind.GRANT: 8, Kind.END: 32}
    if way == TO_BROKER and header.kind in sizes:
        size = sizes[Kind(header.kind)]
        payload = payload[:size].ljust(size, b"\0")
    return _raw(header, payload)


@fault()
def keeps_flags(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """TOKENS reach the client with a flag that nobody knows."""
    if way == FROM_BROKER and header.kind == Kind.TOKENS:
        header = header._replace(flags=header.flags | 0x40)
    return _raw(header, payload)


@fault()
def clears_all_flags(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """TOKENS reach the client without any flag."""
    if way == FROM_BROKER and header.kind == Kind.TOKENS:
        header = header._replace(flags=0)
    return _raw(header, payload)


_patches("blames-another-frame", "ERROR names a frame that was never sent", FROM_BROKER, Kind.ERROR,
         lambda payload: _patch(_patch(payload, "<B", 2, 0x77), "<I", 4, 99))


@fault()
def acts_after_a_fault(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """An unknown kind is told, but frames behind it are read as well."""
    if way == TO_BROKER and header.kind not in wire.FRAMES and not header.ignorable:
        link.marked.add(header.kind)
        return []
    if link.marked and way == FROM_BROKER:
        link.to_peer.write(b"".join(_raw(header, payload)))
        return link.refuse(Code.UNKNOWN_KIND)
    return _raw(header, payload)


# MARK: Life

_patches("wrong-pongs", "PING is answered with another value", FROM_BROKER, Kind.PONG,
         lambda payload: bytes([payload[0] ^ 1]) + payload[1:])


@fault()
def never_floods(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """What is unproductive is swallowed, however much comes."""
    link.count += header.kind == Kind.WELCOME
    if way == FROM_BROKER or not link.count:
        return _raw(header, payload)
    if header.kind == Kind.PING and len(payload) == 8 and header.stream == 0:
        link.to_peer.write(wire.pack(wire.Pong(*struct.unpack("<Q", payload))))
        return []
    if header.kind == Kind.CREDIT and len(payload) == 8:
        (limit,) = struct.unpack("<Q", payload)
        raises = limit > link.limits.get(header.stream, 5_000)
        link.limits[header.stream] = max(limit, link.limits.get(header.stream, 5_000))
        return _raw(header, payload) if raises else []
    useless = (header.kind == Kind.PONG
               or header.kind not in wire.FRAMES and header.ignorable
               or header.kind == Kind.TOKENS and not payload and not header.tokens
               or header.kind == Kind.BODY and len(payload) < 1_024)
    return [] if useless else _raw(header, payload)


@fault()
def never_forgives(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """The allowance of unproductive frames does not come back."""
    link.count += way == TO_BROKER and header.kind == Kind.PONG
    return link.refuse(Code.FLOOD) if link.count > 1_000 else _raw(header, payload)


@fault()
def impatient(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """A hundred pings are a flood."""
    link.count += way == TO_BROKER and header.kind == Kind.PING
    return link.refuse(Code.FLOOD) if link.count > 100 else _raw(header, payload)


@fault()
def strict_about_late_frames(link: Link, way: str, header: wire.Header,
                             payload: bytes) -> list[bytes]:
    """CREDIT, CANCEL and BODY on an idle slot, CREDIT that is lower, PONG unasked: refused."""
    if way == FROM_BROKER:
        if header.kind == Kind.END:
            link.marked.discard(header.stream)
            link.limits.pop(header.stream, None)
        if header.kind == Kind.ASSIGN:
            link.marked.add(header.stream)
        return _raw(header, payload)
    if header.kind in (Kind.SUBMIT, Kind.OFFER):
        link.marked.add(header.stream)
    late = header.kind in (Kind.CREDIT, Kind.CANCEL, Kind.BODY) and header.stream not in link.marked
    if header.kind == Kind.CREDIT and len(payload) == 8:
        (limit,) = struct.unpack("<Q", payload)
        late = late or limit <= link.limits.get(header.stream, 0)
        link.limits[header.stream] = limit
    if late or header.kind == Kind.PONG:
        return link.refuse(Code.UNEXPECTED_FRAME)
    return _raw(header, payload)


@fault()
def closes_at_go_away(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """GO-AWAY of a peer ends its connection at once."""
    if way == TO_BROKER and header.kind == Kind.GO_AWAY:
        return link.refuse(Code.SHUTTING_DOWN)
    return _raw(header, payload)


@fault()
def answers_errors(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """ERROR is answered with ERROR."""
    if way == TO_BROKER and header.kind == Kind.ERROR:
        return link.refuse(Code.SHUTTING_DOWN)
    return _raw(header, payload)


# MARK: Supply


@fault()
def grants_more(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Every GRANT counts as one of 64 slots."""
    if way == TO_BROKER and header.kind == Kind.GRANT:
        payload = payload[:4] + (64).to_bytes(4, "little")
    return _raw(header, payload)


@fault()
def grants_at_once(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """A new offer has a slot before its first GRANT."""
    frames = _raw(header, payload)
    if way == TO_BROKER and header.kind == Kind.OFFER and len(payload) > 50 and payload[0]:
        frames += _raw(wire.Header(8, Kind.GRANT, 0, 0, 0), payload[:4] + b"\1\0\0\0")
    return frames


_loses("forgets-withdraw", "WITHDRAW has no effect", TO_BROKER, Kind.WITHDRAW)
_loses("never-reports", "ASK stays without an answer", FROM_BROKER, Kind.REPORT)


def _folded(offset: int) -> Callable[[bytes], bytes]:
    return lambda payload: payload[:offset] + payload[offset:].lower()


@fault()
def folds_case(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Names that differ in case are one model."""
    if way == TO_BROKER and header.kind in (Kind.OFFER, Kind.SUBMIT):
        payload = _folded(50 if header.kind == Kind.OFFER else 48)(payload)
    return _raw(header, payload)


@fault()
def punishes_declined(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """A supplier that declines is thrown out."""
    if way == TO_BROKER and header.kind == Kind.END and payload[:1] == bytes([Code.DECLINED]):
        return link.refuse(Code.PROTOCOL_VIOLATION)
    return _raw(header, payload)


# MARK: Submitting


@fault()
def queues_twice(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """QUEUED comes twice."""
    twice = way == FROM_BROKER and header.kind == Kind.QUEUED
    return _raw(header, payload) * (2 if twice else 1)


_patches("no-deadlines", "deadlines have no effect", TO_BROKER, Kind.SUBMIT,
         lambda payload: _patch(payload, "<I", 8, 0))
_patches("no-reserves", "a reserve below the largest counts as the usual one", TO_BROKER,
         Kind.SUBMIT, lambda payload: payload if payload[24:28] == b"\0\0\1\0"
         else _patch(payload, "<I", 24, 0))
@fault()
def no_pool(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """QUEUED promises every reserve that was asked, beyond the pool of the connection."""
    if way == FROM_BROKER and header.kind == Kind.QUEUED and payload[16:20] == b"\0\x20\0\0":
        payload = _patch(payload, "<I", 16, 65_536)
    return _raw(header, payload)


_patches("no-times", "a refusal names no time to retry", FROM_BROKER, Kind.END,
         lambda payload: _patch(payload, "<I", 20, 0))


@fault()
def no_filters(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Extensions of SUBMIT have no effect, but for the region that settles a case's model."""
    if way == TO_BROKER and header.kind == Kind.SUBMIT and len(payload) >= 48:
        model, run = struct.unpack_from("<HH", payload, 28)
        if b"~nowhere~" not in payload[48 + model:48 + model + run]:
            payload = _patch(payload, "<H", 30, 0)
            payload = payload[:48 + model] + payload[48 + model + run:]
    return _raw(header, payload)


_patches("any-encoding", "every offer serves every encoding and operation", TO_BROKER, Kind.OFFER,
         lambda payload: _patch(_patch(payload, "<B", 43, 0x0F), "<B", 44, 0x03))
_patches("no-budgets", "a budget is taken and forgotten", TO_BROKER, Kind.SUBMIT,
         lambda payload: _patch(payload, "<Q", 40, 0))


@fault()
def stream_faults_end_connections(link: Link, way: str, header: wire.Header,
                                  payload: bytes) -> list[bytes]:
    """A body that contradicts its size ends the connection."""
    if way == FROM_BROKER and header.kind == Kind.END and payload[0] == Code.BODY_MISMATCH:
        return link.refuse(Code.PROTOCOL_VIOLATION)
    return _raw(header, payload)


_patches("changes-bodies", "a byte of every BODY changes on its way to the supplier", FROM_BROKER,
         Kind.BODY, lambda payload: bytes([payload[0] ^ 1]) + payload[1:])
_patches("no-body-credit", "a supplier's body credit has no effect", TO_BROKER, Kind.HELLO,
         lambda payload: _patch(payload, "<Q", 8, MAX_CREDIT) if payload[4:5] == b"\2"
         else payload)
_loses("keeps-upload-limit", "uploadLimit never rises", FROM_BROKER, Kind.CREDIT,
       lambda header, _: header.stream == 0)


@fault()
def raises_upload_limit(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Every BODY raises uploadLimit, also one of no task."""
    if way == TO_BROKER and header.kind == Kind.BODY:
        link.count += len(payload)
        link.to_peer.write(wire.pack(wire.Credit((1 << 24) + link.count)))
    return _raw(header, payload)


# MARK: Tasks


@fault()
def ignores_credit(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Every answer has all the credit there is."""
    if way == TO_BROKER and header.kind == Kind.SUBMIT:
        payload = _patch(payload, "<Q", 32, MAX_CREDIT)
    return _raw(header, payload)


_loses("keeps-credit", "the limit of a running answer never rises", FROM_BROKER, Kind.CREDIT,
       lambda header, _: header.stream != 0)


@fault()
def loses_tokens(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """Every fourth TOKENS frame gets lost."""
    if way == FROM_BROKER and header.kind == Kind.TOKENS:
        link.count += 1
        if link.count % 4 == 0:
            return []
    return _raw(header, payload)


@fault()
def invents_tokens(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """A TOKENS frame with nothing in it comes before every other."""
    empty = wire.pack(wire.Tokens(b""), header.stream)
    ahead = [empty] if way == FROM_BROKER and header.kind == Kind.TOKENS else []
    return ahead + _raw(header, payload)


_patches("bills-no-input", "no input is recorded", FROM_BROKER, Kind.END,
         lambda payload: _patch(_patch(payload, "<I", 4, 0), "<I", 8, 0))
_patches("bills-nothing", "every task is free", FROM_BROKER, Kind.END,
         lambda payload: _patch(payload, "<Q", 24, 0))


@fault()
def bills_more(_link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """A token more is recorded than was delivered."""
    if way == FROM_BROKER and header.kind == Kind.END:
        (output,) = struct.unpack_from("<I", payload, 12)
        payload = _patch(payload, "<I", 12, output + 1)
    return _raw(header, payload)


@fault()
def tells_suppliers_codes(_link: Link, way: str, header: wire.Header,
                          payload: bytes) -> list[bytes]:
    """The client is told a code that only suppliers have."""
    if way == FROM_BROKER and header.kind == Kind.END and payload[0] == Code.SUPPLIER_FAILED:
        payload = _patch(payload, "<H", 0, Code.UPSTREAM_UNAVAILABLE)
    return _raw(header, payload)


_loses("takes-started-twice", "a second STARTED, like the first, has no effect", TO_BROKER,
       Kind.STARTED)
_patches("changes-terms", "the supplier is told another priority", FROM_BROKER, Kind.ASSIGN,
         lambda payload: _patch(payload, "<B", 18, 200))


# MARK: Ending

_loses("drops-end", "a task that completed gets no END", FROM_BROKER, Kind.END,
       lambda _, payload: payload[0] == Code.COMPLETED)
_loses("deaf-to-cancel", "CANCEL of a client has no effect, so that TOKENS are forwarded after it",
       TO_BROKER, Kind.CANCEL)


@fault()
def no_quarantine(link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
    """A cancelled supplier stream counts as ended at once; its late frames are swallowed."""
    if way == FROM_BROKER and header.kind == Kind.CANCEL:
        link.marked.add(header.stream)
        link.to_broker.write(wire.pack(wire.End(Code.CANCELLED), header.stream))
    if way == FROM_BROKER and header.kind == Kind.ASSIGN:
        link.marked.discard(header.stream)
    lost = way == TO_BROKER and header.stream in link.marked and header.kind in (
        Kind.TOKENS, Kind.END, Kind.STARTED)
    return [] if lost else _raw(header, payload)


@fault()
def forgives_late_answers(link: Link, way: str, header: wire.Header,
                          payload: bytes) -> list[bytes]:
    """What a supplier sends on a stream that it has ended, or that was never open, is skipped."""
    if way == FROM_BROKER and header.kind == Kind.ASSIGN:
        link.marked.add(header.stream)
    answers = way == TO_BROKER and header.kind in (Kind.TOKENS, Kind.STARTED, Kind.END)
    if answers and header.stream not in link.marked:
        return []
    if answers and header.kind == Kind.END:
        link.marked.discard(header.stream)
    return _raw(header, payload)


_patches("gives-other-reasons", "a supplier is not told why its task is cancelled", FROM_BROKER,
         Kind.CANCEL, lambda payload: _patch(payload, "<H", 0, Code.BUDGET_EXHAUSTED))
