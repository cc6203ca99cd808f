"""The Python client and supplier against a scripted broker that says what a real one never does."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import ssl
import tempfile
import unittest
from collections.abc import AsyncGenerator

from support import make_certificate
from sluice import wire
from sluice.client import Client, TaskFailed
from sluice.codes import ALPN, MAX_PAYLOAD_BYTES, Code, Flag, Kind
from sluice.session import Certificate, ConnectionLost
from sluice.supplier import Assignment, Offer, Piece, Supplier

WELCOME = wire.Welcome(1, 0, 1, 4, 1 << 24, 65_536, 7, 600_000, 15_000)
QUEUED = wire.Queued(7, 1, 16_384)


class Script:
    """The broker's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, frame: wire.Frame, stream: int = 0, flags: int = 0, tokens: int = 0) -> None:
        """Sends a frame, right or wrong."""
        self._writer.write(wire.pack(frame, stream, flags, tokens))

    def raw(self, data: bytes) -> None:
        """Sends bytes."""
        self._writer.write(data)

    async def next(self) -> tuple[wire.Header, wire.Frame | None]:
        """The peer's next frame."""
        async with asyncio.timeout(5):
            header = wire.Header.unpack(await self._reader.readexactly(wire.HEADER_BYTES))
            payload = await self._reader.readexactly(header.payload_bytes)
        return header, wire.unpack(header, payload)

    async def until(self, kind: type[wire.Frame]) -> tuple[wire.Header, wire.Frame]:
        """The peer's next frame of a kind."""
        while True:
            header, frame = await self.next()
            if isinstance(frame, kind):
                return header, frame

    async def silent(self, seconds: float = 0.15) -> bool:
        """Whether the peer says nothing."""
        try:
            async with asyncio.timeout(seconds):
                await self._reader.readexactly(1)
        except TimeoutError:
            return True
        return False


