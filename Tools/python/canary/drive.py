"""Drives canaries through the ways in which a task can end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable

from faults.cases import Failed, check
from faults.deployment import Deployment
from faults.load import raw_hello
from sluice import Client, wire
from sluice.client import Refused, Task, TaskFailed
from sluice.codes import Code
from sluice.session import ConnectionLost, Session, tls_context
from sluice.supplier import Assignment, Declined, Offer, Piece, Supplier, UpstreamRefused

from .needles import Canaries

_SECONDS = 30.0
_TASKS_MAX = 200


class Suppliers:
    """Suppliers in this process whose models end tasks in the way that they are named after."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self.lost: Supplier | None = None

    async def connect(self, deployment: Deployment) -> None:
        """One that stays, and one that is lost with a task."""
        def supplier(token: int) -> Awaitable[Supplier]:
            return Supplier.connect(deployment.host, deployment.port,
                                    ca_file=deployment.ca_file, token=deployment.tokens[token])

        staying = await supplier(0)
        for name in ("answers", "endless", "refuses", "declines", "breaks", "silent"):
            staying.offer(Offer(name), getattr(self, name), slots=64)
        staying.offer(Offer("narrow"), self.silent, slots=1)
        staying.offer(Offer("priced", output_price=3_000_000), self.endless, slots=64)
        self.lost = await supplier(1)
        self.lost.offer(Offer("lost"), self.endless, slots=64)
        await asyncio.sleep(0.3)  # until the broker has the offers

    async def _begin(self, task: Assignment) -> None:
        await task.body()
        task.started(7, 2)

    async def answers(self, task: Assignment) -> AsyncGenerator[Piece, None]:
        """Ends as it should, with reasoning before."""
        await self._begin(task)
        yield Piece(self._canaries.new("reasoning"), reasoning=True)
        for _ in range(20):
            yield Piece(self._canaries.new("answer"))

    async def endless(self, task: Assignment) -> AsyncGenerator[Piece, None]:
        """Answers until it is stopped."""
        await self._begin(task)
        for _ in range(100_000):
            yield Piece(self._canaries.new("endless answer"))
            await asyncio.sleep(0.002)

    async def silent(self, task: Assignment) -> AsyncGenerator[Piece, None]:
        """Never answers."""
        await self._begin(task)
        await asyncio.sleep(3_600)
        yield Piece("never")

    async def refuses(self, task: Assignment) -> AsyncGenerator[Piece, None]:
        """Its engine refuses, and says the prompt in its error body, as engines do."""
        body = await task.body()
        raise UpstreamRefused(body + self._canaries.new("error body").encode())
        yield Piece("never")

    async def declines(self, task: Assignment) -> AsyncGenerator[Piece, None]:
        """Gives the task back."""
        await task.body()
        raise Declined
        yield Piece("never")

    async def breaks(self, task: Assignment) -> AsyncGenerator[Piece, None]:
        """Fails in the middle of its answer."""
        await self._begin(task)
        yield Piece(self._canaries.new("answer before a failure"))
        raise RuntimeError("the engine broke")


class _Stalled:
    """Takes what comes and never gives credit."""

    def __init__(self, ended: asyncio.Future[Code]) -> None:
        self._ended = ended

    def received(self, _: wire.Header, frame: wire.Frame) -> None:
        """Notes how the task ended."""
        if isinstance(frame, wire.End) and not self._ended.done():
            self._ended.set_result(Code(frame.code))

    def lost(self, error: ConnectionLost) -> None:
        """Its connection should stay."""
        if not self._ended.done():
            self._ended.set_exception(error)


