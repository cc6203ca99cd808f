"""Values that nothing else in the world holds, and the forms in which they may come back.

Besides canaries a run has needles that it did not make up: keys and tokens that were issued, and
the addresses that its clients come from.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from scan.needles import KEY_PREFIX_CHARACTERS

# Repeated, so that a frame's border or a wiped beginning does not hide a value.
_COPIES = 4
_MARK_BYTES = 12
_MARK_LENGTH = 2 * _MARK_BYTES
_NUMBER = 4
# One copy: the mark, the value's number and a dot.
_PERIOD = _MARK_LENGTH + _NUMBER + 1
# What Swift's crash reports show of the memory behind a register.
_WINDOW = 16
# So much of a mark is in every window of a canary, and nowhere by chance.
_ENOUGH = _WINDOW - _NUMBER - 1
# Parts of the mark, one of which is whole in every window, wherever it begins.
_ANCHOR = 5
_ANCHORS = (0, 8, _MARK_LENGTH - _ANCHOR)
# The longest form that is looked for, and a window's surroundings, are shorter.
_OVERLAP = 512

CANARY, KEY, ADDRESS = "canary", "key", "address"


@dataclass(frozen=True)
class Hit:
    """A needle that was found: which one, in which form, and where in the bytes searched."""

    canary: str
    form: str
    offset: int
    kind: str = CANARY


@dataclass(frozen=True)
class _Literal:
    """Bytes that are one form of one needle."""

    name: str
    form: str
    data: bytes
    kind: str = CANARY
    # 10.0.0.1 does not stand in 10.0.0.12.
    is_four: bool = False
    # Looked for in memory too, where every form costs a pass over hundreds of MiB.
    everywhere: bool = True


def spaced(data: bytes) -> bytes:
    """As a crash report or a dump writes bytes."""
    return data.hex(" ").encode()


def _base64_forms(data: bytes) -> Iterator[bytes]:
    """What base64 holds for sure, whatever the neighbours of the data are, for each place in a
    group of three bytes."""
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + data).rstrip(b"=")
        first, last = -(-shift * 8 // 6), (shift + len(data)) * 8 // 6
        yield text[first:last]


def _places(data: bytes, part: bytes) -> Iterator[int]:
    place = data.find(part)
    while place >= 0:
        yield place
        place = data.find(part, place + 1)


class Canaries:
    """The needles of one run. All canaries hold the run's mark, so one search finds any."""

    def __init__(self) -> None:
        # Letters and digits: JSON, percent-encoding and escapes leave them as they are. As it is
        # hexadecimal itself, the hexadecimal form of each of its characters has digits alone, and
        # so no upper case.
        self._mark = secrets.token_hex(_MARK_BYTES)
        self._names: dict[str, str] = {}
        self._plain = re.compile(self._mark.encode() + rb"([0-9a-f]{4})")
        self._literals = list(self._mark_forms())
        mark = self._mark.encode()
        self._anchors = [(at, mark[at:at + _ANCHOR]) for at in _ANCHORS]

    @property
    def mark(self) -> str:
        """What all canaries of this run hold."""
        return self._mark

    def new(self, name: str) -> str:
        """A value of some 120 characters."""
        number = f"{len(self._names):04x}"
        self._names[number] = name
        return "".join(f"{self._mark}{number}." for _ in range(_COPIES))

    def _mark_forms(self) -> Iterator[_Literal]:
        mark = self._mark.encode()
        forms = [("hex", mark.hex().encode()), ("reversed", mark[::-1]),
                 ("utf-16le", self._mark.encode("utf-16-le")),
                 ("utf-16be", self._mark.encode("utf-16-be")),
                 ("hex with colons", mark.hex(":").encode()),
                 ("list of numbers", ", ".join(str(byte) for byte in mark).encode())]
        forms += [("base64", text) for text in _base64_forms(mark)]
        for form, data in forms:
            yield _Literal("some canary", form, data)

    # MARK: What was not made up here

    def key(self, name: str, key: str) -> None:
        """A key or token that was issued. Its prefix is no secret, and every list shows it."""
        secret = key[KEY_PREFIX_CHARACTERS:].encode()
        add = self._literals.append
        add(_Literal(name, "plain", secret, KEY))
        for data in {secret.hex().encode(), secret.hex().upper().encode()}:
            add(_Literal(name, "hex", data, KEY, everywhere=False))
        for text in _base64_forms(secret):
            for data in {text, text.replace(b"+", b"-").replace(b"/", b"_")}:
                add(_Literal(name, "base64", data, KEY, everywhere=False))
        # A part that is whole in every window, wherever it begins.
        part = 6
        for at in range(0, len(secret) - part + 1, _WINDOW - part + 1):
            text = spaced(secret[at:at + part])
            for data in {text, text.upper()}:
                add(_Literal(name, "spaced hex", data, KEY, everywhere=False))

    @staticmethod
    def loopback_address() -> str:
        """An address of this machine that nobody else uses."""
        return "127." + ".".join(str(100 + secrets.randbelow(150)) for _ in range(3))

    @staticmethod
    def foreign_address() -> str:
        """An address of nobody: IPv6, of the documentation's range."""
        return str(ipaddress.IPv6Address(b"\x20\x01\x0d\xb8" + secrets.token_bytes(12)))

    def address(self, name: str, text: str, port: int = 0) -> None:
        """An address that somebody came from. The four bytes of IPv4 are found everywhere by
        chance: they are looked for with the port, as the kernel gives them to a program."""
        address = ipaddress.ip_address(text)
        add = self._literals.append
        for written in {text.lower(), str(address), address.exploded}:
            add(_Literal(name, "plain", written.encode(), ADDRESS, is_four=address.version == 4))
            for data in _base64_forms(written.encode()):
                add(_Literal(name, "base64", data, ADDRESS, everywhere=False))
        if address.version == 6:
            add(_Literal(name, "bytes", address.packed, ADDRESS))
            add(_Literal(name, "hex", address.packed.hex().encode(), ADDRESS))
        elif port:
            add(_Literal(name, "bytes", b"\x02\x00" + struct.pack(">H", port) + address.packed,
                         ADDRESS))

    # MARK: Searching

    @property
    def overlap_bytes(self) -> int:
        """How much of one chunk the search of the next must see again."""
        return _OVERLAP

    def search(self, data: bytes, begin: int = 0, *, memory: bool = False) -> Iterator[Hit]:
        """Every place in `data` where a needle stands in some form."""
        for match in self._plain.finditer(data):
            yield Hit(self._name(match.group(1)), "plain", begin + match.start())
        for literal in self._literals:
            if memory and not literal.everywhere:
                continue
            for place in _places(data, literal.data):
                if not literal.is_four or _stands_alone(data, place, len(literal.data)):
                    yield Hit(literal.name, literal.form, begin + place, literal.kind)
        for at, anchor in self._anchors:
            yield from self._windows(data, begin, at, anchor)

    def _name(self, number: bytes) -> str:
        return self._names.get(number.decode("ascii", "replace"), "some canary")

    def _windows(self, data: bytes, begin: int, at: int, anchor: bytes) -> Iterator[Hit]:
        """Parts of a canary: as text where it is not whole, and as spaced hexadecimal."""
        for place in _places(data, anchor):
            around = data[max(0, place - _WINDOW):place + _WINDOW]
            if self._mark.encode() not in data[max(0, place - at):place + _MARK_LENGTH] and (
                    name := self._part(around, min(place, _WINDOW), at)):
                yield Hit(name, "part", begin + place)
        for place in _places(data, spaced(anchor)):
            before = _hex_run(data[max(0, place - 3 * _WINDOW):place][::-1])[::-1]
            after = _hex_run(data[place:place + 3 * (_PERIOD + _WINDOW)])
            if name := self._part(_bytes_of(before + after), len(_bytes_of(before)), at):
                yield Hit(name, "spaced hex", begin + place)

    def _part(self, text: bytes, place: int, at: int) -> str:
        """The name of the canary that `text` is a part of, where the byte at `place` is the one at
        `at` of a copy; empty if too little of it is there."""
        mark = self._mark.encode()

        def matches(index: int) -> bool:
            inside = (index - place + at) % _PERIOD
            if inside < _MARK_LENGTH:
                return text[index] == mark[inside]
            return text[index] in (b"." if inside == _PERIOD - 1 else b"0123456789abcdef")

        first = last = place
        while first > 0 and matches(first - 1):
            first -= 1
        while last < len(text) and matches(last):
            last += 1
        inside = [(index - place + at) % _PERIOD for index in range(first, last)]
        if sum(each < _MARK_LENGTH for each in inside) < _ENOUGH:
            return ""
        number = first + inside.index(_MARK_LENGTH) if _MARK_LENGTH in inside else last
        return self._name(text[number:number + _NUMBER])


def _stands_alone(data: bytes, place: int, length: int) -> bool:
    before, after = data[max(0, place - 1):place], data[place + length:place + length + 1]
    return not re.fullmatch(rb"[0-9.]", before) and not after.isdigit()


_RUN = re.compile(rb"(?:[0-9a-fA-F]{2} {0,2}| {1,2})*")


def _hex_run(text: bytes) -> bytes:
    """Spaced hexadecimal from the beginning of `text`, as far as it goes; a wider gap may part it
    in halves. (It reads the same from behind.)"""
    match = _RUN.match(text)
    return match.group() if match else b""


def _bytes_of(run: bytes) -> bytes:
    digits = run.replace(b" ", b"")
    return bytes.fromhex(digits[:len(digits) // 2 * 2].decode())

