"""The command `Tools/faults` itself; what it finds is its own business."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from support import ROOT

COMMAND = str(ROOT / "Tools" / "faults")
PROGRAMS = os.environ.get("SLUICE_PROGRAMS") or str(ROOT / ".build" / "release")


def run(*arguments: str, **surroundings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, COMMAND, *arguments], capture_output=True, text=True,
                          env={**os.environ, **surroundings})


class CommandTests(unittest.TestCase):
    def test_list_names_every_case_with_what_must_hold(self) -> None:
        listed = run("--list")
        self.assertEqual(listed.returncode, 0)
        lines = listed.stdout.splitlines()
        self.assertGreater(len(lines), 20)
        for line in lines:
            self.assertIn(";", line)

    def test_an_unknown_case_is_wrong_use(self) -> None:
        self.assertEqual(run("no-such-case").returncode, 2)

    def test_missing_programs_are_wrong_use(self) -> None:
        with tempfile.TemporaryDirectory() as empty:
            done = run("port-taken", "--programs", empty)
        self.assertEqual(done.returncode, 2)
        self.assertIn("sluice", done.stderr)


class FailureTests(unittest.TestCase):
    def test_a_program_that_ends_at_once_fails_the_case_and_leaves_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as files:
            for name in ("sluice", "sluice-broker", "sluice-sidecar", "sluice-worker"):
                path = pathlib.Path(folder) / name
                path.write_text("#!/bin/sh\nexit 3\n")
                path.chmod(0o755)
            done = run("port-taken", "--json", "--programs", folder, TMPDIR=files)
            left = os.listdir(files)
        self.assertEqual(done.returncode, 1)
        result = json.loads(done.stdout)
        self.assertEqual(result["verdict"], "failed")
        self.assertEqual(left, [])


@unittest.skipUnless(os.access(os.path.join(PROGRAMS, "sluice-broker"), os.X_OK), "no programs")
class CaseTests(unittest.TestCase):
    def test_a_case_says_what_was_injected_and_seen(self) -> None:
        done = run("memory-refused", "--json")
        result = json.loads(done.stdout)
        self.assertEqual(result["verdict"], "held")
        for key in ("injected", "holds", "observed", "seconds"):
            self.assertTrue(result[key], key)


if __name__ == "__main__":
    unittest.main()
