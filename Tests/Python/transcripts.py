"""Recorded conversations: every frame of a few connections in the order in which it passed.

A transcript is one JSON file in ``Protocol/Vectors/recorded``; its README says what the members
mean. A later version of the protocol is held to the transcripts of the version before it [V1].
"""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass, field
from typing import Any, cast

from support import ROOT
from sluice import wire
from sluice.codes import Flag

FOLDER = ROOT / "Protocol" / "Vectors" / "recorded"
PEER, BROKER = "peer", "broker"


@dataclass(frozen=True)
class Passed:
    """One frame that passed on a connection."""

    connection: str
    sender: str
    data: bytes

    @property
    def header(self) -> wire.Header:
        """Its header."""
        return wire.Header.unpack(self.data)

    @property
    def frame(self) -> wire.Frame:
        """What it says; transcripts hold no kind that version 1 does not know."""
        frame = wire.unpack(self.header, self.data[wire.HEADER_BYTES:])
        assert frame is not None
        return frame


@dataclass
class Transcript:
    """A recording. ``peers`` says of each connection which program it was and how it was run."""

    name: str
    about: str
    peers: dict[str, dict[str, Any]]
    frames: list[Passed] = field(default_factory=list)

    def of(self, connection: str) -> list[Passed]:
        """The frames of one connection."""
        return [each for each in self.frames if each.connection == connection]

    def save(self) -> None:
        """Writes the file, one frame a line, so that a change can be read."""
        head = {"name": self.name, "about": self.about, "version": 1, "peers": self.peers}
        rows = [json.dumps({"connection": each.connection, "from": each.sender,
                            "kind": type(each.frame).__name__.upper(),
                            "stream": each.header.stream, "hex": each.data.hex()})
                for each in self.frames]
        text = json.dumps(head, indent=2, ensure_ascii=False)[:-2] + ',\n  "frames": [\n    '
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{self.name}.json").write_text(text + ",\n    ".join(rows) + "\n  ]\n}\n")


def load(path: pathlib.Path) -> Transcript:
    """Reads a file."""
    found = json.loads(path.read_text())
    frames = [Passed(row["connection"], row["from"], bytes.fromhex(row["hex"]))
              for row in found["frames"]]
    return Transcript(found["name"], found["about"], found["peers"], frames)


def transcripts() -> list[Transcript]:
    """All that were recorded."""
    return [load(path) for path in sorted(FOLDER.glob("*.json"))]


# MARK: What was asked and answered


@dataclass
class Exchange:
    """One task as one of its connections saw it."""

    stream: int
    opening: wire.Submit | wire.Assign
    body: bytes = b""
    accepted: wire.Queued | None = None
    started: wire.Started | None = None
    pieces: list[tuple[wire.Header, bytes]] = field(default_factory=list)
    cancelled_after: int | None = None
    """How many TOKENS had come when CANCEL was sent to whoever answers."""
    end: wire.End | None = None

    def answer(self, flags: int) -> tuple[bytes, int]:
        """The content with exactly these flags, joined, and the tokens counted on it."""
        mine = [(header.tokens, content) for header, content in self.pieces
                if header.flags & 0x03 == flags]
        return b"".join(content for _, content in mine), sum(tokens for tokens, _ in mine)

    @property
    def answers(self) -> list[tuple[bytes, int]]:
        """Answer, reasoning and error body."""
        return [self.answer(flags) for flags in (0, Flag.REASONING, Flag.ERROR)]


def exchanges(frames: list[Passed]) -> list[Exchange]:
    """The tasks of one connection, in the order in which they were opened."""
    found: list[Exchange] = []
    running: dict[int, Exchange] = {}
    for each in frames:
        frame, stream = each.frame, each.header.stream
        if isinstance(frame, (wire.Submit, wire.Assign)):
            running[stream] = Exchange(stream, frame, frame.body)
            found.append(running[stream])
        elif stream in running:
            note(running[stream], each)
    return found


def note(task: Exchange, each: Passed) -> None:
    """Adds a frame of its stream to a task."""
    frame = each.frame
    if isinstance(frame, wire.Body):
        task.body += frame.body
    elif isinstance(frame, wire.Queued):
        task.accepted = frame
    elif isinstance(frame, wire.Started):
        task.started = frame
    elif isinstance(frame, wire.Tokens):
        task.pieces.append((each.header, frame.content))
    elif isinstance(frame, wire.Cancel):
        task.cancelled_after = len(task.pieces)
    elif isinstance(frame, wire.End):
        task.end = frame


def answered(assigns: list[Passed], said: list[Passed]) -> list[Exchange]:
    """What a supplier said to each ASSIGN: the frames on its slot up to their END."""
    found, left = [], list(said)
    for assign in assigns:
        task = Exchange(assign.header.stream, cast(wire.Assign, assign.frame))
        while task.end is None:
            place = next(index for index, each in enumerate(left)
                         if each.header.stream == task.stream)
            note(task, left.pop(place))
        found.append(task)
    return found
