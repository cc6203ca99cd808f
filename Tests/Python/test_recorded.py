"""Version N talks to version N − 1 [V1]: what was recorded, replayed to the programs of today.

A later version changes none of the recordings; it must pass these tests with those of the version
before it. For now N and N − 1 are both 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import subprocess
import time
import unittest
from collections.abc import AsyncGenerator
from typing import Any, cast

import transcripts
from support import KEY, OTHER_KEY, TOKENS, Broker, program
from test_session import Script, ScriptedBroker
from transcripts import BROKER, PEER, Exchange, Passed, Transcript, answered, exchanges
from conformance.lab import Lab
from conformance.peer import Peer, Target
from sluice import wire
from sluice.client import Client, Task, TaskFailed
from sluice.codes import FREE_BODY_BYTES, Code, Flag, Kind, Role
from sluice.supplier import (
    Assignment, Declined, Offer, Piece, Supplier, UpstreamRefused, UpstreamUnavailable,
)

_SECONDS = 20
# What a broker says when it sees fit, not at a given place of the conversation.
_ANYTIME = (Kind.CREDIT, Kind.PING)


class FixtureTests(unittest.TestCase):
    """The recordings themselves."""

    def test_they_show_every_kind_a_peer_and_a_broker_send(self) -> None:
        seen = {(each.sender, kind) for transcript in transcripts.transcripts()
                for each in transcript.frames for kind in [Kind(each.header.kind)]}
        for kind in (Kind.HELLO, Kind.OFFER, Kind.GRANT, Kind.WITHDRAW, Kind.SUBMIT, Kind.BODY,
                     Kind.STARTED, Kind.TOKENS, Kind.END, Kind.CANCEL, Kind.CREDIT, Kind.PING,
                     Kind.GO_AWAY):
            self.assertIn((PEER, kind), seen)
        for kind in (Kind.WELCOME, Kind.QUEUED, Kind.ASSIGN, Kind.BODY, Kind.TOKENS, Kind.END,
                     Kind.CANCEL, Kind.CREDIT, Kind.PONG):
            self.assertIn((BROKER, kind), seen)

    def test_each_frame_is_written_today_as_it_was_then(self) -> None:
        for transcript in transcripts.transcripts():
            for each in transcript.frames:
                header = each.header
                again = wire.pack(each.frame, header.stream, header.flags, header.tokens)
                self.assertEqual(again, each.data)

    def test_they_hold_no_credential_but_those_of_the_tests(self) -> None:
        for transcript in transcripts.transcripts():
            for each in transcript.frames:
                if isinstance(each.frame, wire.Hello):
                    self.assertIn(each.frame.credential.decode(), (KEY, OTHER_KEY, *TOKENS))


# MARK: Recorded peers, today's broker


class Replay:
    """Sends what the recorded peers sent, byte for byte, and expects what their broker said.

    Only what a broker is free to choose may differ: ids, slots, the cut of bodies into frames,
    milliseconds that are left, limits by their moment, and the fee in a cost.
    """

    def __init__(self, test: unittest.TestCase, transcript: Transcript, lab: Lab) -> None:
        self._test = test
        self._transcript = transcript
        self._lab = lab
        self._peers: dict[str, Peer] = {}
        self._inbox: dict[tuple[str, int], list[tuple[wire.Header, wire.Frame]]] = {}
        self._limits: dict[tuple[str, int], int] = {}
        self._sent: dict[tuple[str, int], int] = {}
        self._bodies: dict[tuple[str, int], tuple[bytes, bytes]] = {}  # recorded, come
        self._slots: dict[tuple[str, int], int] = {}  # a recorded slot and the one it is now
        self._ids: dict[str, str] = {}
        self._cancelled: set[tuple[str, int]] = set()

    def run(self) -> None:
        """Plays the whole transcript."""
        for each in self._transcript.frames:
            try:
                (self._send if each.sender == PEER else self._expect)(each)
            except Exception as error:
                number = self._transcript.frames.index(each)
                error.add_note(f"{self._transcript.name}, frame {number}: {each.connection}, "
                               f"{type(each.frame).__name__} on {each.header.stream}")
                raise

    # MARK: Peers

    def _send(self, each: Passed) -> None:
        frame, stream = each.frame, each.header.stream
        if isinstance(frame, wire.Hello):
            self._peers[each.connection] = self._lab.connect()
        role = self._transcript.peers[each.connection]["role"]
        key = (each.connection, stream)
        if isinstance(frame, wire.Submit):
            self._settle(frame.model)
            self._sent[key], self._limits[key] = len(frame.body), 0
            self._cancelled.discard(key)
        if isinstance(frame, wire.Cancel):
            self._cancelled.add(key)
        if isinstance(frame, (wire.Body, wire.Tokens)):
            self._await_credit(each, frame)
        if isinstance(frame, wire.End):
            self._peers[each.connection].taken.discard(self._slots[key])
        data = each.data
        if role == "supplier" and stream:
            data = each.header._replace(stream=self._slots[key]).pack() + data[wire.HEADER_BYTES:]
        self._peers[each.connection].send(data)

    def _settle(self, model: str) -> None:
        """Offers and tasks come on different connections: the offer must be known first."""
        offered = any(isinstance(each.frame, wire.Offer) and each.frame.model == model
                      for each in self._transcript.frames)
        if offered:
            self._lab.settle(model)

    def _await_credit(self, each: Passed, frame: wire.Body | wire.Tokens) -> None:
        """A recorded sender had credit; its replay waits for its own."""
        key = (each.connection, each.header.stream)
        head = wire.HEADER_BYTES if isinstance(frame, wire.Tokens) else 0
        self._sent[key] += head + len(frame.payload())
        # The free part of a body needs none [U1].
        needed = self._sent[key] if head or self._sent[key] > FREE_BODY_BYTES else 0
        self._read_until(each.connection, lambda: self._limits.get(key, 0) >= needed)

    # MARK: The broker

    def _read_until(self, connection: str, holds: Any) -> None:
        limit = time.monotonic() + _SECONDS
        while not holds():
            seen = self._peers[connection].next(0.1)
            if seen is not None:
                self._sort(connection, *seen)
            if time.monotonic() > limit:
                raise AssertionError("what the recorded broker did did not happen")

    def _sort(self, connection: str, header: wire.Header, frame: wire.Frame) -> None:
        key = (connection, header.stream)
        if isinstance(frame, wire.Credit):
            slot = next((recorded for (name, recorded), now in self._slots.items()
                         if name == connection and now == header.stream), header.stream)
            key = (connection, slot)
            self._limits[key] = max(self._limits.get(key, 0), frame.limit)
        elif isinstance(frame, wire.Error):
            raise AssertionError(f"{connection} was told ERROR {Code(frame.code).label}")
        elif header.kind not in _ANYTIME:
            self._inbox.setdefault(key, []).append((header, frame))

    def _next(self, connection: str, stream: int) -> tuple[wire.Header, wire.Frame]:
        key = (connection, stream)
        self._read_until(connection, lambda: self._inbox.get(key))
        return self._inbox[key].pop(0)

    def _expect(self, each: Passed) -> None:
        """Takes what corresponds to a frame of the recorded broker, and compares."""
        frame, stream = each.frame, each.header.stream
        if each.header.kind in _ANYTIME:
            return
        if isinstance(frame, wire.Assign):
            self._expect_assign(each, frame)
            return
        key = (each.connection, stream)
        now = self._slots.get(key, stream)
        if isinstance(frame, wire.Body):
            recorded, come = self._bodies[key]
            self._bodies[key] = (recorded + frame.body, come)
            self._take_body(each.connection, key, now)
            return
        if isinstance(frame, wire.Tokens) and key in self._cancelled:
            return  # it may have been dropped [E3]
        header, found = self._next(each.connection, now)
        while isinstance(found, wire.Tokens) and key in self._cancelled:
            header, found = self._next(each.connection, now)
        self._compare(each, frame, header, found, key in self._cancelled)

    def _take_body(self, connection: str, key: tuple[str, int], now: int) -> None:
        while len(self._bodies[key][1]) < len(self._bodies[key][0]):
            _, found = self._next(connection, now)
            recorded, come = self._bodies[key]
            self._bodies[key] = (recorded, come + cast(wire.Body, found).body)
        recorded, come = self._bodies[key]
        self._test.assertTrue(come.startswith(recorded))  # [U12]

    def _expect_assign(self, each: Passed, frame: wire.Assign) -> None:
        limit = time.monotonic() + _SECONDS
        while True:
            found = [(key, position) for key, frames in self._inbox.items()
                     if key[0] == each.connection
                     for position, (_, come) in enumerate(frames)
                     if isinstance(come, wire.Assign)]
            if found:
                break
            seen = self._peers[each.connection].next(0.1)
            if seen is not None:
                self._sort(each.connection, *seen)
            self._test.assertLess(time.monotonic(), limit, "no ASSIGN came")
        (key, position), *_ = found
        header, come = self._inbox[key].pop(position)
        recorded = (each.connection, each.header.stream)
        self._slots[recorded] = header.stream
        self._sent[recorded], self._limits[recorded] = 0, cast(wire.Assign, come).credit
        self._cancelled.discard(recorded)
        self._bodies[recorded] = (frame.body, cast(wire.Assign, come).body)
        self._compare(each, frame, header, come, False)

    def _compare(self, each: Passed, frame: wire.Frame, header: wire.Header, found: wire.Frame,
                 cancelled: bool) -> None:
        test = self._test
        test.assertEqual(header.kind, each.header.kind)
        test.assertEqual((header.flags, header.tokens), (each.header.flags, each.header.tokens))
        if isinstance(frame, wire.Welcome):
            test.assertEqual(cast(wire.Welcome, found).version, frame.version)  # [H4]
            return
        if isinstance(frame, (wire.Queued, wire.Assign)):
            came = cast(wire.Queued, found).task_id
            test.assertEqual(self._ids.setdefault(frame.task_id, came), came)  # [Q5]
        test.assertEqual(_comparable(found, cancelled), _comparable(frame, cancelled))


def _comparable(frame: wire.Frame, cancelled: bool) -> dict[str, Any]:
    """The fields of a broker's frame that do not depend on the moment or the deployment."""
    fields = dataclasses.asdict(frame)
    for name in ("instance", "counter", "deadline_ms", "retry_after_ms"):
        fields.pop(name, None)
    if isinstance(frame, wire.Assign):
        fields.pop("body")
    if isinstance(frame, wire.End):
        fields["cost"] = frame.cost > 0  # the fee is the operator's
        if cancelled:
            return {"code": frame.code}
    return fields


