"""Sections 10, 11 and 12: dispatch, credit of answers, tokens."""

from __future__ import annotations

import time
from typing import cast

from sluice import wire
from sluice.codes import (
    HEADER_BYTES, LARGEST_RESERVE_BYTES, MAX_CREDIT, SMALLEST_RESERVE_BYTES, Code, Flag,
)

from .lab import WINDOW, Lab, Running, case, check
from .peer import Failed


@case("D3")
def started_twice(lab: Lab) -> None:
    """A second STARTED is unexpected_frame."""
    run = lab.running()
    run.supplier.say(wire.Started(3), run.slot)
    run.supplier.alive()
    run.supplier.say(wire.Started(3), run.slot)
    run.supplier.expect_error(Code.UNEXPECTED_FRAME)


@case("D4", "E4")
def input_billed_as_told(lab: Lab) -> None:
    """Input is what STARTED or END told, bounded by the task's limit, and 0 before any output."""
    supplier, model = lab.serve()
    client = lab.client()
    run = lab.run(client, supplier, model)
    supplier.say(wire.Started(7, 2), run.slot)
    run.tokens(b"abc")
    client.expect(wire.Tokens, 1)
    run.end(input_tokens=7, cached_tokens=2, output_tokens=1)
    end = client.expect_end(Code.COMPLETED)
    check((end.input_tokens, end.cached_tokens) == (7, 2), "D4", f"input {end.input_tokens}")
    run = lab.run(client, supplier, model, max_input_tokens=5)
    run.end(input_tokens=9)
    end = client.expect_end(Code.COMPLETED)
    check(end.input_tokens == 5, "D4", f"{end.input_tokens} input tokens with a limit of 5")
    run = lab.run(client, supplier, model)
    supplier.say(wire.Started(7), run.slot)
    supplier.alive()
    client.say(wire.Cancel(), 1)
    supplier.expect(wire.Cancel, run.slot)
    run.end(Code.CANCELLED, input_tokens=7)
    end = client.expect_end(Code.CANCELLED)
    check(end.input_tokens == 0 and end.cost == 0, "D4", "input was billed before any output")


@case("D6", "D9")
def codes_of_suppliers(lab: Lab) -> None:
    """What the client is told for each code of a supplier that nobody can follow."""
    supplier, model = lab.serve()
    client = lab.client()
    for code, told in ((Code.UPSTREAM_REFUSED, Code.UPSTREAM_REFUSED),
                       (Code.UPSTREAM_UNAVAILABLE, Code.SUPPLIER_FAILED),
                       (Code.DECLINED, Code.SUPPLIER_FAILED),
                       (Code.QUEUE_FULL, Code.SUPPLIER_FAILED),
                       (Code.NOT_PERMITTED, Code.SUPPLIER_FAILED)):
        run = lab.run(client, supplier, model)
        run.end(code)
        client.expect_end(told)


@case("D7", "K6")
def error_body_reaches_the_client(lab: Lab) -> None:
    """TOKENS with flag error go on with it, and count for nothing."""
    run = lab.running()
    run.tokens(b'{"error":1}', 7, flags=Flag.ERROR)
    seen = run.client.expect(wire.Tokens, 1)
    check(seen.header.flags == Flag.ERROR, "K8", "the flag error was not forwarded")
    run.end(Code.UPSTREAM_REFUSED, output_tokens=7)
    end = run.client.expect_end(Code.UPSTREAM_REFUSED)
    check(end.output_tokens == 0, "K6", f"{end.output_tokens} tokens of an error body counted")


@case("D8", "D9")
def never_again_to_the_same_supplier(lab: Lab) -> None:
    """A task lost before output does not go to another connection of the same supplier."""
    run = lab.running()
    other, _ = lab.serve(model=run.model)
    run.supplier.close(clean=False)
    run.client.expect_end(Code.SUPPLIER_LOST)
    other.quiet(0.2)


