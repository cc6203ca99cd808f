"""The Wireshark dissector by tshark: over the vectors, and over captures of a real session."""

from __future__ import annotations

import dataclasses
import pathlib
import ssl
import sys
import tempfile
import unittest
from typing import Any, cast

import captures
from captures import BROKER_PORT, Dissected, dissect, run_tshark, write_capture
from support import KEY, TOKENS, Broker
from test_wire import vectors
from conformance.lab import Lab, Running
from conformance.peer import Peer, Target, context
from sluice import wire
from sluice.codes import MAX_PAYLOAD_BYTES, Code, Flag, Kind, Role

CLEAR = ("-d", f"tcp.port=={BROKER_PORT},sluice")
SHOWN = ("-o", "sluice.content:TRUE", "-o", "sluice.credentials:TRUE")
# Fields of the codec that are shown under other names, or as several.
_PARTS = {"trace": ("trace.high", "trace.low", "trace.parent"),
          "price_ceilings": ("price_ceilings.input", "price_ceilings.output")}
_LENGTHS = {"body": "body_here_bytes", "content": "content_bytes"}
_SECRETS = ("credential", "affinity_keys", "idempotency_key")


def _plain(value: Any) -> list[Any]:
    """A value of the codec as what the dissector should have found."""
    if isinstance(value, tuple):
        return list(value)
    return [] if value in (b"", "") else [value]


def expected(frame: wire.Frame, shown: bool) -> dict[str, list[Any]]:
    """What the dissector must show of a frame: values by field. Options left out are not there."""
    found: dict[str, list[Any]] = {}
    for each in dataclasses.fields(frame):
        value = getattr(frame, each.name)
        if each.name in _LENGTHS:
            found[_LENGTHS[each.name]] = [len(value)]
        if each.name == "counts":
            found["count.number"] = [number for number, _ in value]
            found["count.value"] = [count for _, count in value]
        elif each.name in _PARTS:
            for name, part in zip(_PARTS[each.name], value):
                found[name] = [part]
        elif each.name not in (*_LENGTHS, *_SECRETS):
            found[each.name] = _plain(value)
        elif shown:
            found[each.name] = _plain(value)
    return found


def _read(like: Any, text: str) -> Any:
    """A shown value as the type that the codec has."""
    if isinstance(like, bytes):
        return bytes.fromhex(text.replace(":", ""))
    return int(text, 0) if isinstance(like, int) else text


class Comparison(unittest.TestCase):
    """How a dissected frame is compared with the codec's."""

    def assert_shows(self, found: Dissected, header: wire.Header, frame: wire.Frame | None,
                     shown: bool = False) -> None:
        """Every field of header and frame is there with its value, and no other content."""
        for name in ("payload_bytes", "kind", "flags", "tokens", "stream"):
            self.assertEqual(found.number(name), getattr(header, name), name)
        for bit, name in ((1, "reasoning"), (2, "error"), (128, "ignorable")):
            self.assertEqual(found.number(f"flags.{name}"), int(bool(header.flags & bit)), name)
        if frame is None:
            return
        defaults = {each.name: each.default for each in dataclasses.fields(frame)}
        for name, values in expected(frame, shown).items():
            texts = found.fields.get(name, [])
            if not texts and values in ([], [defaults.get(name.partition(".")[0])]):
                continue  # an option that was left out
            if not texts and name.startswith("price_ceilings"):
                self.assertEqual(values, [(1 << 64) - 1])
                continue
            self.assertEqual([_read(value, text) for value, text in zip(values, texts)], values,
                             f"{type(frame).__name__}.{name}")
            self.assertEqual(len(texts), len(values), f"{type(frame).__name__}.{name}")
        if not shown:
            for name in (*_SECRETS, "body", "content"):
                self.assertNotIn(name, found.fields)


