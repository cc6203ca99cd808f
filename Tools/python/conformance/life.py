"""Sections 6 and 14: pings, ERROR, loss, floods, keep-alive, going away."""

from __future__ import annotations

import time
from collections.abc import Callable

from sluice import wire
from sluice.codes import Code, Flag, Kind, Role

from .lab import Lab, case, check
from .peer import Closed, Failed, Skipped

_ALLOWANCE = 1_000  # [L10]
_FLOOD = 6_000


@case("L1")
def pings_answered(lab: Lab) -> None:
    """Every PING has a PONG of the same value, in order, in either role."""
    for role in (Role.CLIENT, Role.SUPPLIER):
        peer = lab.peer(role)
        for value in (0, 1, (1 << 64) - 1):
            peer.alive(value)


@case("L3")
def unasked_pong_ignored(lab: Lab) -> None:
    """A PONG that answers nothing has no effect."""
    client = lab.client()
    client.say(wire.Pong(99))
    client.alive()


@case("L4", "L5", "T5")
def error_is_not_answered(lab: Lab) -> None:
    """Who is told ERROR closes and sends no frame more."""
    for role in (Role.CLIENT, Role.SUPPLIER):
        peer = lab.peer(role)
        peer.say(wire.Error(Code.INTERNAL_FAULT))
        peer.expect_closed()


@case("L7", "D8", "D9")
def lost_supplier_ends_its_tasks(lab: Lab) -> None:
    """After output, the loss of the supplier is END supplier_lost with what was delivered."""
    run = lab.running()
    run.tokens(b"abc", 1)
    run.client.expect(wire.Tokens, 1)
    run.supplier.close(clean=False)
    end = run.client.expect_end(Code.SUPPLIER_LOST)
    check(end.output_tokens == 1, "E4", f"{end.output_tokens} tokens recorded, 1 delivered")


@case("L8", "Q4", "N2")
def stream_fault_leaves_the_connection(lab: Lab) -> None:
    """A fault of a stream is told by END there; others and the connection go on."""
    run = lab.running()
    run.client.say(wire.Submit(run.model, 2, b"three"), 2)
    end = run.client.expect_end(Code.BODY_MISMATCH, 2)
    check(end.cost == 0 and end.output_tokens == 0, "N2", "a refused task was charged")
    run.tokens(b"abc")
    run.client.expect(wire.Tokens, 1)
    run.end(output_tokens=1)
    run.client.expect_end(Code.COMPLETED)


def _flood(lab: Lab, role: Role, frame: Callable[[int], bytes]) -> None:
    """Less than the allowance is taken, many times it is ERROR flood."""
    peer = lab.peer(role)
    peer.send(b"".join(frame(number) for number in range(_ALLOWANCE - 50)))
    peer.alive(0xABCD, skip=(wire.Pong,)) if frame(0)[4] != Kind.PING else peer.expect(
        wire.Pong, 0)
    peer.send(b"".join(frame(number) for number in range(_FLOOD)))
    peer.expect_error(Code.FLOOD, 10)


@case("L9", "L10", seconds=40)
def flood_of_pings(lab: Lab) -> None:
    """Pings beyond the allowance are ERROR flood; 950 are not."""
    _flood(lab, Role.CLIENT, lambda number: wire.pack(wire.Ping(number)))
    _flood(lab, Role.SUPPLIER, lambda number: wire.pack(wire.Ping(number)))


@case("L9", "L10", "C13", "E6", seconds=60)
def floods_of_other_kinds(lab: Lab) -> None:
    """Every other unproductive kind counts: PONG, late CREDIT, CANCEL and small BODY, unknown."""
    client = (
        lambda number: wire.pack(wire.Pong(number)),
        lambda number: wire.pack(wire.Credit(number), 1),
        lambda number: wire.pack(wire.Cancel(), 2),
        lambda number: wire.pack(wire.Body(b"x" * 1_023), 3),
        lambda number: wire.Header(0, 0x30, Flag.IGNORABLE, 0, number).pack(),
    )
    for frame in client:
        _flood(lab, Role.CLIENT, frame)
    _flood(lab, Role.SUPPLIER, lambda number: wire.pack(wire.Credit(number), 1))


