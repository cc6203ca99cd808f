"""Writes Protocol/Vectors: frames in hex with their fields, and bytes that must be refused.

    python3 Tools/vectors/generate.py

The bytes come from frames.py, which knows the specification's tables and nothing else. Numbers of
64 bits are written as decimal strings, bytes as hex.
"""

import json
import pathlib
import struct

import frames as f
from frames import CREDIT_MAX, PRICE_MAX, U16, U32, U64, extension

ROOT = pathlib.Path(__file__).resolve().parents[2] / "Protocol" / "Vectors"

valid, invalid = {}, {}

MODEL_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/@-"
MODEL_LONGEST = (MODEL_BYTES + b"-" * 88)[:88]
REGION_LONGEST = b"!~abcdefghijklmn"


def add(name, rule, description, kind, payload, fields, stream=0, flags=0, tokens=0,
        canonical=True):
    """One valid frame. `canonical`: an encoder given the fields produces these very bytes."""
    header = {"kind": f.KINDS.get(kind, kind), "flags": flags, "tokens": tokens, "stream": stream,
              "payloadBytes": len(payload)}
    entry = {"name": name, "rule": rule, "description": description,
             "hex": f.frame(kind, payload, stream, flags, tokens).hex(), "header": header,
             "fields": fields}
    if not canonical:
        entry["canonical"] = False
    valid.setdefault(kind if isinstance(kind, str) else "UNKNOWN", []).append(entry)


def refuse(name, rule, description, kind, payload, code, fault=None, stream=0, flags=0,
           payload_bytes=None):
    """One frame that a receiver must refuse with `code`; `fault` says why, more finely."""
    entry = {"name": name, "rule": rule, "description": description,
             "hex": f.frame(kind, payload, stream, flags, payload_bytes=payload_bytes).hex(),
             "code": code}
    if fault:
        entry["fault"] = fault
    invalid.setdefault(kind if isinstance(kind, str) else "UNKNOWN", []).append(entry)


def malformed(name, rule, description, kind, payload, fault, stream=0):
    refuse(name, rule, description, kind, payload, "malformed_payload", fault, stream)


def truncations(kind, payload, cuts, stream=0):
    """The frame cut at each offset of `cuts`, its header telling the shorter length."""
    for cut in cuts:
        malformed(f"truncated-at-{cut}", "F4", f"payload ends after {cut} bytes", kind,
                  payload[:cut], "truncated", stream)


def trailing(kind, payload, stream=0):
    malformed("trailing-byte", "F4", "one byte after the last field", kind, payload + b"\0",
              "trailing_bytes", stream)


def bad_runs(kind, build, stream=0):
    """Runs of extensions that are refused wherever a run may stand."""
    runs = [
        ("extension-header-cut", "X1", "the run ends inside an extension's header",
         extension(0x0001, b"") [:3], "bad_extension"),
        ("extension-value-cut", "X1", "an extension's length passes the end of the run",
         struct.pack("<HH", 0x0FFF, 2) + b"x", "bad_extension"),
        ("extension-twice", "X1", "the same unknown type twice",
         extension(0x0FFE, b"") + extension(0x0FFE, b""), "bad_extension"),
        ("extension-disordered", "X1", "types out of order",
         extension(0x0FFF, b"") + extension(0x0FFE, b""), "bad_extension"),
        ("extension-critical-unknown", "X2", "a critical type that nobody knows",
         extension(0xFFFF, b""), "unknown_critical_extension"),
        ("extension-critical-after-known-order", "X2", "an unknown type, then a critical one",
         extension(0x0FFF, b"abc") + extension(0x8FFF, b"d"), "unknown_critical_extension"),
    ]
    for name, rule, description, run, fault in runs:
        malformed(name, rule, description, kind, build(run), fault, stream)
    malformed("extension-run-too-long", "X3", "a run of 4,097 bytes", kind,
              build(extension(0x0FFF, b"\0" * 4_093)), "value_out_of_range", stream)


def unknown_run(kind, build, fields, stream=0):
    add("extension-unknown-skipped", "X2", "an unknown type that is not critical", kind,
        build(extension(0x0FFE, b"abc") + extension(0x0FFF, b"")), fields, stream,
        canonical=False)
    add("extension-run-longest", "X3", "a run of 4,096 bytes", kind,
        build(extension(0x0FFF, b"\0" * 4_092)), fields, stream, canonical=False)


# HELLO

def hello_case(name, rule, description, agent=None, canonical=True, **values):
    defaults = dict(oldest=1, newest=1, role=1, kind=1, credential=b"k", body_credit=0)
    all_values = defaults | values
    extensions = b"" if agent is None else extension(0x0001, agent.encode())
    fields = {
        "oldestVersion": all_values["oldest"], "newestVersion": all_values["newest"],
        "role": all_values["role"], "credentialKind": all_values["kind"],
        "credential": all_values["credential"].hex(),
        "bodyCredit": str(all_values["body_credit"]), "agent": agent or "",
    }
    add(name, rule, description, "HELLO", f.hello(extensions=extensions, **all_values), fields,
        canonical=canonical)


