"""The Python client and supplier through a running broker, over TLS."""

from __future__ import annotations

import asyncio
import json
import sys
import unittest
from collections.abc import AsyncGenerator
from typing import Any

from support import KEY, ROOT, TOKENS, Broker
from sluice.client import Client, Duplicate, Refused, TaskFailed
from sluice.codes import Code, Retry
from sluice.session import ConnectionLost
from sluice.supplier import (
    Assignment, Offer, Piece, Supplier, UpstreamRefused, UpstreamUnavailable, from_generator, split,
)


async def echo(task: Assignment) -> AsyncGenerator[Piece, None]:
    """The prompt, word by word."""
    words = (await task.text()).split(" ")
    task.started(len(words))
    for word in words:
        yield Piece(word + " ")


async def length(task: Assignment) -> AsyncGenerator[Piece, None]:
    """How long the body was, read as it came."""
    total = 0
    async for chunk in task.chunks():
        total += len(chunk)
    yield Piece(str(total))


class Endless:
    """Answers until it is stopped; remembers how."""

    def __init__(self) -> None:
        self.sent = 0
        self.stopped = asyncio.Event()

    async def __call__(self, task: Assignment) -> AsyncGenerator[Piece, None]:
        try:
            while True:
                yield Piece("x" * 1_000)
                self.sent += 1
        finally:
            self.stopped.set()


