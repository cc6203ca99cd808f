"""Processes that end with content in their hands, and what they leave."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping

from faults.cases import Failed, check
from faults.deployment import Program
from sluice import Client
from sluice.client import Task
from sluice.codes import Code
from sluice.session import ConnectionLost

from .drive import SECONDS, Drive
from .engine import MODEL, Engine, GatewayWays
from .outcome import Outcome
from .rig import Rig, allow_cores
from .suppliers import WORKER

BROKER_OPTIONS = ("--drain-seconds", "2", "--answer-memory", "2", "--body-memory", "4")
_DEATHS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGILL, signal.SIGABRT)


class Deaths:
    """Each death is checked: how the process ended, and what its peers saw of it."""

    def __init__(self, rig: Rig, drive: Drive, outcome: Outcome) -> None:
        self._rig = rig
        self._drive = drive
        self._outcome = outcome

    def _name(self, who: str, number: signal.Signals) -> str:
        return f"{who} ended by {number.name}"

    async def _ended(self, name: str, program: Program, number: signal.Signals) -> None:
        status = await program.ended(SECONDS)
        check(status == -number, f"{name}, but with {program.end_status()}")
        self._drive.ends[name] = program.end_status()

    async def _search(self) -> None:
        self._outcome.take(await asyncio.to_thread(self._rig.search_files))
        for core in self._rig.core_files():
            self._outcome.findings.append(f"{core}: a core, with all guards in place")
            core.unlink()

    # MARK: Sidecar and broker

    async def sidecar(self, number: signal.Signals) -> None:
        """It has no content: a task of which it is told goes on without it."""
        name = self._name("sidecar", number)
        client, task = await self._drive.open_task(name)
        program = self._rig.deployment.sidecar
        program.signal(number)
        await self._ended(name, program, number)
        task.cancel()
        await self._drive.end(f"cancelled, {name}", task, Code.CANCELLED)
        await client.close()
        await self._rig.deployment.start_sidecar()

    async def broker(self, number: signal.Signals) -> None:
        """The tasks' connections end with it, and another one takes its place."""
        name = self._name("broker", number)
        client, task = await self._drive.open_task(name)
        program = self._rig.deployment.broker
        program.signal(number)
        await self._connection_ends(name, task)
        await self._ended(name, program, number)
        client.session._writer.transport.abort()
        await self._search()
        await self._again()

    async def _connection_ends(self, name: str, task: Task) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                code = (await task.finished()).code
        except ConnectionLost:
            return
        raise Failed(f"{name}, but its task ended {code.label}")

    async def _again(self) -> None:
        await self._rig.start_broker(*BROKER_OPTIONS)
        await self._drive.suppliers.connect(self._rig.deployment)

    async def drained(self) -> None:
        """SIGTERM: new tasks are refused, and those that are open at the end of its time end."""
        client, task = await self._drive.open_task("broker drained")
        program = self._rig.deployment.broker
        program.signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            while not client.draining:
                await asyncio.sleep(0.01)
        await self._draining(client)
        await self._drive.end("drained", task, Code.DRAINED)
        check(await program.ended(SECONDS) == 0, f"drained, but with {program.end_status()}")
        self._drive.ends["broker drained"] = program.end_status()
        await self._search()
        await self._again()

    async def _draining(self, client: Client) -> None:
        client.draining = False  # a SUBMIT that crosses GO-AWAY
        late = await client.submit("answers", self._drive.prompt("draining"))
        await self._drive.end("draining", late, Code.DRAINING)

    # MARK: Worker and gateway

    async def start_worker(self, engine: Engine,
                           environment: Mapping[str, str] | None = None) -> Program:
        """Where a core would be written and found, if it did not forbid that itself."""
        settings = [f"{name}={value}" for name, value in (environment or {}).items()]
        return await self._rig.deployment.start_worker(
            "--upstream", engine.url, supplier=WORKER, engine="", slots=16,
            prefix=("sh", "-c", 'ulimit -c unlimited; cd "$1"; shift; exec "$@"', "sh",
                    str(self._rig.cores), "env", *settings))

    async def start_gateway(self, environment: Mapping[str, str] | None = None) -> Program:
        """The same."""
        deployment = self._rig.deployment
        gateway = deployment._start(
            "gateway", [str(deployment.options.programs / "sluice-gateway"),
                        "--broker", f"{deployment.host}:{deployment.port}",
                        "--ca", deployment.ca_file, "--port", "0"],
            cwd=str(self._rig.cores), preexec_fn=allow_cores,
            env=os.environ | (environment or {}))
        await gateway.event("listening")
        return gateway

    async def worker(self, program: Program, number: signal.Signals) -> None:
        """In the middle of an answer that comes from its engine."""
        name = self._name("worker", number)
        async with await self._drive.client() as client:
            task = await client.submit(MODEL, {"messages": [
                {"role": "user", "content": "endless " + self._drive.prompt(name)}]})
            async for _ in task:
                break
            program.signal(number)
            await self._drive.end(f"supplier lost, {name}", task, Code.SUPPLIER_LOST)
        await self._ended(name, program, number)

    async def gateway(self, program: Program, number: signal.Signals) -> None:
        """In the middle of an answer that goes to an HTTP client."""
        name = self._name("gateway", number)
        ways = GatewayWays(int((await program.event("listening"))["port"]),
                           self._rig.deployment.key, self._rig.canaries)
        async with self._drive.counted(f"cancelled, {name}", "cancelsSent"):
            await asyncio.to_thread(ways.cut_off, name, lambda: program.signal(number))
            await self._ended(name, program, number)

    async def all(self, engine: Engine) -> None:
        """One after the other."""
        for number in _DEATHS:
            await self.sidecar(number)
        for number in _DEATHS:
            await self.broker(number)
        await self.drained()
        for number in _DEATHS:
            await self.worker(await self.start_worker(engine), number)
            await self._search()
        worker = await self.start_worker(engine)
        for number in _DEATHS:
            await self.gateway(await self.start_gateway(), number)
            await self._search()
        worker.signal(signal.SIGTERM)
        check(await worker.ended(SECONDS) == 0, f"worker: {worker.end_status()}")
