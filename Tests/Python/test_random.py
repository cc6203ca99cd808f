"""Random peers, mostly well-behaved, for as long as SLUICE_RANDOM_SECONDS says: the broker stays,
every stream gets one END, and a bystander is served throughout. A failure prints its seed."""

from __future__ import annotations

import os
import random
import time
import unittest

from support import KEY, TOKENS, Broker
from conformance.lab import Lab
from conformance.peer import Closed, Peer, Target
from sluice import wire
from sluice.codes import MAX_CREDIT, Code, Kind, Role

STREAMS = 6
STEPS = 120


class Client:
    """A client that submits, cancels and gives credit as chance will have it."""

    def __init__(self, lab: Lab, source: random.Random, models: list[str]) -> None:
        self.peer = lab.client()
        self.source = source
        self.models = models
        self.open: dict[int, list[int]] = {}  # stream → bytes of body that are still to come
        self.queued: set[int] = set()
        self.over = False

    def act(self) -> None:
        """One step."""
        source = self.source
        stream = source.randint(1, STREAMS)
        if stream not in self.open:
            size = source.choice([0, 2, 1_500, 16_384, 40_000])
            sent = source.choice([0, min(size, 1_100), min(size, 12_000)])
            self.open[stream] = [size - sent]
            self.peer.say(wire.Submit(
                source.choice(self.models), size, b"x" * sent, reserve_bytes=source.choice(
                    [0, 4_096, 65_536]), credit=source.choice([0, 3_000, 1 << 20]),
                deadline_ms=source.choice([0, 0, 50, 2_000]),
                max_output_tokens=source.choice([0, 3])), stream)
            return
        left = self.open[stream]
        choice = source.random()
        if choice < 0.45 and left[0] > 0 and stream not in self.queued:
            size = min(left[0], source.choice([1_024, 9_000]))
            left[0] -= size
            self.peer.say(wire.Body(b"y" * size), stream)
        elif choice < 0.7:
            self.peer.say(wire.Credit(source.choice([100, 5_000, 1 << 20, MAX_CREDIT])), stream)
        elif choice < 0.8:
            self.peer.say(wire.Cancel(), stream)

    def read(self, seconds: float) -> None:
        """Takes what has come; each END must be of an open stream."""
        try:
            while (seen := self.peer.next_of_case(seconds)) is not None:
                stream = seen.header.stream
                if isinstance(seen.frame, wire.Error):
                    # A body or credit may cross what the broker decided meanwhile.
                    assert seen.frame.code in (Code.CREDIT_EXCEEDED, Code.UNEXPECTED_FRAME), seen
                    self.over = True
                elif isinstance(seen.frame, wire.Queued):
                    assert stream in self.open and stream not in self.queued, seen
                    self.queued.add(stream)
                elif isinstance(seen.frame, wire.Tokens):
                    assert stream in self.queued, seen
                elif isinstance(seen.frame, wire.End):
                    assert stream in self.open, seen
                    del self.open[stream]
                    self.queued.discard(stream)
        except Closed:
            self.over = True


class Supplier:
    """A supplier that offers, withdraws and answers as chance will have it."""

    def __init__(self, lab: Lab, source: random.Random, models: list[str]) -> None:
        self.peer = lab.supplier(source.randint(0, 1), source.choice([0, 5_000, 1 << 20]))
        self.source = source
        self.models = models
        self.offers: list[int] = []
        self.next_offer = 1
        self.slots: dict[int, int] = {}  # slot → credit left
        self.limits: dict[int, int] = {}  # slot → the limit it was last given
        self.over = False

    def act(self) -> None:
        """One step."""
        source, choice = self.source, self.source.random()
        if choice < 0.15 or not self.offers:
            self.peer.say(wire.Offer(self.next_offer, source.choice(self.models)))
            self.peer.say(wire.Grant(self.next_offer, source.randint(0, 4)))
            self.offers.append(self.next_offer)
            self.next_offer += 1
        elif choice < 0.25:
            self.peer.say(wire.Grant(source.choice([0, *self.offers]), source.randint(0, 5)))
        elif choice < 0.3:
            offer = source.choice(self.offers)
            self.offers.remove(offer)
            self.peer.say(wire.Withdraw(offer))
        elif choice < 0.31:
            self.offers.clear()
            self.peer.say(wire.GoAway(Code.SHUTTING_DOWN, 100))
        elif self.slots:
            slot = source.choice(list(self.slots))
            if choice < 0.75 and self.slots[slot] >= 12:
                size = min(self.slots[slot] - 12, source.choice([0, 3, 5_000]))
                self.slots[slot] -= 12 + size
                self.peer.say(wire.Tokens(b"z" * size), slot, source.choice([0, 0, 1, 2]),
                              source.choice([0, 1, 1, 65_535]))
            elif choice < 0.8:
                self.peer.say(wire.Credit(source.choice([4_000, 1 << 20])), slot)
            else:
                self.end(slot, source.choice([
                    Code.COMPLETED, Code.COMPLETED, Code.DECLINED, Code.UPSTREAM_UNAVAILABLE,
                    Code.UPSTREAM_REFUSED, Code.QUEUE_FULL]))

    def end(self, slot: int, code: Code) -> None:
        """Ends a stream."""
        del self.slots[slot]
        self.peer.taken.discard(slot)
        self.peer.say(wire.End(code, output_tokens=3), slot)

    def read(self, seconds: float) -> None:
        """Takes what has come."""
        limits = self.limits
        try:
            while (seen := self.peer.next_of_case(seconds)) is not None:
                slot = seen.header.stream
                if isinstance(seen.frame, wire.Error):
                    raise AssertionError(f"an honest supplier was told {seen.frame}")
                if isinstance(seen.frame, wire.Assign):
                    self.slots[slot] = limits[slot] = seen.frame.credit
                elif isinstance(seen.frame, wire.Cancel) and slot in self.slots:
                    if self.source.random() < 0.97:  # else it stays quarantined
                        self.end(slot, Code.CANCELLED)
                elif isinstance(seen.frame, wire.Credit) and slot in self.slots:
                    self.slots[slot] += max(0, seen.frame.limit - limits[slot])
                    limits[slot] = max(limits[slot], seen.frame.limit)
        except Closed:
            self.over = True


