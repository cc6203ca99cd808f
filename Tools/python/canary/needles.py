"""Values that nothing else in the world holds, and the forms in which they may come back."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

# Repeated, so that a frame's border or a wiped beginning does not hide a value.
_COPIES = 4
_MARK_BYTES = 12


@dataclass(frozen=True)
class Hit:
    """A canary that was found: which one, in which form, and where in the bytes searched."""

    canary: str
    form: str
    offset: int


class Canaries:
    """The canaries of one run. All hold the run's mark, so one search finds any of them."""

    def __init__(self) -> None:
        # Letters and digits: JSON, percent-encoding and escapes leave them as they are.
        self._mark = secrets.token_hex(_MARK_BYTES)
        self._names: dict[str, str] = {}
        self._patterns = list(self._make_patterns())

    def new(self, name: str) -> str:
        """A value of some 130 characters."""
        number = f"{len(self._names):04x}"
        self._names[number] = name
        return "".join(f"{self._mark}{number}." for _ in range(_COPIES))

    def _make_patterns(self) -> Iterator[tuple[str, re.Pattern[bytes]]]:
        mark = self._mark.encode()
        yield "plain", re.compile(re.escape(mark) + rb"([0-9a-f]{4})")
        yield "hex", re.compile(mark.hex().encode(), re.IGNORECASE)
        for name, encoding in (("utf-16le", "utf-16-le"), ("utf-16be", "utf-16-be")):
            yield name, re.compile(re.escape(self._mark.encode(encoding)))
        yield "reversed", re.compile(re.escape(mark[::-1]))
        for shift in range(3):
            # What base64 holds for sure, whatever the neighbours of the mark are.
            text = base64.b64encode(bytes(shift) + mark).rstrip(b"=")
            first, last = -(-shift * 8 // 6), (shift + len(mark)) * 8 // 6
            yield "base64", re.compile(re.escape(text[first:last]))

    @property
    def overlap_bytes(self) -> int:
        """How much of one chunk the search of the next must see again."""
        return 4 * (len(self._mark) + 8)

    def search(self, data: bytes, begin: int = 0) -> Iterator[Hit]:
        """Every place in `data` where the mark stands in some form."""
        for form, pattern in self._patterns:
            for match in pattern.finditer(data):
                name = "some canary"
                if form == "plain":
                    name = self._names.get(match.group(1).decode(), name)
                yield Hit(name, form, begin + match.start())
