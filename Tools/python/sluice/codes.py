"""The tables of the specification: kinds, flags, codes with their advice, and limits."""

from __future__ import annotations

import enum

HEADER_BYTES = 12
MAX_FRAME_BYTES = 16_384  # [F1]
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - HEADER_BYTES
MAX_STREAMS = 1_024
MAX_CREDIT = 1 << 62  # [C2]
MAX_PRICE = (1 << 32) - 1  # [S13]
MAX_EXTENSION_BYTES = 4_096  # [X3]
MAX_CREDENTIAL_BYTES = 512
MAX_MODEL_BYTES = 88  # [S1]
MAX_SLOTS = 65_536
MAX_REPORT_COUNTS = 256  # [S15]
REPORT_PAUSE_MS = 1_000  # [S17]
NO_CEILING = (1 << 64) - 1
FREE_BODY_BYTES = 16_384  # [U1]
SMALLEST_BODY_BYTES = 1_024  # [U5]
WAITING_CREDIT_BYTES = 2_048  # [C6]
SMALLEST_RESERVE_BYTES = 4_096  # [C7]
LARGEST_RESERVE_BYTES = 65_536
CANCEL_GRACE_MS = 2_000  # [E7]
VERSION = 1
ALPN = "sluice/1"


class Kind(enum.IntEnum):
    """Kinds of frames, section 3."""

    HELLO = 0x01
    WELCOME = 0x02
    PING = 0x03
    PONG = 0x04
    GO_AWAY = 0x05
    ERROR = 0x06
    OFFER = 0x10
    GRANT = 0x11
    WITHDRAW = 0x12
    ASK = 0x18
    REPORT = 0x19
    SUBMIT = 0x20
    BODY = 0x21
    QUEUED = 0x22
    ASSIGN = 0x23
    STARTED = 0x24
    TOKENS = 0x25
    END = 0x26
    CANCEL = 0x27
    CREDIT = 0x28


class Flag(enum.IntFlag):
    """Flags of the header, section 3."""

    NONE = 0
    REASONING = 0x01
    ERROR = 0x02
    IGNORABLE = 0x80


class Role(enum.IntEnum):
    """Who a peer is; BROKER never travels and only names the side of a session."""

    BROKER = 0
    CLIENT = 1
    SUPPLIER = 2


class Retry(enum.Enum):
    """Whether sending the same again can help, section 17."""

    NEVER = "never"
    NOW = "now"
    LATER = "later"


class Code(enum.IntEnum):
    """Every code of section 17. The table is closed."""

    COMPLETED = 0
    PROTOCOL_VIOLATION = 1
    FRAME_TOO_LARGE = 2
    UNKNOWN_KIND = 3
    MALFORMED_PAYLOAD = 4
    UNEXPECTED_FRAME = 5
    VERSION_MISMATCH = 6
    UNAUTHENTICATED = 7
    FORBIDDEN = 8
    STREAM_IN_USE = 9
    STREAM_OUT_OF_RANGE = 10
    CREDIT_EXCEEDED = 11
    INVALID_OFFER = 12
    HANDSHAKE_TIMEOUT = 13
    KEEP_ALIVE_TIMEOUT = 14
    FLOOD = 15
    STALLED_READER = 16
    TOO_MANY_CONNECTIONS = 17
    INTERNAL_FAULT = 18
    SHUTTING_DOWN = 19
    CANCELLED = 32
    STALLED = 33
    DEADLINE_EXCEEDED = 34
    SUPPLIER_LOST = 35
    SUPPLIER_FAILED = 36
    BUDGET_EXHAUSTED = 37
    DRAINED = 38
    MODEL_UNKNOWN = 48
    NO_SUPPLIER = 49
    QUEUE_FULL = 50
    RATE_LIMITED = 51
    UNSUPPORTED = 52
    BODY_TOO_LARGE = 53
    BODY_MISMATCH = 54
    BODY_ARENA_FULL = 55
    UPLOAD_TIMEOUT = 56
    JOURNAL_FULL = 57
    DRAINING = 58
    INVALID_REQUEST = 59
    INSUFFICIENT_FUNDS = 60
    NOT_PERMITTED = 61
    DUPLICATE = 62
    DECLINED = 80
    UPSTREAM_UNAVAILABLE = 81
    UPSTREAM_REFUSED = 82

    @property
    def label(self) -> str:
        """The name as the specification writes it."""
        return self.name.lower()

    @property
    def of_connection(self) -> bool:
        """Whether the scope is the connection; ``completed`` and all from 32 on are of a stream."""
        return 1 <= self <= 19

    @property
    def refuses(self) -> bool:
        """Whether the task was not accepted and nothing is charged [N2]."""
        return 48 <= self <= 79

    @property
    def retry(self) -> Retry:
        """The advice of the table."""
        if self in _RETRY_NOW:
            return Retry.NOW
        return Retry.LATER if self in _RETRY_LATER else Retry.NEVER


_RETRY_NOW = frozenset({
    Code.HANDSHAKE_TIMEOUT, Code.KEEP_ALIVE_TIMEOUT, Code.STALLED_READER, Code.INTERNAL_FAULT,
    Code.SHUTTING_DOWN, Code.SUPPLIER_LOST, Code.SUPPLIER_FAILED, Code.DRAINED,
    Code.UPLOAD_TIMEOUT, Code.DRAINING, Code.DECLINED, Code.UPSTREAM_UNAVAILABLE,
})
_RETRY_LATER = frozenset({
    Code.TOO_MANY_CONNECTIONS, Code.MODEL_UNKNOWN, Code.NO_SUPPLIER, Code.QUEUE_FULL,
    Code.RATE_LIMITED, Code.BODY_ARENA_FULL, Code.JOURNAL_FULL,
})
