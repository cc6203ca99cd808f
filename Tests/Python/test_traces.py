"""Spans of ended tasks, as a collector gets them: a real broker and sidecar, OTLP over HTTP."""

from __future__ import annotations

import asyncio
import http.server
import json
import pathlib
import subprocess
import tempfile
import threading
import unittest
from typing import Any

from support import program

from faults.deployment import Deployment, Options  # noqa: E402
from faults.load import ask, connect  # noqa: E402


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans, or answers with the statuses that it was told to answer first."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    @property
    def spans(self) -> list[dict[str, Any]]:
        return [span for request in self.requests for resource in request["resourceSpans"]
                for scope in resource["scopeSpans"] for span in scope["spans"]]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            assert self.headers["Content-Type"] == "application/json"
            self.server.requests.append(json.loads(body))
            self.server.headers.append(dict(self.headers))
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test looks at what came."""


class TestTraces(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="sluice-traces-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "memory").mkdir()
        self.sluice = program("sluice", "SLUICE_COMMAND")
        programs = pathlib.Path(self.sluice).resolve().parent
        options = Options(programs, self.folder, self.folder / "memory", "auto", ())
        self.deployment = Deployment(options)
        self.addCleanup(self.deployment.stop)
        self.collector = Collector()
        self.addCleanup(self.collector.server_close)
        self.addCleanup(self.collector.shutdown)

    def export(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.sluice, "traces", "--data", str(self.deployment.data), "--otlp",
             self.collector.url, "--cursor", str(self.folder / "cursor"), "--once", *arguments],
            capture_output=True, text=True, timeout=60)

    async def _tasks(self) -> None:
        await self.deployment.start()
        client = await connect(self.deployment)
        await ask(client, 5)
        await ask(client, 5, trace=(0x1111, 0x2222, 0x3333))
        await client.close()
        await self.deployment.settled()

    def test_a_collector_gets_each_task_once_and_joined_to_its_caller(self) -> None:
        asyncio.run(self._tasks())
        headers = self.folder / "headers"
        headers.write_text("Authorization: Bearer t\n")
        done = self.export("--from-start", "--header-file", str(headers))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["tasks"], 2)
        self.assertEqual(self.collector.headers[0]["Authorization"], "Bearer t")
        roots = [span for span in self.collector.spans if span["kind"] == 2]
        self.assertEqual([span["name"] for span in roots], ["chat echo", "chat echo"])
        joined = [span for span in roots if span.get("parentSpanId") == f"{0x3333:016x}"]
        self.assertEqual([span["traceId"] for span in joined], [f"{0x1111:016x}{0x2222:016x}"])
        for span in self.collector.spans:
            self.assertRegex(span["traceId"], "^[0-9a-f]{32}$")
            self.assertRegex(span["spanId"], "^[0-9a-f]{16}$")
            self.assertLessEqual(int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"]))
        self.assertNotIn("w0x1", json.dumps(self.collector.requests))
        again = self.export()
        self.assertEqual(json.loads(again.stdout)["tasks"], 0)
        self.assertEqual(len(self.collector.requests), 1)

    def test_what_is_not_taken_is_not_forgotten(self) -> None:
        asyncio.run(self._tasks())
        for status, words in ((503, "status 503"), (404, "check its path")):
            self.collector.statuses = [status]
            done = self.export("--from-start")
            self.assertEqual(done.returncode, 1)
            self.assertIn(words, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
        done = self.export()
        self.assertEqual(json.loads(done.stdout)["tasks"], 2, done.stderr)


if __name__ == "__main__":
    unittest.main()
