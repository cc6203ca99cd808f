"""One wallet with credit for k tasks, two real brokers, thousands of submissions over many
connections of real TLS: exactly k are admitted, whatever the order (Protocol/Money.md, Leases)."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest
from collections import Counter
from collections.abc import AsyncGenerator

import support

from sluice.client import Client
from sluice.codes import Code
from sluice.session import ConnectionLost
from sluice.supplier import Assignment, Offer, Piece, Supplier
from throwaway.postgres import Postgres

TOKENS = 100
CREDIT_TASKS = 173
SUBMISSIONS = 3_000
CONNECTIONS = 8  # to each broker
SECONDS = 20  # after which it is given up


async def hundred(task: Assignment) -> AsyncGenerator[Piece, None]:
    """A task costs exactly what is held for it: all its tokens at 1 µUSD each."""
    await task.body()
    task.started(1)
    yield Piece("x" * TOKENS, tokens=TOKENS)


class Side:
    """A broker, and the sidecar beside it unless another side's serves both."""

    def __init__(self, folder: pathlib.Path, certificates: pathlib.Path, store: str | None,
                 other: Side | None) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.logs: list[pathlib.Path] = []
        self.data = other.data if other else folder / "data"
        self.run = other.run if other else folder / "run"
        self.environment = {**os.environ, **({"SLUICE_STORE": store} if store else {})}
        if not other:
            folder.mkdir(mode=0o700)
            self._start("sluice-sidecar", "SLUICE_SIDECAR", "ready", [
                "--data", str(self.data), "--run", str(self.run)])
        listening = self._start("sluice-broker", "SLUICE_BROKER", "listening", [
            "--run", str(self.run), "--directory", str(self.data / "directory"),
            "--certificate", str(certificates / "server.pem"),
            "--private-key", str(certificates / "server-key.pem"), "--port", "0"])
        self.port = int(listening.get("port") or listening["address"].rpartition(":")[2])

    def _start(self, name: str, variable: str, event: str, words: list[str]) -> dict[str, str]:
        self.logs.append(self.run.parent / f"{name}-{time.monotonic_ns()}.log")
        with open(self.logs[-1], "w") as log:
            process = subprocess.Popen(
                [support.program(name, variable), *words], stdout=subprocess.PIPE, stderr=log,
                text=True, env=self.environment)
        self.processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            said: dict[str, str] = json.loads(line)
            if said.get("event") == event:
                return said
        raise AssertionError(f"{name} did not start: {self.logs[-1].read_text()}")

    def stop(self) -> None:
        """In order: the broker first, so that the sidecar settles its last records."""
        for process in reversed(self.processes):
            process.terminate()
            process.wait(timeout=60)
            if process.stdout is not None:
                process.stdout.close()
        self.processes = []