def hello():
    hello_case("minimum", "H2", "a client with a key of one byte")
    hello_case("client", "H7", "a client with a usual key and a name", agent="example/1.0",
               credential=b"sk-0123456789abcdef")
    hello_case("supplier", "H7", "a supplier with a token and body credit", role=2, kind=2,
               credential=b"st-0123456789abcdef", body_credit=65_536)
    hello_case("maximum", "H6", "the longest credential, name, credit and version",
               oldest=0, newest=U16, role=2, kind=3, credential=b"\xff" * 512,
               body_credit=CREDIT_MAX, agent="a" * 64)
    hello_case("no-credential", "H6", "an empty credential with kind 3", kind=3, credential=b"")
    hello_case("version-future", "H5", "a peer that speaks only versions to come",
               oldest=2, newest=9)
    base = f.hello()
    unknown_run("HELLO", lambda run: f.hello(extensions=run),
                {"oldestVersion": 1, "newestVersion": 1, "role": 1, "credentialKind": 1,
                 "credential": b"k".hex(), "bodyCredit": "0", "agent": ""})
    truncations("HELLO", f.hello(credential=b"key", extensions=extension(1, b"ab")),
                [0, 1, 2, 4, 5, 6, 7, 8, 15, 16, 17, 18, 20, 21, 24, 26])
    trailing("HELLO", base)
    malformed("version-range-empty", "F4", "oldest above newest", "HELLO",
              f.hello(oldest=2, newest=1), "value_out_of_range")
    for number in (0, 3, 255):
        malformed(f"role-{number}", "F4", "a role that the table does not have", "HELLO",
                  f.hello(role=number), "value_out_of_range")
    for number in (0, 4, 255):
        malformed(f"credential-kind-{number}", "F4", "a credential kind that the table lacks",
                  "HELLO", f.hello(kind=number), "value_out_of_range")
    malformed("credential-too-long", "F4", "a credential of 513 bytes", "HELLO",
              f.hello(credential=b"k" * 513), "value_out_of_range")
    malformed("body-credit-too-large", "F4", "2^62 + 1", "HELLO",
              f.hello(body_credit=CREDIT_MAX + 1), "value_out_of_range")
    malformed("body-credit-all-ones", "F4", "2^64 − 1", "HELLO",
              f.hello(body_credit=U64), "value_out_of_range")
    malformed("credential-passes-end", "F4", "more credential declared than there is", "HELLO",
              f.hello(credential_bytes=2), "truncated")
    malformed("extensions-pass-end", "F4", "more extension bytes declared than there are",
              "HELLO", f.hello(extension_bytes=1), "truncated")
    malformed("agent-too-long", "X4", "a name of 65 bytes", "HELLO",
              f.hello(extensions=extension(1, b"a" * 65)), "bad_extension")
    bad_runs("HELLO", lambda run: f.hello(extensions=run))


# WELCOME

def welcome_case(name, rule, description, brokers=None, canonical=True, **values):
    defaults = dict(version=1, shard=0, shards=1, max_streams=1024, max_body=16_777_216,
                    upload_limit=1_048_576, instance=1, max_deadline=600_000, keep_alive=15_000)
    v = defaults | values
    extensions = b"" if brokers is None else extension(0x0002, brokers.encode())
    fields = {
        "version": v["version"], "shard": v["shard"], "shards": v["shards"],
        "maxStreams": v["max_streams"], "maxBodyBytes": v["max_body"],
        "uploadLimit": str(v["upload_limit"]), "instance": str(v["instance"]),
        "maxDeadlineMs": v["max_deadline"], "keepAliveMs": v["keep_alive"],
        "brokers": brokers or "",
    }
    add(name, rule, description, "WELCOME", f.welcome(extensions=extensions, **v), fields,
        canonical=canonical)
    return fields


def welcome():
    fields = welcome_case("usual", "H8", "the defaults")
    welcome_case("minimum", "H8", "the smallest of everything", version=0, max_streams=1,
                 max_body=0, upload_limit=0, instance=0, max_deadline=0, keep_alive=1)
    welcome_case("maximum", "H8", "the largest of everything", version=U16, shard=U16 - 1,
                 shards=U16, max_streams=1024, max_body=U32, upload_limit=U64, instance=U64,
                 max_deadline=U32, keep_alive=U32, brokers="b" * 1_024)
    welcome_case("brokers", "H10", "a deployment of two brokers",
                 brokers="b1.example:7700,[2001:db8::1]:7700")
    unknown_run("WELCOME", lambda run: f.welcome(extensions=run), fields)
    truncations("WELCOME", f.welcome(extensions=extension(2, b"b:1")),
                [0, 1, 2, 4, 6, 8, 12, 16, 23, 24, 32, 36, 39, 40, 44, 46])
    trailing("WELCOME", f.welcome())
    malformed("streams-none", "F4", "maxStreams 0", "WELCOME", f.welcome(max_streams=0),
              "value_out_of_range")
    malformed("streams-too-many", "F4", "maxStreams 1,025", "WELCOME",
              f.welcome(max_streams=1_025), "value_out_of_range")
    malformed("shard-outside", "F4", "shard 1 of 1", "WELCOME", f.welcome(shard=1),
              "value_out_of_range")
    malformed("shards-none", "F4", "shard 0 of 0", "WELCOME", f.welcome(shards=0),
              "value_out_of_range")
    malformed("keep-alive-none", "F4", "keepAliveMs 0", "WELCOME", f.welcome(keep_alive=0),
              "value_out_of_range")
    malformed("brokers-too-long", "X4", "1,025 bytes of brokers", "WELCOME",
              f.welcome(extensions=extension(2, b"b" * 1_025)), "bad_extension")
    for text, what in ((b"a b", "space"), (b"a\x7f", "delete"), (b"\xc3\xa9", "non-ascii")):
        malformed(f"brokers-{what}", "X4", f"brokers with a {what} character", "WELCOME",
                  f.welcome(extensions=extension(2, text)), "invalid_text")
    bad_runs("WELCOME", lambda run: f.welcome(extensions=run))


# PING, PONG, GO-AWAY, ERROR

CONNECTION_CODES, ENDING_CODES = range(1, 20), range(32, 39)
REFUSALS, SUPPLIER_CODES = range(48, 63), range(80, 83)
STREAM_CODES = [0, *ENDING_CODES, *REFUSALS, *SUPPLIER_CODES]
NO_CODES = [20, 31, 39, 47, 63, 79, 83, 255, 256, U16]