class Drive:
    """The ways a task can end, one after the other; notes how each of them did."""

    def __init__(self, deployment: Deployment, canaries: Canaries, payer: str = "") -> None:
        self._deployment = deployment
        self._canaries = canaries
        self._payer = payer  # the key of an account that prepays
        self.suppliers = Suppliers(canaries)
        self.ends: dict[str, str] = {}

    async def client(self, key: str = "") -> Client:
        """A new connection."""
        return await Client.connect(
            self._deployment.host, self._deployment.port, ca_file=self._deployment.ca_file,
            key=key or self._deployment.key)

    def prompt(self, name: str, copies: int = 3) -> str:
        """A prompt that only this run has."""
        return "\n".join(self._canaries.new(f"prompt of {name}") for _ in range(copies))

    async def _end(self, name: str, task: Task, *expected: Code) -> None:
        async with asyncio.timeout(_SECONDS):
            try:
                code = (await task.finished()).code
            except TaskFailed as failure:
                code = failure.code
        check(code in expected, f"{name} ended {code.label}")
        self.ends[name] = code.label

    async def end(self, name: str, task: Task) -> None:
        """How a cancelled task ends that another has begun."""
        await self._end(name, task, Code.CANCELLED)

    # MARK: By the task

    async def tasks(self) -> None:
        """Every end that leaves all processes alive."""
        async with await self.client() as client:
            submit = client.submit
            await self._end("completed", await submit("answers", self.prompt("completed")),
                            Code.COMPLETED)
            large = self.prompt("large body", copies=2_000)
            await self._end("large body", await submit("answers", large), Code.COMPLETED)
            await self._end(
                "upstream refused", await submit("refuses", self.prompt("refused")),
                Code.UPSTREAM_REFUSED)
            await self._end("declined", await submit("declines", self.prompt("declined")),
                            Code.SUPPLIER_FAILED, Code.NO_SUPPLIER, Code.SUPPLIER_LOST,
                            Code.UPSTREAM_UNAVAILABLE)
            await self._end("supplier failed", await submit("breaks", self.prompt("broken")),
                            Code.SUPPLIER_FAILED, Code.UPSTREAM_UNAVAILABLE)
            await self._end("model unknown", await submit("nobody", self.prompt("unknown")),
                            Code.MODEL_UNKNOWN, Code.NO_SUPPLIER)
            await self._end(
                "deadline", await submit("silent", self.prompt("late"), deadline_ms=300),
                Code.DEADLINE_EXCEEDED)
            await self._cancels(client)
            await self._supplier_lost(client)
            await self._duplicate(client)
            await self._queue_full(client)
        await self._budget()
        await self._connections()

    async def _cancels(self, client: Client) -> None:
        task = await client.submit("silent", self.prompt("cancelled early"))
        await task.accepted()
        task.cancel()
        await self._end("cancelled before a token", task, Code.CANCELLED)
        task = await client.submit("endless", self.prompt("cancelled late"))
        async for _ in task:
            break
        task.cancel()
        await self._end("cancelled in the answer", task, Code.CANCELLED)

    async def _supplier_lost(self, client: Client) -> None:
        task = await client.submit("lost", self.prompt("lost supplier"))
        async for _ in task:
            break
        assert self.suppliers.lost is not None
        self.suppliers.lost.session._writer.transport.abort()
        await self._end("supplier lost", task, Code.SUPPLIER_LOST)

    async def _duplicate(self, client: Client) -> None:
        key = self._canaries.new("idempotency key")[:32].encode()
        first = await client.submit("answers", self.prompt("first"), idempotency_key=key)
        await self._end("idempotency key", first, Code.COMPLETED)
        again = await client.submit("answers", self.prompt("again"), idempotency_key=key)
        await self._end("duplicate", again, Code.DUPLICATE)

    async def _queue_full(self, client: Client) -> None:
        """Tasks that wait until no answer memory is left: the broker here has little."""
        waiting: list[Task] = []
        for number in range(_TASKS_MAX):
            task = await client.submit(
                "silent", self.prompt(f"full queue, {number}"), window_bytes=65_536)
            try:
                async with asyncio.timeout(_SECONDS):
                    await task.accepted()
            except TaskFailed as failure:
                check(failure.code is Code.QUEUE_FULL, f"ended {failure.code.label}")
                self.ends["queue full"] = failure.code.label
                break
            waiting.append(task)
        check("queue full" in self.ends, f"{len(waiting)} tasks found room")
        for task in waiting:
            task.cancel()
        for task in waiting:
            await self._end("cancelled in a full broker", task, Code.CANCELLED)

    async def _budget(self) -> None:
        """An account that prepays and a task that may cost 40 millionths of a dollar."""
        async with await self.client(self._payer) as client:
            task = await client.submit(
                "priced", self.prompt("spent budget"), budget=40, max_input_tokens=1)
            await self._end("budget exhausted", task, Code.BUDGET_EXHAUSTED)

    async def stalled(self) -> None:
        """A reader that gives no more credit: its task ends after 30 s."""
        deployment = self._deployment
        session = await Session.open(
            deployment.host, deployment.port, deployment.ca_file, raw_hello(deployment))
        ended: asyncio.Future[Code] = asyncio.get_running_loop().create_future()
        session.start(_Stalled(ended))
        body = self.prompt("stalled reader").encode()
        session.send(wire.Submit("endless", len(body), body, credit=16_384, encoding=1), 1)
        async with asyncio.timeout(90):
            self.ends["stalled"] = (await ended).label
        check(self.ends["stalled"] == Code.STALLED.label, f"stalled ended {self.ends['stalled']}")
        session.close()
        await session.closed()

    # MARK: By the connection

    async def _connections(self) -> None:
        client = await self.client()
        task = await client.submit("endless", self.prompt("lost client"))
        async for _ in task:
            break
        client.session._writer.transport.abort()
        self.ends["client lost"] = "connection aborted"

        client = await self.client()
        body = self.prompt("half a body", copies=100).encode()
        frame = wire.Submit("answers", len(body), body[:4_000], credit=65_536, encoding=1)
        client.session.send(frame, 1)
        await asyncio.sleep(0.1)
        client.session._writer.transport.abort()
        self.ends["half a body"] = "connection aborted"

        try:
            await Client.connect(
                self._deployment.host, self._deployment.port, ca_file=self._deployment.ca_file,
                key=self._canaries.new("wrong key"))
            raise Failed("a wrong key was taken")
        except ConnectionLost as lost:
            self.ends["wrong key"] = lost.code.label if lost.code else "closed"

        reader, writer = await asyncio.open_connection(
            self._deployment.host, self._deployment.port,
            ssl=tls_context(self._deployment.ca_file), server_hostname="localhost")
        writer.write(self.prompt("no protocol at all", copies=50).encode())
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(_SECONDS):
                await reader.read()
        writer.transport.abort()
        self.ends["no protocol"] = "closed by the broker"

    # MARK: By a process

    async def open_task(self, name: str) -> tuple[Client, Task]:
        """A task that is running, and one that waits for it with its prompt in the broker."""
        client = await self.client()
        for _ in range(2):
            waiting = await client.submit("narrow", self.prompt(f"{name}, waiting"))
            await waiting.accepted()
        task = await client.submit("endless", self.prompt(name), window_bytes=65_536)
        async for _ in task:
            break
        await asyncio.sleep(0.5)
        return client, task

    async def process(self, name: str, number: signal.Signals, broker: bool) -> None:
        """Ends broker or sidecar with a task open."""
        client, task = await self.open_task(name)
        program = self._deployment.broker if broker else self._deployment.sidecar
        program.signal(number)
        if broker:
            with contextlib.suppress(ConnectionLost, TaskFailed, TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    code = (await task.finished()).code
                    if number is signal.SIGTERM:
                        check(code is Code.DRAINED, f"{name} ended {code.label}")
        await program.ended(_SECONDS)
        if not broker:
            task.cancel()
            await self._end(name, task, Code.CANCELLED)
        client.session._writer.transport.abort()
        self.ends[name] = program.end_status()