@case("D8", "D10", "D2", "Q5")
def dispatched_again(lab: Lab) -> None:
    """Lost, declined or unavailable before output: another supplier gets it; QUEUED stays one."""
    for how in ("lost", "declined", "unavailable"):
        run = lab.running()
        second, _ = lab.serve(supplier=lab.supplier(1), model=run.model)
        run.supplier.say(wire.Started(4), run.slot)
        run.supplier.alive()
        if how == "lost":
            run.supplier.close(clean=False)
        else:
            run.end(Code.DECLINED if how == "declined" else Code.UPSTREAM_UNAVAILABLE)
        seen = second.expect(wire.Assign)
        assign = cast(wire.Assign, seen.frame)
        check(assign.task_id == run.assign.task_id, "D8", "the task has another id")
        check(assign.body == b"hi", "D10", "the body did not come again from its start")
        second.say(wire.Tokens(b"abc"), seen.header.stream, tokens=1)
        run.client.expect(wire.Tokens, 1)
        second.say(wire.End(Code.COMPLETED, output_tokens=1), seen.header.stream)
        run.client.expect_end(Code.COMPLETED)


@case("D8", "K5")
def not_again_after_output(lab: Lab) -> None:
    """Once a TOKENS frame was forwarded, even one without payload, nobody else gets the task."""
    run = lab.running()
    second, _ = lab.serve(supplier=lab.supplier(1), model=run.model)
    run.tokens(b"", 1)
    run.client.expect(wire.Tokens, 1)
    run.end(Code.UPSTREAM_UNAVAILABLE)
    run.client.expect_end(Code.SUPPLIER_FAILED)
    second.quiet(0.2)


@case("D5", "E12", "E7")
def deadline_while_running(lab: Lab) -> None:
    """At the deadline the supplier gets CANCEL with the reason, the client deadline_exceeded."""
    run = lab.running(deadline_ms=500)
    check(0 < run.assign.deadline_ms <= 500, "D5", f"{run.assign.deadline_ms} ms left of 500")
    seen = run.supplier.expect(wire.Cancel, run.slot)
    check(getattr(seen.frame, "code") == Code.DEADLINE_EXCEEDED, "E12", "another reason")
    run.end(Code.DEADLINE_EXCEEDED)
    run.client.expect_end(Code.DEADLINE_EXCEEDED)


# MARK: Credit


def _limit(run: Running, used: int, wanted: int) -> int:
    """Reads CREDIT at the supplier until the limit is at least ``wanted``; never above [C8]."""
    limit = run.assign.credit
    while limit < wanted:
        frame = run.supplier.expect(wire.Credit, run.slot).frame
        limit = max(limit, cast(wire.Credit, frame).limit)
    check(limit <= used + run.queued.reserve_bytes or limit <= wanted, "C8",
          f"limit {limit} with {used} bytes sent and r = {run.queued.reserve_bytes}")
    return limit


@case("C7", "C8")
def reserve(lab: Lab) -> None:
    """r is what was asked, 16,384 for none; the first limit is min(client's limit, r)."""
    supplier, model = lab.serve(slots=16)
    client = lab.client()
    for stream, (asked, expected) in enumerate(
            ((0, 16_384), (4_096, 4_096), (20_000, 20_000), (65_536, 65_536)), 1):
        for add, credit in enumerate((1 << 20, 3_000)):
            run = lab.run(client, supplier, model, stream=2 * stream + add, reserve_bytes=asked,
                          credit=credit)
            check(run.queued.reserve_bytes == expected, "C7",
                  f"r = {run.queued.reserve_bytes} where {asked} was asked")
            check(run.assign.credit == min(credit, expected), "C8",
                  f"limit {run.assign.credit} for r = {expected}, client's limit {credit}")


@case("C7")
def pool_of_reserves(lab: Lab) -> None:
    """Beyond 1 MiB of a connection's pool a task gets 4,096; its END gives the pool back."""
    supplier, model = lab.serve(slots=64)
    client = lab.client()
    runs = [lab.run(client, supplier, model, stream=stream, reserve_bytes=LARGEST_RESERVE_BYTES)
            for stream in range(1, 20)]
    reserves = [run.queued.reserve_bytes for run in runs]
    left, expected = 1 << 20, []
    for _ in reserves:
        share = min(LARGEST_RESERVE_BYTES - SMALLEST_RESERVE_BYTES, left)
        left -= share
        expected.append(SMALLEST_RESERVE_BYTES + share)
    check(reserves == expected, "C7", f"reserves {reserves[-4:]} where {expected[-4:]} were due")
    runs[0].end()
    client.expect_end(Code.COMPLETED, 1)
    again = lab.run(client, supplier, model, stream=1, reserve_bytes=LARGEST_RESERVE_BYTES)
    check(again.queued.reserve_bytes == LARGEST_RESERVE_BYTES, "C7", "the pool did not grow back")