def ping_and_pong():
    for kind in ("PING", "PONG"):
        for name, value in (("zero", 0), ("bytes", 0x0807060504030201), ("all-ones", U64)):
            add(name, "L1", "8 bytes, returned as they are", kind, f.ping(value),
                {"value": str(value)})
        add("tokens-ignored", "F2", "the tokens field means nothing here", kind, f.ping(1),
            {"value": "1"}, tokens=7, canonical=False)
        add("flags-ignored", "F3", "flags that no one names for the kind", kind, f.ping(1),
            {"value": "1"}, flags=0x7F, canonical=False)
        truncations(kind, f.ping(1), [0, 1, 7])
        trailing(kind, f.ping(1))


def go_away():
    for code in CONNECTION_CODES:
        add(f"code-{code}", "G1", "each code of connection scope", "GO-AWAY",
            f.go_away(code, 30_000), {"code": code, "graceMs": 30_000})
    add("grace-longest", "G1", "the largest grace", "GO-AWAY", f.go_away(19, U32),
        {"code": 19, "graceMs": U32})
    add("grace-none", "G1", "no grace", "GO-AWAY", f.go_away(19, 0), {"code": 19, "graceMs": 0})
    add("reserved-ignored", "F2", "a reserved field that is not 0", "GO-AWAY",
        f.go_away(19, 1, reserved=U16), {"code": 19, "graceMs": 1}, canonical=False)
    for code in [*NO_CODES, *STREAM_CODES]:
        malformed(f"code-{code}", "N1", "not a code of connection scope", "GO-AWAY",
                  f.go_away(code, 0), "value_out_of_range")
    truncations("GO-AWAY", f.go_away(19, 1), [0, 1, 2, 3, 4, 7])
    trailing("GO-AWAY", f.go_away(19, 1))


def error():
    for code in CONNECTION_CODES:
        add(f"code-{code}", "L4", "each code of connection scope", "ERROR",
            f.error(code, 0x25, 7), {"code": code, "kindAtFault": 0x25, "streamAtFault": 7})
    add("nothing-at-fault", "L6", "no frame is at fault", "ERROR", f.error(13),
        {"code": 13, "kindAtFault": 0, "streamAtFault": 0})
    add("maximum", "L6", "the largest kind and stream", "ERROR", f.error(3, 255, U32),
        {"code": 3, "kindAtFault": 255, "streamAtFault": U32})
    add("reserved-ignored", "F2", "a reserved field that is not 0", "ERROR",
        f.error(1, 1, 0, reserved=255), {"code": 1, "kindAtFault": 1, "streamAtFault": 0},
        canonical=False)
    for code in [*NO_CODES, *STREAM_CODES]:
        malformed(f"code-{code}", "N1", "not a code of connection scope", "ERROR", f.error(code),
                  "value_out_of_range")
    truncations("ERROR", f.error(1), [0, 1, 2, 3, 4, 7])
    trailing("ERROR", f.error(1))


# OFFER, GRANT, WITHDRAW

def offer_case(name, rule, description, region=None, canonical=True, extra=b"", **values):
    defaults = dict(offer=1, context=0, input=0, cached=0, output=0, reasoning=0, supply=1,
                    policy=0, quantisation=0, operations=3, encodings=3, model=b"m")
    v = defaults | values
    extensions = extra if region is None else extension(0x0020, region)
    fields = {
        "offer": v["offer"], "contextTokens": v["context"], "inputPrice": str(v["input"]),
        "cachedPrice": str(v["cached"]), "outputPrice": str(v["output"]),
        "reasoningPrice": str(v["reasoning"]), "supplyType": v["supply"],
        "dataPolicy": v["policy"], "quantisation": v["quantisation"],
        "operations": v["operations"], "encodings": v["encodings"], "model": v["model"].decode(),
        "region": (region or b"").decode(),
    }
    add(name, rule, description, "OFFER", f.offer(extensions=extensions, **v), fields,
        canonical=canonical)
    return fields


