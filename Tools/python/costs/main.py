"""Runs the cases under callgrind and holds what they cost against the limits."""

from __future__ import annotations

import argparse
import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import support
from . import load, profile

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_LIMITS = _ROOT / "Benchmarks" / "costs.json"
_HISTORY = _ROOT / "Benchmarks" / "costs.csv"
_SHORT_ROUNDS = 4
_COLUMNS = ("instructions", "ownInstructions", "allocations", "retains", "systemCalls",
            "doorbells")


def _wrapper(folder: pathlib.Path, program: str) -> str:
    """A program that runs the broker under callgrind. The broker would start itself again without
    Swift's crash handler, and then find callgrind in its place."""
    path = folder / "broker"
    path.write_text(
        "#!/bin/sh\nSWIFT_BACKTRACE=enable=no exec valgrind --tool=callgrind "
        f"--callgrind-out-file={folder}/out --log-file={folder}/log '{program}' \"$@\"\n")
    path.chmod(0o700)
    return str(path)


def _count(program: str, case: load.Case, rounds: int,
           keep: pathlib.Path | None = None) -> profile.Counts:
    """What one run of the broker cost in all."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-costs-"))
    try:
        os.environ["SLUICE_BROKER"] = _wrapper(folder, program)
        broker = support.Broker.start(*case.options)
        try:
            place = load.Place(broker.host, broker.port, broker.ca_file, support.LOAD_KEYS,
                               support.TOKENS[0])
            rig = load.Rig(place, case.clients, case.suppliers, case.offers, case.slots)
            case.run(rig, rounds)
            rig.close()
            broker.process.send_signal(signal.SIGTERM)
            broker.process.wait(120)
        finally:
            broker.stop()
        if keep is not None:
            shutil.copy(folder / "out", keep)
        return profile.read(folder / "out")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(program: str, case: load.Case, keep: pathlib.Path | None = None) -> dict[str, float]:
    """What one unit costs, the start and the handshakes left out."""
    rounds = case.rounds + _SHORT_ROUNDS
    spent = _count(program, case, rounds, keep) - _count(program, case, _SHORT_ROUNDS)
    units = case.units * case.rounds
    values = (spent.all, spent.own, spent.allocations, spent.retains, spent.system_calls,
              spent.doorbells)
    return {name: round(value / units, 3) for name, value in zip(_COLUMNS, values)}


def _record(found: dict[str, dict[str, float]]) -> None:
    """One line for the state of the sources that was counted."""
    row = {"date": subprocess.run(["date", "-u", "+%F"], capture_output=True, text=True,
                                  check=True).stdout.strip(),
           "commit": subprocess.run(["git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD"],
                                    capture_output=True, text=True, check=True).stdout.strip()}
    for name, values in found.items():
        row |= {f"{name}.{column}": f"{values[column]:g}" for column in _COLUMNS}
    is_new = not _HISTORY.exists()
    with open(_HISTORY, "a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="Tools/costs", description=__doc__)
    cases = load.CASES | load.GROWTH
    parser.add_argument("--case", action="append", choices=cases, help="only this one")
    parser.add_argument("--growth", action="store_true", help="how costs grow, a few minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--profile", type=pathlib.Path, help="file for callgrind's output")
    parser.add_argument("--broker", help="another build's program")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("costs: valgrind is not installed; Tools/setup --tests installs it",
              file=sys.stderr)
        return 1
    program = options.broker or support.program("sluice-broker", "SLUICE_BROKER")
    limits = json.loads(_LIMITS.read_text()) if _LIMITS.exists() else {}
    found: dict[str, dict[str, float]] = {}
    beyond: list[str] = []
    for name in options.case or (load.GROWTH if options.growth else load.CASES):
        found[name] = measure(program, cases[name], options.profile)
        for column, value in found[name].items():
            limit = limits.get(name, {}).get(column)
            if limit is not None and value > limit:
                beyond.append(f"{name}: {value:g} {column} a {cases[name].unit}, "
                              f"limit {limit:g}")
        if not options.json:
            print(f"note: {name:16}" + "".join(
                f"  {found[name][column]:g} {column}" for column in _COLUMNS), flush=True)
    if options.json:
        print(json.dumps(found))
    if options.record:
        _record(found)
    for line in beyond:
        print("costs: " + line, file=sys.stderr)
    return 1 if beyond else 0
