"""The examples of the SDKs as their page prints them: real programs against a real deployment."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import subprocess
import tempfile
import time
import unittest
from collections.abc import Iterator

from support import program

_PATIENCE_SECONDS = 30


@contextlib.contextmanager
def deployment(folder: str) -> Iterator[dict[str, object]]:
    """`sluice dev` with its demo engine: its ready line."""
    with open(pathlib.Path(folder) / "log", "w") as errors:
        process = subprocess.Popen(
            [program("sluice", "SLUICE_COMMAND"), "dev", "--data", f"{folder}/data"],
            stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        yield next(event for line in process.stdout
                   if (event := json.loads(line)).get("event") == "ready")
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


class ExampleTests(unittest.TestCase):
    """What the programs of Examples/ do."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.ask_program = program("example-ask", "SLUICE_EXAMPLE_ASK")
        cls.shout_program = program("example-shout", "SLUICE_EXAMPLE_SHOUT")
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="sluice-examples-"))
        cls.broker = str(cls.enterClassContext(deployment(cls.folder))["broker"])

    def ask(self, model: str, prompt: str) -> subprocess.CompletedProcess[str]:
        """One run of the client."""
        return subprocess.run(
            [self.ask_program, self.broker, f"{self.folder}/data/ca.pem",
             f"{self.folder}/data/client.key", model, prompt],
            capture_output=True, text=True, timeout=60, check=False)

    def test_the_client_shows_the_answer_and_what_it_cost(self) -> None:
        done = self.ask("demo", "What is a sluice?")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        ending = re.search(r"\n(\d+) tokens for (\d+) µ\$\n$", done.stdout)
        assert ending is not None, done.stdout
        self.assertGreater(int(ending[1]), 1)
        self.assertLessEqual(int(ending[1]), 200)
        self.assertGreater(int(ending[2]), 0)
        self.assertGreater(ending.start(), 10)

    def test_the_client_says_what_went_wrong(self) -> None:
        done = self.ask("nobody-has-this", "What is a sluice?")
        self.assertEqual(done.returncode, 1)
        self.assertIn("rejected: modelUnknown", done.stdout)
        self.assertIn("a retry can help: later", done.stdout)

    def test_the_supplier_serves_and_ends_when_told(self) -> None:
        issued = subprocess.run(
            [program("sluice", "SLUICE_COMMAND"), "key", "issue", "--data",
             f"{self.folder}/data", "--supplier"], capture_output=True, text=True, check=True)
        token = pathlib.Path(self.folder) / "shout.token"
        token.write_text(str(json.loads(issued.stdout)["secret"]) + "\n")
        supplier = subprocess.Popen(
            [self.shout_program, self.broker, f"{self.folder}/data/ca.pem", str(token)],
            stdout=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while (done := self.ask("shout", "what is a sluice?")).returncode != 0:
                self.assertLess(time.monotonic(), deadline, done.stdout + done.stderr)
                time.sleep(0.1)
            self.assertTrue(done.stdout.startswith("WHAT IS A SLUICE? \n4 tokens for "),
                            done.stdout)
        finally:
            supplier.terminate()
            said, _ = supplier.communicate(timeout=_PATIENCE_SECONDS)
        self.assertEqual(supplier.returncode, 0)
        self.assertIn("connected(broker:", said)
        self.assertIn("taskEnded(", said)
