"""What a supplier has of his worker: models that load, measured slots, `doctor`, `earnings` and
`why-idle`, against a broker and engines that load as Ollama and llama.cpp do.

``SLUICE_WORKER`` and ``SLUICE_BROKER`` name the programs, else a build is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import unittest.mock
from collections.abc import AsyncGenerator
from typing import Any

from loading_engines import Engine, llama_cpp, ollama
from support import KEY, TOKENS, Broker, make_certificate, program
from test_session import ScriptedBroker, WELCOME
from sluice import wire
from sluice.client import Client, TaskFailed
from sluice.codes import Code, Flag
from sluice.supplier import Assignment, Offer, Piece, Supplier

_PATIENCE_SECONDS = 30
# Of a test's own, whatever the machine's are.
_ENVIRONMENT = {name: value for name, value in os.environ.items()
                if not name.startswith("SLUICE_")}


class Worker:
    """A running worker and what it has logged."""

    def __init__(self, *options: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._grew = threading.Condition()
        self._process = subprocess.Popen(
            [program("sluice-worker", "SLUICE_WORKER"), *options], stderr=subprocess.PIPE,
            text=True, env=_ENVIRONMENT)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._grew:
                self.events.append(json.loads(line))
                self._grew.notify_all()

    def wait(self, event: str) -> dict[str, Any]:
        """The first event of this name."""
        with self._grew:
            if not self._grew.wait_for(lambda: self._find(event), _PATIENCE_SECONDS):
                raise AssertionError(f"no {event}: {self.events}")
            return self._find(event) or {}

    def _find(self, event: str) -> dict[str, Any] | None:
        return next((each for each in self.events if each["event"] == event), None)

    def names(self) -> list[str]:
        """The names of its events."""
        return [str(each["event"]) for each in self.events]

    def stop(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


class SupplierTests(unittest.TestCase):
    """One broker; a worker for each test, with a token of its own where it counts."""

    broker: Broker

    @classmethod
    def setUpClass(cls) -> None:
        cls.broker = Broker.start()
        cls.addClassCleanup(cls.broker.stop)

    def connection(self, token: str = TOKENS[0]) -> tuple[str, ...]:
        """The options that reach the broker."""
        return ("--broker", f"127.0.0.1:{self.broker.port}", "--ca", self.broker.ca_file,
                "--token", token)

    def worker(self, *options: str, token: str = TOKENS[0]) -> Worker:
        """A worker of the broker."""
        worker = Worker(*self.connection(token), *options)
        self.addCleanup(worker.stop)
        return worker

    def engine(self, engine: contextlib.AbstractContextManager[Engine]) -> Engine:
        """An engine that runs as long as the test."""
        return self.enterContext(engine)

    def ask(self, model: str, deadline_ms: int = 30_000, times: int = 1) -> list[str | Code]:
        """Answers of a client, or the codes by which they failed."""
        async def run() -> list[str | Code]:
            async with await Client.connect("127.0.0.1", self.broker.port,
                                            ca_file=self.broker.ca_file, key=KEY) as client:
                return list(await asyncio.gather(*(one(client) for _ in range(times))))

        async def one(client: Client) -> str | Code:
            limit = time.monotonic() + _PATIENCE_SECONDS
            while True:
                try:
                    task = await client.submit(model, "hi", deadline_ms=deadline_ms)
                    return await task.text()
                except TaskFailed as failed:
                    # The offer is on its way.
                    if failed.code != Code.MODEL_UNKNOWN or time.monotonic() > limit:
                        return failed.code
                    await asyncio.sleep(0.05)

        return asyncio.run(run())

    def run_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A subcommand of the worker."""
        return subprocess.run([program("sluice-worker", "SLUICE_WORKER"), *arguments],
                              capture_output=True, text=True, timeout=90, env=_ENVIRONMENT)

    def standing(self, token: str = TOKENS[0]) -> dict[str, Any]:
        """What the broker tells a supplier."""
        done = self.run_command("why-idle", "--json", *self.connection(token))
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def row(self, model: str, token: str = TOKENS[0]) -> dict[str, Any]:
        """The same of one model."""
        rows = {row["model"]: row for row in self.standing(token)["models"]}
        self.assertIn(model, rows)
        return rows[model]  # type: ignore[no-any-return]

    # MARK: Models that load

    def test_a_model_that_ollama_has_not_loaded_is_loaded_before_it_has_slots(self) -> None:
        engine = self.engine(ollama(load_seconds=2))
        worker = self.worker("--upstream", engine.url, "--model", f"cold={engine.model}")
        worker.wait("loading")
        self.assertEqual(self.ask("cold", times=3), ["word " * 4] * 3)
        worker.wait("loaded")
        loads = [path for path in engine.asked if not path.startswith("/v1/models")]
        # Nothing waited inside the engine: the load came first and was one.
        self.assertLess(loads.index("/api/generate"), loads.index("/v1/chat/completions"))
        self.assertEqual(loads.count("/api/generate"), 1)
        row = self.row("cold")
        self.assertEqual((row["completed"], row["failed"], row["declined"]), (3, 0, 0))

    def test_a_model_that_ollama_dropped_takes_no_tasks_while_it_loads_again(self) -> None:
        engine = self.engine(ollama(load_seconds=0))
        engine.loaded.set()
        worker = self.worker("--upstream", engine.url, "--model", f"dropped={engine.model}")
        worker.wait("offered")
        engine.loaded.clear()
        engine.load_seconds = 1.5
        self.assertEqual(self.ask("dropped", times=12), ["word " * 4] * 12)
        names = worker.names()
        self.assertLess(names.index("loading"), names.index("loaded"))
        self.assertEqual(engine.asked.count("/api/generate"), 1)
        row = self.row("dropped")
        self.assertEqual((row["completed"], row["failed"], row["declined"]), (12, 0, 0))

    def test_a_503_of_a_server_that_loads_is_waited_for_and_is_no_failure(self) -> None:
        engine = self.engine(llama_cpp(model="waits"))
        worker = self.worker("--upstream", engine.url)
        worker.wait("offered")
        opener = threading.Thread(target=lambda: (worker.wait("loading"), engine.loaded.set()))
        opener.start()
        self.assertEqual(self.ask("waits", times=10), ["word " * 4] * 10)
        opener.join()
        worker.wait("loaded")
        row = self.row("waits")
        self.assertEqual((row["completed"], row["failed"], row["declined"]), (10, 0, 0))

    def test_a_load_that_outlasts_a_task_gives_it_back_without_a_strike(self) -> None:
        engine = self.engine(llama_cpp(model="slow-load"))
        worker = self.worker("--upstream", engine.url)
        worker.wait("offered")
        self.assertEqual(self.ask("slow-load", deadline_ms=2_000), [Code.SUPPLIER_FAILED])
        worker.wait("loading")
        row = self.row("slow-load")
        self.assertEqual((row["declined"], row["failed"]), (1, 0))
        self.assertEqual(row["slotsGranted"], 0)
        engine.loaded.set()
        worker.wait("loaded")
        self.assertEqual(self.ask("slow-load"), ["word " * 4])

    def test_another_503_is_a_failure_as_before(self) -> None:
        engine = self.engine(llama_cpp(model="broken"))
        with unittest.mock.patch("loading_engines.LOADING", b'{"error":{"message":"no GPU"}}'):
            self.worker("--upstream", engine.url).wait("offered")
            self.assertEqual(self.ask("broken"), [Code.SUPPLIER_FAILED])
        self.assertEqual(self.row("broken")["failed"], 1)

    # MARK: Slots

    def test_measured_slots_are_what_the_engine_carries(self) -> None:
        engine = self.engine(llama_cpp(model="carries-four", tokens=24, pause=0.03, carries=4))
        engine.loaded.set()
        worker = self.worker("--upstream", engine.url, "--slots", "auto", token=TOKENS[1])
        worker.wait("offered")
        measured = worker.wait("measured")
        self.assertIn(measured["slots"], (2, 4))  # a busy machine may show less, never more
        self.assertGreater(measured["tokensPerSecond"], 0)
        self.assertEqual(self.ask("carries-four"), ["word " * 24])
        self.assertEqual(self.row("carries-four", TOKENS[1])["slotsGranted"], measured["slots"])

    def test_slots_are_measured_by_the_first_model_that_writes_text(self) -> None:
        engine = self.engine(llama_cpp(model="writes", tokens=24, pause=0.03, carries=4,
                                       silent=("embeds",)))
        engine.loaded.set()
        worker = self.worker("--upstream", engine.url, "--slots", "auto", token=TOKENS[1])
        worker.wait("offered")
        measured = [each for each in worker.events if each["event"] == "measured"]
        self.assertEqual([each["model"] for each in measured], ["embeds", "writes"])
        self.assertEqual(measured[0]["slots"], 1)
        self.assertIn(measured[1]["slots"], (2, 4))  # a busy machine may show less, never more
        self.assertEqual(self.ask("writes"), ["word " * 24])
        self.assertEqual(self.row("writes", TOKENS[1])["slotsGranted"], measured[1]["slots"])

    # MARK: doctor

    def doctor(self, *options: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Its exit code and its checks by name, that of the broker without its address."""
        done = self.run_command("doctor", "--json", *options)
        value = json.loads(done.stdout)
        self.assertEqual(value["ok"], done.returncode == 0, done.stdout)
        return done.returncode, {check["name"].rpartition(": ")[2]: check
                                 for check in value["checks"]}

    def levels(self, checks: dict[str, dict[str, str]], level: str) -> set[str]:
        """The names of the checks of a level; each of them but OK says what to do."""
        for check in checks.values():
            if check["level"] != "OK":
                self.assertTrue(check["expected"] and check["remedy"], check)
        return {name for name, check in checks.items() if check["level"] == level}

    def test_doctor_finds_nothing_wrong_and_takes_no_task(self) -> None:
        engine = self.engine(llama_cpp(model="healthy"))
        engine.loaded.set()
        code, checks = self.doctor(*self.connection(TOKENS[2]), "--upstream", engine.url)
        self.assertEqual(code, 0, checks)
        self.assertEqual(self.levels(checks, "FAIL"), set())
        # The tests' certificate ends in two days.
        self.assertEqual(self.levels(checks, "WARN"), {"tls"})
        self.assertLessEqual({"upstream", "models", "speed", "tcp", "credential", "clock",
                              "descriptors"}, checks.keys())
        self.assertEqual(engine.answers(), 1)
        self.assertEqual(self.ask_once("healthy"), Code.MODEL_UNKNOWN)

    def ask_once(self, model: str) -> str | Code:
        """An answer, or the code by which it failed at once."""
        async def run() -> str | Code:
            async with await Client.connect("127.0.0.1", self.broker.port,
                                            ca_file=self.broker.ca_file, key=KEY) as client:
                try:
                    return await (await client.submit(model, "hi", deadline_ms=5_000)).text()
                except TaskFailed as failed:
                    return failed.code

        return asyncio.run(run())

    def test_doctor_names_what_is_wrong(self) -> None:
        engine = self.engine(llama_cpp())
        engine.loaded.set()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            closed = f"127.0.0.1:{taken.getsockname()[1]}"
        with tempfile.TemporaryDirectory() as folder:
            other_ca, _ = make_certificate(pathlib.Path(folder))
            here, ca = f"127.0.0.1:{self.broker.port}", self.broker.ca_file
            upstream = ("--upstream", engine.url)
            wrong: list[tuple[str, tuple[str, ...]]] = [
                ("credential", ("--broker", here, "--ca", ca, "--token", "unknown", *upstream)),
                ("credential", ("--broker", here, "--ca", ca, "--token", KEY, *upstream)),
                ("tls", ("--broker", here, "--ca", other_ca, "--token", TOKENS[2], *upstream)),
                ("ca", ("--broker", here, "--ca", folder + "/none", "--token", TOKENS[2],
                        *upstream)),
                ("tcp", ("--broker", closed, "--ca", ca, "--token", TOKENS[2], *upstream)),
                ("tls", ("--broker", engine.url.removeprefix("http://"), "--ca", ca, "--token",
                         TOKENS[2], *upstream)),
                ("name", ("--broker", "no.such.name.invalid:7700", "--ca", ca, "--token",
                          TOKENS[2], *upstream)),
                ("credential", ("--broker", here, "--ca", ca, *upstream)),
                ("broker", ("--token", TOKENS[2], *upstream)),
                ("upstream", (*self.connection(TOKENS[2]), "--upstream", f"http://{closed}")),
                ("models", (*self.connection(TOKENS[2]), *upstream, "--model", "a=none")),
            ]
            for name, options in wrong:
                with self.subTest(name=name, options=options[:2]):
                    code, checks = self.doctor(*options)
                    self.assertEqual(code, 1)
                    self.assertEqual(self.levels(checks, "FAIL"), {name})
                    self.assertNotIn(TOKENS[2], json.dumps(checks))

    def test_doctor_tells_that_a_model_answers_nothing_and_what_it_loads(self) -> None:
        engine = self.engine(ollama(load_seconds=0.5))
        code, checks = self.doctor(*self.connection(TOKENS[2]), "--upstream", engine.url)
        self.assertEqual(code, 0, checks)
        self.assertIn("model", self.levels(checks, "WARN"))
        broken = self.engine(llama_cpp(tokens=0))
        broken.loaded.set()
        code, checks = self.doctor(*self.connection(TOKENS[2]), "--upstream", broken.url)
        self.assertEqual((code, self.levels(checks, "FAIL")), (1, {"answer"}))

    # MARK: earnings and why-idle

    def test_earnings_and_lost_matches_are_told_over_the_wire(self) -> None:
        model = ("--engine", "echo", "--model", "market", "--slots", "4")
        cheap = self.worker(*model, "--output-price", "1000000", token=TOKENS[1])
        dear = self.worker(*model, "--output-price", "9000000", token=TOKENS[3])
        for worker in (cheap, dear):
            worker.wait("connected")
        self.assertEqual(self.ask("market", times=1), ["hi"])
        for _ in range(9):
            self.prefer_price("market")
        won, lost = self.row("market", TOKENS[1]), self.row("market", TOKENS[3])
        self.assertEqual(won["dispatched"] + lost["dispatched"], 10)
        self.assertGreaterEqual(won["dispatched"], 9)
        self.assertEqual(won["earnedMicroUSD"], won["completed"])  # one token each
        self.assertEqual(won["earnedTodayMicroUSD"], won["earnedMicroUSD"])
        self.assertEqual(lost["lost"], {"slowerOrDearer": won["dispatched"]})
        told = self.run_command("earnings", *self.connection(TOKENS[1])).stdout
        self.assertRegex(told, r"market +%d +%d +0 +0 " % (won["dispatched"], won["completed"]))
        self.assertIn(f"0.{won['earnedMicroUSD']:06}", told)
        idle = self.run_command("why-idle", *self.connection(TOKENS[3])).stdout
        self.assertIn("another was earlier or cheaper", idle)
        nobody = self.run_command("why-idle", *self.connection(TOKENS[2])).stdout
        self.assertIn("No worker of this token is connected", nobody)

    def prefer_price(self, model: str) -> None:
        """A task that goes to the cheapest."""
        async def run() -> None:
            async with await Client.connect("127.0.0.1", self.broker.port,
                                            ca_file=self.broker.ca_file, key=KEY) as client:
                await (await client.submit(model, "hi", preference=1)).text()

        asyncio.run(run())

    def test_what_keeps_earnings_away_is_said(self) -> None:
        here = ("--broker", f"127.0.0.1:{self.broker.port}", "--ca", self.broker.ca_file)
        for token, words in ((KEY, "client's key"), ("unknown", "not known here")):
            done = self.run_command("earnings", *here, "--token", token)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(words, done.stderr)

    def test_the_python_supplier_learns_the_same(self) -> None:
        async def run() -> tuple[str, dict[str, dict[int, int]] | None]:
            async def one(_task: Assignment) -> AsyncGenerator[Piece, None]:
                yield Piece("one")

            supplier = await Supplier.connect("127.0.0.1", self.broker.port,
                                              ca_file=self.broker.ca_file, token=TOKENS[2])
            async with supplier:
                supplier.offer(Offer("python", output_price=3_000_000), one)
                client = await Client.connect("127.0.0.1", self.broker.port,
                                              ca_file=self.broker.ca_file, key=KEY)
                async with client:
                    while True:
                        with contextlib.suppress(TaskFailed):
                            text = await (await client.submit("python", "hi")).text()
                            break
                return text, await supplier.standing()

        text, rows = asyncio.run(run())
        self.assertEqual(text, "one")
        assert rows is not None
        self.assertEqual([rows["python"].get(number, 0) for number in (4, 8, 9, 11, 14, 15)],
                         [1, 1, 1, 0, 1, 3])

    # MARK: Configuration

    def test_the_worker_reads_the_one_configuration_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (token := pathlib.Path(folder) / "token").write_text(TOKENS[1] + "\n")
            file = pathlib.Path(folder) / "sluice.json"
            file.write_text(json.dumps({"worker": {
                "broker": [f"127.0.0.1:{self.broker.port}"], "ca": self.broker.ca_file,
                "token-file": str(token), "engine": ["echo"], "model": ["from-a-file"],
                "slots": 3, "output-price": 5}}))
            worker = Worker("--config", str(file))
            self.addCleanup(worker.stop)
            worker.wait("connected")
            self.assertEqual(self.ask("from-a-file"), ["hi"])
            told = self.run_command("why-idle", "--json", "--config", str(file))
            rows = {row["model"]: row for row in json.loads(told.stdout)["models"]}
            self.assertEqual(rows["from-a-file"]["slotsGranted"], 3)
            file.write_text('{"worker": {"slotz": 3, "slots": "many"}}')
            refused = self.run_command("--config", str(file))
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("worker.slotz is not a setting", refused.stderr)
            self.assertIn("1 to 65536, or auto", refused.stderr)

    def test_discovery_looks_before_a_broker_is_needed(self) -> None:
        done = self.run_command()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("Neither --upstream nor --engine was given", done.stderr)
        named = self.run_command("--engine", "echo", "--token", "t")
        self.assertIn("No broker is named", named.stderr)


class OlderBrokerTests(ScriptedBroker):
    """A broker of before ASK."""

    async def test_a_broker_that_skips_the_question_cannot_tell(self) -> None:
        process = await asyncio.create_subprocess_exec(
            program("sluice-worker", "SLUICE_WORKER"), "earnings", "--broker",
            f"127.0.0.1:{self.port}", "--ca", self.ca_file, "--token", "t",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=_ENVIRONMENT)
        async with asyncio.timeout(10):
            script = await self.scripts.get()
        await script.until(wire.Hello)
        script.say(WELCOME)
        header, _ = await script.until(wire.Ask)
        self.assertTrue(header.flags & Flag.IGNORABLE)  # [V2]
        async with asyncio.timeout(20):
            _, errors = await process.communicate()
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"does not tell how its suppliers stand", errors)


if __name__ == "__main__":
    unittest.main()
