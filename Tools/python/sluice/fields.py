"""How payloads are read: fields from the front, and the runs of extensions of section 4."""

from __future__ import annotations

import string
import struct
from collections.abc import Callable
from typing import NamedTuple

from .codes import Code, MAX_MODEL_BYTES

_EXTENSION = struct.Struct("<HH")
_MODEL_BYTES = frozenset((string.ascii_letters + string.digits + "._:/@-").encode())
_VISIBLE_BYTES = frozenset(range(0x21, 0x7F))
_CRITICAL = 0x8000


class WireError(Exception):
    """Bytes that break the layout.

    ``code`` is what ERROR carries. ``fault`` says more finely why; it never travels.
    """

    def __init__(self, code: Code, fault: str | None = None) -> None:
        super().__init__(code.label if fault is None else f"{code.label}: {fault}")
        self.code = code
        self.fault = fault


def malformed(fault: str) -> WireError:
    """The error of section 18 for a payload of the wrong form."""
    return WireError(Code.MALFORMED_PAYLOAD, fault)


def require(holds: bool, fault: str = "value_out_of_range") -> None:
    """Raises ``malformed_payload`` unless the condition holds."""
    if not holds:
        raise malformed(fault)


class Reader:
    """Takes fields from the front of one payload."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._offset = 0

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        """The numbers of a layout."""
        return layout.unpack(self.take(layout.size))

    def take(self, count: int) -> bytes:
        """The next bytes; too few are ``truncated``."""
        end = self._offset + count
        require(end <= len(self._payload), "truncated")
        taken = self._payload[self._offset:end]
        self._offset = end
        return taken

    def rest(self) -> bytes:
        """Whatever is left."""
        return self.take(len(self._payload) - self._offset)

    def finish(self) -> None:
        """Refuses bytes after the last field [F4]."""
        require(self._offset == len(self._payload), "trailing_bytes")


# MARK: Extensions


class ExtensionType(NamedTuple):
    """One row of the table in section 4: how its value becomes the field ``name``, and back."""

    type: int
    name: str
    read: Callable[[bytes], object]
    write: Callable[[object], bytes]


def _sized(lengths: range, step: int, value: bytes) -> None:
    require(len(value) in lengths and len(value) % step == 0, "bad_extension")


def _text(value: bytes) -> str:
    _sized(range(0, 65), 1, value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise malformed("invalid_text") from None


def _brokers(value: bytes) -> str:
    _sized(range(0, 1_025), 1, value)
    require(_VISIBLE_BYTES.issuperset(value), "invalid_text")
    return value.decode("ascii")


def _region(value: bytes) -> str:
    require(1 <= len(value) <= 16 and _VISIBLE_BYTES.issuperset(value), "invalid_text")
    return value.decode("ascii")


def _opaque(longest: int, step: int, value: bytes) -> bytes:
    _sized(range(1, longest + 1), step, value)
    return value


def _affinity(value: bytes) -> tuple[bytes, ...]:
    _opaque(128, 16, value)
    return tuple(value[start:start + 16] for start in range(0, len(value), 16))


def _numbers(layout: str) -> tuple[Callable[[bytes], object], Callable[[object], bytes]]:
    packer = struct.Struct(layout)

    def read(value: bytes) -> object:
        require(len(value) == packer.size, "bad_extension")
        return packer.unpack(value)

    return read, lambda value: packer.pack(*value)


def _byte(lowest: int, highest: int) -> tuple[Callable[[bytes], object], Callable[[object], bytes]]:
    def read(value: bytes) -> object:
        require(len(value) == 1, "bad_extension")
        require(lowest <= value[0] <= highest)
        return value[0]

    return read, lambda value: bytes([value])


def _encode(value: object) -> bytes:
    return str(value).encode()


TRACE = ExtensionType(0x0016, "trace", *_numbers("<QQQ"))
REGION_OF_OFFER = ExtensionType(0x0020, "region", _region, _encode)
AGENT = ExtensionType(0x0001, "agent", _text, _encode)
BROKERS = ExtensionType(0x0002, "brokers", _brokers, _encode)
SUBMIT_EXTENSIONS = (
    ExtensionType(0x0011, "affinity_keys", _affinity, lambda keys: b"".join(keys)),  # type: ignore
    TRACE,
    ExtensionType(0x8010, "idempotency_key", lambda value: _opaque(64, 1, value),
                  lambda value: bytes(value)),  # type: ignore[call-overload]
    ExtensionType(0x8012, "price_ceilings", *_numbers("<QQ")),
    ExtensionType(0x8013, "region", _region, _encode),
    ExtensionType(0x8014, "data_policy", *_byte(0, 2)),
    ExtensionType(0x8015, "supply_types", *_byte(1, 255)),
    ExtensionType(0x8017, "hedge_copies", *_byte(1, 255)),
)


def read_extensions(run: bytes, known: tuple[ExtensionType, ...]) -> dict[str, object]:
    """Reads a run by [X1], [X2], [X4]; unknown types that are not critical are skipped."""
    types = {entry.type: entry for entry in known}
    found: dict[str, object] = {}
    reader, left, last = Reader(run), len(run), -1
    while left:
        require(left >= 4, "bad_extension")
        kind, size = reader.fields(_EXTENSION)
        require(kind > last and left >= 4 + size, "bad_extension")
        value = reader.take(size)
        if kind in types:
            found[types[kind].name] = types[kind].read(value)
        else:
            require(not kind & _CRITICAL, "unknown_critical_extension")
        left, last = left - 4 - size, kind
    return found


def write_extensions(frame: object, known: tuple[ExtensionType, ...]) -> bytes:
    """Writes the fields of ``frame`` that differ from their defaults, in order of type [X1]."""
    run = bytearray()
    for entry in known:
        value = getattr(frame, entry.name)
        if value != getattr(type(frame), entry.name):
            data = entry.write(value)
            run += _EXTENSION.pack(entry.type, len(data)) + data
    return bytes(run)


def check_model(model: bytes) -> str:
    """The model's name if [S1] allows it."""
    require(1 <= len(model) <= MAX_MODEL_BYTES and _MODEL_BYTES.issuperset(model), "invalid_text")
    return model.decode("ascii")
