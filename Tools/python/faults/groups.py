"""A control group with a memory limit, of either version of the kernel's interface."""

from __future__ import annotations

import contextlib
import os
import pathlib
from dataclasses import dataclass

from .cases import Skipped


@dataclass(frozen=True)
class _Interface:
    """What the files of one version are called."""

    version: int
    limit: str
    # Files that also bound what may be swapped, and what is written to each; None: the limit.
    swap: tuple[tuple[str, str | None], ...]
    events: str
    peak: str


_SECOND = _Interface(2, "memory.max", (("memory.swap.max", "0"),), "memory.events", "memory.peak")
_FIRST = _Interface(1, "memory.limit_in_bytes", (("memory.memsw.limit_in_bytes", None),),
                    "memory.oom_control", "memory.max_usage_in_bytes")


@dataclass(frozen=True)
class _Mount:
    """A hierarchy of groups as this process sees it."""

    place: pathlib.Path
    root: str
    kind: str
    options: frozenset[str]


class MemoryGroup:
    """A group below this process's own, so that every limit above it holds on. ``remove`` ends
    it, once no process is left in it."""

    def __init__(self, parent: pathlib.Path, interface: _Interface) -> None:
        self._folder = parent / f"sluice-limits-{os.getpid()}"
        self._interface = interface
        try:
            self._folder.mkdir()
            self._read(interface.limit)
        except OSError as error:
            self.remove()
            raise Skipped(f"NO GROUP CAN BE MADE IN {parent} ({error.strerror}): the case did not "
                          "run") from None

    @classmethod
    def make(cls) -> MemoryGroup:
        """A new group, of version 2 where that controls memory, else of version 1. Raises
        ``Skipped`` with what is missing."""
        for interface, parent in ((_SECOND, _second_parent()), (_FIRST, _first_parent())):
            if parent is not None:
                return cls(parent, interface)
        raise Skipped("NO HIERARCHY OF CONTROL GROUPS CONTROLS MEMORY HERE: the case did not run")

    @property
    def version(self) -> int:
        """Of the kernel's interface: 1 or 2."""
        return self._interface.version

    def limit(self, byte_count: int) -> None:
        """All memory of the group's processes, without anything swapped."""
        (self._folder / self._interface.limit).write_text(str(byte_count))
        for name, value in self._interface.swap:
            with contextlib.suppress(OSError):  # a kernel without swap accounting has no such file
                (self._folder / name).write_text(value or str(byte_count))

    def join(self) -> None:
        """Moves the calling process, with its memory from now on, into the group."""
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def kills(self) -> int:
        """Processes that the kernel ended for the limit."""
        return int(dict(line.split() for line in self._read(self._interface.events).splitlines()
                        )["oom_kill"])

    @property
    def peak_bytes(self) -> int:
        """Most that was ever in use; 0 where the kernel does not say."""
        try:
            return int(self._read(self._interface.peak))
        except OSError:
            return 0

    def remove(self) -> None:
        """Nothing if it is gone or still has a process."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text()


def _mounts(kind: str) -> list[_Mount]:
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        rest = fields[fields.index("-") + 1:]
        if rest[0] == kind:
            found.append(_Mount(pathlib.Path(fields[4]), fields[3], kind,
                                frozenset(rest[2].split(","))))
    return found


def _own(mount: _Mount, controller: str) -> pathlib.Path:
    """This process's group in the hierarchy, or the topmost one that it can see."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            below = path.removeprefix(mount.root.rstrip("/")).lstrip("/")
            place = mount.place / below
            return place if place.is_dir() else mount.place
    return mount.place


def _second_parent() -> pathlib.Path | None:
    """The nearest group of version 2 that hands the control of memory down."""
    for mount in _mounts("cgroup2"):
        parent = _own(mount, "")
        while True:
            with contextlib.suppress(OSError):
                if "memory" in (parent / "cgroup.subtree_control").read_text().split():
                    return parent
            if parent == mount.place:
                break
            parent = parent.parent
    return None


def _first_parent() -> pathlib.Path | None:
    """This process's group in version 1's hierarchy of memory."""
    return next((_own(mount, "memory") for mount in _mounts("cgroup")
                 if "memory" in mount.options), None)
