"""A broker, a sidecar and suppliers of one case: real processes on files of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .cases import PATIENCE, Failed, check

_START_SECONDS = 10.0
_STATISTICS_BLOCK = 16_384
# The first counters of the statistics page, in their order (`Protocol/Files.md`).
COUNTERS = (
    "connectionsAccepted", "connectionsOpen", "connectionsRefused", "connectionsCut",
    "handshakesCompleted", "handshakesFailed", "suppliersConnected", "offersOpen", "slotsGranted",
    "slotsInUse", "slotsQuarantined", "tasksAccepted", "tasksOpen", "tasksQueued", "tasksEnded",
    "tasksCompleted", "tasksRefused", "tasksDispatched", "tasksDispatchedAgain", "tokensRelayed",
    "framesRelayed", "bytesRelayed", "wireBytesReceived", "wireBytesSent", "lateFramesIgnored",
    "protocolErrors", "cancelsSent", "deadlinesPassed", "readersStalled", "keyUpdatesSent",
    "keyUpdatesReceived", "arenaBytesInUse", "arenaBytesMax", "bodyBytesInUse",
    "reserveBytesInUse", "backendIsRing", "journalRecords", "journalRecordsFree",
    "journalFullRefusals", "refusalsCounted", "instancesClosed")


@dataclass(frozen=True)
class Options:
    """What a case is given."""

    programs: pathlib.Path
    disk: pathlib.Path
    memory: pathlib.Path
    backend: str
    broker_options: tuple[str, ...]


class Program:
    """One started process, its JSON events, and its log."""

    def __init__(self, name: str, command: Sequence[str], log: pathlib.Path,
                 events_on_stderr: bool = False, **popen: Any) -> None:
        self.name = name
        self._log_path = log
        self._events_path = log if events_on_stderr else log.with_suffix(".out")
        self._event_offset = 0
        self._log_offset = log.stat().st_size if log.exists() else 0
        if events_on_stderr:
            self._event_offset = self._log_offset
        elif self._events_path.exists():
            self._event_offset = self._events_path.stat().st_size
        with open(log, "ab") as errors, open(log.with_suffix(".out"), "ab") as output:
            self.process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=errors, **popen)
        self.expected_end = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def log_text(self) -> str:
        """What it has written to standard error since it was started."""
        with open(self._log_path, "rb") as file:
            file.seek(self._log_offset)
            return file.read().decode(errors="replace")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Its log's lines with this event."""
        found = []
        for line in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict) and value.get("event") == event:
                    found.append(value)
        return found

    def events(self) -> list[dict[str, Any]]:
        """The JSON lines that are meant for programs."""
        with open(self._events_path, "rb") as file:
            file.seek(self._event_offset)
            lines = file.read().split(b"\n")[:-1]
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    async def event(self, name: str, seconds: float = _START_SECONDS) -> dict[str, Any]:
        """Waits for an event; fails when the process ends first."""
        limit = time.monotonic() + PATIENCE * seconds
        while time.monotonic() < limit:
            ended = not self.running
            for value in self.events():
                if value.get("event") == name:
                    return value
            if ended:
                raise Failed(f"{self.name} ended with {self.end_status()} before {name}")
            await asyncio.sleep(0.02)
        raise Failed(f"{self.name} did not say {name} within {PATIENCE * seconds:g} s")

    def end_status(self) -> str:
        """How it ended, in words."""
        code = self.process.poll()
        if code is None:
            return "nothing: it runs"
        return signal.Signals(-code).name if code < 0 else f"status {code}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this process alone."""
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.expected_end = True
        self.process.send_signal(number)

    async def ended(self, seconds: float) -> int:
        """Waits for its end and answers its status, negative for a signal."""
        self.expected_end = True
        limit = time.monotonic() + PATIENCE * seconds
        while self.running:
            check(time.monotonic() < limit,
                  f"{self.name} still runs after {PATIENCE * seconds:g} s")
            await asyncio.sleep(0.02)
        return int(self.process.returncode)

    def memory_bytes(self) -> int:
        """Resident anonymous memory, without what lies on tmpfs."""
        with open(f"/proc/{self.pid}/status") as file:
            for line in file:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1_024
        return 0

    def descriptor_count(self) -> int:
        """Open descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def kill(self) -> None:
        """Ends it, also when it is stopped."""
        self.expected_end = True
        if self.running:
            self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Counts:
    """What the store says of all tasks."""

    accepted: int
    final: int
    open: int
    duplicates: int


def _lasting_port() -> int:
    """A free port that the kernel gives to no outgoing connection, so that a broker which is
    killed finds it free when it is started again, whatever connects meanwhile. 0 if there is none.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first = int(file.read().split()[0])
    for _ in range(20 if first > 4_096 else 0):
        port = random.randrange(first // 2, first)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    return 0


class Deployment:
    """Everything that a case starts. ``stop`` ends it all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.data = options.disk / "data"
        self.run = options.memory / "run"
        self.certificates = options.disk / "certificates"
        self.programs: list[Program] = []
        self.host = "127.0.0.1"
        self.port = 0
        self.instance = 0
        self.store = ""
        self.backend = ""
        self.key = ""
        self.tokens: list[str] = []
        self._broker: Program | None = None
        self._sidecar: Program | None = None
        self._number = 0

    # MARK: Making

    def _command(self, *arguments: str) -> str:
        # Commands on a data directory look there for a store that is elsewhere.
        environment = os.environ | ({"SLUICE_STORE": self.store} if self.store else {})
        done = subprocess.run([str(self.options.programs / "sluice"), *arguments],
                              capture_output=True, text=True, env=environment)
        check(done.returncode == 0, f"sluice {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def make(self, suppliers: int = 1, names: Sequence[str] = ()) -> None:
        """Certificates, a client key, and a token for each supplier."""
        for folder in (self.data, self.run, self.certificates):
            folder.mkdir(mode=0o700, exist_ok=True)
        extra = [part for name in names for part in ("--name", name)]
        self._command("certs", "--out", str(self.certificates), *extra)
        issue = ("key", "issue", "--data", str(self.data))
        self.key = json.loads(self._command(*issue))["secret"]
        for number in range(suppliers):
            line = self._command(*issue, "--supplier", "--account", f"supplier-{number}")
            self.tokens.append(json.loads(line)["secret"])
        for number, token in enumerate(self.tokens):
            path = self.certificates / f"supplier-{number}.token"
            path.write_text(token + "\n")
            path.chmod(0o600)

    def issue(self, account: str) -> str:
        """A client key of another account."""
        return str(json.loads(self._command(
            "key", "issue", "--data", str(self.data), "--account", account))["secret"])

    def issue_prepaid(self, account: str) -> str:
        """A client key of an account that prepays, with ten dollars."""
        place = ("--data", str(self.data))
        self._command("account", "create", account, "--prepaid", *place)
        self._command("wallet", "topup", account, "--usd", "10", "--reference", account, *place)
        return self.issue(account)

    @property
    def ca_file(self) -> str:
        """What peers trust."""
        return str(self.certificates / "ca.pem")

    def _start(self, name: str, command: Sequence[str], events_on_stderr: bool = False,
               **popen: Any) -> Program:
        program = Program(name, command, self.options.disk / f"{name}.log", events_on_stderr,
                          **popen)
        self.programs.append(program)
        return program

    def broker_command(self, *options: str) -> list[str]:
        """The broker's command line; the port of an earlier start is kept."""
        self.port = self.port or _lasting_port()
        return [str(self.options.programs / "sluice-broker"), "--run", str(self.run),
                "--directory", str(self.data / "directory"),
                "--certificate", str(self.certificates / "server.pem"),
                "--private-key", str(self.certificates / "server-key.pem"),
                "--host", self.host, "--port", str(self.port),
                "--backend", self.options.backend, *self.options.broker_options, *options]

    def launch_broker(self, *options: str, prefix: Sequence[str] = (), **popen: Any) -> Program:
        """Starts a broker without waiting for it."""
        self._broker = self._start("broker", [*prefix, *self.broker_command(*options)], **popen)
        return self._broker

    async def start_broker(self, *options: str, prefix: Sequence[str] = (),
                           **popen: Any) -> Program:
        """Starts a broker and waits until it listens."""
        broker = self.launch_broker(*options, prefix=prefix, **popen)
        ready = await broker.event("listening")
        self.port, self.instance = int(ready["port"]), int(ready["instance"], 16)
        self.backend = ready["backend"]
        # Whether the first moment is served is the case first-hello's question alone.
        await asyncio.sleep(0.15)
        return broker

    def launch_sidecar(self, *options: str, prefix: Sequence[str] = (), **popen: Any) -> Program:
        """Starts a sidecar without waiting for it."""
        if self.store:
            popen.setdefault("env", os.environ | {"SLUICE_STORE": self.store})
        self._sidecar = self._start(
            "sidecar", [*prefix, str(self.options.programs / "sluice-sidecar"), "--data",
                        str(self.data), "--run", str(self.run), *options], **popen)
        return self._sidecar

    async def start_sidecar(self, *options: str, **popen: Any) -> Program:
        """Starts a sidecar and waits until it has its directories."""
        sidecar = self.launch_sidecar(*options, **popen)
        await sidecar.event("ready")
        return sidecar

    async def start_worker(self, *options: str, supplier: int = 0, engine: str = "echo",
                           slots: int = 64, prefix: Sequence[str] = ()) -> Program:
        """Starts a worker and waits until the broker has its offers."""
        self._number += 1
        token = self.certificates / f"supplier-{supplier}.token"
        worker = self._start(
            f"worker-{self._number}",
            [*prefix, str(self.options.programs / "sluice-worker"),
             "--broker", f"{self.host}:{self.port}", "--ca", self.ca_file,
             "--token-file", str(token), *(("--engine", engine) if engine else ()),
             "--slots", str(slots),
             "--input-price", "1000000", "--output-price", "2000000", *options],
            events_on_stderr=True)
        await worker.event("connected")
        await asyncio.sleep(0.2)  # its offers follow right behind
        return worker

    async def start_gateway(self, *options: str) -> Program:
        """Starts a gateway and waits until it listens."""
        gateway = self._start(
            "gateway", [str(self.options.programs / "sluice-gateway"),
                        "--broker", f"{self.host}:{self.port}", "--ca", self.ca_file,
                        "--port", "0", *options])
        await gateway.event("listening")
        return gateway

    async def start_silent_supplier(self, model: str, slots: int, supplier: int = 0) -> Program:
        """Starts a process that takes tasks and never answers one."""
        self._number += 1
        silent = self._start(
            f"silent-{self._number}",
            [sys.executable, "-m", "faults.silent", self.host, str(self.port), self.ca_file,
             str(self.certificates / f"supplier-{supplier}.token"), model, str(slots)],
            cwd=str(pathlib.Path(__file__).resolve().parents[1]))
        await silent.event("offered")
        await asyncio.sleep(0.2)  # until the broker has the offer
        return silent

    def start_module(self, name: str, module: str, *arguments: str) -> Program:
        """Starts a Python program of these tools."""
        return self._start(name, [sys.executable, "-m", module, *arguments],
                           cwd=str(pathlib.Path(__file__).resolve().parents[1]))

    async def start_idle_client(self, prefix: Sequence[str] = ()) -> Program:
        """Starts a process that holds a client connection and does nothing with it."""
        key_file = self.certificates / "client.key"
        key_file.write_text(self.key + "\n")
        key_file.chmod(0o600)
        idle = self._start(
            "idle-client",
            [*prefix, sys.executable, "-m", "faults.idle", self.host, str(self.port),
             self.ca_file, str(key_file)], cwd=str(pathlib.Path(__file__).resolve().parents[1]))
        await idle.event("connected")
        return idle

    async def start(self, *broker_options: str) -> None:
        """Sidecar, broker and one echo worker, the usual beginning."""
        self.make()
        await self.start_sidecar()
        await self.start_broker(*broker_options)
        await self.start_worker()

    @property
    def broker(self) -> Program:
        """The latest broker."""
        assert self._broker is not None
        return self._broker

    @property
    def sidecar(self) -> Program:
        """The latest sidecar."""
        assert self._sidecar is not None
        return self._sidecar

    # MARK: Looking

    def counts(self) -> Counts:
        """What the store has now."""
        value = json.loads(self._command("records", "--data", str(self.data), "--counts"))
        return Counts(value["accepted"], value["final"], value["open"], value["duplicates"])

    async def settled(self, seconds: float = 15) -> Counts:
        """Waits until every accepted task has its final record, and fails where one came twice."""
        limit, before = time.monotonic() + PATIENCE * seconds, None
        while time.monotonic() < limit:
            counts = await asyncio.to_thread(self.counts)
            if counts == before and counts.accepted == counts.final and counts.open == 0:
                check(counts.duplicates == 0, f"{counts.duplicates} final records came twice")
                return counts
            before = counts
            await asyncio.sleep(0.3)
        raise Failed(f"counts did not become equal within {PATIENCE * seconds:g} s: {before}")

    def records(self) -> dict[str, dict[str, Any]]:
        """All final records by task id."""
        lines = self._command("records", "--data", str(self.data), "--json", "--last",
                              "100000000").splitlines()
        found = [json.loads(line) for line in lines]
        by_task = {record["taskID"]: record for record in found}
        check(len(by_task) == len(found), "a task has two final records")
        return by_task

    def statistic(self, name: str) -> int:
        """A counter of the statistics page, summed over the shards."""
        path = self.run / f"{self.instance:016x}" / "statistics"
        content = path.read_bytes()
        shards = len(content) // _STATISTICS_BLOCK - 1
        offset = COUNTERS.index(name) * 8
        return sum(struct.unpack_from("<Q", content, (shard + 1) * _STATISTICS_BLOCK + offset)[0]
                   for shard in range(shards))

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> float:
        """Waits until a condition holds; answers how long that took."""
        began = time.monotonic()
        while not condition():
            check(time.monotonic() - began < PATIENCE * seconds,
                  f"not within {PATIENCE * seconds:g} s: {what}")
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    # MARK: Ending

    def check_survivors(self) -> None:
        """No process may have ended that the case did not end."""
        for program in self.programs:
            if not program.running and not program.expected_end:
                raise Failed(f"{program.name} ended by itself with {program.end_status()}")

    def stop(self) -> None:
        """Ends every process that this deployment started."""
        for program in reversed(self.programs):
            program.kill()
