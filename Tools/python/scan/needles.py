"""The byte strings that a value may stand in a file as."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

# What `sluice key list` shows of a key, and the store keeps: no secret.
KEY_PREFIX_CHARACTERS = 10
# Fewer bytes than this are found everywhere by chance.
BYTES_MIN = 5


@dataclass(frozen=True)
class Needle:
    """One form of one value. `value` names it by list and line; the value itself is never told."""

    value: str
    form: str
    pattern: re.Pattern[bytes]
    length: int


def _literal(
    value: str, form: str, text: bytes, *, ignore_case: bool = False, number: bool = False
) -> Needle:
    expression = re.escape(text)
    if number:
        # 10.0.0.1 does not stand in 10.0.0.12.
        expression = rb"(?<![0-9a-fA-F.:])" + expression + rb"(?![0-9a-fA-F:])"
    flags = re.IGNORECASE if ignore_case else 0
    return Needle(value, form, re.compile(expression, flags), len(text))


def _base64(raw: bytes) -> set[bytes]:
    """What a base64 text holds for sure that has `raw` somewhere in what it encodes: one string
    for each place in a group of three bytes, without the characters that its neighbours share."""
    found = set()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        first = -(-shift * 8 // 6)
        last = (shift + len(raw)) * 8 // 6
        text = encoded[first:last]
        found.add(text)
        found.add(text.replace(b"+", b"-").replace(b"/", b"_"))
    return found


def _encoded(value: str, raw: bytes) -> Iterable[Needle]:
    yield _literal(value, "hex", raw.hex().encode(), ignore_case=True)
    for text in sorted(_base64(raw)):
        yield _literal(value, "base64", text)


def of_key(value: str, key: str) -> list[Needle]:
    """The whole key, and what follows the prefix that may be shown."""
    needles = []
    for text in {key, key[KEY_PREFIX_CHARACTERS:]}:
        if len(text) < BYTES_MIN:
            continue
        raw = text.encode()
        needles += [_literal(value, "plain", raw), *_encoded(value, raw)]
    return needles


def of_email(value: str, email: str) -> list[Needle]:
    """In any case, since case says nothing in an e-mail's domain."""
    needles = [_literal(value, "plain", email.encode(), ignore_case=True)]
    for text in {email, email.lower()}:
        needles += _encoded(value, text.encode())
    return needles


def of_address(value: str, text: str) -> list[Needle]:
    """As written and as written in full; an IPv6 address also as its 16 bytes. The four bytes of
    an IPv4 address are found everywhere by chance, so they are looked for in no form."""
    address = ipaddress.ip_address(text)
    needles = []
    for written in {text.lower(), str(address), address.exploded}:
        raw = written.encode()
        needles.append(_literal(value, "plain", raw, ignore_case=True, number=True))
        needles += _encoded(value, raw)
    if address.version == 6:
        needles += [_literal(value, "bytes", address.packed), *_encoded(value, address.packed)]
    return needles


KINDS = {"keys": of_key, "addresses": of_address, "emails": of_email}


def read(kind: str, lines: Iterable[str]) -> list[Needle]:
    """The needles of a list. `ValueError` for a line that cannot be searched for."""
    needles: list[Needle] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if len(text) < BYTES_MIN and kind != "addresses":
            raise ValueError(f"{kind} line {number} is too short to be searched for")
        try:
            needles += KINDS[kind](f"{kind}:{number}", text)
        except ValueError as error:
            raise ValueError(f"{kind} line {number} is not of its kind") from error
    return needles