@case("C4", "C5")
def tokens_beyond_the_limit(lab: Lab) -> None:
    """TOKENS may use the limit to its last byte, header included; one more is credit_exceeded."""
    run = lab.running(credit=3_000)
    run.tokens(b"x" * (3_000 - HEADER_BYTES))
    run.client.expect(wire.Tokens, 1)
    run.supplier.alive()
    run.tokens(b"", 1)
    run.supplier.expect_error(Code.CREDIT_EXCEEDED)
    run.client.expect_end(Code.SUPPLIER_LOST)
    first = lab.running(credit=3_000)
    first.tokens(b"x" * (3_001 - HEADER_BYTES))
    first.supplier.expect_error(Code.CREDIT_EXCEEDED)


@case("C3")
def credit_going_backwards(lab: Lab) -> None:
    """A lower CREDIT changes nothing: the greater limit holds."""
    run = lab.running(credit=5_000)
    for limit in (5_000, 1, 0):
        run.credit(limit)
    run.client.alive()
    check(run.assign.credit == 5_000, "C8", f"limit {run.assign.credit}")
    run.tokens(b"x" * (5_000 - HEADER_BYTES))
    run.client.expect(wire.Tokens, 1)
    run.supplier.alive(skip=(wire.Credit,))


@case("C8", "C9", "C11")
def credit_follows_what_is_sealed(lab: Lab) -> None:
    """As answers are sealed the supplier's limit rises; it never starves and never exceeds."""
    run = lab.running(credit=1 << 30)
    used, limit, reserve_bytes = 0, run.assign.credit, run.queued.reserve_bytes
    while used < 20 * reserve_bytes:
        if limit - used < 2_048:
            limit = _limit(run, used, used + 2_048)
            check(limit <= used + reserve_bytes, "C8", f"limit {limit} with {used} sent")
            continue
        size = min(limit - used, 9_000)
        run.tokens(b"x" * (size - HEADER_BYTES))
        used += size
        run.client.expect(wire.Tokens, 1)


@case("C9", "C8", "C2")
def client_credit_reaches_the_supplier(lab: Lab) -> None:
    """Where the client's limit binds, raising it is told to the supplier at once."""
    run = lab.running(credit=3_000)
    check(run.assign.credit == 3_000, "C8", f"limit {run.assign.credit}")
    for limit in (3_001, 3_500, 6_000):
        run.credit(limit)
        seen = run.supplier.expect(wire.Credit, run.slot)
        told = cast(wire.Credit, seen.frame).limit
        check(told == limit, "C9", f"the supplier was told {told} where the client gave {limit}")
    run.credit(MAX_CREDIT)
    seen = run.supplier.expect(wire.Credit, run.slot)
    told = cast(wire.Credit, seen.frame).limit
    check(told == run.queued.reserve_bytes, "C8", f"limit {told}, r {run.queued.reserve_bytes}")


@case("C1", "E3")
def control_frames_need_no_credit(lab: Lab) -> None:
    """STARTED and END pass with a limit of 0, QUEUED too."""
    run = lab.running(credit=0)
    check(run.assign.credit == 0, "C8", f"limit {run.assign.credit} where the client gave 0")
    run.supplier.say(wire.Started(3), run.slot)
    run.end(input_tokens=3)
    run.client.expect_end(Code.COMPLETED)