class TodaysBrokerTests(unittest.TestCase):
    """Clients and suppliers of version 1, as recorded, through the broker of today."""

    def replay(self, transcript: Transcript) -> None:
        """Plays the peers to a broker of its own."""
        broker = Broker.start()
        lab = Lab(Target("127.0.0.1", broker.port, broker.ca_file, OTHER_KEY, tuple(TOKENS[:1])))
        try:
            Replay(self, transcript, lab).run()
        finally:
            lab.close()
            broker.stop()

    def test_recorded_peers_get_what_they_got(self) -> None:
        for transcript in transcripts.transcripts():
            with self.subTest(transcript=transcript.name):
                self.replay(transcript)

    def test_another_answer_than_the_recorded_one_is_noticed(self) -> None:
        transcript = next(each for each in transcripts.transcripts()
                          if each.name == "version-1-python")
        place = next(index for index, each in enumerate(transcript.frames)
                     if isinstance(each.frame, wire.Tokens) and each.sender == BROKER)
        right = transcript.frames[place]
        wrong = dataclasses.replace(right, data=right.data[:-1] + b"?")
        transcript.frames[place] = wrong
        with self.assertRaises(AssertionError):
            self.replay(transcript)


# MARK: The recorded broker, today's peers


class Stage:
    """Plays the broker of one recorded connection to a peer of today."""

    def __init__(self, script: Script, frames: list[Passed], role: Role) -> None:
        self._script = script
        self._frames = frames
        self._role = role
        self._slots: dict[int, int] = {}
        self.heard: list[Passed] = []
        self._waiting: list[tuple[wire.Header, wire.Frame]] = []
        self._bodies: dict[int, int] = {}
        self._body_credit = 0
        self._limits: dict[int, int] = {}
        self._sent: dict[int, int] = {}

    async def play(self) -> None:
        """Says each recorded frame when the peer has said what came before it."""
        for each in self._frames:
            if each.sender == BROKER:
                stream = self._slots.get(each.header.stream, each.header.stream)
                header = each.header._replace(stream=stream)
                await self._await_credit(stream, each.frame)
                self._script.raw(header.pack() + each.data[wire.HEADER_BYTES:])
            elif each.header.kind in (Kind.SUBMIT, Kind.BODY, Kind.HELLO, Kind.CANCEL, Kind.OFFER,
                                      Kind.END, Kind.PING):
                try:
                    await self._until(each)
                except Exception as error:
                    error.add_note(f"waiting for {type(each.frame).__name__} on "
                                   f"{each.header.stream}, frame {self._frames.index(each)}")
                    raise

    async def _await_credit(self, stream: int, frame: wire.Frame) -> None:
        """A recorded broker had credit for its data; so must its replay."""
        if isinstance(frame, wire.Assign):
            self._limits[stream], self._sent[stream] = self._body_credit, len(frame.body)
        elif isinstance(frame, wire.Body):
            self._sent[stream] += len(frame.body)
        elif isinstance(frame, wire.Tokens):
            self._sent[stream] += wire.HEADER_BYTES + len(frame.content)
        else:
            return
        while self._sent[stream] > self._limits[stream]:
            await self._hear()

    async def _until(self, each: Passed) -> None:
        """Reads on until the peer has sent this kind on this stream, or as much of a body."""
        stream = self._slots.get(each.header.stream, each.header.stream)
        if isinstance(each.frame, wire.Body):
            self._bodies[stream] = self._bodies.get(stream, 0) + len(each.frame.body)
            while self._heard_body(stream) < self._bodies[stream]:
                await self._hear()
            return
        while True:
            for position, (header, frame) in enumerate(self._waiting):
                if header.kind == each.header.kind and (
                        header.stream == stream or isinstance(frame, wire.Submit)):
                    del self._waiting[position]
                    if isinstance(frame, wire.Submit):
                        self._slots[each.header.stream] = header.stream
                        self._bodies[header.stream] = len(cast(wire.Submit, each.frame).body)
                    return
            await self._hear()

    def _heard_body(self, stream: int) -> int:
        return sum(len(task.body) for task in exchanges(self.heard)[-1:] if task.stream == stream)

    async def _hear(self) -> None:
        header, frame = await self._script.next()
        assert frame is not None
        if isinstance(frame, wire.Hello):
            self._body_credit = frame.body_credit
        elif isinstance(frame, wire.Submit):
            self._limits[header.stream], self._sent[header.stream] = frame.credit, 0
        elif isinstance(frame, wire.Credit):
            self._limits[header.stream] = max(self._limits[header.stream], frame.limit)
        self._waiting.append((header, frame))
        self.heard.append(Passed("now", PEER, wire.pack(frame, header.stream, header.flags,
                                                       header.tokens)))