@case("L9", "K2", seconds=40)
def flood_of_empty_tokens(lab: Lab) -> None:
    """TOKENS with neither tokens nor payload count as unproductive."""
    run = lab.running(credit=1 << 30, reserve_bytes=65_536)
    run.supplier.send(wire.pack(wire.Tokens(b""), run.slot) * 4_000)
    run.supplier.expect_error(Code.FLOOD, 10)


@case("L9", "C3", seconds=30)
def flood_of_credit_that_raises_nothing(lab: Lab) -> None:
    """CREDIT that raises nothing on an open stream counts; CREDIT that raises does not."""
    run = lab.running(credit=4_096)
    for limit in range(5_000, 9_000):
        run.client.send(wire.pack(wire.Credit(limit), 1))
    run.client.alive()
    run.client.send(wire.pack(wire.Credit(4_096), 1) * _FLOOD)
    run.client.expect_error(Code.FLOOD, 10)


@case("L10", seconds=30)
def allowance_comes_back(lab: Lab) -> None:
    """After a rest of a second, 90 more frames are taken."""
    client = lab.client()
    client.send(wire.pack(wire.Pong(1)) * (_ALLOWANCE - 20))
    client.alive()
    time.sleep(1.1)
    client.send(wire.pack(wire.Pong(1)) * 90)
    client.alive()


@case("L2", seconds=60, waits=True)
def keep_alive(lab: Lab) -> None:
    """A silent peer is asked after keepAliveMs and told keep_alive_timeout after as long again."""
    client = lab.client()
    assert client.welcome is not None
    period = client.welcome.keep_alive_ms / 1_000
    if period > 20:
        raise Skipped(f"keepAliveMs of {period:g} s is too long to wait for")
    started, asked = time.monotonic(), False
    while time.monotonic() - started < 2 * period + 5:
        try:
            data = client.socket
            data.settimeout(2 * period + 5)
            header = wire.Header.unpack(data.recv(wire.HEADER_BYTES))
            payload = data.recv(header.payload_bytes)
        except (OSError, Closed) as error:
            raise Failed(f"closed without ERROR keep_alive_timeout: {type(error).__name__}")
        frame = wire.unpack(header, payload)
        took = time.monotonic() - started
        if isinstance(frame, wire.Ping):
            asked = True
            check(took > period * 0.9, "L2", f"PING after only {took:.1f} s")
        if isinstance(frame, wire.Error):
            check(asked and frame.code == Code.KEEP_ALIVE_TIMEOUT, "L2",
                  f"ERROR {Code(frame.code).label}, asked: {asked}")
            check(took > period * 1.9, "L2", f"closed after only {took:.1f} s")
            return
    raise Failed("a silent peer is kept for more than twice keepAliveMs [L2]")


@case("G1", "G4", "S8")
def supplier_goes_away(lab: Lab) -> None:
    """GO-AWAY of a supplier withdraws its offers; what runs goes on to its END."""
    run = lab.running(slots=4)
    run.supplier.say(wire.GoAway(Code.SHUTTING_DOWN, 30_000))
    run.supplier.alive()
    run.client.say(wire.Submit(run.model, 2, b"hi", credit=4_096, deadline_ms=600), 2)
    run.supplier.quiet()
    run.client.expect(wire.End, 2, skip=(wire.Queued,))
    run.tokens(b"abc")
    run.client.expect(wire.Tokens, 1)
    run.end(output_tokens=1)
    run.client.expect_end(Code.COMPLETED)


@case("G4", "G5")
def client_goes_away(lab: Lab) -> None:
    """GO-AWAY of a client, once and again, changes nothing for its tasks."""
    run = lab.running()
    for grace in (0, 30_000):
        run.client.say(wire.GoAway(Code.SHUTTING_DOWN, grace))
    run.client.alive()
    run.tokens(b"abc")
    run.client.expect(wire.Tokens, 1)
    run.end(output_tokens=1)
    run.client.expect_end(Code.COMPLETED)
