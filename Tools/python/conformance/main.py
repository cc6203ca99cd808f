"""The command: picks cases, runs them side by side, says what each found."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import pathlib
import re
import sys
import time
from typing import NamedTuple

from . import dev, ending, excused, frames, life, submitting, supply, tasks, transport
from .lab import CASES, Case, Lab
from .peer import Closed, Failed, Skipped, Target

_MODULES = (transport, frames, life, supply, submitting, tasks, ending)
SPECIFICATION = pathlib.Path(__file__).resolve().parents[3] / "Protocol" / "Specification.md"
_RULE = re.compile(r"^- \*\*\[([A-Z]\d+)\]\*\* (.*)$", re.MULTILINE)


class Outcome(NamedTuple):
    """What a case found."""

    case: Case
    verdict: str
    detail: str
    seconds: float


def rules(page: str) -> dict[str, str]:
    """Every numbered rule of the specification with its text."""
    return dict(_RULE.findall(page))


def uncovered(page: str) -> list[str]:
    """Rules that no case shows and no excuse names, and names of rules that are not there."""
    found = rules(page)
    covered = {rule for each in CASES.values() for rule in each.rules}
    problems = [f"{rule} has neither a case nor an excuse" for rule in found
                if rule not in covered and rule not in excused.EXCUSED]
    problems += [f"{rule} is cited by a case but is no rule" for rule in covered - found.keys()]
    problems += [f"{rule} is excused but is no rule"
                 for rule in excused.EXCUSED.keys() - found.keys()]
    problems += [f"{rule} is excused though a case shows it"
                 for rule in excused.EXCUSED.keys() & covered]
    return problems


def run(case: Case, target: Target) -> Outcome:
    """Runs one case on connections of its own."""
    started, lab = time.monotonic(), Lab(target)
    verdict, detail = "pass", ""
    try:
        case.run(lab)
    except Failed as failure:
        verdict, detail = "fail", str(failure)
    except Closed as closed:
        verdict, detail = "fail", f"the connection was {closed}"
    except Skipped as skip:
        verdict, detail = "skip", str(skip)
    except OSError as error:
        verdict, detail = "fail", f"{type(error).__name__}: {error}"
    finally:
        lab.close()
    return Outcome(case, verdict, detail, time.monotonic() - started)


def run_all(cases: list[Case], target: Target, jobs: int) -> list[Outcome]:
    """Runs the cases, ``jobs`` at once, the long ones first. A case beyond its time has failed."""
    outcomes = []
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    ordered = sorted(cases, key=lambda each: -each.seconds)
    started: dict[str, float] = {}

    def timed(each: Case) -> Outcome:
        started[each.name] = time.monotonic()
        return run(each, target)

    waiting = {pool.submit(timed, each): each for each in ordered}
    while waiting:
        done, _ = concurrent.futures.wait(
            waiting, 0.2, concurrent.futures.FIRST_COMPLETED)
        now = time.monotonic()
        for future in list(waiting):
            each = waiting[future]
            if future in done:
                outcomes.append(future.result())
                del waiting[future]
            elif now - started.get(each.name, now) > 2 * each.seconds * target.patience:
                outcomes.append(Outcome(
                    each, "fail", "took more than its time", now - started[each.name]))
                del waiting[future]
    pool.shutdown(wait=False, cancel_futures=True)
    return sorted(outcomes, key=lambda outcome: list(CASES).index(outcome.case.name))


def _list() -> None:
    for each in CASES.values():
        print(f"{each.name:40} {' '.join(each.rules):24} {each.summary}")
    print("\nNot seen from outside:")
    for rule, reason in excused.EXCUSED.items():
        print(f"{rule:6} {reason}")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conformance", description="Holds a broker to Protocol/Specification.md from outside.")
    parser.add_argument("broker", nargs="?", help="HOST:PORT")
    parser.add_argument("--ca", help="PEM file that signed the broker's certificate")
    parser.add_argument("--key", help="an API key")
    parser.add_argument("--token", action="append", default=[],
                        help="a supplier token; a second one, of another supplier, shows more")
    parser.add_argument("--certificate", help="PEM file of a client certificate that is a key")
    parser.add_argument("--private-key", help="PEM file of the certificate's private key")
    parser.add_argument("--prepaid", action=argparse.BooleanOptionalAction,
                        help="whether the key's account prepays, so that budgets are held to it")
    parser.add_argument("--dev", metavar="BACKEND", choices=("auto", "ring", "epoll"),
                        help="start `sluice dev` of this build instead, with this backend")
    parser.add_argument("--case", action="append", default=[], help="only this case")
    parser.add_argument("--quick", action="store_true", help="without the cases that wait for 30 s")
    parser.add_argument("--jobs", type=int, default=4, help="cases at once")
    parser.add_argument("--patience", type=float, default=1,
                        help="times as long as usual to wait for what must come")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--list", action="store_true", help="name the cases and the excuses")
    return parser


def _target(options: argparse.Namespace) -> contextlib.AbstractContextManager[Target]:
    """The broker that was named, or one of this build."""
    if options.dev:
        return dev.deployment(options.dev, options.patience)
    host, _, port = options.broker.rpartition(":")
    return contextlib.nullcontext(Target(
        host.strip("[]"), int(port), options.ca, options.key, tuple(options.token),
        options.patience, options.prepaid,
        (options.certificate, options.private_key) if options.certificate else None))


def _say(outcomes: list[Outcome], as_json: bool) -> int:
    """Prints what was found; the exit status."""
    for each, verdict, detail, seconds in outcomes:
        if as_json:
            print(json.dumps({"case": each.name, "rules": each.rules, "verdict": verdict,
                              "detail": detail, "seconds": round(seconds, 3)}))
        else:
            print(f"{verdict:4} {each.name:40} {' '.join(each.rules):24} {detail}")
    failed = sum(outcome.verdict == "fail" for outcome in outcomes)
    skipped = sum(outcome.verdict == "skip" for outcome in outcomes)
    if not as_json:
        page = SPECIFICATION.read_text()
        print(f"conformance: {len(outcomes) - failed - skipped} passed, {failed} failed, "
              f"{skipped} skipped; {len(rules(page))} rules, {len(excused.EXCUSED)} excused")
    return 1 if failed else 0


def main() -> int:
    """Exit status 0: none failed; 1: some did, or --dev skipped some; 2: wrong use or no case."""
    parser = _arguments()
    options = parser.parse_args()
    problems = uncovered(SPECIFICATION.read_text())
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    if options.list:
        _list()
        return 0
    unknown = set(options.case) - CASES.keys()
    if bool(options.certificate) != bool(options.private_key):
        parser.error("--certificate and --private-key are given together")
    named = options.broker and options.ca and options.key and options.token
    if unknown or not (named or options.dev):
        parser.error(f"no such case: {', '.join(unknown)}" if unknown
                     else "needs HOST:PORT, --ca, --key and --token, or --dev")
    cases = [each for name, each in CASES.items() if not options.case or name in options.case]
    if options.quick:
        cases = [each for each in cases if not each.waits]
    try:
        with _target(options) as target:
            outcomes = run_all(cases, target, options.jobs)
            # A deployment of our own has all that a case can need.
            unshown = options.dev and any(outcome.verdict == "skip" for outcome in outcomes)
            return _say(outcomes, options.json) or int(bool(unshown))
    except dev.NotStarted as problem:
        print(problem, file=sys.stderr)
        return 2