@case("C10", seconds=30)
def slow_client_stops_nobody(lab: Lab) -> None:
    """A client that does not read holds up no other client of the same supplier connection."""
    supplier, model = lab.serve(slots=2)
    lazy, busy = lab.client(receive_bytes=16_384), lab.client()
    run = lab.run(lazy, supplier, model, credit=1 << 40, reserve_bytes=65_536)
    # Until every buffer on the way is full, and so no more credit comes.
    used, limit, quiet, until = 0, run.assign.credit, 0, time.monotonic() + 8
    while quiet < 3 and time.monotonic() < until:
        if limit - used >= 16_384:
            run.tokens(b"x" * (16_384 - HEADER_BYTES))
            used += 16_384
            continue
        seen = supplier.next_of_case(0.2)
        quiet = quiet + 1 if seen is None else 0
        if seen is not None and isinstance(seen.frame, wire.Credit):
            limit = max(limit, seen.frame.limit)
    busy.say(wire.Submit(model, 2, b"hi", credit=WINDOW), 1)
    busy.expect(wire.Queued, 1)
    slot = supplier.expect(wire.Assign, skip=(wire.Credit,)).header.stream
    supplier.say(wire.Tokens(b"abc"), slot, tokens=1)
    busy.expect(wire.Tokens, 1)
    supplier.say(wire.End(Code.COMPLETED, output_tokens=1), slot)
    busy.expect_end(Code.COMPLETED)


@case("C12", "K1", "K2", "K8", "O1", "K4")
def tokens_one_for_one(lab: Lab) -> None:
    """TOKENS arrive frame by frame, in order, with their increments and flag `reasoning`."""
    run = lab.running(reserve_bytes=65_536)
    sent = [(b"a", 1, 0), (b"", 3, 0), (b"part", 0, 0), (b"bc", 65_535, 0), (b"why", 2, 1),
            (b"", 1, 1), (b"x" * 5_000, 9, 0), (b"z", 1, 0)]
    for content, tokens, flags in sent:
        run.tokens(content, tokens, flags)
    for content, tokens, flags in sent:
        seen = run.client.expect(wire.Tokens, 1)
        came = (cast(wire.Tokens, seen.frame).content, seen.header.tokens, seen.header.flags)
        check(came == (content, tokens, flags), "C12", "a TOKENS frame arrived changed")


@case("C13", "E6")
def late_control_ignored(lab: Lab) -> None:
    """CREDIT and CANCEL on idle slots have no effect, from either side."""
    client, supplier = lab.client(), lab.supplier()
    for stream in (1, 2, 3):
        client.say(wire.Credit(100_000), stream)
        client.say(wire.Cancel(), stream)
        supplier.say(wire.Credit(100_000), stream)
    client.alive()
    supplier.alive()
    client.say(wire.Submit(lab.model(), 0), 1)
    client.expect_end(Code.MODEL_UNKNOWN)


# MARK: Tokens


@case("E4", "K1")
def usage_is_bounded(lab: Lab) -> None:
    """Output is at most the claim, the increments delivered and the payload bytes delivered."""
    supplier, model = lab.serve()
    client = lab.client()
    for content, tokens, claim, expected in ((b"abc", 10, 10, 3), (b"abcdef", 2, 9, 2),
                                             (b"abcdef", 5, 4, 4), (b"", 5, 5, 0)):
        run = lab.run(client, supplier, model)
        run.tokens(content, tokens)
        client.expect(wire.Tokens, 1)
        run.end(output_tokens=claim)
        end = client.expect_end(Code.COMPLETED)
        check(end.output_tokens == expected, "E4",
              f"{end.output_tokens} tokens for {len(content)} bytes, {tokens} counted, "
              f"{claim} claimed")


@case("E4", "S12")
def cost_is_told(lab: Lab) -> None:
    """END's cost is that of the recorded usage at the offer's prices."""
    run = lab.running(offer={"input_price": 2_000_000, "output_price": 3_000_000})
    run.supplier.say(wire.Started(5), run.slot)
    run.tokens(b"abcdef", 2)
    run.client.expect(wire.Tokens, 1)
    run.end(input_tokens=5, output_tokens=2)
    end = run.client.expect_end(Code.COMPLETED)
    check(end.cost >= 5 * 2 + 2 * 3, "E4", f"cost {end.cost}, at least 16 was due")


