"""Drives canaries through the ways in which a task can end. Each way is held to a sign that it
took place, a code or a counter of the broker: one that silently did not fails the run."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from faults.cases import Failed, check
from faults.deployment import Deployment
from faults.load import raw_hello
from sluice import Client, wire
from sluice.client import Task, TaskFailed
from sluice.codes import Code, Role
from sluice.session import ConnectionLost, Session, hello, tls_context
from sluice.supplier import Offer

from .rig import Rig
from .suppliers import STAYING, Suppliers

SECONDS = 30.0
_TASKS_MAX = 200


class Raw:
    """A connection that says what no client would say. Keeps the code of its stream's END, and how
    the connection was lost."""

    def __init__(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        self.session = session
        self.ended: asyncio.Future[Code] = loop.create_future()
        self.over: asyncio.Future[ConnectionLost] = loop.create_future()
        self.answering = asyncio.Event()
        session.start(self)

    def received(self, _: wire.Header, frame: wire.Frame) -> None:
        """Gives no credit."""
        if isinstance(frame, wire.Tokens):
            self.answering.set()
        if isinstance(frame, wire.End) and not self.ended.done():
            self.ended.set_result(Code(frame.code))

    def lost(self, error: ConnectionLost) -> None:
        """Nothing follows."""
        if not self.over.done():
            self.over.set_result(error)

    async def close(self) -> None:
        """Closes the connection."""
        self.session.close()
        await self.session.closed()


class Drive:
    """The ways a task can end, one after the other; notes how each of them did."""

    def __init__(self, rig: Rig, payer: str = "") -> None:
        self.rig = rig
        self._canaries = rig.canaries
        self._payer = payer  # the key of an account that prepays
        self.suppliers = Suppliers(rig.canaries)
        self.ends: dict[str, str] = {}

    @property
    def deployment(self) -> Deployment:
        """Where it drives."""
        return self.rig.deployment

    async def client(self, key: str = "") -> Client:
        """A new connection."""
        place = self.deployment
        return await Client.connect(
            place.host, place.port, ca_file=place.ca_file, key=key or place.key)

    async def client_from(self, address: str, key: str = "") -> Client:
        """A new connection from an address, which is looked for from now on."""
        place = self.deployment
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(
                place.host, place.port, ssl=tls_context(place.ca_file),
                server_hostname="localhost", local_addr=(address, 0))
            name = writer.get_extra_info("sockname")
            self._canaries.address("a client's address", name[0], name[1])
            session = Session(Role.CLIENT, reader, writer)
            greeting = hello(Role.CLIENT, key or place.key)
            session.send(greeting)
            session.welcome = await session._read_welcome(greeting)
        return Client(session)

    async def raw(self) -> Raw:
        """A connection of which everything said is up to the caller."""
        place = self.deployment
        return Raw(await Session.open(place.host, place.port, place.ca_file, raw_hello(place)))

    def prompt(self, name: str, copies: int = 3) -> str:
        """A prompt that only this run has."""
        return "\n".join(self._canaries.new(f"prompt of {name}") for _ in range(copies))

    async def end(self, name: str, task: Task, *expected: Code) -> None:
        """How a task ends, which must be one of these."""
        async with asyncio.timeout(SECONDS):
            try:
                code = (await task.finished()).code
            except TaskFailed as failure:
                code = failure.code
        self.note(name, code, *expected)

    def note(self, name: str, code: Code, *expected: Code) -> None:
        """What was seen of a way, which must be one of these."""
        check(code in expected, f"{name} ended {code.label}")
        self.ends[name] = code.label

    @contextlib.asynccontextmanager
    async def counted(self, name: str, counter: str) -> Any:
        """A way whose only sign is a counter of the broker: it must rise meanwhile."""
        before = self.deployment.statistic(counter)
        yield
        await self.deployment.until(
            lambda: self.deployment.statistic(counter) > before, 10, f"{name}: {counter} rises")
        self.ends[name] = f"counted by {counter}"

    # MARK: By the task

    async def tasks(self) -> None:
        """Every end of an accepted task that leaves all processes alive."""
        async with await self.client() as client:
            submit = client.submit
            await self.end("completed", await submit("answers", self.prompt("completed")),
                           Code.COMPLETED)
            large = self.prompt("large body", copies=2_000)
            await self.end("large body", await submit("answers", large), Code.COMPLETED)
            await self.end("upstream refused", await submit("refuses", self.prompt("refused")),
                           Code.UPSTREAM_REFUSED)
            await self.end("declined", await submit("declines", self.prompt("declined")),
                           Code.SUPPLIER_FAILED, Code.NO_SUPPLIER)
            await self.end("supplier failed", await submit("breaks", self.prompt("broken")),
                           Code.SUPPLIER_FAILED)
            await self.end("deadline",
                           await submit("silent", self.prompt("late"), deadline_ms=300),
                           Code.DEADLINE_EXCEEDED)
            await self._cancels(client)
            await self._supplier_lost(client)
            await self._again(client)
            await self._stubborn(client)
            await self._withdrawn(client)
            await self._duplicate(client)
            await self._queue_full(client)
        await self._budget()
        await self._revoked()
        await self._connections()

    async def _cancels(self, client: Client) -> None:
        task = await client.submit("silent", self.prompt("cancelled early"))
        await task.accepted()
        task.cancel()
        await self.end("cancelled before a token", task, Code.CANCELLED)
        task = await client.submit("endless", self.prompt("cancelled late"))
        async for _ in task:
            break
        task.cancel()
        await self.end("cancelled in the answer", task, Code.CANCELLED)

    async def _supplier_lost(self, client: Client) -> None:
        task = await client.submit("lost", self.prompt("lost supplier"))
        async for _ in task:
            break
        assert self.suppliers.lost is not None
        self.suppliers.lost.session._writer.transport.abort()
        await self.end("supplier lost", task, Code.SUPPLIER_LOST)

    async def _again(self, client: Client) -> None:
        """The supplier dies before it answered; another one gets the same prompt."""
        deployment, suppliers = self.deployment, self.suppliers
        first = await suppliers.supplier(deployment, 1)
        first.offer(Offer("again"), suppliers.silent)
        await asyncio.sleep(0.3)
        async with self.counted("dispatched again", "tasksDispatchedAgain"):
            async with self.counted("dispatched", "tasksDispatched"):
                task = await client.submit("again", self.prompt("dispatched again"))
                await task.accepted()
            assert suppliers.staying is not None
            number = suppliers.staying.offer(Offer("again"), suppliers.answers)
            first.session._writer.transport.abort()
            await self.end("completed by another", task, Code.COMPLETED)
        suppliers.staying.withdraw(number)

    async def _stubborn(self, client: Client) -> None:
        """A supplier that goes on after CANCEL: after 2 s the client's END comes without it."""
        supplier = await self.suppliers.stubborn(self.deployment)
        task = await client.submit("stubborn", self.prompt("stubborn supplier"))
        async for _ in task:
            break
        async with self.counted("slot quarantined", "slotsQuarantined"):
            task.cancel()
            await self.end("cancel ignored", task, Code.CANCELLED)
        supplier.session._writer.transport.abort()

    async def _withdrawn(self, client: Client) -> None:
        """A model whose last offer has just gone: the task waits for one in vain."""
        assert self.suppliers.staying is not None
        number = self.suppliers.staying.offer(Offer("withdrawn"), self.suppliers.silent)
        await asyncio.sleep(0.3)
        self.suppliers.staying.withdraw(number)
        await asyncio.sleep(0.3)
        task = await client.submit("withdrawn", self.prompt("no supplier"), deadline_ms=500)
        await task.accepted()
        await self.end("deadline without a supplier", task, Code.DEADLINE_EXCEEDED)

    async def _duplicate(self, client: Client) -> None:
        key = self._canaries.new("idempotency key")[:32].encode()
        first = await client.submit("answers", self.prompt("first"), idempotency_key=key)
        await self.end("idempotency key", first, Code.COMPLETED)
        again = await client.submit("answers", self.prompt("again"), idempotency_key=key)
        await self.end("duplicate", again, Code.DUPLICATE)

    async def _queue_full(self, client: Client) -> None:
        """Tasks that wait until no answer memory is left: the broker here has little."""
        await self.fill(client, "queue full", Code.QUEUE_FULL, "silent", 3, window_bytes=65_536)

    async def fill(self, client: Client, name: str, code: Code, model: str, copies: int,
                   **fields: Any) -> None:
        """Tasks that wait until another one is refused with the code; then they are cancelled."""
        waiting: list[Task] = []
        for number in range(_TASKS_MAX):
            task = await client.submit(model, self.prompt(f"{name}, {number}", copies), **fields)
            try:
                async with asyncio.timeout(SECONDS):
                    await task.accepted()
            except TaskFailed as failure:
                self.note(name, failure.code, code)
                break
            waiting.append(task)
        check(name in self.ends, f"{name}: {len(waiting)} tasks found room")
        for task in waiting:
            task.cancel()
        for task in waiting:
            await self.end(f"cancelled, {name}", task, Code.CANCELLED)

    async def _budget(self) -> None:
        """An account that prepays and a task that may cost 40 millionths of a dollar."""
        async with await self.client(self._payer) as client:
            task = await client.submit(
                "priced", self.prompt("spent budget"), budget=40, max_input_tokens=1)
            await self.end("budget exhausted", task, Code.BUDGET_EXHAUSTED)

    async def _revoked(self) -> None:
        """A key that is revoked in the middle of an answer."""
        key = self.rig.issue("revoked")
        await asyncio.sleep(0.5)  # until the broker follows
        client = await self.client(key)
        task = await client.submit("endless", self.prompt("revoked key"))
        async for _ in task:
            break
        await asyncio.to_thread(self.rig.command, "key", "revoke", key[:10])
        self.note("key revoked", await self.lost(task), Code.UNAUTHENTICATED)
        await client.close()

    async def lost(self, task: Task) -> Code:
        """What the broker said when it ended the connection of a task."""
        try:
            async with asyncio.timeout(SECONDS):
                await task.finished()
        except ConnectionLost as lost:
            check(lost.code is not None and lost.told_by_peer, "a connection ended without a code")
            assert lost.code is not None
            return lost.code
        raise Failed("a task ended, and not its connection")

    # MARK: By time

    async def stalled(self) -> None:
        """A reader that gives no more credit: its task ends after 30 s."""
        raw = await self.raw()
        body = self.prompt("stalled reader").encode()
        raw.session.send(wire.Submit("endless", len(body), body, credit=16_384, encoding=1), 1)
        async with asyncio.timeout(90):
            self.note("stalled", await raw.ended, Code.STALLED)
        await raw.close()

    async def upload_stalls(self) -> None:
        """A body of which nothing more comes: its upload ends after 30 s."""
        raw = await self.raw()
        body = self.prompt("stalled upload", copies=100).encode()
        raw.session.send(wire.Submit("answers", len(body), body[:4_000], credit=65_536), 1)
        async with asyncio.timeout(90):
            self.note("upload stalled", await raw.ended, Code.UPLOAD_TIMEOUT)
        await raw.close()

    async def withdrawn_for_good(self) -> None:
        """A model whose last offer has stayed away for more than 10 s: nothing waits for it."""
        supplier = await self.suppliers.supplier(self.deployment, STAYING)
        supplier.offer(Offer("gone"), self.suppliers.silent)
        await asyncio.sleep(0.3)
        await supplier.close()
        async with await self.client() as client:
            # Until then it waits, and is cancelled.
            while "no supplier any more" not in self.ends:
                task = await client.submit("gone", self.prompt("no supplier any more"))
                try:
                    await task.accepted()
                except TaskFailed as failure:
                    self.note("no supplier any more", failure.code, Code.NO_SUPPLIER)
                    continue
                task.cancel()
                await self.end("waited for a supplier", task, Code.CANCELLED)
                await asyncio.sleep(1)

    # MARK: By the connection

    async def _connections(self) -> None:
        async with self.counted("client lost", "cancelsSent"):
            client = await self.client()
            task = await client.submit("endless", self.prompt("lost client"))
            async for _ in task:
                break
            client.session._writer.transport.abort()
        await self._half_a_body()
        await self._protocol_error()
        await self._from_addresses()
        try:
            await self.client(self._canaries.new("wrong key"))
            raise Failed("a wrong key was taken")
        except ConnectionLost as lost:
            self.note("wrong key", lost.code or Code.COMPLETED, Code.UNAUTHENTICATED)
        async with self.counted("no protocol", "protocolErrors"):
            reader, writer = await asyncio.open_connection(
                self.deployment.host, self.deployment.port,
                ssl=tls_context(self.deployment.ca_file), server_hostname="localhost")
            writer.write(self.prompt("no protocol at all", copies=50).encode())
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                async with asyncio.timeout(SECONDS):
                    await reader.read()
            writer.transport.abort()

    async def _half_a_body(self) -> None:
        deployment = self.deployment

        def held() -> int:
            return deployment.statistic("bodyBytesInUse")

        before = held()
        client = await self.client()
        body = self.prompt("half a body", copies=100).encode()
        frame = wire.Submit("answers", len(body), body[:4_000], credit=65_536, encoding=1)
        client.session.send(frame, 1)
        await deployment.until(lambda: held() > before, 10, "half a body is held")
        client.session._writer.transport.abort()
        await deployment.until(lambda: held() <= before, 10, "half a body is given back")
        self.ends["half a body"] = "connection aborted"

    async def _protocol_error(self) -> None:
        """The broker ends a connection for its fault, with a prompt and an answer open on it."""
        raw = await self.raw()
        body = self.prompt("protocol error").encode()
        raw.session.send(wire.Submit("endless", len(body), body, credit=65_536, encoding=1), 1)
        async with asyncio.timeout(SECONDS):
            await raw.answering.wait()
            raw.session.send(wire.Started(1), 1)  # a supplier's frame
            lost = await raw.over
        check(lost.told_by_peer and lost.code is not None, "a protocol error was not told")
        self.note("protocol error", lost.code or Code.COMPLETED, Code.UNEXPECTED_FRAME)

    async def _from_addresses(self) -> None:
        """Clients from addresses that nobody else has: what they did may be known, not where
        they were."""
        client = await self.client_from(self._canaries.loopback_address())
        task = await client.submit("answers", self.prompt("from an address"))
        await self.end("from an address", task, Code.COMPLETED)
        await client.close()
        try:
            await self.client_from(self._canaries.loopback_address(),
                                   self._canaries.new("wrong key from an address"))
            raise Failed("a wrong key was taken")
        except ConnectionLost as lost:
            self.note("wrong key from an address", lost.code or Code.COMPLETED,
                      Code.UNAUTHENTICATED)

    # MARK: For a process that dies

    async def open_task(self, name: str) -> tuple[Client, Task]:
        """A task that is running, and two that wait with their prompts in the broker."""
        client = await self.client()
        for _ in range(2):
            waiting = await client.submit("narrow", self.prompt(f"{name}, waiting"))
            await waiting.accepted()
        task = await client.submit("endless", self.prompt(name), window_bytes=65_536)
        async for _ in task:
            break
        await asyncio.sleep(0.5)
        return client, task
