"""The conformance cases: that they cover the specification, pass here, and can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unittest

import faulty
from expected_red import CONTROLS, EXPECTED
from faults import FAULTS
from support import KEY, ROOT, TOKENS, Broker
from conformance import excused, lab, main
from conformance.peer import Target

PAGE = main.SPECIFICATION.read_text()
PATIENCE = 2
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


class BrokerTests(unittest.TestCase):
    """The cases against a broker, right and with faults."""

    def setUp(self) -> None:
        # One for each test or fault: a broker bounds the model names of a supplier [S11].
        self.broker = Broker.start()
        self.addCleanup(lambda: self.broker.stop())

    def verdicts(self, port: int, names: set[str]) -> dict[str, tuple[str, str]]:
        """What the cases find at a port, each with its detail."""
        target = Target("127.0.0.1", port, self.broker.ca_file, KEY, tuple(TOKENS[:2]), PATIENCE)
        cases = [case for name, case in lab.CASES.items() if name in names]
        return {each.case.name: (each.verdict, each.detail)
                for each in main.run_all(cases, target, jobs=8)}

    def test_each_fault_turns_exactly_its_cases_red(self) -> None:
        for name, fault in FAULTS.items():
            with self.subTest(fault=name, breaks=fault.summary):
                red = EXPECTED[name]
                proxy = faulty.FaultyBroker(self.broker, fault)
                try:
                    found = self.verdicts(proxy.port, red | CONTROLS)
                    # A busy machine can make a case late: what surprises is asked once more.
                    odd = {case for case, (verdict, _) in found.items()
                           if (verdict == "fail") != (case in red)}
                    found |= self.verdicts(proxy.port, odd)
                finally:
                    proxy.stop()
                    self.broker.stop()
                    self.broker = Broker.start()
                failed = {case: detail for case, (verdict, detail) in found.items()
                          if verdict != "pass"}
                self.assertEqual(failed.keys(), red, failed)

    def test_the_broker_passes_every_case(self) -> None:
        if os.environ.get("SLUICE_SLOW_TESTS") != "1":
            self.skipTest("Tools/conformance --dev does this; SLUICE_SLOW_TESTS=1 does it here too")
        failed = {case: detail for case, (verdict, detail) in self.verdicts(
            self.broker.port, set(lab.CASES)).items() if verdict != "pass"}
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
