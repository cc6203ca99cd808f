"""The command `Tools/floods` itself; what it finds is its own business."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

from support import ROOT

COMMAND = str(ROOT / "Tools" / "floods")
PROGRAMS = os.environ.get("SLUICE_PROGRAMS") or str(ROOT / ".build" / "release")

sys.path.insert(0, str(ROOT / "Tools" / "python"))

from faults.cases import Failed  # noqa: E402
from faults.deployment import COUNTERS  # noqa: E402
from floods.kinds import FLOODS  # noqa: E402
from floods.main import _check_met, _offenders, memory_bound  # noqa: E402


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, COMMAND, *arguments], capture_output=True, text=True)


class CommandTests(unittest.TestCase):
    def test_list_names_every_flood_with_how_it_is_met(self) -> None:
        listed = run("--list")
        self.assertEqual(listed.returncode, 0)
        self.assertEqual(len(listed.stdout.splitlines()), len(FLOODS))

    def test_an_unknown_flood_is_wrong_use(self) -> None:
        self.assertEqual(run("no-such-flood").returncode, 2)

    def test_missing_programs_are_wrong_use(self) -> None:
        with tempfile.TemporaryDirectory() as empty:
            self.assertEqual(run("pings", "--programs", empty).returncode, 2)

    def test_a_flood_lasts_a_second_at_least(self) -> None:
        self.assertEqual(run("pings", "--seconds", "0").returncode, 2)


class JudgementTests(unittest.TestCase):
    def test_a_flood_that_no_counter_shows_fails(self) -> None:
        with self.assertRaises(Failed):
            _check_met(FLOODS["pings"], 1, {"flood": 1}, {"protocolErrors": 1}, 0)

    def test_a_flood_whose_offender_is_not_cut_fails(self) -> None:
        with self.assertRaises(Failed):
            _check_met(FLOODS["pings"], 1, {}, {"protocolErrors": 1, "connectionsCut": 1}, 0)

    def test_what_takes_time_is_asked_of_long_floods_alone(self) -> None:
        flood = FLOODS["slow-readers"]
        _check_met(flood, 5, {}, {}, flood.open_tasks)
        with self.assertRaises(Failed):
            _check_met(flood, 60, {}, {}, flood.open_tasks)

    def test_readers_that_never_were_are_no_slow_readers(self) -> None:
        with self.assertRaises(Failed):
            _check_met(FLOODS["slow-readers"], 5, {}, {}, 8)

    def test_who_breaks_no_rule_and_is_cut_fails_the_flood(self) -> None:
        _check_met(FLOODS["tiny-credit"], 5, {}, {}, 0)
        for answers, grown in (({"flood": 1}, {}), ({}, {"connectionsCut": 1})):
            with self.assertRaises(Failed):
                _check_met(FLOODS["tiny-credit"], 5, answers, grown, 0)

    def test_tasks_of_neighbours_are_not_the_offenders(self) -> None:
        none = dict.fromkeys(COUNTERS, 0)
        after = none | {"tasksAccepted": 400, "tasksEnded": 390, "protocolErrors": 2}
        self.assertEqual(_offenders(none, after, 380), {"protocolErrors": 2})
        self.assertEqual(_offenders(none, after, 100)["tasksEnded"], 290)


class BoundTests(unittest.TestCase):
    MIB = 1 << 20

    def test_a_few_mebibytes_more_than_was_used_are_too_much(self) -> None:
        usual = memory_bound(10 * self.MIB, 0, connections=8, established=8, tasks=10)
        self.assertLess(usual, 22 * self.MIB)

    def test_what_was_in_use_is_allowed(self) -> None:
        none = memory_bound(0, 0, connections=0, established=0, tasks=0)
        self.assertEqual(memory_bound(0, 7 * self.MIB, 0, 0, 0) - none, 7 * self.MIB)
        self.assertGreater(memory_bound(0, 0, 400, 0, 0) - none, 28 * self.MIB)
        self.assertGreater(memory_bound(0, 0, 32, 32, 0), memory_bound(0, 0, 32, 8, 0))


@unittest.skipUnless(os.access(os.path.join(PROGRAMS, "sluice-broker"), os.X_OK), "no programs")
class FloodTests(unittest.TestCase):
    def test_a_flood_says_what_was_sent_counted_and_felt(self) -> None:
        done = run("pings", "--json", "--seconds", "1")
        result = json.loads(done.stdout)
        self.assertEqual(result["verdict"], "held", result.get("reason"))
        self.assertGreater(result["answers"]["flood"], 0)
        for key in ("sent", "counted", "quiet", "beside", "memory"):
            self.assertTrue(result[key], key)


if __name__ == "__main__":
    unittest.main()
