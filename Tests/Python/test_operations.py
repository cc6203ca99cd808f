"""What operators are given: units, containers, the example of settings, the runbook."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from support import ROOT, program

_OPERATIONS = ROOT / "Operations"
# Tenths of what systemd calls exposure; up to 2.0 is "OK".
_EXPOSURE_MAX = 20


class OperationsTests(unittest.TestCase):
    """Each file holds together with the others and with the programs."""

    def test_the_example_of_settings_is_sound_and_the_units_wait_for_its_drain(self) -> None:
        """A unit that kills before the drain is over would lose what it promises."""
        example = _OPERATIONS / "sluice.json"
        done = subprocess.run(
            [program("sluice", "SLUICE_COMMAND"), "config", "check", str(example), "--json"],
            capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(json.loads(done.stdout)["problems"], [])
        drain = re.search(r'"drain-seconds": (\d+)', example.read_text())
        unit = (_OPERATIONS / "systemd" / "sluice-broker@.service").read_text()
        stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
        assert drain is not None and stop is not None
        self.assertGreater(int(stop[1]), int(drain[1]))

    def test_every_alert_has_its_section_in_the_runbook(self) -> None:
        """Whoever is woken finds the name."""
        alerts = re.findall(r"- alert: (\w+)", (_OPERATIONS / "alerts.yml").read_text())
        self.assertTrue(alerts)
        sections = re.findall(r"^### (\w+)$", (_OPERATIONS / "RUNBOOK.md").read_text(),
                              re.MULTILINE)
        self.assertEqual(sorted(alerts), sorted(sections))

    def test_links_within_the_runbook_lead_somewhere(self) -> None:
        """Files and headings."""
        text = (_OPERATIONS / "RUNBOOK.md").read_text()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            name, _, anchor = target.partition("#")
            file = _OPERATIONS / (name or "RUNBOOK.md")
            self.assertTrue(file.exists(), target)
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                self.assertIn(anchor, {re.sub(r"[^a-z0-9 -]", "", heading.lower())
                                       .replace(" ", "-") for heading in headings})

    def test_systemd_takes_the_units_and_finds_them_closed(self) -> None:
        """`systemd-analyze`, with programs of this machine in the place of Sluice's."""
        tool = shutil.which("systemd-analyze")
        self.assertIsNotNone(tool, "no systemd-analyze; run Tools/setup --tests")
        with tempfile.TemporaryDirectory() as folder:
            copies = []
            for unit in sorted((_OPERATIONS / "systemd").iterdir()):
                text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(),
                              flags=re.MULTILINE)
                copy = pathlib.Path(folder) / unit.name
                copy.write_text(text)
                copies.append(copy)
            self.assertEqual(len(copies), 5)
            environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"}
            done = subprocess.run([str(tool), "verify", *map(str, copies)], env=environment,
                                  capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            for copy in copies:
                if copy.suffix == ".service":
                    done = subprocess.run(
                        [str(tool), "security", "--offline=true",
                         f"--threshold={_EXPOSURE_MAX}", "--no-pager", str(copy)],
                        env=environment, capture_output=True, text=True)
                    self.assertEqual(done.returncode, 0, done.stdout[-200:] + done.stderr)

    def test_containers_are_described_in_yaml_that_names_what_is_there(self) -> None:
        """As far as it can be seen without an engine."""
        with contextlib.suppress(ImportError):
            import yaml
            described = yaml.safe_load((_OPERATIONS / "docker" / "compose.yml").read_text())
            self.assertEqual(set(described["services"]),
                             {"postgres", "sidecar", "broker", "metrics", "gateway"})
            for service in described["services"].values():
                for secret in service.get("secrets", []):
                    self.assertIn(secret, described["secrets"])
        recipe = (_OPERATIONS / "docker" / "Dockerfile").read_text()
        for line in re.findall(r"^COPY (?!--)(.+)$", recipe, re.MULTILINE):
            for name in line.split()[:-1]:
                self.assertTrue((ROOT / name).exists(), name)


if __name__ == "__main__":
    unittest.main()
