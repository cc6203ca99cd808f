"""Cases by name, and the laboratory that each gets: peers, models, tasks under way."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from sluice import wire
from sluice.codes import Code, Role

from .peer import Failed, Peer, Skipped, Target

WINDOW = 65_536
_SETTLE_SECONDS = 5
_names = itertools.count(1)
_labs = itertools.count()
_run = secrets.token_hex(4)


@dataclass(frozen=True)
class Case:
    """A case: which rules it shows, and at most how long it takes."""

    name: str
    rules: tuple[str, ...]
    seconds: float
    run: Callable[[Lab], None]
    waits: bool = False
    """Whether it waits for a limit of 30 s to pass."""

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


CASES: dict[str, Case] = {}


def case(*rules: str, seconds: float = 20, waits: bool = False) -> Callable[
        [Callable[[Lab], None]], Callable[[Lab], None]]:
    """Registers a function as the case of its name."""
    def register(function: Callable[[Lab], None]) -> Callable[[Lab], None]:
        name = function.__name__.replace("_", "-")
        assert name not in CASES and function.__doc__, name
        CASES[name] = Case(name, rules, seconds, function, waits)
        return function

    return register


@dataclass
class Running:
    """A task under way, seen from both of its ends."""

    client: Peer
    supplier: Peer
    model: str
    stream: int
    assign: wire.Assign
    slot: int
    queued: wire.Queued

    def tokens(self, content: bytes, tokens: int = 1, flags: int = 0) -> None:
        """The supplier sends TOKENS."""
        self.supplier.say(wire.Tokens(content), self.slot, flags, tokens)

    def end(self, code: Code = Code.COMPLETED, **fields: int) -> None:
        """The supplier ends it."""
        self.supplier.taken.discard(self.slot)
        self.supplier.say(wire.End(code, **fields), self.slot)

    def credit(self, limit: int) -> None:
        """The client raises, or lowers, its limit."""
        self.client.say(wire.Credit(limit), self.stream)


class Lab:
    """What a case works with. Everything it opened is closed behind it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._peers: list[Peer] = []
        # Where there are tokens enough, each case has two supplier identities of its own.
        number, tokens = next(_labs), target.tokens
        first = 2 * number % len(tokens) if len(tokens) > 3 else 0
        self._tokens = (tokens + tokens)[first:first + 2] if len(tokens) > 1 else tokens

    def close(self) -> None:
        """Closes all peers."""
        for peer in self._peers:
            peer.close()

    def connect(self, **options: Any) -> Peer:
        """TLS alone, before HELLO."""
        peer = Peer(self.target, **options)
        self._peers.append(peer)
        return peer

    def hello(self, role: Role = Role.CLIENT, **fields: Any) -> wire.Hello:
        """A HELLO that the broker takes, with what the case wants otherwise."""
        client = role == Role.CLIENT
        usual: dict[str, Any] = {
            "credential_kind": 1 if client else 2,
            "credential": (self.target.key if client else self._tokens[0]).encode(),
            "body_credit": 0 if client else 1 << 20,
        }
        return wire.Hello(role, **{**usual, **fields})

    def client(self, **options: Any) -> Peer:
        """A client after its handshake."""
        peer = self.connect(**options)
        peer.hello(self.hello())
        return peer

    def supplier(self, identity: int = 0, body_credit: int = 1 << 20) -> Peer:
        """A supplier after its handshake, of the given identity."""
        if identity >= len(self._tokens):
            raise Skipped(f"needs {identity + 1} --token of different suppliers")
        peer = self.connect()
        peer.hello(self.hello(Role.SUPPLIER, body_credit=body_credit,
                              credential=self._tokens[identity].encode()))
        return peer

    def peer(self, role: Role) -> Peer:
        """A peer of either role."""
        return self.client() if role == Role.CLIENT else self.supplier()

    def model(self) -> str:
        """A model name that nobody has used."""
        return f"conformance/{_run}/{next(_names)}"

    def serve(self, slots: int | None = 1, supplier: Peer | None = None, model: str | None = None,
              offer: int = 1, **fields: Any) -> tuple[Peer, str]:
        """A supplier that offers a model which the broker knows when this returns."""
        supplier, model = supplier or self.supplier(), model or self.model()
        supplier.say(wire.Offer(offer, model, **fields))
        if slots is not None:
            supplier.say(wire.Grant(offer, slots))
        try:
            supplier.alive(skip=(wire.Assign,))
        except Failed as failure:
            if "invalid_offer" in str(failure):
                raise Skipped("the broker takes no more model names of this supplier [S11]: start "
                              "it again, or use a --token of another one") from None
            raise
        self.settle(model)
        return supplier, model

    def settle(self, model: str) -> None:
        """Waits until the model is known: a filter that nobody meets tells it without running."""
        probe = self.client()
        limit = time.monotonic() + _SETTLE_SECONDS * self.target.patience
        while time.monotonic() < limit:
            probe.say(wire.Submit(model, 0, region="~nowhere~"), 1)
            end = probe.expect_end(None)
            if end.code == Code.NO_SUPPLIER:
                probe.close()
                return
            if end.code != Code.MODEL_UNKNOWN:
                raise Failed(f"expected no_supplier [Q10], saw {Code(end.code).label}")
            time.sleep(0.01)
        raise Failed("an offered model is still model_unknown [Q10]")

    def submit(self, client: Peer, model: str, body: bytes = b"hi", stream: int = 1,
               credit: int = WINDOW, **fields: Any) -> wire.Queued:
        """Submits a small body and takes QUEUED."""
        client.say(wire.Submit(model, len(body), body, credit=credit, **fields), stream)
        return cast(wire.Queued, client.expect(wire.Queued, stream).frame)

    def running(self, slots: int = 1, offer: dict[str, Any] | None = None,
                **fields: Any) -> Running:
        """A task that a supplier has been assigned, on fresh connections."""
        supplier, model = self.serve(slots, **(offer or {}))
        return self.run(self.client(), supplier, model, **fields)

    def run(self, client: Peer, supplier: Peer, model: str, stream: int = 1,
            **fields: Any) -> Running:
        """A task that the supplier has been assigned."""
        queued = self.submit(client, model, stream=stream, **fields)
        seen = supplier.expect(wire.Assign)
        assign = cast(wire.Assign, seen.frame)
        return Running(client, supplier, model, stream, assign, seen.header.stream, queued)


def check(holds: bool, rule: str, message: str) -> None:
    """Fails the case unless the condition holds."""
    if not holds:
        raise Failed(f"{message} [{rule}]")