class VectorTests(Comparison):
    """Protocol/Vectors in the clear: no broker, no right to capture is needed."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "vectors.pcap"

    def written(self, frames: list[bytes]) -> None:
        """A capture with each frame in a conversation of its own, whose port is its place."""
        write_capture(self.path, {10_000 + number: [(True, data)]
                                  for number, data in enumerate(frames)})

    def test_valid_vectors_show_every_field(self) -> None:
        entries = vectors("valid")
        self.written([bytes.fromhex(entry["hex"]) for _, entry in entries])
        for shown in (False, True):
            frames = dissect(self.path, *CLEAR, *(SHOWN if shown else ()))
            self.assertEqual(len(frames), len(entries))
            for found in frames:
                name, entry = entries[found.from_port - 10_000]
                with self.subTest(file=name, vector=entry["name"], shown=shown):
                    data = bytes.fromhex(entry["hex"])
                    header = wire.Header.unpack(data)
                    frame = wire.unpack(header, data[wire.HEADER_BYTES:])
                    self.assert_shows(found, header, frame, shown)
                    self.assertNotIn("fault.code", found.fields)
                    refused = [text for text in found.experts if text.startswith("Refused")]
                    self.assertEqual(refused, [])

    def test_invalid_vectors_are_marked_with_their_code_and_fault(self) -> None:
        entries = vectors("invalid")
        self.written([bytes.fromhex(entry["hex"]) for _, entry in entries])
        frames = dissect(self.path, *CLEAR)
        self.assertEqual(len(frames), len(entries))
        for found in frames:
            name, entry = entries[found.from_port - 10_000]
            with self.subTest(file=name, vector=entry["name"]):
                self.assertEqual(found.fields["fault.code"], [entry["code"]])
                self.assertEqual(found.fields.get("fault.detail", [None])[0], entry.get("fault"))
                self.assertTrue(found.experts[-1].startswith(f"Refused: {entry['code']}"))

    def test_streams_that_a_kind_may_not_have_are_marked(self) -> None:
        wrong = {
            wire.pack(wire.Ping(1), 1): Code.UNEXPECTED_FRAME,
            wire.pack(wire.Tokens(b"x"), 0): Code.STREAM_OUT_OF_RANGE,
            wire.pack(wire.Tokens(b"x"), 1_025): Code.STREAM_OUT_OF_RANGE,
            wire.pack(wire.Credit(1), 0): None,
            wire.pack(wire.Credit(1), 1_025): Code.STREAM_OUT_OF_RANGE,
        }
        self.written(list(wrong))
        codes = [found.fields.get("fault.code", [None])[0] for found in dissect(self.path, *CLEAR)]
        self.assertEqual(codes, [code and code.label for code in wrong.values()])

    def test_frames_are_put_together_from_packets_cut_anywhere(self) -> None:
        frames = [wire.Submit("m", 9, b"123456789", region="eu"), wire.Tokens(b"x" * 9_000),
                  wire.Credit(1), wire.Tokens(b""), wire.Tokens(b"y" * MAX_PAYLOAD_BYTES)]
        data = b"".join(wire.pack(frame, 1, tokens=int(isinstance(frame, wire.Tokens)))
                        for frame in frames)
        for step in (7, 13, 1_000, len(data)):
            write_capture(self.path, {9_999: [(True, data[start:start + step])
                                              for start in range(0, len(data), step)]})
            found = dissect(self.path, *CLEAR)
            self.assertEqual([each.number("kind") for each in found],
                             [frame.kind for frame in frames], f"in pieces of {step}")

    def test_nothing_after_an_impossible_length_is_a_frame(self) -> None:
        header = wire.Header(MAX_PAYLOAD_BYTES + 1, Kind.PING, 0, 0, 0).pack()
        self.written([wire.pack(wire.Ping(1)) + header + wire.pack(wire.Ping(2))])
        codes = [found.fields.get("fault.code") for found in dissect(self.path, *CLEAR)]
        self.assertEqual(codes, [None, ["frame_too_large"]])

    def test_what_is_ignored_or_useless_is_noted(self) -> None:
        self.written([
            wire.pack(wire.Ping(1), flags=0x40), wire.pack(wire.Ping(1), tokens=1),
            wire.pack(wire.Tokens(b""), 1), wire.pack(wire.Tokens(b"x"), 1, flags=0x83),
            wire.pack(wire.Error(Code.FLOOD))])
        found = [each.experts for each in dissect(self.path, *CLEAR)]
        self.assertEqual([len(texts) for texts in found], [1, 1, 1, 0, 1])
        self.assertEqual(found[4], ["ERROR flood"])


# MARK: A real session


class Tap:
    """A TLS socket that remembers what went through it."""

    def __init__(self, inner: ssl.SSLSocket) -> None:
        self._inner = inner
        self.sent, self.received = bytearray(), bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def sendall(self, data: bytes) -> None:
        """Sends and remembers."""
        self.sent += data
        self._inner.sendall(data)

    def recv(self, size: int) -> bytes:
        """Receives and remembers."""
        data = self._inner.recv(size)
        self.received += data
        return data


class TappedLab(Lab):
    """A laboratory whose peers remember their bytes and write a key log."""

    def __init__(self, target: Target, key_log: str) -> None:
        super().__init__(target)
        self._key_log = key_log
        self.taps: dict[int, Tap] = {}

    def connect(self, **options: Any) -> Peer:
        """TLS, with the keys in the log."""
        tls = context(self.target)
        tls.keylog_filename = self._key_log
        peer = super().connect(tls=tls, **options)
        tap = Tap(peer.socket)
        self.taps[peer.socket.getsockname()[1]] = tap
        peer.socket = tap  # type: ignore[assignment]
        return peer


def session(lab: Lab) -> Running:
    """Tasks that show every kind, flag and extension on the wire; returns the first."""
    supplier, model = lab.serve(supplier=lab.supplier(body_credit=4_096), slots=4, region="eu",
                                input_price=200_000, output_price=600_000, data_policy=2)
    client = lab.client()
    run = lab.run(client, supplier, model, body=b"a prompt", region="eu", data_policy=1,
                  trace=(1 << 63, 2, 3), affinity_keys=(b"k" * 16, b"l" * 16),
                  price_ceilings=(200_000, 1 << 63), supply_types=0x81, hedge_copies=1,
                  reserve_bytes=65_536, credit=30_000)
    supplier.say(wire.Started(3, 1), run.slot)
    for flags, content in ((0, b"an"), (Flag.REASONING, b"why"), (0, b"swer")):
        run.tokens(content, 1, flags)
    for _ in range(12):
        run.tokens(b"x" * 2_000, 0)
    run.credit(1 << 20)
    supplier.expect(wire.Credit, run.slot)
    run.end(input_tokens=3, cached_tokens=1, output_tokens=3, reasoning_tokens=1)
    client.expect_end(Code.COMPLETED, skip=(wire.Tokens, wire.Credit))

    body = b"b" * 20_000  # free part, then credit; in pieces to the supplier
    client.say(wire.Submit(model, len(body), body[:3_000], credit=4_096), 2)
    client.say(wire.Body(body[3_000:16_384]), 2)
    client.expect(wire.Credit, 2)
    client.say(wire.Body(body[16_384:]), 2)
    client.expect(wire.Queued, 2, skip=(wire.Credit,))
    seen = supplier.expect(wire.Assign, skip=(wire.Credit,))
    supplier.say(wire.Credit(len(body)), seen.header.stream)
    supplier.expect(wire.Body, seen.header.stream)
    supplier.say(wire.Tokens(b'{"error":1}'), seen.header.stream, Flag.ERROR)
    supplier.say(wire.End(Code.UPSTREAM_REFUSED), seen.header.stream)
    supplier.taken.discard(seen.header.stream)
    client.expect_end(Code.UPSTREAM_REFUSED, 2, skip=(wire.Tokens,))

    cancelled = lab.run(client, supplier, model, stream=3)
    client.say(wire.Cancel(), 3)
    supplier.expect(wire.Cancel, cancelled.slot, skip=(wire.Body,))
    cancelled.end(Code.CANCELLED)
    client.expect_end(Code.CANCELLED, 3)
    # Seen with each of their fields; two copies are more than this version makes.
    for fields in ({"idempotency_key": b"once"}, {"budget": 5}):
        client.say(wire.Submit(model, 0, hedge_copies=2, **fields), 4)
        client.expect_end(Code.UNSUPPORTED, 4)

    while client.upload_limit == client.welcome.upload_limit:  # type: ignore[union-attr]
        client.say(wire.Submit("nobody/has-this", 16_000, b"c" * 16_000), 4)
        client.expect_end(Code.MODEL_UNKNOWN, 4)
    client.send(wire.Header(3, 0x30, Flag.IGNORABLE, 9, 77).pack() + b"new")
    client.alive()
    supplier.say(wire.Ask(9), flags=Flag.IGNORABLE)
    while cast(wire.Report, supplier.expect(
            wire.Report, skip=(wire.Body, wire.Credit)).frame).rows_left:
        pass
    supplier.say(wire.Withdraw(1))
    supplier.say(wire.GoAway(Code.SHUTTING_DOWN, 5_000))
    supplier.alive(skip=(wire.Body, wire.Credit))
    client.say(wire.GoAway(Code.SHUTTING_DOWN))
    client.say(wire.Grant(1, 1))  # not a client's
    client.expect_error(Code.UNEXPECTED_FRAME)
    return run


class SessionTests(Comparison):
    """One session through a relay, with a key log: the relay's capture, and tshark's own."""

    broker: Broker
    key_log: str
    live: pathlib.Path
    relayed: pathlib.Path
    refusal: str | None
    run_of_session: Running
    taps: dict[int, Tap]

    @classmethod
    def setUpClass(cls) -> None:
        cls.broker = Broker.start()
        cls.addClassCleanup(cls.broker.stop)
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.key_log = str(pathlib.Path(folder.name) / "keys")
        relay = captures.Relay(cls.broker.port)
        cls.addClassCleanup(relay.stop)
        cls.live = pathlib.Path(folder.name) / "live.pcapng"
        capture = captures.Capture(cls.live, relay.port)
        cls.refusal = capture.start()
        lab = TappedLab(Target("127.0.0.1", relay.port, cls.broker.ca_file, KEY, (TOKENS[0],)),
                        cls.key_log)
        try:
            cls.run_of_session = session(lab)
        finally:
            lab.close()
            if cls.refusal is None:
                capture.stop()
        cls.taps = lab.taps
        cls.relayed = pathlib.Path(folder.name) / "relayed.pcap"
        write_capture(cls.relayed, relay.conversations, relay.port)

    @property
    def keys(self) -> tuple[str, ...]:
        """Options by which tshark decrypts."""
        return ("-o", f"tls.keylog_file:{self.key_log}")

    def assert_shows_the_session(self, path: pathlib.Path) -> None:
        """Frame by frame, in both directions, what the peers sent and received."""
        frames = dissect(path, *self.keys, *SHOWN)
        kinds = set()
        for port, tap in self.taps.items():
            for data, mine in ((tap.sent, True), (tap.received, False)):
                found = [each for each in frames
                         if (each.from_port if mine else each.to_port) == port]
                decoded = list(wire.Decoder().feed(bytes(data)))
                self.assertEqual([each.number("kind") for each in found][:len(decoded)],
                                 [header.kind for header, _ in decoded])
                for each, (header, payload) in zip(found, decoded):
                    kinds.add(header.kind)
                    self.assert_shows(each, header, wire.unpack(header, payload), True)
                    self.assertNotIn("fault.code", each.fields)
        self.assertEqual(kinds, {*Kind, 0x30})

    def test_the_relayed_session_shows_every_kind_and_field(self) -> None:
        self.assert_shows_the_session(self.relayed)

    def test_the_captured_session_shows_every_kind_and_field(self) -> None:
        if self.refusal is not None:
            text = f"this machine refuses captures ({self.refusal})"
            print(f"\nnote: {text}; the relay's capture alone was dissected", file=sys.stderr)
            self.skipTest(text)
        self.assert_shows_the_session(self.live)

    def test_filters_find_a_task_on_both_of_its_connections(self) -> None:
        task = self.run_of_session.queued.task_id
        rows = run_tshark("-r", str(self.relayed), *self.keys, "-Y", f'sluice.task_id == "{task}"',
                          "-T", "fields", "-e", "tcp.stream").split()
        self.assertEqual(len(set(rows)), 2)
        refused = run_tshark("-r", str(self.relayed), *self.keys, "-Y",
                             "sluice.stream == 3 && sluice.code == 32 && sluice.kind == 0x26",
                             "-T", "fields", "-e", "tcp.stream").split()
        self.assertEqual(len(refused), 1)

    def test_content_and_credentials_are_hidden_until_asked_for(self) -> None:
        for shown, options in ((False, ()), (True, SHOWN)):
            text = " ".join(
                each for frame in dissect(self.relayed, *self.keys, *options)
                for values in frame.fields.values() for each in values)
            for secret in (KEY.encode(), b"a prompt", b"why", b"k" * 16, b"once"):
                with self.subTest(secret=secret[:8], shown=shown):
                    self.assertEqual(secret.hex(":") in text, shown)

    def test_the_columns_name_the_frames(self) -> None:
        lines = run_tshark("-r", str(self.relayed), *self.keys, "-Y", "sluice")
        for text in ("HELLO", "SUBMIT[1]", "END[3] cancelled", "ERROR unexpected_frame"):
            self.assertIn(text, lines)


if __name__ == "__main__":
    unittest.main()
