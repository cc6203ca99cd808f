#!/usr/bin/env python3
"""Records conversations of version 1 into Protocol/Vectors/recorded, through a TLS proxy.

    Tests/Python/record.py

Run by hand, once for each version of the protocol: what is recorded is what later versions must
still talk to, so it is never recorded anew for a version that has been released.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable
from typing import Any

from broker_faults import FROM_BROKER, Fault, Link
from faulty import FaultyBroker
from support import KEY, ROOT, TOKENS, Broker
from transcripts import BROKER, PEER, Passed, Transcript
from sluice import wire
from sluice.client import Client, Task, TaskFailed
from sluice.supplier import Assignment, Offer, Piece, Supplier, UpstreamRefused

RELEASE = ROOT / ".build" / "release"
WORDS = "A sluice lets exactly as much water through as the channel below can take."
LONG = " ".join("water" * 150 + str(number) for number in range(26))


class Recorder:
    """A proxy without a fault that keeps every frame. Connections are named in their order."""

    def __init__(self, broker: Broker) -> None:
        self.frames: list[Passed] = []
        self.names: list[str] = []
        self.proxy = FaultyBroker(broker, Fault("recorder", "keeps every frame", self._keep))
        self._links: dict[int, str] = {}

    def name_next(self, name: str) -> None:
        """The next connection to arrive has this name."""
        self.names.append(name)

    def _keep(self, link: Link, way: str, header: wire.Header, payload: bytes) -> list[bytes]:
        if id(link) not in self._links:
            self._links[id(link)] = self.names[len(self._links)]
        data = header.pack() + payload
        sender = BROKER if way == FROM_BROKER else PEER
        self.frames.append(Passed(self._links[id(link)], sender, data))
        return [data]

    def wait_for(self, holds: Callable[[list[Passed]], bool], seconds: float = 10) -> None:
        """Waits until what was kept is so."""
        async def wait() -> None:
            async with asyncio.timeout(seconds):
                while not holds(self.frames):
                    await asyncio.sleep(0.02)

        asyncio.run(wait())

    def count(self, name: str, kind: type[wire.Frame]) -> int:
        """How many frames of a kind passed on a connection."""
        return sum(each.connection == name and each.header.kind == kind.kind
                   for each in self.frames)


# MARK: The programs


def record_programs(broker: Broker) -> Transcript:
    """``sluice ask`` and ``sluice-worker``: an answer, a long prompt, a cancel, a drain."""
    recorder = Recorder(broker)
    address = f"127.0.0.1:{recorder.proxy.port}"
    options = ["--engine", "echo", "--tokens-per-second", "40", "--slots", "4",
               "--input-price", "200000", "--output-price", "600000"]
    recorder.name_next("worker")
    worker = subprocess.Popen(
        [str(RELEASE / "sluice-worker"), "--broker", address, "--ca", broker.ca_file,
         "--token", TOKENS[0], *options], stderr=subprocess.DEVNULL)
    recorder.wait_for(lambda _: recorder.count("worker", wire.Grant) > 0)
    peers: dict[str, dict[str, Any]] = {
        "worker": {"role": "supplier", "program": "sluice-worker", "options": options}}
    asked = [("ask 1", WORDS, None), ("ask 2", LONG, None), ("ask 3", "stop " * 400, 5)]
    for name, prompt, tokens in asked:
        peers[name] = {"role": "client", "program": "sluice ask", "prompt": prompt,
                       "options": ["--model", "echo", "--deadline-ms", "60000"]}
        recorder.name_next(name)
        ask = subprocess.Popen(
            [str(RELEASE / "sluice"), "ask", "--broker", address, "--ca", broker.ca_file,
             "--key", KEY, *peers[name]["options"], "-"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        assert ask.stdin is not None
        ask.stdin.write(prompt)
        ask.stdin.close()
        if tokens is not None:
            recorder.wait_for(lambda _: recorder.count(name, wire.Tokens) >= tokens)
            ask.send_signal(signal.SIGINT)
        if ask.stdout is not None:
            ask.stdout.read()
            ask.stdout.close()
        peers[name]["status"] = ask.wait(30)
    worker.send_signal(signal.SIGTERM)
    worker.wait(30)
    recorder.proxy.stop()
    return Transcript("version-1-programs", "sluice ask and sluice-worker, the programs of "
                      "release 0.1.0, through a broker of the same release", peers,
                      recorder.frames)


# MARK: The Python peers


async def _reason(task: Assignment) -> AsyncGenerator[Piece, None]:
    """Reasoning, then as many words as the prompt has, then a limit."""
    task.started(7, 2)
    task.finish_reason = 1
    yield Piece("I think. ", tokens=3, reasoning=True)
    for number in range(20):
        yield Piece(f"word{number} " * 80, tokens=1)


async def _length(task: Assignment) -> AsyncGenerator[Piece, None]:
    body = await task.body()
    yield Piece(str(len(body)))


async def _refuse(task: Assignment) -> AsyncGenerator[Piece, None]:
    raise UpstreamRefused(b'{"error":"no"}')
    yield Piece("")


async def _hang(task: Assignment) -> AsyncGenerator[Piece, None]:
    yield Piece("begun")
    await asyncio.sleep(60)


async def _finish(task: Task, cancel: bool = False) -> None:
    """Reads the answer to its end, or cancels at its first piece."""
    with contextlib.suppress(TaskFailed):
        async for _ in task:
            if cancel:
                task.cancel()


async def _play_python(recorder: Recorder, broker: Broker) -> None:
    """Each task after the other, so that the order is the same at each replay."""
    recorder.name_next("supplier")
    supplier = await Supplier.connect("127.0.0.1", recorder.proxy.port, ca_file=broker.ca_file,
                                      token=TOKENS[0], body_credit=8_192)
    for name, model in (("reason", _reason), ("length", _length), ("refuse", _refuse),
                        ("hang", _hang)):
        supplier.offer(Offer(f"recorded/{name}", input_price=200_000, output_price=600_000,
                             region="eu", data_policy=1), model, slots=2)
    await supplier.session.ping()
    await asyncio.sleep(0.3)
    recorder.name_next("client")
    client = await Client.connect("127.0.0.1", recorder.proxy.port, ca_file=broker.ca_file,
                                  key=KEY)
    await _finish(await client.submit("recorded/reason", "why?", region="eu", data_policy=1,
                                      trace=(1, 2, 3), priority=9, max_output_tokens=500,
                                      window_bytes=8_192))
    await _finish(await client.submit("recorded/length", b"b" * 20_000))
    await _finish(await client.submit("recorded/refuse", {"messages": []}))
    await _finish(await client.submit("recorded/none", "x"))
    await _finish(await client.submit("recorded/hang", "x", region="us"))
    await _finish(await client.submit("recorded/hang", "x"), cancel=True)
    await asyncio.sleep(0.1)
    await client.session.ping()
    await asyncio.sleep(0.1)
    await client.close()
    await supplier.drain(1_000)


def record_python(broker: Broker) -> Transcript:
    """The Python client and supplier: every field that they can set."""
    recorder = Recorder(broker)
    asyncio.run(_play_python(recorder, broker))
    recorder.proxy.stop()
    peers = {"supplier": {"role": "supplier", "program": "Tools/python"},
             "client": {"role": "client", "program": "Tools/python"}}
    return Transcript("version-1-python", "the client and the supplier of Tools/python through a "
                      "broker of release 0.1.0", peers, recorder.frames)


def main() -> None:
    """Records everything."""
    for record in (record_programs, record_python):
        broker = Broker.start()
        try:
            transcript = record(broker)
        finally:
            broker.stop()
        transcript.save()
        print(f"{transcript.name}: {len(transcript.frames)} frames")


if __name__ == "__main__":
    os.umask(0o022)
    main()
