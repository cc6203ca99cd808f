"""The Swift worker against a scripted broker: what binds suppliers, which no broker lets one see.

``SLUICE_WORKER`` names the program, else a build is looked for.
"""

from __future__ import annotations

import asyncio
import signal
import unittest

from support import program
from test_session import Script, ScriptedBroker, WELCOME
from sluice import wire
from sluice.codes import MAX_PAYLOAD_BYTES, Code, Flag, Kind

CREDIT = 1 << 20


class WorkerTests(ScriptedBroker):
    """Rules that bind suppliers, by their numbers."""

    async def worker(self, *options: str) -> tuple[asyncio.subprocess.Process, Script, int]:
        """A worker with the engine echo, its script and the credit of its bodies."""
        process = await asyncio.create_subprocess_exec(
            program("sluice-worker", "SLUICE_WORKER"), "--broker", f"127.0.0.1:{self.port}",
            "--ca", self.ca_file, "--token", "t", "--engine", "echo", *options,
            stderr=asyncio.subprocess.DEVNULL)
        self.addAsyncCleanup(self.stop, process)
        async with asyncio.timeout(10):
            script = await self.scripts.get()
        _, hello = await script.until(wire.Hello)
        script.say(WELCOME)
        await script.until(wire.Offer)
        return process, script, hello.body_credit  # type: ignore[attr-defined]

    async def stop(self, process: asyncio.subprocess.Process) -> None:
        """Kills a worker that still runs."""
        if process.returncode is None:
            process.kill()
        await process.wait()

    def assign(self, body: bytes, credit: int = CREDIT, size: int | None = None,
               deadline_ms: int = 20_000) -> wire.Assign:
        """An ASSIGN of offer 1."""
        return wire.Assign(7, 1, 1, len(body) if size is None else size, body, credit=credit,
                           deadline_ms=deadline_ms)

    async def answer(self, script: Script) -> tuple[bytes, wire.End]:
        """The rest of an answer on stream 1, each piece of it whole text [P3]."""
        content = b""
        while True:
            header, frame = await script.next()
            if isinstance(frame, wire.Tokens):
                frame.content.decode()
                self.assertTrue(frame.content or header.tokens)  # [K2]
                content += frame.content
            elif isinstance(frame, wire.End):
                return content, frame

    async def test_a_body_comes_back_in_order_and_in_whole_characters(self) -> None:
        _, script, credit = await self.worker()
        text = ("Grüße, €, 漢字 " * 400).encode()
        first = min(len(text), 4_000, credit)
        script.say(self.assign(text[:first], size=len(text)), 1)
        sent, limit = first, credit
        while sent < len(text):
            while limit <= sent:
                _, frame = await script.until(wire.Credit)
                limit = max(limit, frame.limit)  # type: ignore[attr-defined]
            size = min(len(text) - sent, limit - sent, 3_001)  # splits characters
            script.say(wire.Body(text[sent:sent + size]), 1)
            sent += size
        content, end = await self.answer(script)
        self.assertEqual(content.decode().split(), text.decode().split())
        self.assertEqual(Code(end.code), Code.COMPLETED)

    async def test_credit_is_kept_to_the_byte_and_used(self) -> None:
        _, script, _ = await self.worker()
        script.say(self.assign(b"word " * 800, credit=3_000), 1)
        used, limit, done = 0, 3_000, False
        while not done:
            try:
                async with asyncio.timeout(0.5):
                    header, frame = await script.next()
            except TimeoutError:
                self.assertLess(limit - used, 2_048)  # [C6]
                limit += 2_500
                script.say(wire.Credit(limit), 1)
                continue
            if isinstance(frame, wire.Tokens):
                used += wire.HEADER_BYTES + header.payload_bytes
                self.assertLessEqual(used, limit)  # [C5]
            done = isinstance(frame, wire.End)

    async def test_cancel_is_answered_in_time_and_nothing_follows(self) -> None:
        _, script, _ = await self.worker("--tokens-per-second", "20")
        script.say(self.assign(b"word " * 700), 1)
        await script.until(wire.Tokens)
        script.say(wire.Cancel(Code.CANCELLED), 1)
        async with asyncio.timeout(2):  # [E7]
            await script.until(wire.End)
        for late in (wire.Credit(1 << 21), wire.Cancel(), wire.Body(b"x" * 2_000)):
            script.say(late, 1)  # [E11]
        script.say(wire.Ping(5))
        _, frame = await script.next()
        self.assertEqual(frame, wire.Pong(5))
        script.say(self.assign(b"again"), 1)
        self.assertEqual((await self.answer(script))[0].strip(), b"again")

    async def test_a_cancelled_task_without_credit_ends_too(self) -> None:
        _, script, _ = await self.worker()
        script.say(self.assign(b"word " * 700, credit=0), 1)
        script.say(wire.Cancel(Code.DEADLINE_EXCEEDED), 1)
        async with asyncio.timeout(2):
            await script.until(wire.End)

    async def test_a_task_stops_itself_at_its_deadline(self) -> None:
        _, script, _ = await self.worker("--tokens-per-second", "20")
        script.say(self.assign(b"word " * 700, deadline_ms=300), 1)
        _, end = await script.until(wire.End)
        self.assertIn(Code(end.code), (  # type: ignore[attr-defined]
            Code.DEADLINE_EXCEEDED, Code.UPSTREAM_UNAVAILABLE))  # the first SHOULD be [D5]

    async def test_unknown_flags_kinds_and_extensions_are_skipped(self) -> None:
        _, script, _ = await self.worker()
        script.raw(wire.Header(3, 0x30, Flag.IGNORABLE, 9, 77).pack() + b"abc")
        payload = bytearray(self.assign(b"").payload())
        payload[19] = payload[46] = 0xFF  # reserved
        payload[44] = 5
        payload += b"\x00\x70\x01\x00x" + b"hi"
        payload[24] = 2  # body bytes
        script.raw(wire.Header(len(payload), Kind.ASSIGN, 0x7F, 99, 1).pack() + bytes(payload))
        self.assertEqual((await self.answer(script))[0].strip(), b"hi")

    async def test_each_fault_of_a_broker_is_told_with_its_code(self) -> None:
        wrong = [
            (wire.pack(self.assign(b"b", size=9_000), 1) * 2, Code.STREAM_IN_USE),
            (wire.pack(self.assign(b"b", size=2), 1) + wire.pack(wire.Body(b"bb"), 1),
             Code.PROTOCOL_VIOLATION),
            (wire.pack(wire.Credit(1)), Code.STREAM_OUT_OF_RANGE),
            (wire.pack(self.assign(b""), 5), Code.STREAM_OUT_OF_RANGE),
            (wire.pack(wire.Queued(1, 1, 16_384), 1), Code.UNEXPECTED_FRAME),
            (wire.pack(wire.Ping(1), 1), Code.UNEXPECTED_FRAME),
            (wire.pack(WELCOME), Code.UNEXPECTED_FRAME),
            (wire.Header(0, 0x30, 0, 0, 0).pack(), Code.UNKNOWN_KIND),
            (wire.Header(MAX_PAYLOAD_BYTES + 1, 0x23, 0, 0, 1).pack(), Code.FRAME_TOO_LARGE),
            (wire.Header(7, Kind.PING, 0, 0, 0).pack() + bytes(7), Code.MALFORMED_PAYLOAD),
        ]
        for data, code in wrong:
            with self.subTest(code=code):
                process, script, _ = await self.worker()
                script.raw(data)
                await self.assert_error(script, code)
                await self.stop(process)

    async def test_sigterm_lets_running_tasks_end_and_declines_what_crosses(self) -> None:
        process, script, _ = await self.worker("--tokens-per-second", "40")
        script.say(self.assign(b"word " * 30), 1)
        await script.until(wire.Tokens)
        process.send_signal(signal.SIGTERM)
        while True:
            _, frame = await script.next()
            if isinstance(frame, (wire.GoAway, wire.Withdraw)):
                break
        script.say(self.assign(b"late"), 2)
        ends: dict[int, Code] = {}
        while len(ends) < 2:
            header, frame = await script.next()
            if isinstance(frame, wire.End):
                ends[header.stream] = Code(frame.code)
        self.assertEqual(ends[1], Code.COMPLETED)  # [G1]
        self.assertIn(ends[2], (Code.DECLINED, Code.COMPLETED))  # [S9]
        async with asyncio.timeout(10):
            self.assertEqual(await process.wait(), 0)


if __name__ == "__main__":
    unittest.main()