class ScriptedBroker(unittest.IsolatedAsyncioTestCase):
    """Listens, and hands every connection to the test as a script."""

    async def asyncSetUp(self) -> None:
        asyncio.get_running_loop().set_debug(False)  # its warnings are of time
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.ca_file, self.key_file = make_certificate(pathlib.Path(folder.name))
        self.context = context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols([ALPN])
        context.load_cert_chain(self.ca_file, self.key_file)
        self.scripts: asyncio.Queue[Script] = asyncio.Queue()
        server = await asyncio.start_server(
            lambda reader, writer: self.scripts.put_nowait(Script(reader, writer)),
            "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        self.addCleanup(server.close)

    async def assert_error(self, script: Script, code: Code) -> None:
        """The peer's next word is this ERROR, then it closes [L4]."""
        _, error = await script.until(wire.Error)
        self.assertEqual(Code(error.code), code)  # type: ignore[attr-defined]
        with self.assertRaises(asyncio.IncompleteReadError):
            await script.next()


class SessionTests(ScriptedBroker):
    """Rules that bind peers."""

    async def client(self, first: wire.Frame = WELCOME) -> tuple[Client, Script]:
        """A client and its script."""
        dialing = asyncio.create_task(Client.connect(
            "127.0.0.1", self.port, ca_file=self.ca_file, key="k"))
        script = await self.scripts.get()
        await script.until(wire.Hello)
        script.say(first)
        client = await dialing
        self.addAsyncCleanup(client.close)
        return client, script

    async def supplier(self, model: object, slots: int = 2) -> tuple[Supplier, Script]:
        """A supplier with one offer, and its script."""
        dialing = asyncio.create_task(Supplier.connect(
            "127.0.0.1", self.port, ca_file=self.ca_file, token="t", body_credit=8_192))
        script = await self.scripts.get()
        await script.until(wire.Hello)
        script.say(WELCOME)
        supplier = await dialing
        self.addAsyncCleanup(supplier.close)
        supplier.offer(Offer("m"), model, slots)  # type: ignore[arg-type]
        await script.until(wire.Grant)
        return supplier, script

    async def test_an_error_instead_of_welcome_is_typed(self) -> None:
        for code in (Code.UNAUTHENTICATED, Code.TOO_MANY_CONNECTIONS):
            with self.assertRaises(ConnectionLost) as caught:
                await self.client(wire.Error(code))
            self.assertEqual((caught.exception.code, caught.exception.retry), (code, code.retry))

    async def test_a_certificate_is_shown_and_no_secret_is_sent(self) -> None:
        """[H11]: of both roles; the handshake ends without a certificate."""
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(self.ca_file)
        mine = Certificate(self.ca_file, self.key_file)
        place = ("127.0.0.1", self.port)
        for number, dial in enumerate((
                lambda: Client.connect(*place, ca_file=self.ca_file, key=mine),
                lambda: Supplier.connect(*place, ca_file=self.ca_file, token=mine)), 1):
            dialing = asyncio.create_task(dial())
            script = await self.scripts.get()
            _, hello = await script.until(wire.Hello)
            assert isinstance(hello, wire.Hello)
            self.assertEqual((hello.role, hello.credential_kind, hello.credential),
                             (number, 3, b""))
            script.say(WELCOME)
            peer = await dialing
            self.addAsyncCleanup(peer.close)
        with self.assertRaises(ConnectionLost):
            await Client.connect(*place, ca_file=self.ca_file, key="k")

    async def test_a_client_refuses_what_its_table_refuses(self) -> None:
        wrong = [
            (wire.pack(wire.Tokens(b"x"), 1), Code.UNEXPECTED_FRAME),  # before QUEUED
            (wire.pack(wire.End(Code.COMPLETED), 2), Code.UNEXPECTED_FRAME),  # idle
            (wire.pack(QUEUED, 1) * 2, Code.UNEXPECTED_FRAME),
            (wire.pack(QUEUED, 1) + wire.pack(wire.Tokens(b"x" * 8_181), 1), Code.CREDIT_EXCEEDED),
            (wire.pack(wire.Cancel(), 1), Code.UNEXPECTED_FRAME),  # not a broker's to a client
            (wire.pack(QUEUED, 5), Code.STREAM_OUT_OF_RANGE),
            (wire.pack(wire.Ping(1), 1), Code.UNEXPECTED_FRAME),
            (wire.pack(WELCOME), Code.UNEXPECTED_FRAME),
            (wire.Header(0, 0x30, 0, 0, 0).pack(), Code.UNKNOWN_KIND),
            (wire.Header(MAX_PAYLOAD_BYTES + 1, 0x25, 0, 0, 1).pack(), Code.FRAME_TOO_LARGE),
            (wire.Header(7, Kind.PING, 0, 0, 0).pack() + bytes(7), Code.MALFORMED_PAYLOAD),
            (wire.pack(wire.Ping(1)) * 3_000, Code.FLOOD),
        ]
        for data, code in wrong:
            with self.subTest(code=code):
                client, script = await self.client()
                task = await client.submit("m", "x", window_bytes=8_192)
                await script.until(wire.Submit)
                script.raw(data)
                await self.assert_error(script, code)
                with self.assertRaises(ConnectionLost) as caught:
                    await task.text()
                self.assertEqual(caught.exception.code, code)

    async def test_unknown_kinds_and_late_credit_are_skipped(self) -> None:
        client, script = await self.client()
        task = await client.submit("m", "x")
        script.raw(wire.Header(3, 0x30, Flag.IGNORABLE, 9, 77).pack() + b"abc")
        script.say(wire.Credit(1 << 20), 3)
        script.say(QUEUED, 1)
        script.say(wire.Tokens(b"ok"), 1, flags=0x70, tokens=1)
        script.say(wire.End(Code.COMPLETED, output_tokens=1), 1)
        self.assertEqual(await task.text(), "ok")

    async def test_a_client_spends_its_free_part_then_waits_for_credit(self) -> None:
        client, script = await self.client()
        await client.submit("m", b"b" * 40_000)
        header, submit = await script.until(wire.Submit)
        received = len(submit.body)  # type: ignore[attr-defined]
        while received < 16_384:
            header, body = await script.until(wire.Body)
            self.assertGreaterEqual(header.payload_bytes, 1_024)  # [U5]
            received += header.payload_bytes
        self.assertEqual(received, 16_384)
        self.assertTrue(await script.silent())  # [U4]
        script.say(wire.Credit(17_000), 1)
        self.assertTrue(await script.silent())  # 616 bytes would be too short a BODY
        script.say(wire.Credit(17_500), 1)
        header, _ = await script.until(wire.Body)
        self.assertEqual(header.payload_bytes, 17_500 - 16_384)

    async def test_a_client_stops_its_body_at_end(self) -> None:
        client, script = await self.client()
        task = await client.submit("m", b"b" * 40_000)
        await script.until(wire.Body)
        script.say(wire.End(Code.MODEL_UNKNOWN, retry_after_ms=9), 1)
        with self.assertRaises(TaskFailed) as caught:
            await task.text()
        self.assertEqual(caught.exception.result.retry_after_ms, 9)
        script.say(wire.Credit(40_000), 1)
        self.assertTrue(await script.silent())  # [U8]

    async def test_a_client_raises_its_limit_by_halves(self) -> None:
        client, script = await self.client()
        task = await client.submit("m", "x", window_bytes=8_192)
        await script.until(wire.Submit)
        script.say(QUEUED, 1)
        reading = asyncio.create_task(task.text())
        for _ in range(4):
            script.say(wire.Tokens(b"x" * 1_012), 1, tokens=1)
        _, credit = await script.until(wire.Credit)
        self.assertEqual(credit, wire.Credit(4 * 1_024 + 8_192))  # [C11]
        self.assertTrue(await script.silent())
        reading.cancel()

    async def test_a_client_drops_an_event_of_impossible_length(self) -> None:
        client, script = await self.client()
        task = await client.submit("m", {"messages": []})
        script.say(QUEUED, 1)
        script.say(wire.Tokens(b"\xff\xff\xff\xff"), 1, tokens=1)

        async def events() -> list[bytes]:
            return [event async for event in task.events()]

        reading = asyncio.create_task(events())
        await script.until(wire.Cancel)  # [P18]
        script.say(wire.End(Code.CANCELLED), 1)
        with self.assertRaises(ValueError):
            await reading

    async def test_a_supplier_keeps_to_its_credit_and_splits(self) -> None:
        async def model(_: Assignment) -> AsyncGenerator[Piece, None]:
            yield Piece("x" * 6_000, tokens=2)

        _, script = await self.supplier(model)
        script.say(wire.Assign(7, 1, 1, 0, credit=3_000, deadline_ms=9_000), 1)
        header, _ = await script.until(wire.Tokens)
        self.assertEqual((header.payload_bytes, header.tokens), (3_000 - 12, 0))  # [C6] [K3]
        self.assertTrue(await script.silent())
        script.say(wire.Credit(4_500), 1)
        self.assertTrue(await script.silent())  # 1,500 bytes are too few to be worth it
        script.say(wire.Credit(2_000), 1)  # lower: changes nothing [C3]
        script.say(wire.Credit(9_000), 1)
        header, _ = await script.until(wire.Tokens)
        self.assertEqual((header.payload_bytes, header.tokens), (6_000 - 2_988, 2))
        _, end = await script.until(wire.End)
        self.assertEqual(end, wire.End(Code.COMPLETED, output_tokens=2))

    async def test_a_supplier_ends_in_time_whatever_its_model_does(self) -> None:
        async def stubborn(_: Assignment) -> AsyncGenerator[Piece, None]:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.7)
                yield Piece("x")

        _, script = await self.supplier(stubborn)
        script.say(wire.Assign(7, 1, 1, 0, credit=1 << 20, deadline_ms=9_000), 1)
        await script.until(wire.Tokens)
        script.say(wire.Cancel(Code.CANCELLED), 1)
        async with asyncio.timeout(2):
            await script.until(wire.End)  # [E7]
        self.assertTrue(await script.silent(1))  # [E10]

    async def test_a_supplier_ends_itself_at_the_deadline(self) -> None:
        async def slow(_: Assignment) -> AsyncGenerator[Piece, None]:
            await asyncio.sleep(60)
            yield Piece("x")

        _, script = await self.supplier(slow)
        script.say(wire.Assign(7, 1, 1, 0, credit=1 << 20, deadline_ms=100), 1)
        _, end = await script.until(wire.End)
        self.assertEqual(end.code, Code.DEADLINE_EXCEEDED)  # type: ignore[attr-defined]

    async def test_a_supplier_declines_what_crosses_its_withdraw(self) -> None:
        async def model(_: Assignment) -> AsyncGenerator[Piece, None]:
            yield Piece("x")

        supplier, script = await self.supplier(model)
        supplier.withdraw(1)
        script.say(wire.Assign(7, 1, 1, 0, credit=1 << 20, deadline_ms=9_000), 1)
        _, end = await script.until(wire.End)
        self.assertEqual(end.code, Code.DECLINED)  # type: ignore[attr-defined]
        for late in (wire.Credit(1), wire.Cancel(), wire.Body(b"x" * 2_000)):
            script.say(late, 1)
        script.say(wire.Ping(5))
        _, pong = await script.next()
        self.assertEqual(pong, wire.Pong(5))  # [E11]

    async def test_a_supplier_refuses_what_its_table_refuses(self) -> None:
        async def slow(task: Assignment) -> AsyncGenerator[Piece, None]:
            await asyncio.sleep(60)
            yield Piece("x")

        assign = wire.pack(wire.Assign(7, 1, 1, 20_000, b"b" * 1_000, credit=9_000,
                                       deadline_ms=9_000), 1)
        wrong = [
            (assign * 2, Code.STREAM_IN_USE),
            (assign + wire.pack(wire.Body(b"b" * 8_000), 1), Code.CREDIT_EXCEEDED),
            (wire.pack(wire.Assign(7, 1, 1, 2, b"b", credit=1, deadline_ms=9_000), 1)
             + wire.pack(wire.Body(b"bb"), 1), Code.PROTOCOL_VIOLATION),
            (wire.pack(wire.Credit(1)), Code.STREAM_OUT_OF_RANGE),
            (wire.pack(QUEUED, 1), Code.UNEXPECTED_FRAME),
        ]
        for data, code in wrong:
            with self.subTest(code=code):
                supplier, script = await self.supplier(slow)
                script.raw(data)
                await self.assert_error(script, code)
                self.assertEqual((await supplier.wait()).code, code)

    async def test_more_tokens_than_a_frame_can_count_travel_ahead(self) -> None:
        async def model(_: Assignment) -> AsyncGenerator[Piece, None]:
            yield Piece("head", tokens=0)
            yield Piece("x", tokens=70_000)

        _, script = await self.supplier(model)
        script.say(wire.Assign(7, 1, 1, 0, credit=1 << 20, deadline_ms=9_000), 1)
        seen = []
        for _ in range(3):
            header, _ = await script.until(wire.Tokens)
            seen.append((header.payload_bytes, header.tokens))
        self.assertEqual(seen, [(4, 0), (0, 65_535), (1, 4_465)])  # [P22] [K4]


if __name__ == "__main__":
    unittest.main()
