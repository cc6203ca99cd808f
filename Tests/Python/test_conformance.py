"""The conformance cases: that they cover the specification, pass here, and can fail."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import unittest

import faulty
from expected_red import CONTROLS, EXPECTED
from broker_faults import FAULTS, Fault
from support import KEY, ROOT, TOKENS, Broker
from conformance import excused, lab, main
from conformance.peer import Target

PAGE = main.SPECIFICATION.read_text()
# A busy machine can make a case late: what surprises is asked once more, with patience.
PATIENCE = 4
COMMAND = [sys.executable, str(ROOT / "Tools" / "conformance")]


def family(name: str) -> str:
    """The module of a case: transport, frames, life, supply, submitting, tasks or ending."""
    return lab.CASES[name].run.__module__.rpartition(".")[2]


class CoverageTests(unittest.TestCase):
    """Every numbered rule has a case, or a reason why it cannot have one."""

    def test_every_rule_is_covered_or_excused(self) -> None:
        self.assertEqual(main.uncovered(PAGE), [])
        self.assertGreater(len(main.rules(PAGE)), 140)

    def test_a_new_rule_without_a_case_is_noticed(self) -> None:
        page = PAGE + "\n- **[Z1]** A broker MUST be blue.\n"
        self.assertEqual(main.uncovered(page), ["Z1 has neither a case nor an excuse"])

    def test_a_rule_that_fell_away_is_noticed(self) -> None:
        page = PAGE.replace("- **[L1]**", "- **L1**").replace("- **[Y8]**", "- **Y8**")
        self.assertEqual(len(main.uncovered(page)), 2)

    def test_list_names_every_case_and_excuse(self) -> None:
        listed = subprocess.run([*COMMAND, "--list"], capture_output=True, text=True,
                                check=True).stdout
        for name in [*lab.CASES, *excused.EXCUSED]:
            self.assertIn(name, listed)

    def test_every_family_of_cases_is_shown_to_fail(self) -> None:
        self.assertEqual(EXPECTED.keys(), FAULTS.keys())
        red = {family(name) for names in EXPECTED.values() for name in names}
        self.assertEqual(red, {family(name) for name in lab.CASES})


def verdicts(broker: Broker, port: int, names: set[str],
             patience: float = 1) -> dict[str, tuple[str, str]]:
    """What the cases find at a port, each with its detail."""
    target = Target("127.0.0.1", port, broker.ca_file, KEY, tuple(TOKENS[:2]), patience,
                    prepaid=False)
    cases = [case for name, case in lab.CASES.items() if name in names]
    return {each.case.name: (each.verdict, each.detail)
            for each in main.run_all(cases, target, jobs=8)}


def failures(fault: Fault) -> dict[str, str]:
    """The cases that fail under a fault, of its own and the controls, with what they saw."""
    expected = EXPECTED[fault.name]
    broker = Broker.start()  # for each, since a broker bounds the model names of a supplier [S11]
    proxy = faulty.FaultyBroker(broker, fault)
    try:
        found = verdicts(broker, proxy.port, expected | CONTROLS)
        odd = {case for case, (verdict, _) in found.items()
               if (verdict != "pass") != (case in expected)}
        found |= verdicts(broker, proxy.port, odd, PATIENCE)
    finally:
        proxy.stop()
        broker.stop()
    return {case: detail for case, (verdict, detail) in found.items() if verdict != "pass"}


class BrokerTests(unittest.TestCase):
    """The cases against a broker, right and with faults."""

    def setUp(self) -> None:
        self.broker = Broker.start()
        self.addCleanup(self.broker.stop)

    def test_each_fault_turns_exactly_its_cases_red(self) -> None:
        # They wait more than they compute.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = dict(zip(FAULTS, pool.map(failures, FAULTS.values())))
        for name, failed in found.items():
            with self.subTest(fault=name, breaks=FAULTS[name].summary):
                self.assertEqual(failed.keys(), EXPECTED[name], failed)

    def test_the_broker_passes_every_case(self) -> None:
        if os.environ.get("SLUICE_SLOW_TESTS") != "1":
            self.skipTest("Tools/conformance --dev does this; SLUICE_SLOW_TESTS=1 does it here too")
        found = verdicts(self.broker, self.broker.port, set(lab.CASES), PATIENCE)
        failed = {case: detail for case, (verdict, detail) in found.items() if verdict != "pass"}
        self.assertEqual(failed, {})

    def test_the_command_says_what_it_found_and_exits_accordingly(self) -> None:
        options = ["--ca", self.broker.ca_file, "--key", KEY, "--token", TOKENS[0],
                   "--case", "pings-answered"]
        good = subprocess.run([*COMMAND, f"127.0.0.1:{self.broker.port}", *options, "--json"],
                              capture_output=True, text=True)
        self.assertEqual(good.returncode, 0, good.stderr)
        self.assertEqual(json.loads(good.stdout) | {"seconds": 0},
                         {"case": "pings-answered", "rules": ["L1"], "verdict": "pass",
                          "detail": "", "seconds": 0})
        proxy = faulty.FaultyBroker(self.broker, FAULTS["wrong-pongs"])
        try:
            bad = subprocess.run([*COMMAND, f"127.0.0.1:{proxy.port}", *options],
                                 capture_output=True, text=True)
        finally:
            proxy.stop()
        self.assertEqual(bad.returncode, 1)
        self.assertIn("fail pings-answered", bad.stdout)
        for wrong in (["--case", "none"], ["127.0.0.1:1"], ["--dev", "none"]):
            run = subprocess.run([*COMMAND, *wrong], capture_output=True, text=True)
            self.assertEqual(run.returncode, 2)


if __name__ == "__main__":
    unittest.main()