class TaskTests(unittest.IsolatedAsyncioTestCase):
    """Each test has its own connections and model names; the broker is shared."""

    broker: Broker
    models = 0

    @classmethod
    def setUpClass(cls) -> None:
        cls.broker = Broker.start()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.broker.stop()

    async def asyncSetUp(self) -> None:
        asyncio.get_running_loop().set_debug(False)  # its warnings are of time

    async def supplier(self, index: int = 0, **options: Any) -> Supplier:
        """A connection of one of the supplier identities."""
        supplier = await Supplier.connect(
            self.broker.host, self.broker.port, ca_file=self.broker.ca_file, token=TOKENS[index],
            **options)
        self.addAsyncCleanup(supplier.close)
        return supplier

    async def client(self) -> Client:
        """A connection of the client."""
        client = await Client.connect(
            self.broker.host, self.broker.port, ca_file=self.broker.ca_file, key=KEY)
        self.addAsyncCleanup(client.close)
        return client

    async def offered(self, model: Any, slots: int = 8, **fields: Any) -> tuple[Supplier, str]:
        """A supplier with one model under a new name, known to the broker."""
        supplier = await self.supplier()
        name = self.new_name()
        supplier.offer(Offer(name, **fields), model, slots)
        await self.settled(supplier)
        return supplier, name

    def new_name(self) -> str:
        """A model name that no other test uses."""
        TaskTests.models += 1
        return f"test/{TaskTests.models}"

    async def settled(self, supplier: Supplier) -> None:
        """Waits until the broker has read all that the supplier sent: PONG answers in order."""
        await supplier.session.ping()
        while supplier.session._pings:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)  # offers reach the dispatcher behind the connection's shard

    async def test_embeddings_and_images_come_as_one_object(self) -> None:
        async def results(task: Assignment) -> AsyncGenerator[Piece, None]:
            """As many results as were asked for, each larger than a frame."""
            task.started(len(json.loads(await task.body())["input"]))
            yield Piece(b'{"data":[', 0)
            for number in range(task.request.max_output_tokens):
                comma = b"," if number else b""
                yield Piece(comma + b'{"embedding":"' + b"A" * 20_000 + b'"}', 1)
            yield Piece(b"]}", 0)

        _, model = await self.offered(results, operations=0x0C, encodings=0x02)
        client = await self.client()
        for operation in (3, 4):
            task = await client.submit(
                model, {"input": ["a", "b", "c"]}, operation=operation, max_output_tokens=3)
            answer = json.loads(await task.body())
            self.assertEqual([len(result["embedding"]) for result in answer["data"]], [20_000] * 3)
            self.assertEqual((task.result.input_tokens, task.result.output_tokens), (3, 3))
        with self.assertRaises(Refused) as refused:
            task = await client.submit(model, {"input": "a"}, operation=3)
            await task.body()
        self.assertEqual(refused.exception.code, Code.INVALID_REQUEST)

    async def test_an_answer_streams_with_its_usage(self) -> None:
        _, model = await self.offered(echo)
        task = await (await self.client()).submit(model, "one two three")
        pieces = [piece async for piece in task]
        self.assertEqual("".join(piece.text for piece in pieces), "one two three ")
        self.assertEqual(sum(piece.tokens for piece in pieces), 3)
        self.assertEqual((task.result.code, task.result.input_tokens, task.result.output_tokens),
                         (Code.COMPLETED, 3, 3))
        self.assertEqual(len(task.result.task_id), 32)

    async def test_many_streams_run_at_once_and_keep_apart(self) -> None:
        _, model = await self.offered(echo, slots=64)
        client = await self.client()
        tasks = [await client.submit(model, f"a{number} b{number}") for number in range(100)]
        answers = await asyncio.gather(*(task.text() for task in tasks))
        self.assertEqual(answers, [f"a{number} b{number} " for number in range(100)])

    async def test_a_reader_that_pauses_holds_its_supplier_within_credit(self) -> None:
        endless = Endless()
        _, model = await self.offered(endless)
        client = await self.client()
        task = await client.submit(model, "go", window_bytes=16_384)
        await task.accepted()
        seen = -1
        while seen != endless.sent:
            seen = endless.sent
            await asyncio.sleep(0.2)
        self.assertLessEqual(endless.sent * 1_012, 16_384)  # [C8]: never above the client's limit
        self.assertGreater(endless.sent * 1_012, 16_384 - 2_048 - 1_012)  # [C6]
        count = 0
        async for _ in task:
            count += 1
            if count == 200:
                task.cancel()
                break
        self.assertEqual((await task.finished()).code, Code.CANCELLED)
        self.assertGreater(endless.sent, seen)

    async def test_cancel_stops_the_supplier_and_frees_the_slot(self) -> None:
        endless = Endless()
        _, model = await self.offered(endless, slots=1)
        client = await self.client()
        task = await client.submit(model, "go")
        async for _ in task:
            task.cancel()
            break
        result = await asyncio.wait_for(task.finished(), 5)
        self.assertEqual(result.code, Code.CANCELLED)
        await asyncio.wait_for(endless.stopped.wait(), 5)
        again = await client.submit(model, "go")
        await anext(aiter(again))
        again.cancel()
        await again.finished()

    async def test_a_body_of_1_mib_goes_under_credit_both_ways(self) -> None:
        _, model = await self.offered(length)
        client = await self.client()
        for size in (0, 1, 16_383, 16_384, 16_385, 17_407, 17_408, 1 << 20):
            task = await client.submit(model, b"p" * size)
            self.assertEqual(await asyncio.wait_for(task.text(), 20), str(size))

    async def test_free_parts_of_many_bodies_wait_for_the_upload_limit(self) -> None:
        _, model = await self.offered(length, slots=64)
        client = await self.client()
        total = client.session.welcome.upload_limit // 16_384 * 3
        tasks = [await client.submit(model, b"p" * 16_384) for _ in range(total)]
        self.assertEqual({await task.text() for task in tasks}, {"16384"})

    async def test_openai_events_cross_as_they_are(self) -> None:
        events = [b'{"a":1}', b'{"b":"' + b"y" * 40_000 + b'"}', b'{"usage":{}}']

        async def model(task: Assignment) -> AsyncGenerator[Piece, None]:
            self.assertEqual(json.loads(await task.body())["messages"], [])
            for event in events:
                yield Piece(len(event).to_bytes(4, "little") + event)

        supplier, name = await self.offered(model, encodings=2)
        task = await (await self.client()).submit(name, {"model": name, "messages": []})
        self.assertEqual([event async for event in task.events()], events)
        refused = await (await self.client()).submit(name, "text")
        with self.assertRaises(Refused) as caught:
            await refused.text()
        self.assertEqual(caught.exception.code, Code.NO_SUPPLIER)  # [D2]

    async def test_refusals_are_typed_and_advise(self) -> None:
        client = await self.client()
        _, model = await self.offered(echo)
        expected: dict[Code, dict[str, Any]] = {
            Code.MODEL_UNKNOWN: dict(model="nobody/has-this"),
            Code.INVALID_REQUEST: dict(deadline_ms=client.session.welcome.max_deadline_ms + 1),
            Code.UNSUPPORTED: dict(hedge_copies=2),
            Code.NO_SUPPLIER: dict(region="nowhere"),
        }
        for code, fields in expected.items():
            with self.subTest(code=code):
                task = await client.submit(fields.pop("model", model), "x", **fields)
                with self.assertRaises(Refused) as caught:
                    await task.text()
                self.assertEqual(caught.exception.code, code)
                self.assertEqual(caught.exception.retry, code.retry)
                self.assertEqual(caught.exception.result.cost_micro_usd, 0)

    async def test_a_repeated_key_names_the_earlier_task(self) -> None:
        client = await self.client()
        _, model = await self.offered(echo)
        first = await client.submit(model, "one two", idempotency_key=b"once")
        self.assertEqual(await first.text(), "one two ")
        again = await (await self.client()).submit(model, "one two", idempotency_key=b"once")
        with self.assertRaises(Duplicate) as caught:
            await again.text()
        self.assertEqual(caught.exception.result.task_id, first.result.task_id)
        self.assertEqual(caught.exception.result.output_tokens, first.result.output_tokens)
        self.assertEqual(caught.exception.retry, Retry.NEVER)

    async def test_the_first_supplier_dies_before_output_and_the_second_answers(self) -> None:
        name, taken = self.new_name(), asyncio.Event()

        async def hang(task: Assignment) -> AsyncGenerator[Piece, None]:
            taken.set()
            await asyncio.sleep(60)
            yield Piece("never")

        first, second = await self.supplier(0), await self.supplier(1)
        first.offer(Offer(name), hang, slots=1)
        await self.settled(first)
        task = await (await self.client()).submit(name, "over again")
        await asyncio.wait_for(taken.wait(), 5)
        second.offer(Offer(name), echo, slots=1)
        await self.settled(second)
        first.session._writer.transport.abort()
        self.assertEqual(await asyncio.wait_for(task.text(), 5), "over again ")

    async def test_a_supplier_lost_after_output_ends_the_task(self) -> None:
        supplier, model = await self.offered(Endless())
        task = await (await self.client()).submit(model, "go")
        with self.assertRaises(TaskFailed) as caught:
            async for _ in task:
                supplier.session._writer.transport.abort()
        self.assertEqual(caught.exception.code, Code.SUPPLIER_LOST)
        self.assertEqual(caught.exception.retry, Retry.NOW)
        self.assertGreater(caught.exception.result.output_tokens, 0)

    async def test_what_a_model_raises_becomes_its_code(self) -> None:
        async def refuse(task: Assignment) -> AsyncGenerator[Piece, None]:
            raise UpstreamRefused(b'{"error":"no"}')
            yield Piece("")

        async def break_off(task: Assignment) -> AsyncGenerator[Piece, None]:
            raise UpstreamUnavailable
            yield Piece("")

        client = await self.client()
        for model, code, errors in ((refuse, Code.UPSTREAM_REFUSED, [b'{"error":"no"}']),
                                    (break_off, Code.SUPPLIER_FAILED, [])):
            _, name = await self.offered(model)
            task, seen = await client.submit(name, "x"), []
            with self.assertRaises(TaskFailed) as caught:
                async for piece in task:
                    seen.append(piece.content)
                    self.assertTrue(piece.error)
            self.assertEqual((caught.exception.code, seen), (code, errors))

    async def test_a_deadline_ends_the_task(self) -> None:
        _, model = await self.offered(Endless())
        task = await (await self.client()).submit(model, "go", deadline_ms=400)
        with self.assertRaises(TaskFailed) as caught:
            async for _ in task:
                pass
        self.assertEqual(caught.exception.code, Code.DEADLINE_EXCEEDED)

    async def test_a_limit_of_output_tokens_ends_with_length(self) -> None:
        _, model = await self.offered(echo)
        task = await (await self.client()).submit(model, "a b c d e", max_output_tokens=2)
        self.assertEqual(await task.text(), "a b ")
        self.assertEqual((task.result.output_tokens, task.result.finish_reason), (2, 1))

    async def test_a_draining_supplier_ends_what_runs_and_gets_nothing_new(self) -> None:
        gate = asyncio.Event()

        async def gated(task: Assignment) -> AsyncGenerator[Piece, None]:
            yield Piece("begun ")
            await gate.wait()
            yield Piece("done")

        supplier, model = await self.offered(gated)
        client = await self.client()
        task = await client.submit(model, "x")
        pieces = aiter(task)
        self.assertEqual((await anext(pieces)).text, "begun ")
        draining = asyncio.create_task(supplier.drain(5_000))
        await self.settled(supplier)
        late = await client.submit(model, "x", deadline_ms=500)
        gate.set()
        self.assertEqual([piece.text async for piece in pieces], ["done"])
        with self.assertRaises(TaskFailed):
            await late.text()
        await asyncio.wait_for(draining, 5)

    async def test_a_withdrawn_offer_runs_on_but_takes_nothing_new(self) -> None:
        gate = asyncio.Event()

        async def gated(task: Assignment) -> AsyncGenerator[Piece, None]:
            yield Piece("begun ")
            await gate.wait()
            yield Piece("done")

        supplier, model = await self.offered(gated)
        client = await self.client()
        pieces = aiter(await client.submit(model, "x"))
        await anext(pieces)
        supplier.withdraw(1)
        await self.settled(supplier)
        late = await client.submit(model, "x", deadline_ms=300)
        with self.assertRaises(TaskFailed):
            await late.text()
        gate.set()
        self.assertEqual([piece.text async for piece in pieces], ["done"])

    async def test_a_draining_broker_refuses_new_tasks_and_ends_the_open_ones(self) -> None:
        shared, TaskTests.broker = TaskTests.broker, Broker.start()
        self.addCleanup(TaskTests.broker.stop)
        self.addCleanup(setattr, TaskTests, "broker", shared)
        gate = asyncio.Event()

        async def gated(task: Assignment) -> AsyncGenerator[Piece, None]:
            yield Piece("begun ")
            await gate.wait()
            yield Piece("done")

        _, model = await self.offered(gated)
        client = await self.client()
        pieces = aiter(await client.submit(model, "x"))
        await anext(pieces)
        self.broker.process.terminate()
        async with asyncio.timeout(5):
            while not client.draining:  # [G1]
                await asyncio.sleep(0.01)
        with self.assertRaises(ConnectionLost) as lost:
            await client.submit(model, "x")
        self.assertEqual(lost.exception.retry, Retry.NOW)
        client.draining = False  # a SUBMIT that crosses GO-AWAY
        with self.assertRaises(Refused) as caught:  # [G2]
            await (await client.submit(model, "x")).text()
        self.assertEqual(caught.exception.code, Code.DRAINING)
        gate.set()
        self.assertEqual([piece.text async for piece in pieces], ["done"])  # [G3]

    async def test_a_plain_generator_is_a_model(self) -> None:
        def shout(task: Assignment, prompt: bytes) -> Any:
            for word in prompt.decode().split():
                yield word.upper()

        _, model = await self.offered(from_generator(shout))
        task = await (await self.client()).submit(model, "say hi")
        self.assertEqual(await task.text(), "SAYHI")

    async def test_the_example_serves_a_generator(self) -> None:
        model, example = self.new_name(), ROOT / "Tools" / "python" / "examples" / "supplier.py"
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(example), f"{self.broker.host}:{self.broker.port}", "--ca",
            self.broker.ca_file, "--token", TOKENS[2], "--model", model)
        try:
            client = await self.client()
            async with asyncio.timeout(10):
                while True:
                    task = await client.submit(model, "say hi")
                    try:
                        self.assertEqual(await task.text(), "SAY HI ")
                        break
                    except Refused as refused:  # until its offer is there
                        self.assertEqual(refused.code, Code.MODEL_UNKNOWN)
                        await asyncio.sleep(0.05)
        finally:
            process.kill()
            await process.wait()

    async def test_text_is_split_at_code_points(self) -> None:
        async def long(task: Assignment) -> AsyncGenerator[Piece, None]:
            yield Piece("€" * 30_000)

        _, model = await self.offered(long)
        task = await (await self.client()).submit(model, "x", window_bytes=8_192)
        pieces = [piece async for piece in task]
        self.assertEqual("".join(piece.text for piece in pieces), "€" * 30_000)
        self.assertEqual([piece.tokens for piece in pieces if piece.tokens], [1])
        self.assertEqual(pieces[-1].tokens, 1)  # [K3]
        self.assertEqual(split("€€".encode(), 5, True), 3)

    async def test_pings_are_answered_and_a_wrong_key_is_told(self) -> None:
        client = await self.client()
        for _ in range(50):
            await client.session.ping()
        async with asyncio.timeout(5):
            while client.session._pings:
                await asyncio.sleep(0.01)
        with self.assertRaises(ConnectionLost) as caught:
            await Client.connect(self.broker.host, self.broker.port, ca_file=self.broker.ca_file,
                                 key="sk-wrong")
        self.assertEqual((caught.exception.code, caught.exception.retry),
                         (Code.UNAUTHENTICATED, Retry.NEVER))


if __name__ == "__main__":
    unittest.main()