@case("S13", "K10", "E4")
def results_are_billed_as_asked_for(lab: Lab) -> None:
    """An image costs its price, an embedding a millionth; what was not asked for is not forwarded."""
    for operation, price in ((3, 2_000_000), (4, 3)):
        run = lab.running(
            offer={"operations": 0x0C, "encodings": 2, "output_price": price},
            operation=operation, encoding=2, max_output_tokens=2, max_input_tokens=1)
        run.tokens(b"first part", 0)
        run.tokens(b"one", 1)
        run.tokens(b"two", 1)
        run.tokens(b"the rest", 0)
        for content in (b"first part", b"one", b"two", b"the rest"):
            seen = run.client.expect(wire.Tokens, 1)
            check(cast(wire.Tokens, seen.frame).content == content, "K8", "TOKENS arrived changed")
        run.end(input_tokens=0, output_tokens=2)
        end = run.client.expect_end(Code.COMPLETED)
        check(end.output_tokens == 2, "E4", f"{end.output_tokens} billed of 2")
        least = 4 if operation == 3 else 6
        check(least <= end.cost <= 2 * least, "S13", f"cost {end.cost}, {least} and a fee were due")
    run = lab.running(offer={"operations": 0x0C, "encodings": 2}, operation=4, encoding=2,
                      max_output_tokens=1)
    run.tokens(b"one", 1)
    run.tokens(b"another", 1)
    run.client.expect(wire.Tokens, 1)
    run.supplier.expect(wire.Cancel, run.slot)
    run.end(Code.CANCELLED, output_tokens=2)
    end = run.client.expect_end(Code.BUDGET_EXHAUSTED)
    check(end.output_tokens == 1, "K10", f"{end.output_tokens} billed of 1 that was asked for")


@case("K9", "E7", "E9")
def tokens_after_cancel_dropped(lab: Lab) -> None:
    """After CANCEL the broker discards TOKENS and does not bill them."""
    run = lab.running()
    run.tokens(b"abc")
    run.client.expect(wire.Tokens, 1)
    run.client.say(wire.Cancel(), 1)
    seen = run.supplier.expect(wire.Cancel, run.slot)
    check(getattr(seen.frame, "code") == Code.CANCELLED, "E7", "CANCEL with another reason")
    run.tokens(b"def")
    run.tokens(b"ghi")
    run.end(Code.CANCELLED, output_tokens=3)
    end = run.client.expect_end(Code.CANCELLED)
    check(end.output_tokens == 1, "K9", f"{end.output_tokens} tokens billed, 1 delivered")


@case("K9", "C5")
def tokens_after_cancel_keep_to_the_limit(lab: Lab) -> None:
    """Discarded TOKENS still count: beyond the limit they are credit_exceeded."""
    run = lab.running(credit=3_000)
    run.client.say(wire.Cancel(), 1)
    run.supplier.expect(wire.Cancel, run.slot)
    run.tokens(b"x" * 2_000)
    run.supplier.alive()
    run.tokens(b"x" * 2_000)
    run.supplier.expect_error(Code.CREDIT_EXCEEDED)


@case("K2", "K7", "D8")
def empty_frame_does_nothing(lab: Lab) -> None:
    """A TOKENS frame with neither tokens nor payload is dropped and ends nothing."""
    run = lab.running()
    run.tokens(b"", 0)
    run.tokens(b"abc", 1)
    seen = run.client.expect(wire.Tokens, 1)
    check(seen.header.payload_bytes > 0, "K2", "TOKENS without anything in it were forwarded")
    check(cast(wire.Tokens, seen.frame).content == b"abc", "K8", "TOKENS arrived changed")


@case("X1", "D2", "Y2")
def trace_reaches_the_supplier(lab: Lab) -> None:
    """ASSIGN has the task's terms and trace, and nothing of the client's own extensions."""
    run = lab.running(trace=(1 << 63, 2, 3), operation=2, encoding=2, priority=7,
                      max_input_tokens=9, max_output_tokens=8, max_reasoning_tokens=7,
                      affinity_keys=(b"k" * 16,))
    assign = run.assign
    terms = (assign.trace, assign.operation, assign.encoding, assign.priority,
             assign.max_input_tokens, assign.max_output_tokens, assign.max_reasoning_tokens,
             assign.offer, assign.body)
    check(terms == ((1 << 63, 2, 3), 2, 2, 7, 9, 8, 7, 1, b"hi"), "D2", f"terms {terms}")
    if run.queued.reserve_bytes < SMALLEST_RESERVE_BYTES:
        raise Failed("QUEUED with a reserve below 4,096 [C7]")