def supply():
    fields = offer_case("minimum", "S1", "the smallest offer")
    offer_case("usual", "S12", "prices, context, region", offer=7, context=131_072,
               input=200_000, cached=100_000, output=600_000, reasoning=600_000, supply=3,
               policy=2, quantisation=4, model=b"llama-3.3-70b", region=b"eu-west")
    offer_case("maximum", "S1", "the largest of everything", offer=U32, context=U32,
               input=PRICE_MAX, cached=PRICE_MAX, output=PRICE_MAX, reasoning=PRICE_MAX,
               supply=5, policy=2, quantisation=9, operations=0x0F, encodings=3,
               model=MODEL_LONGEST, region=REGION_LONGEST)
    offer_case("model-every-byte", "S1", "every byte that a name may have", model=MODEL_BYTES)
    offer_case("region-shortest", "X4", "a region of one byte", region=b"e")
    for number in range(1, 6):
        offer_case(f"supply-type-{number}", "F4", "each supply type", supply=number)
    for number in range(0, 3):
        offer_case(f"data-policy-{number}", "F4", "each data policy", policy=number)
    for number in range(0, 10):
        offer_case(f"quantisation-{number}", "F4", "each quantisation", quantisation=number)
    for number in (1, 2, 4, 8):
        offer_case(f"operations-{number}", "F4", "each operation alone", operations=number)
    for number in (1, 2):
        offer_case(f"encodings-{number}", "F4", "each encoding alone", encodings=number)
    add("reserved-ignored", "F2", "a reserved field that is not 0", "OFFER",
        f.offer(reserved=255), fields, canonical=False)
    unknown_run("OFFER", lambda run: f.offer(extensions=run), fields)
    truncations("OFFER", f.offer(model=b"model", extensions=extension(0x20, b"eu")),
                [0, 3, 4, 8, 16, 24, 32, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 54, 55,
                 59, 60])
    trailing("OFFER", f.offer())
    malformed("offer-0", "F4", "offer 0 is the connection", "OFFER", f.offer(offer=0),
              "value_out_of_range")
    for which in ("input", "cached", "output", "reasoning"):
        malformed(f"{which}-price-too-large", "F4", "2^32", "OFFER",
                  f.offer(**{which: PRICE_MAX + 1}), "value_out_of_range")
        malformed(f"{which}-price-all-ones", "F4", "2^64 − 1", "OFFER",
                  f.offer(**{which: U64}), "value_out_of_range")
    for field, numbers in (("supply", (0, 6, 255)), ("policy", (3, 255)),
                           ("quantisation", (10, 255)), ("operations", (0, 16, 0x13, 255)),
                           ("encodings", (0, 4, 7, 255))):
        for number in numbers:
            malformed(f"{field}-{number}", "F4", "a value that the table does not have", "OFFER",
                      f.offer(**{field: number}), "value_out_of_range")
    malformed("model-empty", "S1", "a name of 0 bytes", "OFFER", f.offer(model=b""),
              "invalid_text")
    malformed("model-too-long", "S1", "a name of 89 bytes", "OFFER", f.offer(model=b"m" * 89),
              "invalid_text")
    malformed("model-passes-end", "F4", "more name declared than there is", "OFFER",
              f.offer(model_bytes=2), "truncated")
    for byte in (0x00, 0x0A, 0x20, 0x2B, 0x2C, 0x3B, 0x3F, 0x5B, 0x5E, 0x60, 0x7B, 0x7F, 0x80, 0xFF):
        malformed(f"model-byte-{byte:02x}", "S1", "a byte that a name must not have", "OFFER",
                  f.offer(model=b"m" + bytes([byte])), "invalid_text")
    malformed("region-empty", "X4", "a region of 0 bytes", "OFFER",
              f.offer(extensions=extension(0x20, b"")), "invalid_text")
    malformed("region-too-long", "X4", "a region of 17 bytes", "OFFER",
              f.offer(extensions=extension(0x20, b"r" * 17)), "invalid_text")
    malformed("region-space", "X4", "a region with a space", "OFFER",
              f.offer(extensions=extension(0x20, b"eu west")), "invalid_text")
    bad_runs("OFFER", lambda run: f.offer(extensions=run))

    for name, offer, slots in (("minimum", 0, 0), ("connection", 0, 8), ("offer", 3, 1),
                               ("maximum", U32, 65_536)):
        add(name, "S4", "slots of an offer or of the connection", "GRANT", f.grant(offer, slots),
            {"offer": offer, "slots": slots})
    malformed("slots-too-many", "F4", "65,537 slots", "GRANT", f.grant(1, 65_537),
              "value_out_of_range")
    malformed("slots-all-ones", "F4", "2^32 − 1 slots", "GRANT", f.grant(1, U32),
              "value_out_of_range")
    truncations("GRANT", f.grant(1, 1), [0, 3, 4, 7])
    trailing("GRANT", f.grant(1, 1))

    for name, offer in (("minimum", 0), ("usual", 3), ("maximum", U32)):
        add(name, "S8", "an offer goes; offer 0 is refused by what stands, not by its form",
            "WITHDRAW", f.withdraw(offer), {"offer": offer})
    truncations("WITHDRAW", f.withdraw(1), [0, 3])
    trailing("WITHDRAW", f.withdraw(1))


# ASK, REPORT

def report_case(name, rule, description, canonical=True, **values):
    v = dict(question=1, rows_left=0, model=b"", counts=()) | values
    fields = {"question": v["question"], "rowsLeft": v["rows_left"], "model": v["model"].decode(),
              "counts": ",".join(f"{number}={value}" for number, value in v["counts"])}
    add(name, rule, description, "REPORT", f.report(**v), fields, flags=0x80, canonical=canonical)


def standing():
    for question in (0, 7, U32):
        add(f"question-{question}", "S14", "a question", "ASK", f.ask(question),
            {"question": question}, flags=0x80)
    add("without-ignorable", "F3", "a broker that knows the kind needs no flag", "ASK", f.ask(7),
        {"question": 7}, canonical=False)
    add("reserved-ignored", "F2", "a reserved field that is not 0", "ASK", f.ask(7, U32),
        {"question": 7}, flags=0x80, canonical=False)
    truncations("ASK", f.ask(1), [0, 3, 4, 7])
    trailing("ASK", f.ask(1))

    report_case("minimum", "S15", "a row without numbers, the only one")
    report_case("whole", "S15", "a supplier as a whole; one row follows", question=7, rows_left=1,
                counts=((1, 1_790_000_000_000), (2, 1_789_990_000_000), (3, 1), (4, 1), (5, 8),
                        (6, 2), (8, 120), (9, 110), (10, 3), (11, 1), (12, 6), (13, 48_000),
                        (14, 64_000), (15, 51_234), (16, 1_234), (17, 0), (43, 40)))
    report_case("model", "S16", "one of its models, with what it lost", question=7,
                model=b"llama-3.1-8b", counts=((4, 1), (5, 8), (6, 2), (7, 3), (8, 120), (32, 2),
                                               (37, 17), (40, 9), (43, 40), (44, U64)))
    report_case("unknown-numbers", "S16", "numbers of a later time are passed over",
                counts=((21, 1), (45, 2), (U16, U64)))
    report_case("maximum", "S15", "the largest of everything", question=U32, rows_left=U16,
                model=MODEL_LONGEST, counts=tuple((number, U64) for number in range(256)))
    add("reserved-ignored", "F2", "a reserved field that is not 0", "REPORT",
        f.report(reserved=U16), {"question": 1, "rowsLeft": 0, "model": "", "counts": ""},
        flags=0x80, canonical=False)
    malformed("counts-too-many", "F4", "257 numbers", "REPORT",
              f.report(counts=tuple((number, 0) for number in range(257))), "value_out_of_range")
    malformed("number-twice", "F4", "the same number twice", "REPORT",
              f.report(counts=((8, 1), (8, 1))), "value_out_of_range")
    malformed("numbers-disordered", "F4", "numbers out of order", "REPORT",
              f.report(counts=((9, 1), (8, 1))), "value_out_of_range")
    malformed("model-too-long", "S1", "a name of 89 bytes", "REPORT",
              f.report(model=b"m" * 89), "invalid_text")
    malformed("model-byte-20", "S1", "a byte that a name must not have", "REPORT",
              f.report(model=b"m x"), "invalid_text")
    malformed("model-passes-end", "F4", "more name declared than there is", "REPORT",
              f.report(model_bytes=1), "truncated")
    malformed("counts-pass-end", "F4", "more numbers declared than there are", "REPORT",
              f.report(count_number=1), "truncated")
    truncations("REPORT", f.report(model=b"m", counts=((8, 1),)),
                [0, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15, 22])
    trailing("REPORT", f.report(model=b"m", counts=((8, 1),)))


