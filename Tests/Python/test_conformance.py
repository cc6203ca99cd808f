"""The conformance cases: that they cover the specification, pass here, and can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest

import faulty
from support import KEY, ROOT, TOKENS, Broker
from conformance import excused, lab, main
from conformance.peer import Target

PAGE = main.SPECIFICATION.read_text()

# A fault, whether it says goodbye, cases that it must turn red, and cases that it must leave green.
FAULTS: list[tuple[faulty.Fault, bool, list[str], list[str]]] = [
    (faulty.faithful, True, [], [
        "pings-answered", "one-end-after-all-tokens", "tokens-one-for-one", "queued-once-and-first",
        "tokens-beyond-the-limit", "grant-bounds-open-streams", "hello-twice", "wrong-role",
        "flags-cleared-when-forwarded", "cancel-grace-and-quarantine", "close-is-answered",
        "fields-out-of-range", "client-credit-reaches-the-supplier"]),
    (faulty.faithful, False, ["hello-twice", "first-frame-not-hello"], ["pings-answered"]),
    (faulty.drops_end, True, ["one-end-after-all-tokens", "slot-again-after-end",
                              "refused-before-the-body"], ["pings-answered"]),
    (faulty.deaf_to_cancel, True, ["tokens-after-cancel-dropped", "cancel-before-acceptance",
                                   "cancel-grace-and-quarantine"], ["tokens-one-for-one"]),
    (faulty.ignores_credit, True, ["tokens-beyond-the-limit", "client-credit-reaches-the-supplier",
                                   "control-frames-need-no-credit"], ["tokens-one-for-one"]),
    (faulty.wrong_codes, True, ["hello-twice", "wrong-role", "fields-out-of-range",
                                "credentials-unknown"], ["pings-answered"]),
    (faulty.skips_unknown_kinds, True, ["unknown-kinds-refused"], ["unknown-kinds-skipped"]),
    (faulty.loses_pongs, True, ["pings-answered", "split-at-each-offset"], ["hello-twice"]),
    (faulty.queues_twice, True, ["queued-once-and-first"], ["pings-answered"]),
    (faulty.loses_tokens, True, ["tokens-one-for-one", "one-end-after-all-tokens"],
     ["pings-answered"]),
    (faulty.keeps_flags, True, ["flags-cleared-when-forwarded", "tokens-one-for-one"],
     ["pings-answered"]),
    (faulty.grants_more, True, ["grant-bounds-open-streams", "lower-grant-takes-nothing-back",
                                "connection-grant-bounds-all-offers"], ["tokens-one-for-one"]),
    (faulty.no_quarantine, True, ["cancel-grace-and-quarantine"], ["cancel-before-acceptance"]),
    (faulty.reads_oversize, True, ["invalid-vectors-of-tasks"], ["pings-answered"]),
]


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
        listed = subprocess.run([ROOT / "Tools" / "conformance", "--list"], capture_output=True,
                                text=True, check=True).stdout
        for name in [*lab.CASES, *excused.EXCUSED]:
            self.assertIn(name, listed)


class BrokerTests(unittest.TestCase):
    """The cases against a broker, right and with faults."""

    broker: Broker

    @classmethod
    def setUpClass(cls) -> None:
        cls.broker = Broker.start()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.broker.stop()

    def target(self, port: int) -> Target:
        """The broker, or a proxy in front of it."""
        return Target("127.0.0.1", port, self.broker.ca_file, KEY, tuple(TOKENS[:2]))

    def test_the_broker_passes_every_case(self) -> None:
        slow = os.environ.get("SLUICE_SLOW_TESTS") == "1"
        cases = [case for case in lab.CASES.values() if slow or case.seconds < 60]
        outcomes = main.run_all(cases, self.target(self.broker.port), jobs=4)
        failed = [f"{each.case.name}: {each.detail}" for each in outcomes if each.verdict != "pass"]
        self.assertEqual(failed, [])

    def test_each_fault_turns_its_cases_red_and_no_other(self) -> None:
        for fault, goodbye, red, green in FAULTS:
            proxy = faulty.FaultyBroker(self.broker, fault, goodbye)
            try:
                cases = [lab.CASES[name] for name in red + green]
                outcomes = main.run_all(cases, self.target(proxy.port), jobs=4)
                verdicts = {each.case.name: (each.verdict, each.detail) for each in outcomes}
                for name in red + green:
                    with self.subTest(fault=fault.__name__, goodbye=goodbye, case=name):
                        expected = "fail" if name in red else "pass"
                        self.assertEqual(verdicts[name][0], expected, verdicts[name][1])
            finally:
                proxy.stop()

    def test_the_command_says_what_it_found_and_exits_accordingly(self) -> None:
        command = [sys.executable, str(ROOT / "Tools" / "conformance"),
                   f"127.0.0.1:{self.broker.port}", "--ca", self.broker.ca_file, "--key", KEY,
                   "--token", TOKENS[0], "--case", "pings-answered"]
        good = subprocess.run([*command, "--json"], capture_output=True, text=True)
        self.assertEqual(good.returncode, 0)
        self.assertIn('"verdict": "pass"', good.stdout)
        proxy = faulty.FaultyBroker(self.broker, faulty.loses_pongs)
        try:
            command[2] = f"127.0.0.1:{proxy.port}"
            bad = subprocess.run(command, capture_output=True, text=True)
        finally:
            proxy.stop()
        self.assertEqual(bad.returncode, 1)
        self.assertIn("fail pings-answered", bad.stdout)
        unused = subprocess.run([*command[:2], "--case", "none"], capture_output=True, text=True)
        self.assertEqual(unused.returncode, 2)


if __name__ == "__main__":
    unittest.main()
