"""Bytes of Sluice frames, packed from the tables of Protocol/Specification.md alone.

Nothing here knows the Swift code: the vectors are a second opinion on it.
"""

import struct

KINDS = {
    "HELLO": 0x01, "WELCOME": 0x02, "PING": 0x03, "PONG": 0x04, "GO-AWAY": 0x05, "ERROR": 0x06,
    "OFFER": 0x10, "GRANT": 0x11, "WITHDRAW": 0x12, "ASK": 0x18, "REPORT": 0x19,
    "SUBMIT": 0x20, "BODY": 0x21, "QUEUED": 0x22, "ASSIGN": 0x23, "STARTED": 0x24,
    "TOKENS": 0x25, "END": 0x26, "CANCEL": 0x27, "CREDIT": 0x28, "RESUME": 0x2F,
}

PAYLOAD_MAX = 16_372
CREDIT_MAX = 1 << 62
PRICE_MAX = (1 << 32) - 1
U16, U32, U64 = 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


def frame(kind, payload=b"", stream=0, flags=0, tokens=0, payload_bytes=None):
    """Section 3: u32 payload bytes, u8 kind, u8 flags, u16 tokens, u32 stream, payload."""
    number = KINDS[kind] if isinstance(kind, str) else kind
    length = len(payload) if payload_bytes is None else payload_bytes
    return struct.pack("<IBBHI", length, number, flags, tokens, stream) + payload


def extension(type_, value):
    return struct.pack("<HH", type_, len(value)) + value


def hello(oldest=1, newest=1, role=1, kind=1, credential=b"k", body_credit=0, extensions=b"",
          credential_bytes=None, extension_bytes=None, tail=b""):
    return struct.pack(
        "<HHBBHQH", oldest, newest, role, kind,
        len(credential) if credential_bytes is None else credential_bytes, body_credit,
        len(extensions) if extension_bytes is None else extension_bytes,
    ) + credential + extensions + tail


def welcome(version=1, shard=0, shards=1, max_streams=1024, max_body=16_777_216,
            upload_limit=1_048_576, instance=1, max_deadline=600_000, keep_alive=15_000,
            extensions=b"", extension_bytes=None, tail=b""):
    return struct.pack(
        "<HHHHIIQQII", version, shard, shards,
        len(extensions) if extension_bytes is None else extension_bytes, max_streams, max_body,
        upload_limit, instance, max_deadline, keep_alive) + extensions + tail


def ping(value):
    return struct.pack("<Q", value)


def go_away(code, grace, reserved=0):
    return struct.pack("<HHI", code, reserved, grace)


def error(code, kind=0, stream=0, reserved=0):
    return struct.pack("<HBBI", code, kind, reserved, stream)


def offer(offer=1, context=0, input=0, cached=0, output=0, reasoning=0, supply=1, policy=0,
          quantisation=0, operations=0x03, encodings=0x03, model=b"m", extensions=b"", reserved=0,
          model_bytes=None, extension_bytes=None, tail=b""):
    return struct.pack(
        "<IIQQQQBBBBBBHH", offer, context, input, cached, output, reasoning, supply, policy,
        quantisation, operations, encodings, reserved,
        len(model) if model_bytes is None else model_bytes,
        len(extensions) if extension_bytes is None else extension_bytes,
    ) + model + extensions + tail


def grant(offer, slots):
    return struct.pack("<II", offer, slots)


def withdraw(offer):
    return struct.pack("<I", offer)


def ask(question, reserved=0):
    return struct.pack("<II", question, reserved)


def report(question=1, rows_left=0, model=b"", counts=(), reserved=0, model_bytes=None,
           count_number=None, tail=b""):
    return struct.pack(
        "<IHHHH", question, rows_left, len(model) if model_bytes is None else model_bytes,
        len(counts) if count_number is None else count_number, reserved,
    ) + model + b"".join(struct.pack("<HQ", *count) for count in counts) + tail


def submit(operation=1, encoding=1, priority=128, preference=0, body_bytes=None, deadline=0,
           max_input=0, max_output=0, max_reasoning=0, reserve=0, model=b"m", credit=16_384,
           budget=0, extensions=b"", body=b"", model_bytes=None, extension_bytes=None):
    return struct.pack(
        "<BBBBIIIIIIHHQQ", operation, encoding, priority, preference,
        len(body) if body_bytes is None else body_bytes, deadline, max_input, max_output,
        max_reasoning, reserve, len(model) if model_bytes is None else model_bytes,
        len(extensions) if extension_bytes is None else extension_bytes, credit, budget,
    ) + model + extensions + body


def queued(instance, counter, reserve, position):
    return struct.pack("<QQII", instance, counter, reserve, position)


def assign(instance=1, counter=1, operation=1, encoding=1, priority=128, offer=1, body_bytes=None,
           deadline=600_000, max_input=0, max_output=0, max_reasoning=0, credit=16_384,
           extensions=b"", body=b"", reserved8=0, reserved16=0, extension_bytes=None):
    return struct.pack(
        "<QQBBBBIIIIIIHHQ", instance, counter, operation, encoding, priority, reserved8, offer,
        len(body) if body_bytes is None else body_bytes, deadline, max_input, max_output,
        max_reasoning, len(extensions) if extension_bytes is None else extension_bytes,
        reserved16, credit) + extensions + body


def started(input, cached):
    return struct.pack("<II", input, cached)


def end(code=0, finish=0, input=0, cached=0, output=0, reasoning=0, retry_after=0, cost=0,
        reserved=0):
    return struct.pack(
        "<HBBIIIIIQ", code, finish, reserved, input, cached, output, reasoning, retry_after, cost)


def cancel(code, reserved=0):
    return struct.pack("<HH", code, reserved)


def credit(limit):
    return struct.pack("<Q", limit)


def trace(high, low, span):
    return extension(0x0016, struct.pack("<QQQ", high, low, span))