# SUBMIT, QUEUED

SUBMIT_EXTENSIONS = {
    "idempotencyKey": lambda value: extension(0x8010, value),
    "affinityKeys": lambda value: extension(0x0011, b"".join(value)),
    "priceCeilings": lambda value: extension(0x8012, struct.pack("<QQ", *value)),
    "region": lambda value: extension(0x8013, value),
    "dataPolicy": lambda value: extension(0x8014, bytes([value])),
    "supplyTypes": lambda value: extension(0x8015, bytes([value])),
    "trace": lambda value: f.trace(*value),
    "hedge": lambda value: extension(0x8017, bytes([value])),
}
SUBMIT_ORDER = ["affinityKeys", "trace", "idempotencyKey", "priceCeilings", "region",
                "dataPolicy", "supplyTypes", "hedge"]


def submit_case(name, rule, description, options=None, stream=1, canonical=True, **values):
    options = options or {}
    defaults = dict(operation=1, encoding=1, priority=128, preference=0, body_bytes=None,
                    deadline=0, max_input=0, max_output=0, max_reasoning=0, reserve=0, model=b"m",
                    credit=16_384, budget=0, body=b"")
    v = defaults | values
    run = b"".join(SUBMIT_EXTENSIONS[key](options[key]) for key in SUBMIT_ORDER if key in options)
    fields = {
        "operation": v["operation"], "encoding": v["encoding"], "priority": v["priority"],
        "preference": v["preference"],
        "bodyBytes": len(v["body"]) if v["body_bytes"] is None else v["body_bytes"],
        "deadlineMs": v["deadline"], "maxInputTokens": v["max_input"],
        "maxOutputTokens": v["max_output"], "maxReasoningTokens": v["max_reasoning"],
        "reserveBytes": v["reserve"], "model": v["model"].decode(), "credit": str(v["credit"]),
        "budget": str(v["budget"]), "body": v["body"].hex(),
        "idempotencyKey": options.get("idempotencyKey", b"").hex(),
        "affinityKeys": [key.hex() for key in options.get("affinityKeys", [])],
        "inputCeiling": str(options.get("priceCeilings", (U64, U64))[0]),
        "outputCeiling": str(options.get("priceCeilings", (U64, U64))[1]),
        "region": options.get("region", b"").decode(),
        "dataPolicy": options.get("dataPolicy", 0), "supplyTypes": options.get("supplyTypes", 255),
        "trace": [str(part) for part in options.get("trace", ())],
        "hedgeCopies": options.get("hedge", 1),
    }
    add(name, rule, description, "SUBMIT", f.submit(extensions=run, **v), fields, stream,
        canonical=canonical)
    return fields


KEYS = [bytes([number]) * 16 for number in range(1, 9)]
EVERYTHING = {
    "idempotencyKey": b"k" * 64, "affinityKeys": KEYS, "priceCeilings": (1, 2),
    "region": REGION_LONGEST, "dataPolicy": 2, "supplyTypes": 0x15,
    "trace": (0x0102030405060708, 0x090A0B0C0D0E0F10, 0x1112131415161718), "hedge": 255,
}


