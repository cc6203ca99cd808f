"""Load: clients that submit tasks and hold the broker to what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from sluice import Client, wire
from sluice.client import Result, Task, TaskFailed
from sluice.codes import Code, Role
from sluice.session import ConnectionLost, Session
from sluice.supplier import Assignment, Offer, Piece, Supplier

from .cases import PATIENCE, Failed, check
from .deployment import Deployment

WINDOW_BYTES = 65_536


def words(count: int, salt: int = 0) -> str:
    """A prompt that the echo engine gives back one word a token."""
    return " ".join(f"w{salt}x{number}" for number in range(count))


async def connect(deployment: Deployment) -> Client:
    """A client of the deployment."""
    return await Client.connect(deployment.host, deployment.port, ca_file=deployment.ca_file,
                                key=deployment.key)


async def supply(deployment: Deployment, token: int = 0) -> Supplier:
    """A supplier in this process."""
    return await Supplier.connect(deployment.host, deployment.port, ca_file=deployment.ca_file,
                                  token=deployment.tokens[token])


async def ask(client: Client, count: int = 5, salt: int = 0, model: str = "echo",
              **fields: int) -> Result:
    """One task of so many words, whose whole answer must equal its prompt."""
    prompt = words(count, salt)
    task = await client.submit(model, prompt, **fields)
    text = await task.text()
    check(text == prompt, f"an answer of {len(text)} bytes is not its prompt of {len(prompt)}")
    check(task.result.output_tokens == count,
          f"{task.result.output_tokens} tokens were billed of {count}")
    return task.result


@dataclass
class Watched:
    """A long answer of the echo engine that is read to its end beside a fault."""

    task: Task
    prompt: str
    received: str = ""
    tokens: int = 0
    job: asyncio.Task[Result | None] | None = None
    error: Exception | None = None
    longest_gap: float = 0.0

    async def follow(self) -> Result | None:
        """Reads the answer; keeps the failure where there is one."""
        last = time.monotonic()
        try:
            async for piece in self.task:
                now = time.monotonic()
                self.longest_gap = max(self.longest_gap, now - last)
                last = now
                self.received += piece.text
                self.tokens += piece.tokens
            return self.task.result
        except TaskFailed as failure:
            self.error = failure
            return failure.result
        except ConnectionLost as lost:
            self.error = lost
            return None

    async def whole(self, seconds: float) -> Result:
        """Waits for the end: the answer must be complete and equal its prompt."""
        assert self.job is not None
        async with asyncio.timeout(PATIENCE * seconds):
            result = await self.job
        if self.error is not None or result is None:
            raise Failed(f"a running stream was ended: {self.error}")
        check(self.received == self.prompt, "a running stream lost or changed bytes")
        return result


async def watch(client: Client, count: int, model: str = "echo", salt: int = 7,
                **fields: int) -> Watched:
    """Starts a stream of so many tokens; returns once it is accepted."""
    prompt = words(count, salt)
    task = await client.submit(model, prompt, **fields)
    await task.accepted()
    watched = Watched(task, prompt)
    watched.job = asyncio.create_task(watched.follow())
    return watched


async def end_watched(watched: Watched) -> None:
    """Cancels a stream that ran beside a fault: all of it until then must have come whole."""
    check(watched.error is None, f"a running stream was ended: {watched.error}")
    watched.task.cancel()
    assert watched.job is not None
    async with asyncio.timeout(PATIENCE * 10):
        result = await watched.job
    check(result is not None and result.code == Code.CANCELLED,
          f"a cancelled stream ended {result.code.label if result else 'with its connection'}")
    check(watched.prompt.startswith(watched.received), "a running stream lost or changed bytes")
    check(result is not None and result.output_tokens >= watched.tokens - 1,
          "a cancelled stream's usage is less than was received")


@dataclass
class Load:
    """Clients that never rest, each on a connection of its own, until ``stop``."""

    deployment: Deployment
    clients: int = 2
    streams: int = 3
    count: int = 20
    model: str = "echo"
    reconnects: bool = False
    codes: Counter[str] = field(default_factory=Counter)
    completed: set[str] = field(default_factory=set)
    last_refusal: Code | None = None
    losses: int = 0
    _stopping: bool = False
    _jobs: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        for number in range(self.clients):
            self._jobs.append(asyncio.create_task(self._client(number)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def stop(self, seconds: float = 10) -> None:
        """Lets the tasks that run come to their end."""
        self._stopping = True
        async with asyncio.timeout(PATIENCE * seconds):
            await asyncio.gather(*self._jobs)

    @property
    def completed_count(self) -> int:
        """Answers seen complete."""
        return self.codes["completed"]

    async def _client(self, number: int) -> None:
        while not self._stopping:
            try:
                client = await connect(self.deployment)
            except (ConnectionLost, OSError):
                check(self.reconnects, "the broker took no connection")
                await asyncio.sleep(0.1)
                continue
            async with client:
                asks = [self._ask(client, number * 1_000 + stream)
                        for stream in range(self.streams)]
                await asyncio.gather(*asks)
            if not self._stopping:
                check(self.reconnects, "a connection was lost")
                await asyncio.sleep(0.05)

    async def _ask(self, client: Client, salt: int) -> None:
        while not self._stopping:
            try:
                result = await ask(client, self.count, salt, self.model)
            except TaskFailed as failure:
                self.codes[failure.code.label] += 1
                if not failure.result.task_id:
                    self.last_refusal = failure.code
                    await asyncio.sleep(0.02)
                continue
            except ConnectionLost:
                self.losses += 1
                return
            self.codes["completed"] += 1
            self.completed.add(result.task_id)

    def check_recorded(self) -> None:
        """Every answer that was seen complete is recorded as completed."""
        records = self.deployment.records()
        wrong = [task for task in self.completed
                 if records.get(task, {}).get("status") != "completed"]
        check(not wrong, f"{len(wrong)} completed answers have no such record, as {wrong[:1]}")


# MARK: A quick burst of many small tasks


class Burst:
    """One connection that keeps many small tasks under way, without a reader for each."""

    def __init__(self, session: Session, model: str, until: Code | None, most: int) -> None:
        self.codes: Counter[Code] = Counter()
        self.accepted = 0
        self._session = session
        self._submit = wire.Submit(model, 1, b"x", credit=WINDOW_BYTES)
        self._until = until
        self._most = most
        self._started = 0
        self._over = asyncio.Event()

    @classmethod
    async def run(cls, deployment: Deployment, model: str = "echo", *, streams: int = 64,
                  until: Code | None = None, seconds: float = 15, most: int = 1 << 30) -> Burst:
        """Submits until a task ends with the code ``until``, or so many tasks, or so long."""
        session = await Session.open(
            deployment.host, deployment.port, deployment.ca_file, raw_hello(deployment))
        burst = cls(session, model, until, most)
        session.start(burst)
        for stream in range(1, streams + 1):
            burst._submit_on(stream)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE * seconds):
                await burst._over.wait()
        burst._over.set()
        # What is under way still comes to its end.
        limit = time.monotonic() + PATIENCE * 5
        while sum(burst.codes.values()) < burst._started and time.monotonic() < limit:
            await asyncio.sleep(0.05)
        session.close()
        await session.closed()
        return burst

    def _submit_on(self, stream: int) -> None:
        if self._started < self._most:
            self._started += 1
            self._session.send(self._submit, stream)

    def received(self, header: wire.Header, frame: wire.Frame) -> None:
        """Takes the broker's frames in a client's place."""
        if isinstance(frame, wire.Queued):
            self.accepted += 1
        elif isinstance(frame, wire.End):
            code = Code(frame.code)
            self.codes[code] += 1
            if code == self._until or sum(self.codes.values()) >= self._most:
                self._over.set()
            elif not self._over.is_set():
                self._submit_on(header.stream)

    def lost(self, error: ConnectionLost) -> None:
        """The connection ended."""
        self._over.set()


# MARK: A supplier in this process


async def large(task: Assignment) -> AsyncGenerator[Piece, None]:
    """A model that writes as many pieces as the body says, fast; each is known in advance."""
    count, size = (int(part) for part in (await task.text()).split("x"))
    task.started(input_tokens=1)
    for number in range(count):
        yield Piece(piece(number, size))


def piece(number: int, size: int) -> bytes:
    """The piece of that number, of printable bytes."""
    return (f"{number:08d}" * (size // 8 + 1)).encode()[:size]


async def serve_large(deployment: Deployment, slots: int, token: int = 0) -> Supplier:
    """Offers the model ``large``."""
    supplier = await supply(deployment, token)
    supplier.offer(Offer("large", output_price=600_000), large, slots=slots)
    await asyncio.sleep(0.3)
    return supplier


async def paced(task: Assignment) -> AsyncGenerator[Piece, None]:
    """A model that gives back its prompt, 40 words a second."""
    prompt = await task.text()
    task.started(input_tokens=1)
    for place, word in enumerate(prompt.split(" ")):
        yield Piece(word if place == 0 else " " + word)
        await asyncio.sleep(0.025)


async def serve_paced(deployment: Deployment, token: int = 0) -> Supplier:
    """Offers the model ``paced``."""
    supplier = await supply(deployment, token)
    supplier.offer(Offer("paced", output_price=600_000), paced, slots=64)
    await asyncio.sleep(0.3)
    return supplier


def raw_hello(deployment: Deployment, role: Role = Role.CLIENT) -> wire.Hello:
    """The HELLO of a peer that is driven by hand."""
    if role == Role.CLIENT:
        return wire.Hello(role, 1, deployment.key.encode())
    return wire.Hello(role, 2, deployment.tokens[0].encode(), 1 << 20)
