"""The command: one flood after the other, each judged by its neighbours, memory and counters."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

from faults.cases import PATIENCE, Failed, check
from faults.deployment import COUNTERS, Deployment, Options, Program
from faults.load import serve_paced

from .kinds import FLOODS, LATE_SECONDS, Flood
from .neighbours import Neighbours
from .offender import BURNER

ROOT = pathlib.Path(__file__).resolve().parents[3]
_SHARED_MEMORY = "/dev/shm"
_MIB = 1 << 20
_BODY_MIB, _ANSWER_MIB = 128, 128
# Of quiet and of burning. Longer where the flood is: a percentile of few tasks says little.
_BESIDE_SECONDS_MIN, _BESIDE_SECONDS_MAX = 2.0, 10.0
_FIRST = -19
_OFFENDER_SECONDS = 20.0  # beyond its time, until it has seen what it still must see
# What a gauge says is not the offender's alone.
_SHOWN = ("connectionsAccepted", "connectionsCut", "handshakesCompleted", "handshakesFailed",
          "protocolErrors", "tasksAccepted", "tasksEnded", "tasksCompleted",
          "tasksRefused", "readersStalled", "lateFramesIgnored", "cancelsSent",
          "keyUpdatesReceived")
# The neighbours raise these too: what is theirs is taken off, with what they have under way.
_OF_TASKS = ("tasksAccepted", "tasksEnded", "tasksCompleted")
_UNDER_WAY = 64
_CONTENT_ALLOWANCE = _MIB  # gauges are read 20 times a second, memory is counted in batches


def memory_bound(before: int, content: int, connections: int, established: int,
                 tasks: int) -> int:
    """ARCHITECTURE.md, "Memory", for what was in use, in bytes.

    ``before`` is what the broker had when its neighbours were served; ``content`` how much the
    content memory has grown since then, as the broker counts it; ``connections`` the most that
    were open at once, ``established`` those of them that came past TLS, ``tasks`` the most tasks
    that were open. The counters are read 20 times a second, so what came in between is allowed for.
    """
    huge = 2 * _MIB  # the kernel backs content memory in huge pages where it can
    received = 4 * _MIB  # the ring's buffers, filled in turn: all of them after as many receives
    session = 64 * 1_024  # a TLS session in its handshake, with its certificate chain
    records = 34 * 1_024  # its two record buffers
    waiting = (2 * 64 + 256) * 1_024  # ciphertext sealed and being sent, control frames that wait
    task = 2 * 1_024
    allowance = 2 * _MIB  # tables of accounts, models and refusals, which grow with their use
    return (before + content + huge + received + connections * session + min(connections, 1_024) * records
            + established * waiting + tasks * task + allowance)


class _Gauges:
    """The highest values of the broker's memory and open connections, read 20 times a second."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.memory = deployment.broker.memory_bytes()
        self.connections = deployment.statistic("connectionsOpen")
        self.peaks: dict[str, int] = {}
        self.job = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            self.memory = max(self.memory, self._deployment.broker.memory_bytes())
            for name in ("connectionsOpen", "tasksOpen", "tasksQueued", "slotsInUse",
                         "bodyBytesInUse", "reserveBytesInUse", "arenaBytesMax"):
                self.peaks[name] = max(self.peaks.get(name, 0), self._deployment.statistic(name))
            self.connections = self.peaks["connectionsOpen"]
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Stops reading."""
        self.job.cancel()
        await asyncio.gather(self.job, return_exceptions=True)


def _counters(deployment: Deployment) -> dict[str, int]:
    return {name: deployment.statistic(name) for name in COUNTERS}


def _processor_seconds(*programs: Program) -> float:
    """Processor time that these processes have used; 0 for one that has ended."""
    ticks = 0
    for program in programs:
        with contextlib.suppress(OSError):
            with open(f"/proc/{program.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class _Spent:
    """Processor time of everybody in one stretch of time."""

    def __init__(self, deployment: Deployment, worker: Program) -> None:
        self._programs = {"broker": deployment.broker, "sidecar": deployment.sidecar,
                          "worker": worker}
        self._began, self._before = time.monotonic(), self._now()

    def _now(self) -> dict[str, float]:
        now = {name: _processor_seconds(program) for name, program in self._programs.items()}
        # The neighbours and the paced supplier are this process.
        now["neighbours"] = time.process_time()
        return now

    def shares(self, offender: Program) -> dict[str, float]:
        """Parts of one processor, the offender's among them; call while it is not waited for."""
        seconds = max(time.monotonic() - self._began, 0.001)
        used = {name: (now - self._before[name]) / seconds for name, now in self._now().items()}
        used["offender"] = _processor_seconds(offender) / seconds
        return {name: round(part, 2) for name, part in used.items()}


