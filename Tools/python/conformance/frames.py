"""Sections 3, 4, 17, 18 and 20: form, kinds, flags, streams, extensions, order of faults."""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Iterator

from sluice import wire
from sluice.codes import HEADER_BYTES, MAX_PAYLOAD_BYTES, Code, Flag, Kind, Role

from .lab import Lab, case, check
from .peer import Peer
from .transport import FRAMES_OF_ANY_KIND, whole

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "Protocol" / "Vectors"
_OF_ROLE = {
    Role.CLIENT: {Kind.SUBMIT, Kind.BODY, Kind.CANCEL, Kind.CREDIT},
    Role.SUPPLIER: {Kind.OFFER, Kind.GRANT, Kind.WITHDRAW, Kind.ASK, Kind.STARTED, Kind.TOKENS,
                    Kind.END, Kind.CREDIT},
}
_OF_ANY = {Kind.PING, Kind.PONG, Kind.GO_AWAY, Kind.ERROR}
_KNOWN = {int(kind) for kind in Kind}
_MAX_STREAM = (1 << 32) - 1


def _refuses(lab: Lab, role: Role, code: Code, *data: bytes) -> None:
    """A fresh peer sends the bytes and is told the code."""
    peer = lab.peer(role)
    peer.send(*data)
    peer.expect_error(code)
    peer.close()


def _vectors(lab: Lab, role: Role, *names: str) -> None:
    """Each invalid vector of a file, on a connection of its own."""
    for name in names:
        for entry in json.loads((VECTORS / "invalid" / f"{name}.json").read_text()):
            peer = lab.connect() if name == "hello" else lab.peer(role)
            peer.send(bytes.fromhex(entry["hex"]))
            try:
                peer.expect_error(Code[entry["code"].upper()])
            except Exception as error:
                error.args = (f"vector {name}/{entry['name']}: {error}",)
                raise
            peer.close()


@case("F1", "F4", "X1", "X2", "X3", "X4", "H5", seconds=40)
def invalid_vectors_of_hello(lab: Lab) -> None:
    """Every invalid HELLO of Protocol/Vectors gets its code."""
    _vectors(lab, Role.CLIENT, "hello")


@case("F1", "F4", "X1", "X2", "X3", "X4", "S1", seconds=40)
def invalid_vectors_of_supply(lab: Lab) -> None:
    """Every invalid OFFER, GRANT, WITHDRAW and ASK gets its code."""
    _vectors(lab, Role.SUPPLIER, "offer", "grant", "withdraw", "ask")


@case("F1", "F4", "X1", "X2", "X3", "X4", "S1", seconds=40)
def invalid_vectors_of_submit(lab: Lab) -> None:
    """Every invalid SUBMIT gets its code."""
    _vectors(lab, Role.CLIENT, "submit")


@case("F1", "F4", "N1", seconds=60)
def invalid_vectors_of_tasks(lab: Lab) -> None:
    """Every invalid BODY, CANCEL, CREDIT, STARTED, TOKENS and END gets its code."""
    _vectors(lab, Role.CLIENT, "body", "cancel", "credit")
    _vectors(lab, Role.SUPPLIER, "started", "tokens", "end", "credit")


@case("F1", "F4", "N1", "V3", seconds=60)
def invalid_vectors_of_life(lab: Lab) -> None:
    """Every invalid PING, PONG and GO-AWAY, and every unknown kind, gets its code."""
    _vectors(lab, Role.CLIENT, "ping", "pong", "go-away", "unknown")


@case("F4", "H5", seconds=60)
def truncated_at_each_length(lab: Lab) -> None:
    """Each kind with a layout is refused at every length below that of its fields, and above."""
    samples = {**FRAMES_OF_ANY_KIND, Kind.OFFER: wire.Offer(1, "a", region="eu"),
               Kind.SUBMIT: wire.Submit("a", 0, region="eu")}
    for kind, frame in samples.items():
        role = Role.SUPPLIER if kind in _OF_ROLE[Role.SUPPLIER] else Role.CLIENT
        if kind not in _OF_ROLE[role] | _OF_ANY or kind in (Kind.BODY, Kind.TOKENS):
            continue
        payload, stream = frame.payload(), 1 if kind >= Kind.SUBMIT else 0
        lengths = [*range(len(payload)), *([] if kind == Kind.SUBMIT else [len(payload) + 1])]
        for length in lengths:
            header = wire.Header(length, kind, 0, 0, stream).pack()
            _refuses(lab, role, Code.MALFORMED_PAYLOAD, header + (payload + b"\0")[:length])
    hello = lab.hello().payload()
    for length in [*range(len(hello)), len(hello) + 1]:
        peer = lab.connect()
        peer.send(wire.Header(length, Kind.HELLO, 0, 0, 0).pack() + (hello + b"\0")[:length])
        peer.expect_error(Code.MALFORMED_PAYLOAD)
        peer.close()