def submit():
    fields = submit_case("minimum", "Q1", "nothing but a model; an empty body")
    submit_case("usual", "Q1", "a short chat with its body inline", deadline=20_000,
                max_input=4_096, max_output=1_024, max_reasoning=512, reserve=16_384,
                model=b"llama-3.3-70b", credit=65_536, body="Why is the sky blue?".encode())
    submit_case("maximum", "Q1", "the largest of every field and extension", EVERYTHING,
                stream=1_024, operation=4, encoding=2, priority=255, preference=3, body_bytes=U32,
                deadline=U32, max_input=U32, max_output=U32, max_reasoning=U32, reserve=U32,
                model=MODEL_LONGEST, credit=CREDIT_MAX, budget=CREDIT_MAX)
    submit_case("zero", "Q1", "the smallest of every number", priority=0, credit=0)
    submit_case("largest-frame", "F1", "a frame of exactly 16,384 bytes",
                body=bytes(range(256)) * 63 + b"x" * (f.PAYLOAD_MAX - 49 - 256 * 63))
    submit_case("body-later", "U1", "a body that follows in BODY frames", body_bytes=100_000,
                body=b"first")
    for number in range(1, 5):
        submit_case(f"operation-{number}", "Q8", "each operation", operation=number)
    for number in (1, 2):
        submit_case(f"encoding-{number}", "F4", "each encoding", encoding=number)
    for number in range(0, 4):
        submit_case(f"preference-{number}", "Q9", "each preference", preference=number)
    for key, value in EVERYTHING.items():
        submit_case(f"only-{key}", "X1", "one extension alone", {key: value}, body=b"hi")
    submit_case("idempotency-key-shortest", "X4", "a key of one byte", {"idempotencyKey": b"\0"})
    submit_case("affinity-one", "X4", "one affinity key", {"affinityKeys": KEYS[:1]})
    submit_case("ceilings-none", "X4", "2^64 − 1 is no ceiling", {"priceCeilings": (U64, U64)},
                canonical=False)
    submit_case("ceilings-zero", "X4", "nothing but free offers", {"priceCeilings": (0, 0)})
    submit_case("data-policy-0", "X4", "the lowest class", {"dataPolicy": 0}, canonical=False)
    submit_case("supply-types-one", "X4", "one supply type", {"supplyTypes": 1})
    submit_case("hedge-1", "X4", "one copy, said aloud", {"hedge": 1}, canonical=False)
    unknown_run("SUBMIT", lambda run: f.submit(extensions=run), fields, 1)
    full = f.submit(model=b"model", extensions=extension(0x11, KEYS[0]))
    truncations("SUBMIT", full, [0, 1, 2, 3, 4, 7, 8, 12, 16, 20, 24, 28, 30, 32, 39, 40, 47, 48,
                                 52, 53, 57, 72], 1)

    def bad(name, description, fault="value_out_of_range", rule="F4", **values):
        malformed(name, rule, description, "SUBMIT", f.submit(**values), fault, 1)

    for field, numbers in (("operation", (0, 5, 255)), ("encoding", (0, 3, 255)),
                           ("preference", (4, 255))):
        for number in numbers:
            bad(f"{field}-{number}", "a value that the table does not have", **{field: number})
    bad("credit-too-large", "2^62 + 1", credit=CREDIT_MAX + 1)
    bad("credit-all-ones", "2^64 − 1", credit=U64)
    bad("budget-too-large", "2^62 + 1", budget=CREDIT_MAX + 1)
    bad("budget-all-ones", "2^64 − 1", budget=U64)
    bad("model-empty", "a name of 0 bytes", "invalid_text", "S1", model=b"")
    bad("model-too-long", "a name of 89 bytes", "invalid_text", "S1", model=b"m" * 89)
    bad("model-space", "a name with a space", "invalid_text", "S1", model=b"a b")
    bad("model-utf-8", "a name beyond ASCII", "invalid_text", "S1", model="é".encode())
    bad("model-passes-end", "more name declared than there is", "truncated", model_bytes=2)
    bad("extensions-pass-end", "more extension bytes than there are", "truncated",
        extension_bytes=1)

    def bad_option(name, type_, value, fault="bad_extension", description="a value of wrong form"):
        malformed(name, "X4", description, "SUBMIT", f.submit(extensions=extension(type_, value)),
                  fault, 1)

    bad_option("idempotency-key-empty", 0x8010, b"")
    bad_option("idempotency-key-too-long", 0x8010, b"k" * 65)
    bad_option("affinity-empty", 0x0011, b"")
    bad_option("affinity-cut", 0x0011, b"k" * 17)
    bad_option("affinity-too-many", 0x0011, b"k" * 144)
    bad_option("ceilings-short", 0x8012, b"\0" * 15)
    bad_option("ceilings-long", 0x8012, b"\0" * 17)
    bad_option("region-empty", 0x8013, b"", "invalid_text")
    bad_option("region-too-long", 0x8013, b"r" * 17, "invalid_text")
    bad_option("region-control", 0x8013, b"a\n", "invalid_text")
    bad_option("data-policy-short", 0x8014, b"")
    bad_option("data-policy-long", 0x8014, b"\0\0")
    bad_option("data-policy-3", 0x8014, b"\x03", "value_out_of_range")
    bad_option("supply-types-none", 0x8015, b"\0", "value_out_of_range")
    bad_option("supply-types-short", 0x8015, b"")
    bad_option("trace-short", 0x0016, b"\0" * 23)
    bad_option("trace-long", 0x0016, b"\0" * 25)
    bad_option("hedge-0", 0x8017, b"\0", "value_out_of_range")
    bad_option("hedge-long", 0x8017, b"\1\0")
    malformed("extension-known-twice", "X1", "the trace twice", "SUBMIT",
              f.submit(extensions=f.trace(1, 2, 3) * 2), "bad_extension", 1)
    malformed("extension-known-disordered", "X1", "the trace before the affinity keys", "SUBMIT",
              f.submit(extensions=f.trace(1, 2, 3) + extension(0x11, KEYS[0])), "bad_extension", 1)
    malformed("extension-critical-of-another-frame", "X2", "WELCOME's type, marked critical",
              "SUBMIT", f.submit(extensions=extension(0x8002, b"")),
              "unknown_critical_extension", 1)
    bad_runs("SUBMIT", lambda run: f.submit(extensions=run), 1)

    for name, values in (("minimum", (0, 0, 4_096, 0)),
                         ("usual", (0x1122334455667788, 42, 16_384, 3)),
                         ("maximum", (U64, U64, U32, U32))):
        add(name, "Q3", "task id, reserve, position", "QUEUED", f.queued(*values),
            {"instance": str(values[0]), "counter": str(values[1]), "reserveBytes": values[2],
             "position": values[3]}, stream=1)
    truncations("QUEUED", f.queued(1, 2, 3, 4), [0, 7, 8, 16, 20, 23], 1)
    trailing("QUEUED", f.queued(1, 2, 3, 4), 1)


# ASSIGN, STARTED

