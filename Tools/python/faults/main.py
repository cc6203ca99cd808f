"""The command: chooses cases, gives each a process and a workspace of its own, and judges.

A case runs as `Tools/faults --inside CASE` in a process group that is killed when its time is over,
in namespaces of its own where it needs them, and in two directories that are removed behind it.
"""

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
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any

from . import (
    backups, database, descriptors, limits, network, readers, shutdown, stages, storage, suppliers,
    surroundings,
)
from .cases import CASES, PATIENCE, Case, Failed, Skipped
from .deployment import Deployment, Options

_FAMILIES = (storage, database, backups, readers, suppliers, network, descriptors, limits,
             surroundings, shutdown, stages)
ROOT = pathlib.Path(__file__).resolve().parents[3]
_SHARED_MEMORY = "/dev/shm"
_KILL_AFTER = 10.0  # seconds beyond a case's own bound
_UNSHARE = {"mount": "-m", "net": "-n"}
_groups: set[int] = set()


# MARK: Inside


def _inside(case: Case, options: Options) -> dict[str, Any]:
    """Runs one case in this process."""
    deployment = Deployment(options)
    try:
        async def bounded() -> str:
            async with asyncio.timeout(PATIENCE * case.seconds):
                return await case.run(deployment)

        seen = asyncio.run(bounded())
        deployment.check_survivors()
        return {"verdict": "held", "observed": seen}
    except Skipped as reason:
        return {"verdict": "skipped", "observed": str(reason)}
    except Failed as failure:
        return _failed(deployment, str(failure))
    except TimeoutError:
        return _failed(deployment, f"not done within {PATIENCE * case.seconds:g} s")
    except Exception as error:
        return _failed(deployment, f"{type(error).__name__}: {error}")
    finally:
        deployment.stop()


def _failed(deployment: Deployment, message: str) -> dict[str, Any]:
    """A failure, with the process that died of it if there is one."""
    trace = traceback.format_exc()
    try:
        deployment.check_survivors()
    except Failed as death:
        message = f"{death} ({message})"
    return {"verdict": "failed", "observed": message, "trace": trace}


# MARK: Outside


def _namespaces(case: Case) -> list[str]:
    """The command that gives a case its namespaces. Raises ``Skipped`` where none works."""
    if not case.namespaces:
        return []
    flags = [_UNSHARE[name] for name in case.namespaces]
    for rights in ([], ["-U", "-r"]):
        command = ["unshare", *rights, *flags]
        with contextlib.suppress(OSError):
            if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
                return command
    raise Skipped(f"THIS MACHINE REFUSES A {' AND '.join(case.namespaces).upper()} NAMESPACE: "
                  "the case did not run")


class _Workspace:
    """A directory on disk and one on tmpfs, gone when the case is over."""

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        shared = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        self.disk = tempfile.mkdtemp(prefix="sluice-faults-")
        self.memory = tempfile.mkdtemp(prefix="sluice-faults-", dir=shared)

    def remove(self, failed: bool) -> None:
        """Removes both, or says where they are."""
        if failed and self._keep:
            print(f"faults: kept {self.disk} and {self.memory}", file=sys.stderr)
            return
        for folder in (self.disk, self.memory):
            shutil.rmtree(folder, ignore_errors=True)

    def last_log_lines(self) -> str:
        """The ends of the logs, for a failure."""
        text = []
        for log in sorted(pathlib.Path(self.disk).glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-8:]
            text += [f"--- {log.name}", *lines]
        return "\n".join(text)


