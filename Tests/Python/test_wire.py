"""The codec against every vector of the specification, and its properties over random frames."""

from __future__ import annotations

import json
import random
import re
import unittest
from collections.abc import Callable
from typing import Any

from support import ROOT
from sluice import wire
from sluice.codes import HEADER_BYTES, MAX_PAYLOAD_BYTES, NO_CEILING, Code, Flag, Kind, Retry

VECTORS = ROOT / "Protocol" / "Vectors"
HEX_FIELDS = {"credential", "body", "payload", "idempotency_key"}
BIG_FIELDS = {"body_credit", "upload_limit", "instance", "input_price", "cached_price",
              "output_price", "reasoning_price", "credit", "budget", "counter", "cost", "limit",
              "value", "input_ceiling", "output_ceiling"}


def vectors(validity: str) -> list[tuple[str, dict[str, Any]]]:
    """All entries of a folder, each with its file's name."""
    found = []
    for path in sorted((VECTORS / validity).glob("*.json")):
        found += [(path.stem, entry) for entry in json.loads(path.read_text())]
    return found


def value_of(name: str, value: Any) -> Any:
    """A vector's JSON value as the codec's."""
    if name in HEX_FIELDS:
        return bytes.fromhex(value)
    if name in BIG_FIELDS:
        return int(value)
    if name == "affinity_keys":
        return tuple(bytes.fromhex(key) for key in value)
    if name == "counts":
        pairs = [count.split("=") for count in value.split(",") if count]
        return tuple((int(number), int(count)) for number, count in pairs)
    if name == "trace":
        return tuple(int(number) for number in value)
    return value


def fields_of(entry: dict[str, Any]) -> dict[str, Any]:
    """A vector's fields as keyword arguments of its frame."""
    fields = {}
    for name, value in entry["fields"].items():
        snake = re.sub("([A-Z])", lambda match: "_" + match.group(1).lower(), name)
        fields[snake] = value_of(snake, value)
    if "input_ceiling" in fields:
        fields["price_ceilings"] = (fields.pop("input_ceiling"), fields.pop("output_ceiling"))
    return fields


class VectorTests(unittest.TestCase):
    """Protocol/Vectors."""

    def test_valid_vectors_read_as_written(self) -> None:
        entries = vectors("valid")
        self.assertGreater(len(entries), 150)
        for name, entry in entries:
            with self.subTest(file=name, vector=entry["name"]):
                data, fields = bytes.fromhex(entry["hex"]), fields_of(entry)
                frames = list(wire.Decoder().feed(data))
                self.assertEqual(len(frames), 1)
                header, payload = frames[0]
                expected = entry["header"]
                self.assertEqual(header, wire.Header(
                    expected["payloadBytes"], expected["kind"], expected["flags"],
                    expected["tokens"], expected["stream"]))
                frame = wire.unpack(header, payload)
                if name == "unknown":
                    self.assertIsNone(frame)
                    continue
                increment = fields.pop("increment", None)
                assert frame is not None
                if isinstance(frame, wire.Tokens):
                    counted = 0 if header.flags & Flag.ERROR else header.tokens
                    self.assertEqual(counted, increment)
                    fields = {"content": fields["payload"]}
                self.assertEqual(frame, wire.FRAMES[header.kind](**fields))
                if entry.get("canonical", True):
                    tokens = header.tokens if header.kind == Kind.TOKENS else 0
                    self.assertEqual(
                        wire.pack(frame, header.stream, header.flags, tokens), data)

    def test_invalid_vectors_are_refused_with_their_code(self) -> None:
        entries = vectors("invalid")
        self.assertGreater(len(entries), 400)
        for name, entry in entries:
            with self.subTest(file=name, vector=entry["name"]):
                with self.assertRaises(wire.WireError) as caught:
                    for header, payload in wire.Decoder().feed(bytes.fromhex(entry["hex"])):
                        wire.unpack(header, payload)
                self.assertEqual(caught.exception.code.label, entry["code"])
                self.assertEqual(caught.exception.fault, entry.get("fault"))

    def test_codes_are_those_of_the_specification(self) -> None:
        page = (ROOT / "Protocol" / "Specification.md").read_text()
        rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (\w+) \| (\w+) \|", page, re.MULTILINE)
        self.assertEqual(len(rows), len(Code))
        for number, name, scope, retry in rows:
            code = Code(int(number))
            self.assertEqual(
                (code.label, code.of_connection, code.retry),
                (name, scope == "connection", Retry(retry)))