def _go_first(first: bool, pid: int = 0) -> bool:
    """Whether this thread, or the process, could be put in front of what else wants a processor.

    The neighbours and the paced supplier are one thread. Where all processors are in use it would
    wait for its own turn several times a task, and their times would be the scheduler's, not the
    broker's.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _FIRST if first else 0)
        return True
    return False


async def _flood(flood: Flood, seconds: float, deployment: Deployment,
                 result: dict[str, Any]) -> None:
    """Runs one flood; fills ``result`` as far as it comes. Raises ``Failed``."""
    deployment.make(suppliers=3)
    key_file = deployment.certificates / "offender.key"
    key_file.write_text(deployment.issue("offender") + "\n")
    key_file.chmod(0o600)
    await deployment.start_sidecar()
    await deployment.start_broker()
    worker = await deployment.start_worker(slots=2_048)
    supplier = await serve_paced(deployment, token=1)
    supplier.grant(1_024)
    neighbours = Neighbours(deployment)
    await neighbours.start()
    result["neighboursFirst"] = _go_first(True)
    await asyncio.sleep(0.5)
    neighbours.next_times()
    beside_seconds = max(_BESIDE_SECONDS_MIN, min(_BESIDE_SECONDS_MAX, seconds / 3))
    await asyncio.sleep(beside_seconds)
    neighbours.check()
    quiet = neighbours.next_times()
    # The same core in use, but not a byte for the broker: what of the neighbours' wait is the
    # machine's.
    burner = _start_offender(BURNER, beside_seconds, deployment)
    spent = _Spent(deployment, worker)
    result["processorBurning"] = await _beside(burner, neighbours, beside_seconds, spent)
    burning = neighbours.next_times()
    gauges = _Gauges(deployment)
    before, memory = _counters(deployment), gauges.memory
    offender = _start_offender(flood.name, seconds, deployment)
    spent = _Spent(deployment, worker)
    result["processor"] = await _beside(offender, neighbours, seconds, spent)
    beside = neighbours.next_times()
    _go_first(False)
    await gauges.stop()
    status = await offender.ended(5)
    check(status == 0, f"the offender failed: {offender.log_text()[-600:]}")
    done = offender.events()[-1]
    await asyncio.sleep(0.25)  # the broker reports ten times a second
    after = _counters(deployment)
    grown = _offenders(before, after, beside.tasks)
    established = min(gauges.connections, 8 + grown.get("handshakesCompleted", 0))
    content = after["arenaBytesMax"] - before["arenaBytesMax"]
    bound = memory_bound(memory, content, gauges.connections, established,
                         gauges.peaks.get("tasksOpen", 0))
    result.update(
        sent=done["sent"], sentPerSecond=round(done["sent"] / seconds),
        connections=done["connections"], closedByBroker=done["closed"], answers=done["codes"],
        counted=grown, peaks=gauges.peaks, quiet=quiet.summary(), burning=burning.summary(),
        beside=beside.summary(),
        memory={"before": memory, "highest": gauges.memory, "bound": bound})
    check(done["sent"] > 0, "the flood sent nothing")
    await neighbours.stop()
    check(beside.tasks > 0, "no neighbour was served while the flood ran")
    check(gauges.memory <= bound,
          f"the broker has {gauges.memory} bytes, the table allows {bound}")
    promised = gauges.peaks["bodyBytesInUse"] + gauges.peaks["reserveBytesInUse"]
    check(content <= promised + _CONTENT_ALLOWANCE,
          f"content memory grew by {content} bytes, and {promised} were promised at most")
    _check_met(flood, seconds, done["codes"], grown, gauges.peaks.get("tasksOpen", 0))
    await deployment.until(lambda: deployment.statistic("connectionsOpen") <= 2, 15,
                           "all connections of the offender are closed")
    await supplier.close()
    counts = await deployment.settled(20)
    result["accepted"], result["final"] = counts.accepted, counts.final
    records = await asyncio.to_thread(deployment.records)
    lost = [task for task in neighbours.completed
            if records.get(task, {}).get("status") != "completed"]
    check(not lost, f"{len(lost)} answers of neighbours have no record of completion")


def _offenders(before: dict[str, int], after: dict[str, int], neighbours: int) -> dict[str, int]:
    """How far the offender raised each counter, while the neighbours ended so many tasks."""
    grown = {name: after[name] - before[name] for name in _SHOWN}
    for name in _OF_TASKS:
        rest = grown[name] - neighbours
        grown[name] = rest if rest > _UNDER_WAY else 0
    return {name: count for name, count in grown.items() if count}


def _start_offender(name: str, seconds: float, deployment: Deployment) -> Program:
    offender = deployment.start_module(
        "offender", "floods.offender", name, deployment.host, str(deployment.port),
        deployment.ca_file, str(deployment.certificates / "offender.key"),
        str(deployment.certificates / "supplier-2.token"), f"{seconds:g}")
    _go_first(False, offender.pid)  # it began as this thread is
    return offender


async def _beside(offender: Program, neighbours: Neighbours, seconds: float,
                  spent: _Spent) -> dict[str, float]:
    """Waits for the offender's end; raises what breaks a neighbour meanwhile. Answers who used
    how much of the processors while it ran.
    """
    limit = time.monotonic() + PATIENCE * (seconds + _OFFENDER_SECONDS)
    shares = spent.shares(offender)
    while offender.running:
        check(time.monotonic() < limit, "the offender did not end")
        neighbours.check()
        shares = spent.shares(offender)
        await asyncio.sleep(0.05)
    neighbours.check()
    offender.expected_end = True
    return shares


def _check_met(flood: Flood, seconds: float, answers: dict[str, int],
               grown: dict[str, int], open_tasks: int) -> None:
    """The offender was met as the flood says, and it was counted."""
    for name in flood.counted:
        check(grown.get(name, 0) > 0, f"{name} counted nothing")
    for code in flood.answers:
        check(answers.get(code, 0) > 0, f"the offender never saw {code}, but {answers}")
    for name in flood.late if seconds >= LATE_SECONDS else ():
        check(grown.get(name, 0) + answers.get(name, 0) > 0, f"no {name} after {seconds:g} s")
    for name in flood.never:
        check(grown.get(name, 0) + answers.get(name, 0) == 0, f"{name}, although no rule is broken")
    check(open_tasks >= flood.open_tasks,
          f"{open_tasks} tasks were open at once, and not {flood.open_tasks}")


def _run(flood: Flood, arguments: argparse.Namespace) -> dict[str, Any]:
    """One flood with processes and files of its own."""
    shared = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
    disk = tempfile.mkdtemp(prefix="sluice-floods-")
    memory = tempfile.mkdtemp(prefix="sluice-floods-", dir=shared)
    options = Options(
        pathlib.Path(arguments.programs), pathlib.Path(disk), pathlib.Path(memory),
        arguments.backend, ("--shards", "1", "--body-memory", str(_BODY_MIB),
                            "--answer-memory", str(_ANSWER_MIB)))
    deployment = Deployment(options)
    result: dict[str, Any] = {"flood": flood.name, "sends": flood.sends, "met": flood.met,
                              "verdict": "held"}
    try:
        asyncio.run(_flood(flood, arguments.seconds, deployment, result))
        deployment.check_survivors()
    except Exception as error:
        reason = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        try:
            deployment.check_survivors()
        except Failed as death:
            reason = f"{death} ({reason})"
        result.update(verdict="failed", reason=reason)
    finally:
        deployment.stop()
        for folder in (disk, memory):
            shutil.rmtree(folder, ignore_errors=True)
    return result


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
        return
    print(f"{result['verdict']:8}{result['flood']:20}", end="")
    if "memory" in result:
        beside, memory = result["beside"], result["memory"]
        print(f"{result['sentPerSecond']:8}/s  "
              f"first {_three(result, 'firstTokenP99Ms')} ms  gap {_three(result, 'gapP99Ms')} ms  "
              f"{beside['tasks']:5} tasks  "
              f"{memory['before'] >> 20:4} → {memory['highest'] >> 20} of "
              f"{memory['bound'] >> 20} MiB  {_words(result['answers'])}; "
              f"{_words(result['counted'])}; processors: "
              + ", ".join(f"{name} {part:.2f}" for name, part in result["processor"].items()),
              end="")
    print(f"  FAILED: {result['reason']}" if "reason" in result else "", flush=True)


def _three(result: dict[str, Any], name: str) -> str:
    return " → ".join(f"{result[part][name]:6.1f}" for part in ("quiet", "burning", "beside"))


def _words(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.items()) or "no code"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="floods", description="Floods a broker and says what its neighbours felt.")
    parser.add_argument("floods", nargs="*", metavar="FLOOD", help="only these floods")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--list", action="store_true", help="name the floods")
    parser.add_argument("--seconds", type=float, default=60,
                        help="of each flood, from 1 on; what takes its time is asked for from "
                        f"{LATE_SECONDS:g} on")
    parser.add_argument("--jobs", type=int, default=1,
                        help="floods at once; their latencies then disturb each other")
    parser.add_argument("--backend", default="auto", choices=["auto", "ring", "epoll"])
    parser.add_argument("--programs", help="directory of the programs",
                        default=os.environ.get("SLUICE_PROGRAMS")
                        or str(ROOT / ".build" / "release"))
    return parser


def main() -> int:
    """Exit status 0: everything held; 1: something did not; 2: wrong use."""
    parser = _arguments()
    arguments = parser.parse_args()
    if arguments.list:
        for each in FLOODS.values():
            print(f"{each.name:20}{each.sends}; {each.met}")
        return 0
    unknown = set(arguments.floods) - FLOODS.keys()
    if unknown:
        parser.error(f"no such flood: {', '.join(sorted(unknown))}")
    if not 1 <= arguments.seconds <= 600:
        parser.error("--seconds is 1 to 600")
    for program in ("sluice", "sluice-broker", "sluice-sidecar", "sluice-worker"):
        if not os.access(os.path.join(arguments.programs, program), os.X_OK):
            parser.error(f"no {program} in {arguments.programs}; build it, or use --programs")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = list(dict.fromkeys(arguments.floods)) or list(FLOODS)
    failed = 0
    if not arguments.json:
        print("        flood                   sent  neighbours' p99, quiet → beside a burner → "
              "beside the flood; memory; what the offender saw; what was counted; processors")
    with concurrent.futures.ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        jobs = [pool.submit(_run, FLOODS[name], arguments) for name in chosen]
        for job in concurrent.futures.as_completed(jobs):
            result = job.result()
            failed += result["verdict"] == "failed"
            _show(result, arguments.json)
    if not arguments.json:
        print(f"floods: {len(chosen) - failed} held, {failed} FAILED")
    return 1 if failed else 0