def assign_case(name, rule, description, trace=None, stream=1, canonical=True, **values):
    defaults = dict(instance=1, counter=1, operation=1, encoding=1, priority=128, offer=1,
                    body_bytes=None, deadline=600_000, max_input=0, max_output=0, max_reasoning=0,
                    credit=16_384, body=b"")
    v = defaults | values
    run = b"" if trace is None else f.trace(*trace)
    fields = {
        "instance": str(v["instance"]), "counter": str(v["counter"]),
        "operation": v["operation"], "encoding": v["encoding"], "priority": v["priority"],
        "offer": v["offer"],
        "bodyBytes": len(v["body"]) if v["body_bytes"] is None else v["body_bytes"],
        "deadlineMs": v["deadline"], "maxInputTokens": v["max_input"],
        "maxOutputTokens": v["max_output"], "maxReasoningTokens": v["max_reasoning"],
        "credit": str(v["credit"]), "trace": [str(part) for part in trace or ()],
        "body": v["body"].hex(),
    }
    add(name, rule, description, "ASSIGN", f.assign(extensions=run, **v), fields, stream,
        canonical=canonical)
    return fields


def assign():
    fields = assign_case("minimum", "D1", "an empty body")
    assign_case("usual", "D1", "a short chat", trace=(1, 2, 3), instance=0x1122334455667788,
                counter=42, offer=7, deadline=19_990, max_input=4_096, max_output=1_024,
                max_reasoning=512, credit=16_384, body="Why is the sky blue?".encode())
    assign_case("maximum", "D1", "the largest of every field", trace=(U64, U64, U64),
                stream=1_024, instance=U64, counter=U64, operation=4, encoding=2, priority=255,
                offer=U32, body_bytes=U32, deadline=U32, max_input=U32, max_output=U32,
                max_reasoning=U32, credit=CREDIT_MAX)
    assign_case("largest-frame", "F1", "a frame of exactly 16,384 bytes", trace=(1, 2, 3),
                body=b"x" * (f.PAYLOAD_MAX - 56 - 28))
    assign_case("zero", "D1", "the smallest of every number", instance=0, counter=0, priority=0,
                deadline=0, credit=0)
    add("reserved-ignored", "F2", "reserved fields that are not 0", "ASSIGN",
        f.assign(reserved8=255, reserved16=U16), fields, 1, canonical=False)
    unknown_run("ASSIGN", lambda run: f.assign(extensions=run), fields, 1)
    truncations("ASSIGN", f.assign(extensions=f.trace(1, 2, 3)),
                [0, 7, 8, 15, 16, 17, 18, 19, 20, 24, 28, 32, 36, 40, 44, 46, 48, 55, 56, 60, 83],
                1)

    def bad(name, description, **values):
        malformed(name, "F4", description, "ASSIGN", f.assign(**values), "value_out_of_range", 1)

    for field, numbers in (("operation", (0, 5, 255)), ("encoding", (0, 3, 255))):
        for number in numbers:
            bad(f"{field}-{number}", "a value that the table does not have", **{field: number})
    bad("offer-0", "offer 0 is the connection", offer=0)
    bad("credit-too-large", "2^62 + 1", credit=CREDIT_MAX + 1)
    for size in (0, 23, 25):
        malformed(f"trace-{size}-bytes", "X4", "a trace of wrong length", "ASSIGN",
                  f.assign(extensions=extension(0x0016, b"\0" * size)), "bad_extension", 1)
    malformed("extensions-pass-end", "F4", "more extension bytes than there are", "ASSIGN",
              f.assign(extension_bytes=1), "truncated", 1)
    bad_runs("ASSIGN", lambda run: f.assign(extensions=run), 1)

    for name, values in (("minimum", (0, 0)), ("usual", (120, 100)), ("all-cached", (9, 9)),
                         ("maximum", (U32, U32))):
        add(name, "D3", "input and cached tokens", "STARTED", f.started(*values),
            {"inputTokens": values[0], "cachedTokens": values[1]}, stream=1)
    malformed("cached-above-input", "F4", "more cached than input", "STARTED", f.started(1, 2),
              "value_out_of_range", 1)
    truncations("STARTED", f.started(1, 1), [0, 3, 4, 7], 1)
    trailing("STARTED", f.started(1, 1), 1)


# BODY, TOKENS

def content():
    for name, data in (("shortest", b"x"), ("smallest-but-last", b"y" * 1_024),
                       ("largest", b"z" * f.PAYLOAD_MAX)):
        add(name, "U5", "body bytes", "BODY", data, {"body": data.hex()}, stream=1)
    for name, flags, tokens, data in (
            ("one", 0, 1, b"Hi"), ("many", 0, U16, b"x" * f.PAYLOAD_MAX),
            ("tokens-alone", 0, 3, b""), ("part-of-a-token", 0, 0, "é".encode()),
            ("reasoning", 1, 2, b"hmm"), ("error", 2, 0, b"{}"),
            ("reasoning-and-error", 3, 0, b"{}")):
        add(name, "K1", "an increment and content", "TOKENS", data,
            {"payload": data.hex(), "increment": tokens}, stream=1, flags=flags, tokens=tokens)
    add("error-with-tokens", "K6", "an error body counts for nothing", "TOKENS", b"{}",
        {"payload": b"{}".hex(), "increment": 0}, stream=1, flags=2, tokens=9)
    add("stream-highest", "F6", "the highest stream", "TOKENS", b"x",
        {"payload": b"x".hex(), "increment": 1}, stream=1_024, tokens=1)


# END, CANCEL, CREDIT

def end_case(name, rule, description, canonical=True, **values):
    defaults = dict(code=0, finish=0, input=0, cached=0, output=0, reasoning=0, retry_after=0,
                    cost=0)
    v = defaults | values
    fields = {
        "code": v["code"], "finishReason": v["finish"], "inputTokens": v["input"],
        "cachedTokens": v["cached"], "outputTokens": v["output"],
        "reasoningTokens": v["reasoning"], "retryAfterMs": v["retry_after"],
        "cost": str(v["cost"]),
    }
    add(name, rule, description, "END", f.end(**v), fields, stream=1, canonical=canonical)
    return fields


