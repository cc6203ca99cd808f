"""Tasks that are not accepted, each with its prompt, whole or in part, in the broker's hands."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from sluice import Client, wire
from sluice.client import Task
from sluice.codes import Code

from .drive import SECONDS, Drive

_AT_ONCE = 200


class Refusals:
    """The refusals, by code. Their accounts and keys are made with it."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        rig = drive.rig
        self._limited = rig.issue("limited", "--requests-per-minute", "1")
        self._embeds = rig.issue("embeds", "--operation", "embedding")
        self._pauper = rig.issue_prepaid("pauper")

    async def all(self) -> None:
        """One after the other."""
        await self._by_request()
        await self._by_account()
        await self._by_body()

    async def _refused(self, name: str, code: Code, model: str = "answers", key: str = "",
                       **fields: Any) -> None:
        async with await self._drive.client(key) as client:
            task = await client.submit(model, self._drive.prompt(name), **fields)
            await self._drive.end(name, task, code)

    async def _by_request(self) -> None:
        await self._refused("model unknown", Code.MODEL_UNKNOWN, "nobody")
        await self._refused("no supplier", Code.NO_SUPPLIER, "priced", price_ceilings=(0, 0))
        await self._refused("unsupported", Code.UNSUPPORTED, hedge_copies=2)
        await self._refused("invalid request", Code.INVALID_REQUEST, reserve_bytes=1)

    async def _by_account(self) -> None:
        await self._refused("insufficient funds", Code.INSUFFICIENT_FUNDS, "priced", self._pauper)
        await self._refused("not permitted", Code.NOT_PERMITTED, key=self._embeds)
        async with await self._drive.client(self._limited) as client:
            tasks: list[Task] = []
            for number in range(2):
                prompt = self._drive.prompt(f"rate limited, {number}")
                tasks.append(await client.submit("answers", prompt))
            await self._drive.end("rate not yet limited", tasks[0], Code.COMPLETED)
            await self._drive.end("rate limited", tasks[1], Code.RATE_LIMITED)

    async def _by_body(self) -> None:
        part = self._drive.prompt("a part of a body", copies=30).encode()
        raw = await self._drive.raw()
        most = raw.session.welcome.max_body_bytes
        await raw.close()
        await self._sent("body too large", Code.BODY_TOO_LARGE, most + 1, part)
        await self._sent("body mismatch", Code.BODY_MISMATCH, len(part) // 2, part)
        await self._sent("upload timeout", Code.UPLOAD_TIMEOUT, 3 * len(part), part,
                         deadline_ms=400)
        async with await self._drive.client() as client:
            await self._drive.fill(
                client, "body memory full", Code.BODY_ARENA_FULL, "silent", 2_000)

    async def _sent(self, name: str, code: Code, declared: int, body: bytes, **fields: Any) -> None:
        raw = await self._drive.raw()
        raw.session.send(
            wire.Submit("answers", declared, body, credit=65_536, encoding=1, **fields), 1)
        async with asyncio.timeout(SECONDS):
            self._drive.note(name, await raw.ended, code)
        await raw.close()

    async def journal_full(self) -> None:
        """The sidecar stands still, and tasks take all room for records: no other is accepted."""
        sidecar = self._drive.deployment.sidecar
        sidecar.signal(signal.SIGSTOP)
        try:
            async with await self._drive.client() as client, asyncio.timeout(4 * SECONDS):
                while Code.JOURNAL_FULL not in await self._filled(client):
                    pass
                task = await client.submit("answers", self._drive.prompt("journal full"))
                await self._drive.end("journal full", task, Code.JOURNAL_FULL)
        finally:
            sidecar.signal(signal.SIGCONT)

    async def _filled(self, client: Client) -> set[Code]:
        """How many short tasks at once end."""
        async def one() -> Code:
            task = await client.submit("declines", "x")
            return (await task.finished()).code

        return set(await asyncio.gather(*(one() for _ in range(_AT_ONCE))))
