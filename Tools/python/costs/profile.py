"""What callgrind wrote: instructions by object, and how often functions were called."""

from __future__ import annotations

import pathlib
import re
from collections import Counter
from dataclasses import dataclass, field

_NAMED = re.compile(r"^(c?)(ob|fn|fi|fe|fl)=\((\d+)\)(?: (.*))?$")
# The system's entry points: glibc's wrappers, and the one for numbers without a wrapper.
_KERNEL = ("syscall", "read", "write", "readv", "writev", "sendmsg", "recvmsg", "send", "recv",
           "epoll_wait", "epoll_ctl", "accept4", "close")


@dataclass
class Counts:
    """Instructions by object file, and calls by function."""

    instructions: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def __sub__(self, other: Counts) -> Counts:
        left = Counts(Counter(self.instructions), Counter(self.calls))
        left.instructions.subtract(other.instructions)
        left.calls.subtract(other.calls)
        return left

    @property
    def own(self) -> int:
        """Instructions of Sluice and of Swift's runtime."""
        return sum(count for name, count in self.instructions.items()
                   if "sluice-broker" in name or "libswift" in name)

    @property
    def all(self) -> int:
        """Instructions of the process: OpenSSL and the C library too."""
        return sum(self.instructions.values())

    @property
    def allocations(self) -> int:
        """Objects and blocks that Swift allocated."""
        return sum(self.calls[name] for name in ("swift_allocObject", "swift_slowAlloc"))

    @property
    def retains(self) -> int:
        """References counted up."""
        return sum(self.calls[name] for name in ("swift_retain", "swift_bridgeObjectRetain"))

    @property
    def doorbells(self) -> int:
        """Rings that wake another thread: each is a system call and costs some 20 µs."""
        return sum(count for name, count in self.calls.items() if "8DoorbellV4ring" in name)

    @property
    def system_calls(self) -> int:
        """Calls into the kernel."""
        return sum(self.calls[name] for name in _KERNEL)


def read(path: pathlib.Path) -> Counts:
    """The counts of one process, all its threads together."""
    names: dict[tuple[str, str], str] = {}
    counts = Counts()
    place = {"ob": "", "fn": "", "cob": "", "cfn": ""}
    skip = False
    with open(path, errors="replace") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if found := _NAMED.match(line):
                called, kind, number, name = found.groups()
                space = "file" if kind in ("fi", "fe", "fl") else kind
                if name is not None:
                    names[space, number] = name
                place[called + kind] = names.get((space, number), "")
            elif line.startswith("calls="):
                counts.calls[place["cfn"].split("@")[0]] += int(line[6:].split()[0])
                skip = True
            elif line[:1] in "0123456789+-*" and line:
                if not skip:
                    counts.instructions[place["ob"]] += int(line.split()[1])
                skip = False
    return counts
