"""The command: one flood after the other, each judged by its neighbours, memory and counters."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
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

ROOT = pathlib.Path(__file__).resolve().parents[3]
_SHARED_MEMORY = "/dev/shm"
_MIB = 1 << 20
_BODY_MIB, _ANSWER_MIB = 128, 128
_QUIET_SECONDS = 2.0
_OFFENDER_SECONDS = 20.0  # beyond its time, until it has seen what it still must see
# What a gauge or the neighbours themselves change says nothing of the offender.
_SHOWN = ("connectionsAccepted", "connectionsCut", "handshakesCompleted", "handshakesFailed",
          "protocolErrors", "tasksAccepted", "tasksEnded", "tasksCompleted",
          "tasksRefused", "readersStalled", "lateFramesIgnored")


def memory_bound(before: int, connections: int) -> int:
    """ARCHITECTURE.md, "Memory", of one shard with the flags given here, in bytes.

    ``before`` is what the broker had when its neighbours were served; ``connections`` the most
    that were open at once. A TLS session is taken as 64 KiB.
    """
    content = (_BODY_MIB + _ANSWER_MIB + 64 + 32 + 16) * _MIB
    records = 34 * _MIB
    accounts = 2 * (6 * _MIB) // 10
    matching = 18 * _MIB
    each = (64 + 2 * 64 + 256) * 1_024
    return before + content + records + accounts + matching + connections * each


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
            for name in ("connectionsOpen", "tasksOpen", "tasksQueued", "slotsInUse"):
                self.peaks[name] = max(self.peaks.get(name, 0), self._deployment.statistic(name))
            self.connections = self.peaks["connectionsOpen"]
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Stops reading."""
        self.job.cancel()
        await asyncio.gather(self.job, return_exceptions=True)


def _counters(deployment: Deployment) -> dict[str, int]:
    return {name: deployment.statistic(name) for name in COUNTERS}


async def _flood(flood: Flood, seconds: float, deployment: Deployment,
                 result: dict[str, Any]) -> None:
    """Runs one flood; fills ``result`` as far as it comes. Raises ``Failed``."""
    deployment.make(suppliers=2)
    key_file = deployment.certificates / "offender.key"
    key_file.write_text(deployment.issue("offender") + "\n")
    key_file.chmod(0o600)
    await deployment.start_sidecar()
    await deployment.start_broker()
    await deployment.start_worker(slots=2_048)
    supplier = await serve_paced(deployment, token=1)
    supplier.grant(1_024)
    neighbours = Neighbours(deployment)
    await neighbours.start()
    await asyncio.sleep(0.5)
    neighbours.next_times()
    await asyncio.sleep(_QUIET_SECONDS)
    neighbours.check()
    quiet = neighbours.next_times()
    gauges = _Gauges(deployment)
    before, memory = _counters(deployment), gauges.memory
    offender = deployment.start_module(
        "offender", "floods.offender", flood.name, deployment.host, str(deployment.port),
        deployment.ca_file, str(key_file), f"{seconds:g}")
    await _beside(offender, neighbours, PATIENCE * (seconds + _OFFENDER_SECONDS))
    beside = neighbours.next_times()
    await gauges.stop()
    status = await offender.ended(5)
    check(status == 0, f"the offender failed: {offender.log_text()[-600:]}")
    done = offender.events()[-1]
    after = _counters(deployment)
    grown = {name: after[name] - before[name] for name in _SHOWN if after[name] != before[name]}
    bound = memory_bound(memory, gauges.connections)
    result.update(
        sent=done["sent"], sentPerSecond=round(done["sent"] / seconds),
        connections=done["connections"], closedByBroker=done["closed"], answers=done["codes"],
        counted=grown, peaks=gauges.peaks, quiet=quiet.summary(), beside=beside.summary(),
        memory={"before": memory, "highest": gauges.memory, "bound": bound})
    check(done["sent"] > 0, "the flood sent nothing")
    await neighbours.stop()
    check(beside.tasks > 0, "no neighbour was served while the flood ran")
    check(gauges.memory <= bound,
          f"the broker has {gauges.memory} bytes, the table allows {bound}")
    _check_met(flood, seconds, done["codes"], grown)
    await deployment.until(lambda: deployment.statistic("connectionsOpen") <= 2, 15,
                           "all connections of the offender are closed")
    await supplier.close()
    counts = await deployment.settled(20)
    result["accepted"], result["final"] = counts.accepted, counts.final
    records = await asyncio.to_thread(deployment.records)
    lost = [task for task in neighbours.completed
            if records.get(task, {}).get("status") != "completed"]
    check(not lost, f"{len(lost)} answers of neighbours have no record of completion")


async def _beside(offender: Program, neighbours: Neighbours, seconds: float) -> None:
    """Waits for the offender's end; raises what breaks a neighbour meanwhile."""
    limit = time.monotonic() + seconds
    while offender.running:
        check(time.monotonic() < limit, "the offender did not end")
        neighbours.check()
        await asyncio.sleep(0.05)
    neighbours.check()


def _check_met(flood: Flood, seconds: float, answers: dict[str, int],
               grown: dict[str, int]) -> None:
    """The offender was met as the flood says, and it was counted."""
    for name in flood.counted:
        check(grown.get(name, 0) > 0, f"{name} counted nothing")
    for code in flood.answers:
        check(answers.get(code, 0) > 0, f"the offender never saw {code}, but {answers}")
    for name in flood.late if seconds >= LATE_SECONDS else ():
        check(grown.get(name, 0) + answers.get(name, 0) > 0, f"no {name} after {seconds:g} s")


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
        quiet, beside, memory = result["quiet"], result["beside"], result["memory"]
        print(f"{result['sentPerSecond']:8}/s  "
              f"first {quiet['firstTokenP99Ms']:6.1f} → {beside['firstTokenP99Ms']:6.1f} ms  "
              f"gap {quiet['gapP99Ms']:6.1f} → {beside['gapP99Ms']:6.1f} ms  "
              f"{beside['tasks']:5} tasks  "
              f"{memory['before'] >> 20:4} → {memory['highest'] >> 20} of "
              f"{memory['bound'] >> 20} MiB  {_words(result['answers'])}; "
              f"{_words(result['counted'])}", end="")
    print(f"  FAILED: {result['reason']}" if "reason" in result else "", flush=True)


def _words(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.items()) or "no code"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="floods", description="Floods a broker and says what its neighbours felt.")
    parser.add_argument("floods", nargs="*", metavar="FLOOD", help="only these floods")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--list", action="store_true", help="name the floods")
    parser.add_argument("--seconds", type=float, default=30, help="of each flood, from 1 on")
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
        print("        flood                   sent  neighbours' p99, quiet → beside the flood"
              "                          memory; what the offender saw; what was counted")
    with concurrent.futures.ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        jobs = [pool.submit(_run, FLOODS[name], arguments) for name in chosen]
        for job in concurrent.futures.as_completed(jobs):
            result = job.result()
            failed += result["verdict"] == "failed"
            _show(result, arguments.json)
    if not arguments.json:
        print(f"floods: {len(chosen) - failed} held, {failed} FAILED")
    return 1 if failed else 0
