"""Documentation/FiveMinutes.md, command by command, in a clean directory that holds nothing but a
build. Only three things are not done as printed: the build, which stands; the package of OpenAI's
client, which `Tools/test` has installed; and the port, which may be taken here.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from support import ROOT, program

PAGE = ROOT / "Documentation/FiveMinutes.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


class FiveMinutesTests(unittest.TestCase):
    """The page is true."""

    def setUp(self) -> None:
        try:
            import openai  # noqa: F401
        except ModuleNotFoundError as error:
            raise unittest.SkipTest("no package openai; Tools/test installs it") from error

    def test_every_command_does_what_the_page_says(self) -> None:
        blocks = BLOCK.findall(PAGE.read_text())
        build, start, *rest = blocks
        *rest, own_engine = rest
        self.assertIn("Tools/build", build)
        self.assertIn("sluice dev", start)
        self.assertIn("--upstream", own_engine)
        installs = [block for block in rest if "pip install" in block]
        self.assertEqual(len(installs), 1)
        with tempfile.TemporaryDirectory(prefix="sluice-five-minutes-") as folder:
            place = pathlib.Path(folder)
            (place / ".build").mkdir()
            (place / ".build/release").symlink_to(
                pathlib.Path(program("sluice", "SLUICE_COMMAND")).parent)
            (place / "venv").symlink_to(pathlib.Path(sys.prefix))
            with open(place / "log", "w") as log:
                running = subprocess.Popen(
                    ["bash", "-c", "exec " + start.replace("--http-port 8080", "--http-port 0")],
                    cwd=place, stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                assert running.stdout is not None
                ready = next((event for line in running.stdout
                              if (event := json.loads(line)).get("event") == "ready"), None)
                assert ready is not None, (place / "log").read_text()[-500:]
                said = self.run_all(
                    [block.replace("http://127.0.0.1:8080", str(ready["http"]))
                     for block in rest if block not in installs], place)
            finally:
                running.terminate()
                running.wait(60)
                assert running.stdout is not None
                running.stdout.close()
        variables, curl, client, costs, options = said
        self.assertEqual(variables, "")
        self.assertRegex(curl, r"^data: \{")
        self.assertTrue(curl.endswith("data: [DONE]\n\n"), curl[-100:])
        self.assertGreater(len(client.split()), 5)
        self.assertIn("demo", costs)
        answer = json.loads(options)
        self.assertEqual(answer["model"], "demo")
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")

    def run_all(self, blocks: list[str], place: pathlib.Path) -> list[str]:
        """Runs blocks one after the other in one shell; what each printed."""
        mark = "\x1e"
        script = "set -euo pipefail\n" + "".join(
            f"{block}\nprintf '{mark}'\n" for block in blocks)
        done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True,
                              timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stdout[-500:] + done.stderr[-500:])
        return done.stdout.split(mark)[:-1]