def random_frame(source: random.Random) -> wire.Frame:
    """Any frame with fields within their ranges."""
    def number(bits: int) -> int:
        return source.choice([0, 1, (1 << bits) - 1, source.getrandbits(bits)])

    def text(alphabet: str, shortest: int, longest: int) -> str:
        return "".join(source.choices(alphabet, k=source.randint(shortest, longest)))

    model = text("aZ09._:/@-", 1, 88)
    body = source.randbytes(source.choice([0, 1, 1_024, 9_000]))
    reads, outs = number(32), number(32)
    makers: list[Callable[[], wire.Frame]] = [
        lambda: wire.Ping(number(64)),
        lambda: wire.Credit(number(62)),
        lambda: wire.Grant(number(32), source.randint(0, 65_536)),
        lambda: wire.Started(reads, source.randint(0, reads)),
        lambda: wire.End(source.choice([code for code in Code if not code.of_connection]),
                         source.randint(0, 2), reads, source.randint(0, reads), outs,
                         source.randint(0, outs), number(32), number(62)),
        lambda: wire.Hello(1, 1, source.randbytes(source.randint(0, 512)), number(62), 1, 2,
                           text("abc/1.é", 0, 30)),
        lambda: wire.Offer(1 + number(31), model, number(32), number(32), number(32), number(32),
                           number(32), 5, 2, 9, source.randint(1, 15), source.randint(1, 3),
                           text("!~eu-west", 0, 16)),
        lambda: wire.Submit(
            model, number(32), body, source.randint(1, 4), source.randint(1, 2), number(8),
            source.randint(0, 3), number(32), number(32), number(32), number(32), number(32),
            number(62), number(62),
            tuple(source.randbytes(16) for _ in range(source.randint(0, 8))),
            source.choice([(), (number(64), number(64), number(64))]),
            source.randbytes(source.randint(0, 64)),
            source.choice([(NO_CEILING, NO_CEILING), (number(64), 0)]),
            text("!~eu-west", 0, 16), source.randint(0, 2), source.randint(1, 255),
            source.randint(1, 255)),
        lambda: wire.Assign(
            number(64), number(64), 1 + number(31), number(32), body, source.randint(1, 4),
            source.randint(1, 2), number(8), number(32), number(32), number(32), number(32),
            number(62), source.choice([(), (number(64), number(64), number(64))])),
        lambda: wire.Body(body), lambda: wire.Tokens(body),
    ]
    return source.choice(makers)()


class PropertyTests(unittest.TestCase):
    """What holds for every frame; the seed of a failure is in its message."""

    def test_what_is_written_is_read_back_whole_and_in_pieces(self) -> None:
        for seed in range(300):
            source = random.Random(seed)
            frames = [random_frame(source) for _ in range(source.randint(1, 4))]
            data = b"".join(wire.pack(frame, 7) for frame in frames)
            decoder, read, start = wire.Decoder(), [], 0
            while start < len(data):
                end = start + source.choice([1, 5, 12, 13, 1_000, 20_000])
                read += [wire.unpack(*found) for found in decoder.feed(data[start:end])]
                start = end
            self.assertEqual(read, frames, f"seed {seed}")
            self.assertEqual(decoder.partial_bytes, 0)

    def test_a_frame_cut_short_is_never_delivered(self) -> None:
        for seed in range(100):
            data = wire.pack(random_frame(random.Random(seed)), 1)
            for end in {0, 1, 11, 12, len(data) // 2, len(data) - 1} - {len(data)}:
                self.assertEqual(list(wire.Decoder().feed(data[:end])), [], f"seed {seed}")

    def test_any_damage_is_refused_with_a_code_or_read(self) -> None:
        for seed in range(3_000):
            source = random.Random(seed)
            data = bytearray(wire.pack(random_frame(source), 1))
            for _ in range(source.randint(1, 3)):
                data[source.randrange(len(data))] = source.randrange(256)
            try:
                for header, payload in wire.Decoder().feed(bytes(data)):
                    wire.unpack(header, payload)
            except wire.WireError as error:
                self.assertTrue(error.code.of_connection, f"seed {seed}")

    def test_a_length_is_refused_from_the_header_alone(self) -> None:
        for length in (MAX_PAYLOAD_BYTES + 1, 65_536, (1 << 32) - 1):
            header = wire.Header(length, Kind.TOKENS, 0, 0, 1).pack()
            with self.assertRaises(wire.WireError) as caught:
                list(wire.Decoder().feed(header))
            self.assertEqual(caught.exception.code, Code.FRAME_TOO_LARGE)
        largest = wire.pack(wire.Tokens(bytes(MAX_PAYLOAD_BYTES)), 1)
        self.assertEqual(len(list(wire.Decoder().feed(largest))), 1)
        self.assertEqual(len(largest), HEADER_BYTES + MAX_PAYLOAD_BYTES)


if __name__ == "__main__":
    unittest.main()
