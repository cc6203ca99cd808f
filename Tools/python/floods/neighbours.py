"""Well-behaved clients beside a flood: what they ask must come whole, and when it came is kept."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from faults.cases import PATIENCE, Failed, check
from faults.deployment import Deployment
from faults.load import connect, words
from sluice import Client
from sluice.client import TaskFailed
from sluice.session import ConnectionLost

_WORDS = 20
_ECHO_STREAMS = 2
_PACED_STREAMS = 4
_PAUSE_SECONDS = 0.02


def percentile(values: list[float], part: float) -> float:
    """The value below which this part of the values lies; 0 where there is none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else 0.0


@dataclass
class Times:
    """What the neighbours saw in one stretch of time, in seconds."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tasks: int = 0
    tokens: int = 0

    def summary(self) -> dict[str, float]:
        """In milliseconds."""
        return {"tasks": self.tasks, "tokens": self.tokens,
                "firstTokenP99Ms": round(1_000 * percentile(self.first, 0.99), 1),
                "gapP99Ms": round(1_000 * percentile(self.gaps, 0.99), 1)}


class Neighbours:
    """Two streams that ask the echo worker again and again, four of a supplier's steady pace."""

    def __init__(self, deployment: Deployment) -> None:
        self.times = Times()
        self.completed: set[str] = set()
        self._deployment = deployment
        self._clients: list[Client] = []
        self._jobs: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Connects and begins to ask."""
        self._clients = [await connect(self._deployment) for _ in range(2)]
        for number in range(_ECHO_STREAMS + _PACED_STREAMS):
            model = "echo" if number < _ECHO_STREAMS else "paced"
            client = self._clients[number % len(self._clients)]
            self._jobs.append(asyncio.create_task(self._ask(client, model, number)))

    def next_times(self) -> Times:
        """Begins a new stretch of time and answers what came before it."""
        times, self.times = self.times, Times()
        return times

    def check(self) -> None:
        """Raises what broke a neighbour."""
        for job in self._jobs:
            if job.done() and not job.cancelled() and (error := job.exception()) is not None:
                raise error

    async def stop(self) -> None:
        """Lets what runs come to its end; then every answer was seen whole."""
        self._stopping = True
        async with asyncio.timeout(PATIENCE * 10):
            await asyncio.gather(*self._jobs)
        for client in self._clients:
            await client.close()

    async def _ask(self, client: Client, model: str, salt: int) -> None:
        while not self._stopping:
            try:
                self.completed.add(await self._one(client, model, salt))
            except TaskFailed as failure:
                raise Failed(f"a neighbour's task ended {failure.code.label}") from None
            except ConnectionLost as lost:
                raise Failed(f"a neighbour lost its connection: {lost}") from None
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _one(self, client: Client, model: str, salt: int) -> str:
        """One task; what came must be its prompt, token by token."""
        prompt = words(_WORDS, salt)
        last = began = time.monotonic()
        task = await client.submit(model, prompt)
        received, tokens = "", 0
        async for piece in task:
            now = time.monotonic()
            if not received:
                self.times.first.append(now - began)
            elif model == "paced":
                self.times.gaps.append(now - last)
            last = now
            received += piece.text
            tokens += piece.tokens
        check(received == prompt, "a neighbour's answer is not its prompt")
        check(tokens == _WORDS == task.result.output_tokens,
              f"a neighbour received {tokens} tokens and was billed "
              f"{task.result.output_tokens} of {_WORDS}")
        self.times.tasks += 1
        self.times.tokens += tokens
        return task.result.task_id
