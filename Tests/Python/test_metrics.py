"""The numbers for Prometheus, as Prometheus takes them: a real broker, a real scrape, the alert
rules. Needs prometheus and promtool, which Tools/setup --tests installs.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request
from collections.abc import Iterator

from support import ROOT, program

_SECONDS = 60


def tool(name: str) -> str:
    """A program of Prometheus; that it is missing is a failure."""
    found = shutil.which(name)
    if found is None:
        raise AssertionError(f"no {name}; run Tools/setup --tests")
    return found


@contextlib.contextmanager
def running(arguments: list[str], log: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended with the block; its standard error goes to `log`."""
    with open(log, "w") as errors:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ready(process: subprocess.Popen[str]) -> dict[str, object]:
    """The line in which a program says that it can serve."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("event") == "ready":
            return event
    raise AssertionError("the program ended before it was ready")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class MetricsTests(unittest.TestCase):
    """`sluice metrics`, `sluice status` and `sluice top` on a broker at work."""

    def setUp(self) -> None:
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.sluice = program("sluice", "SLUICE_COMMAND")
        data = str(self.folder / "data")
        dev = self.stack.enter_context(running(
            [self.sluice, "dev", "--data", data], self.folder / "dev.log"))
        self.dev = ready(dev)
        self.data = ["--data", data]
        for _ in range(3):
            subprocess.run(
                [self.sluice, "ask", "--broker", str(self.dev["broker"]), "--ca",
                 str(self.dev["ca"]), "--key", str(self.dev["clientKey"]), "--model", "echo",
                 "--", "a b c"],
                check=True, stdout=subprocess.DEVNULL, timeout=_SECONDS)

    def run_sluice(self, *arguments: str) -> str:
        """What a command prints."""
        return subprocess.run(
            [self.sluice, *arguments], check=True, capture_output=True, text=True,
            timeout=_SECONDS).stdout

    def test_prometheus_reads_what_the_broker_did(self) -> None:
        """Scraped for real; the text is clean by promtool's judgement."""
        server = self.stack.enter_context(running(
            [self.sluice, "metrics", *self.data, "--listen", "127.0.0.1:0"],
            self.folder / "metrics.log"))
        url = str(ready(server)["metrics"])
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            text = response.read()
        checked = subprocess.run(
            [tool("promtool"), "check", "metrics"], input=text, capture_output=True)
        self.assertEqual((checked.returncode, checked.stderr), (0, b""))
        port = free_port()
        config = self.folder / "prometheus.yml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s"},
            "rule_files": [str(ROOT / "Operations" / "alerts.yml")],
            "scrape_configs": [{
                "job_name": "sluice",
                "static_configs": [{"targets": [urllib.parse.urlsplit(url).netloc]}]}]}))
        self.stack.enter_context(running(
            [tool("prometheus"), f"--config.file={config}",
             f"--storage.tsdb.path={self.folder / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{port}"], self.folder / "prometheus.log"))
        self.assertEqual(self.ask_prometheus(port, "sum(sluice_tasks_completed_total)"), 3)
        self.assertEqual(self.ask_prometheus(port, "sum(sluice_first_token_seconds_count)"), 3)
        self.assertEqual(self.ask_prometheus(port, "sum(sluice_suppliers_connected)"), 1)
        self.assertEqual(self.ask_prometheus(port, "sluice_slots_granted"), 16)
        self.assertEqual(self.ask_prometheus(
            port, 'sluice_settled_tasks_total{model="echo",status="completed"}'), 3)
        self.assertEqual(self.ask_prometheus(port, "sluice_sidecars"), 1)
        self.assertGreater(self.ask_prometheus(
            port, "sluice_certificate_expires_timestamp_seconds - time()"), 3_600)

    def ask_prometheus(self, port: int, query: str) -> float:
        """A number, once there is one."""
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(url, timeout=_SECONDS) as response:
                    found = json.load(response)["data"]["result"]
                if found:
                    return float(found[0]["value"][1])
            time.sleep(0.2)
        raise AssertionError(f"Prometheus has no {query}")

    def test_status_and_top_say_what_the_broker_did(self) -> None:
        """One object a broker; a screen of 80 columns."""
        # The page is written ten times a second.
        end = time.monotonic() + _SECONDS
        status: dict[str, object] = {}
        while status.get("tasksCompleted") != 3 and time.monotonic() < end:
            status = json.loads(self.run_sluice("status", *self.data, "--json"))
        self.assertEqual(status["tasksCompleted"], 3)
        self.assertEqual(status["slotsGranted"], 16)
        # The label by which Prometheus knows the broker.
        self.assertIn(f'broker="{status["broker"]}"', self.run_sluice("metrics", *self.data))
        self.assertGreater(status["firstTokenP99Us"], 0)
        lines = self.run_sluice("top", *self.data, "--once", "--interval", "0.2").splitlines()
        self.assertIn("accepted 3", "\n".join(lines))
        self.assertLessEqual(max(map(len, lines)), 80)
        # Words that come one after the other have gaps.
        subprocess.run(
            [self.sluice, "ask", "--broker", str(self.dev["broker"]), "--ca", str(self.dev["ca"]),
             "--key", str(self.dev["clientKey"]), "--model", "demo", "--max-tokens", "8", "a b"],
            check=True, stdout=subprocess.DEVNULL, timeout=_SECONDS)
        while status.get("tasksCompleted") != 4 and time.monotonic() < end:
            status = json.loads(self.run_sluice("status", *self.data, "--json"))
        self.assertGreater(int(str(status["tokenGapP50Us"])), 1_000)

    def test_no_broker_is_said(self) -> None:
        """A run directory that is not there: what was wrong and what to do."""
        failed = subprocess.run(
            [self.sluice, "status", "--run", str(self.folder / "nowhere")], capture_output=True,
            text=True, timeout=_SECONDS)
        self.assertEqual(failed.returncode, 1)
        self.assertIn("sluice-broker", failed.stderr)


class AlertTests(unittest.TestCase):
    """The alert rules that come with Sluice."""

    def test_rules_fire_when_they_should(self) -> None:
        """By promtool, on series made for it."""
        folder = ROOT / "Operations"
        for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts-test.yml"]):
            done = subprocess.run(
                [tool("promtool"), *arguments], cwd=folder, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_page_and_the_rules_know_every_metric(self) -> None:
        """Protocol/Metrics.md names each metric; no rule asks for one that is not there."""
        import re
        source = (ROOT / "Sources" / "Product" / "Telemetry" / "Metric.swift").read_text()
        names = {"sluice_brokers"}
        names |= {f"sluice_{name}" for name in re.findall(
            r'\.(?:counter|gauge), "(\w+)"', source)}
        source += (ROOT / "Sources" / "Product" / "Telemetry" / "SettlementMetric.swift").read_text()
        names |= set(re.findall(r'"(sluice_\w+)"', source))
        self.assertGreater(len(names), 40)
        page = (ROOT / "Protocol" / "Metrics.md").read_text()
        self.assertEqual({name for name in names if f"`{name}`" not in page}, set())
        rules = (ROOT / "Operations" / "alerts.yml").read_text()
        asked = {re.sub("_bucket$", "", name) for name in re.findall(r"sluice_\w+", rules)}
        self.assertEqual(asked - names, set())


if __name__ == "__main__":
    unittest.main()
