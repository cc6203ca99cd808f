"""Suppliers in this process whose models end tasks in the way that they are named after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from faults.deployment import Deployment
from sluice import wire
from sluice.supplier import Assignment, Declined, Offer, Piece, Supplier, UpstreamRefused

from .needles import Canaries

# Tokens of the deployment, by who uses them.
STAYING, LOST, WORKER, STUBBORN, COUNT = range(5)


class _Stubborn(Supplier):
    """Goes on with what it was told to cancel."""

    def received(self, header: wire.Header, frame: wire.Frame) -> None:
        """Takes no notice of CANCEL."""
        if not isinstance(frame, wire.Cancel):
            super().received(header, frame)


class Suppliers:
    """The suppliers of one broker."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self.staying: Supplier | None = None
        self.lost: Supplier | None = None

    async def supplier(self, deployment: Deployment, token: int,
                       kind: type[Supplier] = Supplier) -> Supplier:
        """A new connection."""
        return await kind.connect(deployment.host, deployment.port, ca_file=deployment.ca_file,
                                  token=deployment.tokens[token])

    async def connect(self, deployment: Deployment) -> None:
        """One that stays, and one that is lost with a task."""
        self.staying = await self.supplier(deployment, STAYING)
        for name in ("answers", "endless", "refuses", "declines", "breaks", "silent"):
            self.staying.offer(Offer(name), getattr(self, name), slots=64)
        self.staying.offer(Offer("narrow"), self.silent, slots=1)
        self.staying.offer(Offer("priced", output_price=3_000_000), self.endless, slots=64)
        self.lost = await self.supplier(deployment, LOST)
        self.lost.offer(Offer("lost"), self.endless, slots=64)
        await asyncio.sleep(0.3)  # until the broker has the offers

    async def stubborn(self, deployment: Deployment) -> Supplier:
        """One that takes no notice of CANCEL."""
        supplier = await self.supplier(deployment, STUBBORN, _Stubborn)
        supplier.offer(Offer("stubborn"), self.endless)
        await asyncio.sleep(0.3)
        return supplier

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