def _run(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one case from outside and answers its result."""
    began = time.monotonic()
    result: dict[str, Any] = {"case": case.name, "injected": case.injected, "holds": case.holds}
    try:
        wrapper = _namespaces(case)
    except Skipped as reason:
        return result | {"verdict": "skipped", "observed": str(reason), "seconds": 0.0}
    workspace = _Workspace(arguments.keep)
    command = [*wrapper, sys.executable, str(ROOT / "Tools" / "faults"), "--inside", case.name,
               "--disk", workspace.disk, "--memory", workspace.memory,
               "--backend", arguments.backend, "--programs", arguments.programs]
    if arguments.shards:
        command += ["--shards", str(arguments.shards)]
    outcome: dict[str, Any]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    _groups.add(process.pid)
    try:
        output, errors = process.communicate(timeout=PATIENCE * case.seconds + _KILL_AFTER)
        outcome = json.loads(output.splitlines()[-1])
        if errors.strip():
            outcome.setdefault("trace", errors.decode(errors="replace"))
    except subprocess.TimeoutExpired:
        outcome = {"verdict": "failed",
                   "observed": f"hung: killed after {PATIENCE * case.seconds:g} s"}
    except (ValueError, IndexError):
        outcome = {"verdict": "failed", "observed": "the case's process died",
                   "trace": errors.decode(errors="replace")}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _groups.discard(process.pid)
    if outcome["verdict"] == "failed":
        outcome["logs"] = workspace.last_log_lines()
    workspace.remove(outcome["verdict"] == "failed")
    return result | outcome | {"seconds": round(time.monotonic() - began, 1)}


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
        return
    print(f"{result['verdict']:8}{result['case']:34}{result['seconds']:6.1f} s  "
          f"{result['injected']}; must hold: {result['holds']}; seen: {result['observed']}",
          flush=True)
    if result["verdict"] == "failed":
        for key in ("trace", "logs"):
            if result.get(key):
                print(result[key], file=sys.stderr)


def _end_early(*_: object) -> None:
    """A signal: the cases' processes end, their workspaces are removed as usual."""
    for group in list(_groups):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    sys.exit(143)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faults", description="Injects faults into real processes and says what held.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these cases")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--quick", action="store_true",
                        help="only the cases that the test command runs")
    parser.add_argument("--backend", default="auto", choices=["auto", "ring", "epoll"])
    parser.add_argument("--shards", type=int, help="for brokers whose case says nothing of it")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    parser.add_argument("--keep", action="store_true", help="keep the files of a failed case")
    parser.add_argument("--programs", help="directory of the programs",
                        default=os.environ.get("SLUICE_PROGRAMS")
                        or str(ROOT / ".build" / "release"))
    for hidden in ("--inside", "--disk", "--memory"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser


def _list() -> None:
    for each in CASES.values():
        quick = "quick" if each.quick else ""
        print(f"{each.name:34}{each.seconds:4.0f} s  {quick:6} {each.injected}; {each.holds}")


def main() -> int:
    """Exit status 0: everything that this machine can do held; 1: something did not, or nothing
    could be done; 2: wrong use."""
    parser = _arguments()
    arguments = parser.parse_args()
    if arguments.inside:
        case = CASES[arguments.inside]
        shards = ("--shards", str(arguments.shards)) if arguments.shards else ()
        options = Options(
            pathlib.Path(arguments.programs), pathlib.Path(arguments.disk),
            pathlib.Path(arguments.memory), arguments.backend, case.broker_options or shards)
        print(json.dumps(_inside(case, options)), flush=True)
        return 0
    if arguments.list:
        _list()
        return 0
    unknown = set(arguments.cases) - CASES.keys()
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    chosen = [CASES[name] for name in dict.fromkeys(arguments.cases)] or [
        each for each in CASES.values() if each.quick or not arguments.quick]
    for program in ("sluice", "sluice-broker", "sluice-sidecar", "sluice-worker"):
        if not os.access(os.path.join(arguments.programs, program), os.X_OK):
            parser.error(f"no {program} in {arguments.programs}; build it, or use --programs")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_early)
    verdicts: list[str] = []
    skips: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        jobs = [pool.submit(_run, each, arguments) for each in chosen]
        try:
            for job in concurrent.futures.as_completed(jobs):
                result = job.result()
                verdicts.append(result["verdict"])
                if result["verdict"] == "skipped":
                    skips.append(f"{result['case']}: {result['observed']}")
                _show(result, arguments.json)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed, skipped = verdicts.count("failed"), verdicts.count("skipped")
    if not arguments.json:
        held = len(verdicts) - failed - skipped
        print(f"faults: {held} held, {failed} FAILED, {skipped} skipped")
    for line in skips:
        print(f"note: faults skipped {line}", file=sys.stderr)
    return 1 if failed or skipped == len(verdicts) else 0