class RandomTests(unittest.TestCase):
    """Peers by chance."""

    broker: Broker

    @classmethod
    def setUpClass(cls) -> None:
        cls.broker = Broker.start()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.broker.stop()

    def setUp(self) -> None:
        self.target = Target("127.0.0.1", self.broker.port, self.broker.ca_file, KEY,
                             tuple(TOKENS[:2]))
        self.until = time.monotonic() + float(os.environ.get("SLUICE_RANDOM_SECONDS", "8"))
        self.seed = int(os.environ.get("SLUICE_RANDOM_SEED", "1"))

    def assert_broker_alive(self, bystander: Peer, seed: int) -> None:
        """The broker's process runs and serves the bystander."""
        self.assertIsNone(self.broker.process.poll(), f"the broker ended at seed {seed}")
        if seed % 20 == 0:  # more would be a flood
            bystander.alive(seed)

    def test_honest_peers_in_any_order(self) -> None:
        bystander = Lab(self.target).client()
        self.addCleanup(bystander.close)
        while time.monotonic() < self.until:
            self.seed += 1
            with self.subTest(seed=self.seed):
                self.honest(self.seed)
                self.assert_broker_alive(bystander, self.seed)

    def honest(self, seed: int) -> None:
        """Two clients and two suppliers, some of which are lost on the way."""
        source, lab = random.Random(seed), Lab(self.target)
        models = [f"random/{seed % 50}/{number}" for number in range(2)]
        peers: list[Client | Supplier] = [
            kind(lab, source, models) for kind in (Client, Client, Supplier, Supplier)]
        try:
            for _ in range(STEPS):
                peer = source.choice(peers)
                if not peer.over:
                    peer.act()
                if source.random() < 0.01:
                    peer.over = True
                    peer.peer.close(clean=source.random() < 0.5)
                for each in peers:
                    if not each.over:
                        each.read(0.0005)
            self.drain(peers)
        finally:
            lab.close()

    def drain(self, peers: list[Client | Supplier]) -> None:
        """Cancels everything: each open stream gets its END, whatever its supplier does."""
        for peer in peers:
            if isinstance(peer, Client) and not peer.over:
                for stream in peer.open:
                    peer.peer.say(wire.Cancel(), stream)
        limit = time.monotonic() + 5
        clients = [peer for peer in peers if isinstance(peer, Client)]
        while any(peer.open and not peer.over for peer in clients):
            self.assertLess(time.monotonic(), limit, "a cancelled stream has no END after 5 s")
            for peer in peers:
                if not peer.over:
                    peer.read(0.01)

    def test_damaged_frames_harm_nobody_else(self) -> None:
        bystander = Lab(self.target).client()
        self.addCleanup(bystander.close)
        while time.monotonic() < self.until:
            self.seed += 1
            lab = Lab(self.target)
            with self.subTest(seed=self.seed):
                try:
                    self.damaged(lab, random.Random(self.seed))
                finally:
                    lab.close()
                self.assert_broker_alive(bystander, self.seed)

    def damaged(self, lab: Lab, source: random.Random) -> None:
        """Frames of every kind with bytes changed; the answer is ERROR, or the peer is kept."""
        model = f"random/damaged/{source.randint(0, 9)}"
        samples = [
            wire.Offer(source.randint(1, 3), model), wire.Grant(source.randint(0, 3), 2),
            wire.Withdraw(source.randint(0, 3)), wire.Ping(1), wire.Pong(1), wire.Credit(70_000),
            wire.Submit(model, source.randint(0, 2_000), b"x", credit=5_000), wire.Cancel(),
            wire.Body(b"x" * 1_024), wire.Tokens(b"abc"), wire.End(0), wire.Started(3),
            wire.GoAway(Code.SHUTTING_DOWN, 1),
        ]
        role = source.choice([Role.CLIENT, Role.SUPPLIER])
        peer, data = lab.peer(role), bytearray()
        mine = [sample for sample in samples if sample.kind in (
            Kind.PING, Kind.PONG, Kind.CREDIT, Kind.GO_AWAY, *(
                (Kind.SUBMIT, Kind.BODY, Kind.CANCEL) if role == Role.CLIENT else
                (Kind.OFFER, Kind.GRANT, Kind.WITHDRAW, Kind.TOKENS, Kind.END, Kind.STARTED)))]
        for _ in range(source.randint(1, 30)):
            sample = source.choice(mine if source.random() < 0.95 else samples)
            stream = source.randint(1, 3) if sample.kind >= Kind.SUBMIT else 0
            frame = bytearray(wire.pack(sample, stream, 0, source.choice([0, 1])))
            if source.random() < 0.1:
                frame[source.randrange(len(frame))] = source.randrange(256)
            data += frame
        peer.send(bytes(data))
        try:
            while peer.next(0.02) is not None:
                pass
        except Closed as closed:
            self.assertTrue(closed.clean, "closed without close_notify [T5]")


if __name__ == "__main__":
    unittest.main()
