"""Captures for the dissector's tests: written from frames, or taken from the wire by tshark."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable
from dataclasses import dataclass, field

from support import ROOT

DISSECTOR = ROOT / "Tools" / "wireshark" / "sluice.lua"
BROKER_PORT = 7_700
_RAW_IP = 101
_MOST_BYTES = 16_000  # of TCP payload in a packet
_SECONDS = 60


def tshark() -> str:
    """The program; that it is missing is a failure, for Tools/setup installs it."""
    program = shutil.which("tshark")
    if program is None:
        raise AssertionError("no tshark; run Tools/setup")
    return program


# MARK: Files of our own

# What one TCP connection carried, in order: whether the peer sent it, and the bytes.
Chunks = list[tuple[bool, bytes]]


def write_capture(path: pathlib.Path, conversations: dict[int, Chunks],
                  broker_port: int = BROKER_PORT) -> None:
    """A capture of TCP conversations, by the peer's port. A chunk becomes one packet or more."""
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, _RAW_IP))
        for port, chunks in conversations.items():
            sent = {True: 1, False: 1}
            for from_peer, chunk in chunks:
                ports = (port, broker_port) if from_peer else (broker_port, port)
                for start in range(0, len(chunk), _MOST_BYTES):
                    part = chunk[start:start + _MOST_BYTES]
                    packet = _packet(*ports, sent[from_peer], sent[not from_peer], part)
                    file.write(struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet)
                    sent[from_peer] += len(part)


def _packet(source: int, target: int, sequence: int, seen: int, data: bytes) -> bytes:
    """IPv4 and TCP around the data; checksums are 0, which tshark does not verify."""
    tcp = struct.pack(">HHIIBBHHH", source, target, sequence, seen, 5 << 4, 0x18, 65_535, 0, 0)
    host = bytes([127, 0, 0, 1])
    address = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp) + len(data), 0, 0, 64, 6, 0,
                          host, host)
    return address + tcp + data


class Relay:
    """Listens, hands every byte on to a broker as it is, and remembers them: a capture that needs
    no right to capture."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self.conversations: dict[int, Chunks] = {}
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._start(self._accept)

    def stop(self) -> None:
        """Drops every connection and waits for the ends of its threads."""
        self._server.shutdown(socket.SHUT_RDWR)
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in (self._server, *self._sockets):
            each.close()

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, (_, port) = self._server.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
                self._sockets += [peer, broker]
                chunks = self.conversations.setdefault(port, [])
                self._start(self._pump, chunks, True, peer, broker)
                self._start(self._pump, chunks, False, broker, peer)

    def _pump(self, chunks: Chunks, from_peer: bool, source: socket.socket,
              target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                chunks.append((from_peer, data))
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


# MARK: Captures of the wire


class Capture:
    """tshark that captures one port of the loopback interface, from ``start`` to ``stop``."""

    def __init__(self, path: pathlib.Path, port: int) -> None:
        self.path = path
        self._port = port
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str | None:
        """Begins; what the machine said where it refuses captures, else None."""
        self._process = subprocess.Popen(
            [tshark(), "-i", "lo", "-q", "-f", f"tcp port {self._port}", "-w", str(self.path)],
            stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = ""
        for line in self._process.stderr:
            said += line
            if "Capturing on" in line:
                limit = time.monotonic() + 10
                while not self.path.exists() and time.monotonic() < limit:
                    if self._process.poll() is not None:
                        break
                    time.sleep(0.05)
                if self._process.poll() is None:
                    return None
        self._process.wait()
        self._process.stderr.close()
        told = [line for line in said.splitlines() if "permission" in line.lower()]
        return told[0] if told else said.strip()

    def stop(self) -> None:
        """Ends it when the file has not grown for a while: the kernel hands packets on late."""
        assert self._process is not None
        size, still = -1, 0
        for _ in range(100):
            time.sleep(0.1)
            now = self.path.stat().st_size
            size, still = now, still + 1 if now == size else 0
            if still == 10:
                break
        self._process.terminate()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


# MARK: What tshark says


@dataclass
class Dissected:
    """One frame: its fields with the values shown, and its expert items."""

    from_port: int
    to_port: int
    fields: dict[str, list[str]] = field(default_factory=dict)
    experts: list[str] = field(default_factory=list)

    def number(self, name: str) -> int:
        """A field that is there once, as a number."""
        (text,) = self.fields[name]
        return int(text, 0)


def run_tshark(*options: str) -> str:
    """What tshark prints with the dissector; anything that Lua complains of is an error."""
    run = subprocess.run(
        [tshark(), "-X", f"lua_script:{DISSECTOR}", *options], capture_output=True, text=True,
        timeout=_SECONDS)
    output = run.stdout + run.stderr
    if run.returncode != 0 or re.search(r"Lua Error|stack traceback|_ws.lua.error", output):
        raise AssertionError(f"tshark: {output[-2_000:]}")
    return run.stdout


def dissect(path: pathlib.Path, *options: str) -> list[Dissected]:
    """Every frame of a capture."""
    found = []
    for packet in xml.fromstring(run_tshark("-r", str(path), "-T", "pdml", *options)):
        shown = {each.get("name"): each.get("show") for each in packet.iter("field")}
        for proto in packet.findall("proto[@name='sluice']"):
            frame = Dissected(int(shown["tcp.srcport"] or 0), int(shown["tcp.dstport"] or 0))
            for each in proto.iter("field"):
                name = each.get("name") or ""
                if name.startswith("sluice."):
                    frame.fields.setdefault(name.removeprefix("sluice."), []).append(
                        each.get("show") or "")
                elif name == "_ws.expert.message":
                    frame.experts.append(each.get("show") or "")
            found.append(frame)
    return found