class RecordedBrokerTests(ScriptedBroker):
    """The broker of version 1, as recorded, to the client, supplier and programs of today."""

    def assert_same(self, now: list[Exchange], then: list[Exchange], tolerant: bool = False
                    ) -> None:
        """The same tasks were asked; where ``tolerant`` the client may cut its body otherwise."""
        self.assertEqual(len(now), len(then))
        for mine, recorded in zip(now, then):
            self.assertEqual(mine.body, recorded.body)
            if not tolerant:
                self.assertEqual(mine.opening, recorded.opening)

    async def conversation(self, frames: list[Passed], role: Role, peer: Any) -> list[Passed]:
        """Plays a connection to a peer that is dialing; says what the peer sent."""
        running = asyncio.ensure_future(peer)
        async with asyncio.timeout(_SECONDS):
            script = await self.scripts.get()
            stage = Stage(script, frames, role)
            await stage.play()
            await running
        return stage.heard

    async def test_the_python_client_asks_and_reads_the_same(self) -> None:
        for transcript in transcripts.transcripts():
            for name, peer in transcript.peers.items():
                if peer["role"] != "client":
                    continue
                with self.subTest(transcript=transcript.name, connection=name):
                    frames = transcript.of(name)
                    recorded = exchanges(frames)
                    heard = await self.conversation(
                        frames, Role.CLIENT, self._ask(frames, recorded))
                    # The recorded client was this one: it must still say the same bytes.
                    self.assert_same(exchanges(heard), recorded,
                                     tolerant=peer["program"] != "Tools/python")

    async def _ask(self, frames: list[Passed], recorded: list[Exchange]) -> None:
        client = await Client.connect("127.0.0.1", self.port, ca_file=self.ca_file, key=KEY)
        for task in recorded:
            await self._ask_one(client, task)
        if any(isinstance(each.frame, wire.Ping) for each in frames):
            await client.session.ping()
        await client.close()

    async def _ask_one(self, client: Client, recorded: Exchange) -> None:
        fields = {each.name: getattr(recorded.opening, each.name)
                  for each in dataclasses.fields(recorded.opening)}
        for name in ("model", "body", "body_bytes"):
            del fields[name]
        task = await client.submit(cast(wire.Submit, recorded.opening).model, recorded.body,
                                   window_bytes=max(8_192, fields.pop("credit")), **fields)
        pieces, cancelled = [], recorded.cancelled_after
        with contextlib.suppress(TaskFailed):
            async for piece in task:
                pieces.append(piece)
                if cancelled is not None and len(pieces) == cancelled:
                    task.cancel()
        self.assertEqual([(piece.content, piece.tokens, piece.reasoning, piece.error)
                          for piece in pieces],
                         [(content, header.tokens, bool(header.flags & Flag.REASONING),
                           bool(header.flags & Flag.ERROR))
                          for header, content in recorded.pieces])
        await self._assert_result(task, recorded)

    async def _assert_result(self, task: Task, recorded: Exchange) -> None:
        end, result = recorded.end, await task.finished()
        assert end is not None
        self.assertEqual(result.task_id, recorded.accepted.task_id if recorded.accepted else "")
        self.assertEqual(
            (result.code, result.finish_reason, result.input_tokens, result.cached_tokens,
             result.output_tokens, result.reasoning_tokens, result.cost_micro_usd),
            (Code(end.code), end.finish_reason, end.input_tokens, end.cached_tokens,
             end.output_tokens, end.reasoning_tokens, end.cost))

    async def test_the_python_supplier_answers_the_same(self) -> None:
        for transcript in transcripts.transcripts():
            (name,) = [name for name, peer in transcript.peers.items()
                       if peer["role"] == "supplier"]
            with self.subTest(transcript=transcript.name):
                frames = transcript.of(name)
                recorded = exchanges(frames)
                heard = await self.conversation(frames, Role.SUPPLIER,
                                                self._serve(frames, recorded))
                self._assert_answers(frames, heard, recorded)

    def _assert_answers(self, frames: list[Passed], heard: list[Passed],
                        recorded: list[Exchange]) -> None:
        """The peer of today said to the recorded ASSIGNs what the recorded peer had said."""
        assigns = [each for each in frames if isinstance(each.frame, wire.Assign)]
        for now, then in zip(answered(assigns, heard), recorded, strict=True):
            assert now.end is not None and then.end is not None
            self.assertEqual(now.end.code, then.end.code)
            if then.cancelled_after is not None:
                continue  # how far it came before CANCEL is a matter of moments
            self.assertEqual(now.answers, then.answers)
            self.assertEqual(now.started, then.started)
            self.assertEqual(now.end, then.end)

    async def _serve(self, frames: list[Passed], recorded: list[Exchange]) -> None:
        left = list(recorded)

        async def answer(task: Assignment) -> AsyncGenerator[Piece, None]:
            self.assertEqual(task.request.task_id, left[0].opening.task_id)  # type: ignore
            then = left.pop(0)
            self.assertEqual(await task.body(), then.body)
            async for piece in _again(task, then):
                yield piece

        hello = cast(wire.Hello, frames[0].frame)
        supplier = await Supplier.connect("127.0.0.1", self.port, ca_file=self.ca_file,
                                          token=TOKENS[0], body_credit=hello.body_credit)
        for each in frames:
            if isinstance(each.frame, wire.Offer):
                fields = {one.name: getattr(each.frame, one.name)
                          for one in dataclasses.fields(each.frame) if one.name != "offer"}
                supplier.offer(Offer(**fields), answer, slots=4)
        if any(isinstance(each.frame, wire.Ping) and each.sender == PEER for each in frames):
            await supplier.session.ping()
        while left:
            await asyncio.sleep(0.01)
        await supplier.drain(2_000)