class RaceTests(unittest.TestCase):
    def setUp(self) -> None:
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-race-", dir=base))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.certificates = self.folder / "certificates"
        self.sides: list[Side] = []
        self.addCleanup(lambda: [side.stop() for side in reversed(self.sides)])
        self.sluice("certs", "--out", str(self.certificates))

    def sluice(self, *words: str) -> list[dict[str, object]]:
        """What the command prints."""
        done = subprocess.run(
            [support.program("sluice", "SLUICE_COMMAND"), *words], capture_output=True, text=True,
            check=False)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stderr} {done.stdout}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def market(self, place: list[str]) -> tuple[str, list[str]]:
        """A buyer with credit for exactly k tasks; its key, and a token for each broker."""
        limits = ["--concurrent-tasks", "100000", "--requests-per-minute", "1000000000"]
        self.sluice("account", "create", "buyer", "--prepaid", *limits, *place)
        self.sluice("account", "create", "gpu", "--kind", "supplier", *place)
        self.sluice("price", "fee", "0", *place)
        usd = f"{CREDIT_TASKS * TOKENS / 1_000_000:.6f}"
        self.sluice("wallet", "topup", "buyer", "--usd", usd, "--reference", "all", *place)
        key = self.sluice("key", "issue", "--account", "buyer", "--json", *limits, *place)
        tokens = [self.sluice("key", "issue", "--supplier", "--account", "gpu", "--json", *place)
                  for _ in range(2)]
        return str(key[0]["secret"]), [str(token[0]["secret"]) for token in tokens]

    async def connected(self, kind: type, port: int, **secret: str):  # type: ignore[no-untyped-def]
        """Connects once the directory knows the secret."""
        limit = time.monotonic() + SECONDS
        while True:
            try:
                return await kind.connect(
                    "127.0.0.1", port, ca_file=str(self.certificates / "ca.pem"), **secret)
            except (ConnectionLost, OSError):
                if time.monotonic() > limit:
                    raise
                await asyncio.sleep(0.05)

    async def flood(self, key: str, tokens: list[str]) -> Counter[Code]:
        """Submits until k were admitted and thousands were not; every admitted task completes."""
        seen: Counter[Code] = Counter()
        limit = time.monotonic() + SECONDS
        suppliers = []
        for side, token in zip(self.sides, tokens, strict=True):
            supplier = await self.connected(Supplier, side.port, token=token)
            supplier.offer(Offer("hundred", output_price=1_000_000), hundred, slots=64)
            suppliers.append(supplier)

        def is_over() -> bool:
            return (sum(seen.values()) >= SUBMISSIONS and seen[Code.COMPLETED] >= CREDIT_TASKS
                    or time.monotonic() > limit)

        async def submit(client: Client) -> None:
            while not is_over():
                task = await client.submit("hundred", "x", max_output_tokens=TOKENS)
                seen[(await task.finished()).code] += 1

        clients = [await self.connected(Client, side.port, key=key)
                   for side in self.sides for _ in range(CONNECTIONS)]
        await asyncio.gather(*[submit(client) for client in clients for _ in range(12)])
        for client in clients:
            await client.close()
        for supplier in suppliers:
            await supplier.close()
        return seen

    def race(self, key: str, tokens: list[str], place: list[str]) -> None:
        seen = asyncio.run(self.flood(key, tokens))
        self.assertGreaterEqual(sum(seen.values()), SUBMISSIONS)
        expected = {Code.COMPLETED, Code.INSUFFICIENT_FUNDS, Code.RATE_LIMITED, Code.NO_SUPPLIER}
        self.assertLessEqual(set(seen), expected, seen)
        self.assertEqual(seen[Code.COMPLETED], CREDIT_TASKS, seen)
        for side in reversed(self.sides):
            side.stop()
        check = self.sluice("ledger", "check", "--json", *place)[0]
        wrong = {name: check[name] for name in (
            "sumMicroUSD", "unsettled", "negativeBalances", "contradictions") if check[name] != 0}
        self.assertEqual(wrong, {})
        self.assertEqual(check["tasks"], CREDIT_TASKS)
        balances = self.sluice("ledger", "balances", "--json", *place)
        self.assertGreater(len(balances), 1)
        amounts = [row["balanceMicroUSD"] for row in balances]
        self.assertIn(CREDIT_TASKS * TOKENS, amounts, "the supplier has earned all of it")
        consumer = [row for row in balances if str(row["ledgerAccount"]).startswith("consumer")]
        self.assertEqual([row["balanceMicroUSD"] for row in consumer], [0])

    def test_two_brokers_on_one_sqlite(self) -> None:
        self.sides.append(Side(self.folder / "one", self.certificates, None, None))
        self.sides.append(Side(self.folder / "one", self.certificates, None, self.sides[0]))
        place = ["--data", str(self.sides[0].data)]
        self.race(*self.market(place), place)

    def test_two_brokers_with_a_sidecar_each_on_one_postgresql(self) -> None:
        with Postgres() as server:
            for name in ("one", "two"):
                self.sides.append(
                    Side(self.folder / name, self.certificates, server.url, None))
            place = ["--store", server.url]
            self.race(*self.market(place), place)
            self.sides = []


if __name__ == "__main__":
    unittest.main()