def _verdict(header: wire.Header, payload: bytes, role: Role) -> Code | None:
    """What a broker says to a frame with a damaged header, in the order of [M1] up to its form."""
    if header.payload_bytes > MAX_PAYLOAD_BYTES:
        return Code.FRAME_TOO_LARGE
    if header.kind not in _KNOWN:
        return None if header.ignorable else Code.UNKNOWN_KIND
    if header.kind not in _OF_ANY | _OF_ROLE[role]:
        return Code.UNEXPECTED_FRAME
    if header.kind < Kind.SUBMIT and header.stream != 0:
        return Code.UNEXPECTED_FRAME
    if header.kind >= Kind.SUBMIT and not 1 <= header.stream <= 1_024:
        return Code.STREAM_OUT_OF_RANGE
    try:
        wire.unpack(header, payload)
    except wire.WireError as error:
        return error.code
    return None


def _flipped(frame: bytes) -> Iterator[tuple[int, wire.Header, bytes]]:
    """The frame with each bit of its header flipped, its payload cut or filled to the length."""
    for bit in range(8 * HEADER_BYTES):
        data = bytearray(frame[:HEADER_BYTES])
        data[bit // 8] ^= 1 << bit % 8
        header = wire.Header(*struct.unpack("<IBBHI", data))
        size = min(header.payload_bytes, MAX_PAYLOAD_BYTES)
        yield bit, header, frame[HEADER_BYTES:][:size].ljust(size, b"\0")


@case("F1", "F2", "F3", "F4", "F5", "F6", "M1", seconds=40)
def each_header_bit_flipped(lab: Lab) -> None:
    """A PING with each of its 96 header bits flipped: ignored where reserved, else its code."""
    for bit, header, payload in _flipped(wire.pack(wire.Ping(9))):
        code, client = _verdict(header, payload, Role.CLIENT), lab.client()
        client.send(header.pack(), payload)
        try:
            if code is not None:
                client.expect_error(code)
            elif header.kind == Kind.PING:
                check(client.expect(wire.Pong).frame == wire.Pong(9), "F2", "no PONG")
        except Exception as error:
            error.args = (f"bit {bit}: {error}",)
            raise
        client.close()


@case("F1", "F2", "F3", "F4", "F5", "F6", "M1", seconds=60)
def each_header_bit_of_a_task_flipped(lab: Lab) -> None:
    """The same for SUBMIT of a client, and OFFER and TOKENS of a supplier that runs nothing."""
    for role, frame in ((Role.CLIENT, wire.pack(wire.Submit(lab.model(), 40, b"x" * 40), 1)),
                        (Role.SUPPLIER, wire.pack(wire.Offer(1, lab.model()))),
                        (Role.SUPPLIER, wire.pack(wire.Tokens(b"x" * 8), 1))):
        for bit, header, payload in _flipped(frame):
            code, peer = _verdict(header, payload, role), lab.peer(role)
            if code is None and header.kind in (Kind.TOKENS, Kind.END, Kind.STARTED):
                code = Code.UNEXPECTED_FRAME  # on an idle slot [E10]
            if code is None and header.kind in (Kind.GRANT, Kind.WITHDRAW):
                code = Code.INVALID_OFFER
            peer.send(header.pack(), payload)
            try:
                if code is not None:
                    peer.expect_error(code)
                elif header.kind == Kind.SUBMIT:
                    _ended_or_open(peer, header)
                else:
                    peer.alive()
            except Exception as error:
                error.args = (f"kind 0x{frame[4]:02x}, bit {bit}: {error}",)
                raise
            peer.close()


def _ended_or_open(peer: Peer, header: wire.Header) -> None:
    """A SUBMIT for a model that nobody has ends on the stream that it names now."""
    end = peer.expect_end(None, header.stream)
    check(end.code in (Code.MODEL_UNKNOWN, Code.BODY_MISMATCH), "F2",
          f"END {Code(end.code).label}")


@case("F1", "Y3")
def oversize_from_the_header_alone(lab: Lab) -> None:
    """Twelve bytes with a length above 16,372 are enough for frame_too_large, whatever the kind."""
    for kind in (Kind.PING, Kind.SUBMIT, Kind.OFFER, Kind.BODY, 0x30, 0xFF):
        for length in (MAX_PAYLOAD_BYTES + 1, 65_536, (1 << 32) - 1):
            for flags in (0, Flag.IGNORABLE):
                header = wire.Header(length, kind, flags, 0, 1).pack()
                _refuses(lab, Role.CLIENT, Code.FRAME_TOO_LARGE, header)
    peer = lab.connect()
    peer.send(wire.Header(MAX_PAYLOAD_BYTES + 1, Kind.HELLO, 0, 0, 0).pack())
    peer.expect_error(Code.FRAME_TOO_LARGE)


@case("F1", "Q2")
def largest_frame_taken(lab: Lab) -> None:
    """A frame of exactly 16,384 bytes is read."""
    run_model = lab.serve()
    client, (supplier, model) = lab.client(), run_model
    head = len(wire.Submit(model, 0).payload())
    body = b"b" * (MAX_PAYLOAD_BYTES - head)
    client.say(wire.Submit(model, len(body), body, credit=4_096), 1)
    client.expect(wire.Queued, 1)
    assign = supplier.expect(wire.Assign).frame
    check(getattr(assign, "body_bytes") == len(body), "Q2", "another body size was assigned")


@case("V3", "F3", "X2", "V4")
def unknown_kinds_skipped(lab: Lab) -> None:
    """Every unknown kind with the flag ignorable is skipped, whatever its stream and payload."""
    for role in (Role.CLIENT, Role.SUPPLIER):
        peer = lab.peer(role)
        for kind in set(range(256)) - _KNOWN:
            size = kind * 16
            stream = (0, 1, 1_025, _MAX_STREAM)[kind % 4]
            peer.send(wire.Header(size, kind, Flag.IGNORABLE | kind % 128, kind, stream).pack()
                      + bytes(size))
        peer.alive()


@case("V3", "F5", seconds=40)
def unknown_kinds_refused(lab: Lab) -> None:
    """Every unknown kind without the flag is unknown_kind; also RESUME, and every other flag."""
    for kind in sorted(set(range(256)) - _KNOWN):
        if kind % 8 in (0, 7) or kind < 0x30:
            flags = 0x7F if kind % 2 else 0
            _refuses(lab, Role.CLIENT, Code.UNKNOWN_KIND,
                     wire.Header(4, kind, flags, 0, kind % 3).pack() + b"abcd")


@case("F2", "F3", "X2")
def reserved_fields_and_flags_ignored(lab: Lab) -> None:
    """Unknown flags, `tokens` where they do not belong, reserved fields, unknown extensions."""
    client, model = lab.client(), lab.model()
    client.say(wire.Ping(3), flags=0xFF, tokens=0xFFFF)
    check(client.expect(wire.Pong).frame == wire.Pong(3), "F3", "another value came back")
    client.say(wire.Submit(model, 2, b"hi"), 1, flags=0xFF, tokens=0xFFFF)
    client.expect_end(Code.MODEL_UNKNOWN)
    supplier = lab.supplier()
    offer = bytearray(wire.Offer(1, model).payload() + struct.pack("<HH3s", 0x7001, 3, b"new"))
    offer[45] = 0xFF
    struct.pack_into("<H", offer, 48, 7)
    supplier.send(wire.Header(len(offer), Kind.OFFER, 0x7F, 1, 0).pack() + bytes(offer))
    supplier.say(wire.Grant(1, 1), flags=0x55, tokens=9)
    supplier.alive()
    lab.settle(model)
    run = lab.run(client, supplier, model)
    end = bytearray(wire.End(Code.COMPLETED).payload())
    end[3] = 0xFF
    supplier.send(wire.Header(len(end), Kind.END, 0x7F, 77, run.slot).pack() + bytes(end))
    client.expect_end(Code.COMPLETED)


@case("F3", "K6", "K8")
def flags_cleared_when_forwarded(lab: Lab) -> None:
    """TOKENS with every flag reach the client with `reasoning` and `error` alone."""
    run = lab.running()
    run.tokens(b"abc", 0, flags=0x7F)
    seen = run.client.expect(wire.Tokens, 1)
    check(seen.header.flags == 0x03, "K8", f"flags 0x{seen.header.flags:02x} were forwarded")
    run.tokens(b"abc", 1, flags=0x7C)
    seen = run.client.expect(wire.Tokens, 1)
    check(seen.header.flags == 0, "K8", f"flags 0x{seen.header.flags:02x} were forwarded")


@case("F5")
def wrong_role(lab: Lab) -> None:
    """Each kind that is not the role's is unexpected_frame."""
    for role in (Role.CLIENT, Role.SUPPLIER):
        for kind in FRAMES_OF_ANY_KIND:
            if kind not in _OF_ANY | _OF_ROLE[role]:
                _refuses(lab, role, Code.UNEXPECTED_FRAME, whole(kind))


@case("F6")
def stream_out_of_range(lab: Lab) -> None:
    """Task kinds on stream 0 or above maxStreams; connection kinds on a task stream."""
    for role in (Role.CLIENT, Role.SUPPLIER):
        welcome = lab.peer(role).welcome
        assert welcome is not None
        for kind in _OF_ROLE[role]:
            if kind < Kind.SUBMIT:
                data = wire.pack(FRAMES_OF_ANY_KIND[kind], 1)
                _refuses(lab, role, Code.UNEXPECTED_FRAME, data)
                continue
            for stream in (0, welcome.max_streams + 1, _MAX_STREAM):
                _refuses(lab, role, Code.STREAM_OUT_OF_RANGE, whole(kind, stream))
        for kind in (Kind.PING, Kind.PONG, Kind.GO_AWAY):
            for stream in (1, _MAX_STREAM):
                _refuses(lab, role, Code.UNEXPECTED_FRAME,
                         wire.pack(FRAMES_OF_ANY_KIND[kind], stream))


@case("F6")
def highest_stream_taken(lab: Lab) -> None:
    """Stream maxStreams is a stream like any other."""
    client = lab.client()
    assert client.welcome is not None
    highest = client.welcome.max_streams
    client.say(wire.Submit(lab.model(), 0), highest)
    client.expect_end(Code.MODEL_UNKNOWN, highest)


@case("M1")
def first_fault_told(lab: Lab) -> None:
    """Of two faults in a frame the one that is checked first is told."""
    def header(length: int, kind: int, stream: int) -> bytes:
        return wire.Header(length, kind, 0, 0, stream).pack()

    over = MAX_PAYLOAD_BYTES + 1
    _refuses(lab, Role.CLIENT, Code.FRAME_TOO_LARGE, header(over, 0x30, 0))
    _refuses(lab, Role.CLIENT, Code.FRAME_TOO_LARGE, header(over, Kind.OFFER, 5))
    _refuses(lab, Role.CLIENT, Code.UNKNOWN_KIND, header(1, 0x30, _MAX_STREAM), b"x")
    _refuses(lab, Role.CLIENT, Code.UNEXPECTED_FRAME, header(1, Kind.OFFER, 0), b"x")
    _refuses(lab, Role.CLIENT, Code.UNEXPECTED_FRAME, header(1, Kind.PING, 1), b"x")
    _refuses(lab, Role.CLIENT, Code.STREAM_OUT_OF_RANGE, header(1, Kind.SUBMIT, 0), b"x")
    _refuses(lab, Role.SUPPLIER, Code.MALFORMED_PAYLOAD, header(1, Kind.END, 1), b"x")
    _refuses(lab, Role.SUPPLIER, Code.MALFORMED_PAYLOAD, header(1, Kind.STARTED, 1), b"x")


@case("M2", "L4")
def nothing_after_a_fault(lab: Lab) -> None:
    """Frames behind a fault have no effect: no PONG, no task, no offer."""
    supplier, model = lab.serve()
    client = lab.client()
    client.send(wire.Header(0, 0x30, 0, 0, 0).pack(), wire.pack(wire.Ping(1)),
                wire.pack(wire.Submit(model, 2, b"hi", credit=4_096), 1))
    seen = client.next()
    check(seen is not None and isinstance(seen.frame, wire.Error), "M2", "a frame before ERROR")
    client.expect_closed()
    supplier.quiet()
    late, name = lab.supplier(), lab.model()
    late.send(wire.Header(0, 0x30, 0, 0, 0).pack(), wire.pack(wire.Offer(1, name)))
    late.expect_error(Code.UNKNOWN_KIND)
    asker = lab.client()
    asker.say(wire.Submit(name, 0), 1)
    asker.expect_end(Code.MODEL_UNKNOWN)


@case("L6", "L8")
def error_names_the_frame(lab: Lab) -> None:
    """ERROR carries the kind of the frame at fault and its stream, or 0."""
    for data, kind, stream in ((whole(Kind.TOKENS, 7), Kind.TOKENS, 7),
                               (wire.Header(0, 0x30, 0, 0, 5).pack(), 0x30, 5)):
        client = lab.client()
        client.send(data)
        code = Code.UNEXPECTED_FRAME if kind == Kind.TOKENS else Code.UNKNOWN_KIND
        error = client.expect_error(code)
        check(error.kind_at_fault in (0, kind) and error.stream_at_fault in (0, stream), "L6",
              f"kind {error.kind_at_fault}, stream {error.stream_at_fault} are not the frame's")