def ending():
    fields = end_case("minimum", "E1", "completed, nothing used")
    end_case("usual", "E4", "completed with usage and cost", input=120, cached=100, output=64,
             reasoning=16, cost=250)
    end_case("maximum", "E4", "the largest of everything", code=82, finish=2, input=U32,
             cached=U32, output=U32, reasoning=U32, retry_after=U32, cost=CREDIT_MAX)
    for number in range(0, 3):
        end_case(f"finish-{number}", "F4", "each finish reason", finish=number)
    for code in STREAM_CODES:
        end_case(f"code-{code}", "N1", "each code of stream scope", code=code)
    add("reserved-ignored", "F2", "a reserved field that is not 0", "END", f.end(reserved=255),
        fields, 1, canonical=False)
    for code in [*NO_CODES, *CONNECTION_CODES]:
        malformed(f"code-{code}", "N1", "not a code of stream scope", "END", f.end(code=code),
                  "value_out_of_range", 1)
    for number in (3, 255):
        malformed(f"finish-{number}", "F4", "a reason that the table does not have", "END",
                  f.end(finish=number), "value_out_of_range", 1)
    malformed("cached-above-input", "F4", "more cached than input", "END", f.end(cached=1),
              "value_out_of_range", 1)
    malformed("reasoning-above-output", "F4", "more reasoning than output", "END",
              f.end(reasoning=1), "value_out_of_range", 1)
    malformed("cost-too-large", "F4", "2^62 + 1", "END", f.end(cost=CREDIT_MAX + 1),
              "value_out_of_range", 1)
    malformed("cost-all-ones", "F4", "2^64 − 1", "END", f.end(cost=U64), "value_out_of_range", 1)
    truncations("END", f.end(), [0, 1, 2, 3, 4, 8, 12, 16, 20, 24, 31], 1)
    trailing("END", f.end(), 1)

    for code in ENDING_CODES:
        add(f"code-{code}", "N1", "each code that a CANCEL may carry", "CANCEL", f.cancel(code),
            {"code": code}, stream=1)
    add("reserved-ignored", "F2", "a reserved field that is not 0", "CANCEL",
        f.cancel(32, reserved=U16), {"code": 32}, stream=1, canonical=False)
    for code in [0, *NO_CODES, *CONNECTION_CODES, *REFUSALS, *SUPPLIER_CODES]:
        malformed(f"code-{code}", "N1", "not a code that a CANCEL may carry", "CANCEL",
                  f.cancel(code), "value_out_of_range", 1)
    truncations("CANCEL", f.cancel(32), [0, 1, 2, 3], 1)
    trailing("CANCEL", f.cancel(32), 1)

    for name, limit, stream in (("zero", 0, 1), ("usual", 65_536, 1), ("maximum", CREDIT_MAX, 1),
                                ("upload-limit", 2_097_152, 0)):
        add(name, "C2", "an absolute limit", "CREDIT", f.credit(limit), {"limit": str(limit)},
            stream=stream)
    malformed("too-large", "F4", "2^62 + 1", "CREDIT", f.credit(CREDIT_MAX + 1),
              "value_out_of_range", 1)
    malformed("all-ones", "F4", "2^64 − 1", "CREDIT", f.credit(U64), "value_out_of_range", 1)
    truncations("CREDIT", f.credit(1), [0, 1, 7], 1)
    trailing("CREDIT", f.credit(1), 1)


# Kinds that version 1 does not know, and frames that are refused from their header alone

def unknown():
    for number in (0x00, 0x07, 0x13, 0x29, 0x2F, 0x7F, 0xFF):
        add(f"ignorable-{number:02x}", "V3", "skipped", number, b"anything", {}, stream=9,
            flags=0x80, canonical=False)
        refuse(f"unknown-{number:02x}", "V3", "refused", number, b"anything", "unknown_kind",
               stream=9)
    add("ignorable-empty", "V3", "skipped", 0x30, b"", {}, flags=0x80, canonical=False)
    add("ignorable-largest", "V3", "skipped", 0x30, b"x" * f.PAYLOAD_MAX, {}, stream=U32,
        flags=0xFF, tokens=U16, canonical=False)
    refuse("unknown-other-flags", "V3", "every flag but ignorable", 0x30, b"", "unknown_kind",
           flags=0x7F)
    refuse("ignorable-too-large", "F1", "a skipped frame has a limit too", 0x30, b"",
           "frame_too_large", flags=0x80, payload_bytes=f.PAYLOAD_MAX + 1)


def oversize():
    for kind in f.KINDS:
        if kind == "RESUME":
            continue
        for length in (f.PAYLOAD_MAX + 1, 65_536, U32):
            refuse(f"oversize-{length}", "F1", "refused from these 12 bytes alone", kind, b"",
                   "frame_too_large", stream=0 if f.KINDS[kind] < 0x20 else 1,
                   payload_bytes=length)


def write(folder, vectors):
    target = ROOT / folder
    target.mkdir(parents=True, exist_ok=True)
    for kind, entries in vectors.items():
        names = [entry["name"] for entry in entries]
        assert len(names) == len(set(names)), f"{folder}/{kind}: a name twice"
        lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in entries)
        (target / f"{kind.lower()}.json").write_text(f"[\n{lines}\n]\n")
    return sum(len(entries) for entries in vectors.values())


if __name__ == "__main__":
    for build in (hello, welcome, ping_and_pong, go_away, error, supply, standing, submit, assign, content,
                  ending, unknown, oversize):
        build()
    print(write("valid", valid), "valid,", write("invalid", invalid), "invalid")