async def _again(task: Assignment, then: Exchange) -> AsyncGenerator[Piece, None]:
    """The recorded answer, piece by piece, and its end."""
    if then.started is not None:
        task.started(then.started.input_tokens, then.started.cached_tokens)
    for header, content in then.pieces:
        if not header.flags & Flag.ERROR:
            yield Piece(content, tokens=header.tokens,
                        reasoning=bool(header.flags & Flag.REASONING))
    if then.cancelled_after is not None:
        await asyncio.sleep(_SECONDS)
    assert then.end is not None
    task.finish_reason = then.end.finish_reason
    task.input_tokens, task.cached_tokens = then.end.input_tokens, then.end.cached_tokens
    if then.end.code == Code.UPSTREAM_REFUSED:
        raise UpstreamRefused(then.answer(Flag.ERROR)[0])
    if then.end.code == Code.DECLINED:
        raise Declined
    if then.end.code != Code.COMPLETED:
        raise UpstreamUnavailable


class RecordedBrokerToProgramsTests(RecordedBrokerTests):
    """The same for `sluice ask` and `sluice-worker`, in the recording that was made with them."""

    test_the_python_client_asks_and_reads_the_same = None  # type: ignore[assignment]
    test_the_python_supplier_answers_the_same = None  # type: ignore[assignment]

    async def test_sluice_ask_asks_and_prints_the_same(self) -> None:
        transcript = next(each for each in transcripts.transcripts()
                          if each.name == "version-1-programs")
        for name, peer in transcript.peers.items():
            if peer["role"] == "client":
                with self.subTest(connection=name):
                    recorded = exchanges(transcript.of(name))
                    output: list[bytes] = []
                    heard = await self.conversation(
                        transcript.of(name), Role.CLIENT, self._run_ask(peer, recorded, output))
                    self.assert_same(exchanges(heard), recorded, tolerant=True)
                    self.assertEqual(b"".join(output), recorded[0].answer(0)[0])

    async def _run_ask(self, peer: dict[str, Any], recorded: list[Exchange],
                       output: list[bytes]) -> None:
        process = await asyncio.create_subprocess_exec(
            program("sluice", "SLUICE_COMMAND"), "ask", "--broker", f"127.0.0.1:{self.port}",
            "--ca", self.ca_file, "--key", KEY, *peer["options"], "-", stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(peer["prompt"].encode())
            process.stdin.close()
            if recorded[0].cancelled_after is not None:
                seen = 0
                while seen < len(recorded[0].answer(0)[0]):
                    output.append(await process.stdout.read(4_096))
                    seen += len(output[-1])
                process.send_signal(signal.SIGINT)
            output.append(await process.stdout.read())
            self.assertEqual(await process.wait(), peer["status"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def test_sluice_worker_answers_the_same(self) -> None:
        transcript = next(each for each in transcripts.transcripts()
                          if each.name == "version-1-programs")
        frames = transcript.of("worker")
        heard = await self.conversation(frames, Role.SUPPLIER,
                                        self._run_worker(transcript.peers["worker"]))
        self._assert_answers(frames, heard, exchanges(frames))

    async def _run_worker(self, peer: dict[str, Any]) -> None:
        self.worker = await asyncio.create_subprocess_exec(
            program("sluice-worker", "SLUICE_WORKER"), "--broker", f"127.0.0.1:{self.port}", "--ca",
            self.ca_file, "--token", TOKENS[0], *peer["options"], stderr=subprocess.DEVNULL)
        self.addAsyncCleanup(self._stop_worker)

    async def _stop_worker(self) -> None:
        if self.worker.returncode is None:
            self.worker.kill()
        await self.worker.wait()


if __name__ == "__main__":
    unittest.main()
