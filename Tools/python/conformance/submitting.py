"""Sections 8 and 9: admission, filters, bodies and their credit."""

from __future__ import annotations

import secrets
import time
from typing import Any, cast

from sluice import wire
from sluice.codes import FREE_BODY_BYTES, MAX_PAYLOAD_BYTES, Code

from .lab import WINDOW, Lab, case, check
from .peer import Closed, Failed, Peer

_PRICE = 1
_BODY = b"0123456789abcdef" * 64  # 1,024 bytes


def _refused(client: Peer, code: Code, model: str, body_bytes: int = 2, body: bytes = b"hi",
             stream: int = 1, **fields: Any) -> wire.End:
    """SUBMIT is answered by END with the code, and without QUEUED [Q4]."""
    client.say(wire.Submit(model, body_bytes, body, credit=4_096, **fields), stream)
    return client.expect_end(code, stream)


@case("Q1", "M2")
def slot_taken(lab: Lab) -> None:
    """SUBMIT on a slot that uploads, runs or has been cancelled but not ended: stream_in_use."""
    for state in ("uploading", "accepted", "ending"):
        client, (supplier, model) = lab.client(), lab.serve()
        if state == "uploading":
            client.say(wire.Submit(model, 5_000, b"", credit=4_096), 1)
        else:
            lab.run(client, supplier, model)
        if state == "ending":
            client.say(wire.Cancel(), 1)
        client.alive()
        client.say(wire.Submit(model, 2, b"hi", credit=4_096), 1)
        client.expect_error(Code.STREAM_IN_USE)


@case("Q1", "E2")
def slot_again_after_end(lab: Lab) -> None:
    """A slot is free for its opener as soon as END has come."""
    supplier, model = lab.serve()
    client = lab.client()
    for _ in range(20):
        run = lab.run(client, supplier, model, stream=9)
        run.end()
        client.expect_end(Code.COMPLETED, 9)


@case("Q2", "U5", "L8")
def body_longer_than_declared(lab: Lab) -> None:
    """More body than declared, in SUBMIT or in BODY, is END body_mismatch."""
    _, model = lab.serve()
    client = lab.client()
    _refused(client, Code.BODY_MISMATCH, model, 2, b"three")
    client.say(wire.Submit(model, 2_000, _BODY, credit=4_096), 1)
    client.say(wire.Body(b"x" * 1_024), 1)
    client.expect_end(Code.BODY_MISMATCH)
    client.alive()


@case("U5")
def body_frames_too_short(lab: Lab) -> None:
    """BODY below 1,024 bytes, or empty, that does not complete the body is body_mismatch."""
    _, model = lab.serve()
    for size in (0, 1, 1_023):
        client = lab.client()
        client.say(wire.Submit(model, 5_000, b"", credit=4_096), 1)
        client.say(wire.Body(b"x" * size), 1)
        client.expect_end(Code.BODY_MISMATCH)
        client.alive()
    client = lab.client()
    client.say(wire.Submit(model, 1_025, b"", credit=4_096), 1)
    client.send(wire.pack(wire.Body(b"x" * 1_024), 1), wire.pack(wire.Body(b"x"), 1))
    client.expect(wire.Queued, 1, skip=(wire.Credit,))


@case("U5", "F5")
def body_after_acceptance(lab: Lab) -> None:
    """BODY on a stream whose body is complete is unexpected_frame."""
    run = lab.running()
    run.client.say(wire.Body(b"x" * 1_024), 1)
    run.client.expect_error(Code.UNEXPECTED_FRAME)


@case("Q3", "Q5", "E1")
def queued_once_and_first(lab: Lab) -> None:
    """QUEUED comes once the body is complete, before TOKENS; the task has one id on both sides."""
    supplier, model = lab.serve()
    client = lab.client()
    client.say(wire.Submit(model, 3_000, _BODY, credit=WINDOW), 1)
    client.quiet(0.2)
    client.say(wire.Body(b"x" * 1_976), 1)
    queued = cast(wire.Queued, client.expect(wire.Queued, 1).frame)
    seen = supplier.expect(wire.Assign)
    assign = cast(wire.Assign, seen.frame)
    check(assign.task_id == queued.task_id, "Q5", "QUEUED and ASSIGN name different tasks")
    assert client.welcome is not None
    check(queued.instance == client.welcome.instance, "Q5", "the instance is not WELCOME's")
    supplier.say(wire.Tokens(b"abc"), seen.header.stream, tokens=1)
    client.expect(wire.Tokens, 1)
    supplier.say(wire.End(Code.COMPLETED, output_tokens=1), seen.header.stream)
    client.expect_end(Code.COMPLETED)
    client.quiet(0.2)


@case("Q6", "Q4")
def refused_before_the_body(lab: Lab) -> None:
    """A fault of SUBMIT is told without waiting for the body."""
    client = lab.client()
    _refused(client, Code.MODEL_UNKNOWN, lab.model(), 100_000, b"")


@case("Q7")
def fields_out_of_range(lab: Lab) -> None:
    """Deadline and reserve outside their ranges are invalid_request, the body body_too_large."""
    _, model = lab.serve()
    client = lab.client()
    welcome = client.welcome
    assert welcome is not None
    _refused(client, Code.INVALID_REQUEST, model, deadline_ms=welcome.max_deadline_ms + 1)
    for reserve in (1, 4_095, 65_537, (1 << 32) - 1):
        _refused(client, Code.INVALID_REQUEST, model, reserve_bytes=reserve)
    if welcome.max_body_bytes < (1 << 32) - 1:
        _refused(client, Code.BODY_TOO_LARGE, model, welcome.max_body_bytes + 1, b"")
    client.alive()


@case("Q8")
def reserved_for_later(lab: Lab) -> None:
    """What version 1 does not do is END unsupported."""
    _, model = lab.serve(operations=0x0F)
    client = lab.client()
    for fields in ({"operation": 3, "max_output_tokens": 1},
                   {"operation": 4, "max_output_tokens": 1}, {"hedge_copies": 2}):
        _refused(client, Code.UNSUPPORTED, model, **fields)


@case("Q8", "Q7")
def results_are_counted(lab: Lab) -> None:
    """Embeddings and images need encoding openai and say how many they may be."""
    _, model = lab.serve(operations=0x0F)
    client = lab.client()
    for operation in (3, 4):
        _refused(client, Code.INVALID_REQUEST, model, operation=operation, encoding=2)
    client.alive()


@case("Q8", "Q16", "E4")
def budget(lab: Lab) -> None:
    """A budget bounds what a prepaid task costs; of an account that does not prepay it is refused."""
    supplier, model = lab.serve(slots=4, output_price=3_000_000)
    client = lab.client()
    client.say(wire.Submit(model, 2, b"hi", credit=WINDOW, max_input_tokens=1, budget=1), 1)
    seen = client.next(5)
    if seen is not None and isinstance(seen.frame, wire.End):
        if seen.frame.code == Code.UNSUPPORTED:
            check(lab.target.prepaid is not True, "Q16", "a prepaid account may have no budget")
            return
        check(lab.target.prepaid is not False, "Q8",
              "a budget of an account that does not prepay is not unsupported")
        check(seen.frame.code == Code.INSUFFICIENT_FUNDS, "Q16",
              "a budget below the price of a token is not insufficient_funds")
    else:
        raise Failed("a budget below the price of a token is accepted [Q16]")
    run = lab.run(client, supplier, model, budget=40, max_input_tokens=1)
    for _ in range(8):
        run.tokens(b"0123456789", tokens=2)
    end = run.client.expect_end(Code.BUDGET_EXHAUSTED, skip=(wire.Tokens, wire.Credit))
    check(0 < end.cost <= 40, "Q16", "a task costs more than its budget")
    check(0 < end.output_tokens <= 13, "E4", "more is billed than the budget holds for")


@case("Q15", "N2")
def repeated_key(lab: Lab) -> None:
    """A SUBMIT with the key of an earlier task runs nothing, and is told which task that was."""
    supplier, model = lab.serve(slots=4, output_price=1_000_000)
    key = secrets.token_bytes(64)
    client = lab.client()
    run = lab.run(client, supplier, model, idempotency_key=key)
    for again in (client, lab.client()):
        queued = lab.submit(again, model, stream=2, idempotency_key=key)
        check(queued.task_id == run.queued.task_id, "Q15", "QUEUED names another task")
        end = again.expect_end(Code.DUPLICATE, 2)
        check(end.output_tokens == 0 and end.cost == 0, "Q15", "usage of a task that is open")
    run.tokens(b"abc", tokens=3)
    run.end(output_tokens=3)
    first = client.expect_end(Code.COMPLETED, 1, skip=(wire.Tokens, wire.Credit))
    queued = lab.submit(client, model, stream=2, idempotency_key=key)
    check(queued.task_id == run.queued.task_id, "Q15", "QUEUED names another task")
    end = client.expect_end(Code.DUPLICATE, 2)
    check((end.output_tokens, end.cost) == (first.output_tokens, first.cost), "Q15",
          "usage and cost are not those of the earlier task")
    supplier.quiet(0.2)
    other = lab.run(client, supplier, model, stream=3, idempotency_key=key[:-1])
    check(other.queued.task_id != run.queued.task_id, "Q15", "another key names the same task")


@case("Q15")
def refused_key(lab: Lab) -> None:
    """A SUBMIT that was refused leaves no key behind."""
    supplier, model = lab.serve()
    key = secrets.token_bytes(16)
    client = lab.client()
    _refused(client, Code.NO_SUPPLIER, model, region="~nowhere~", idempotency_key=key)
    lab.run(client, supplier, model, idempotency_key=key)


@case("Q9", "X2", "Q10")
def filters(lab: Lab) -> None:
    """Price ceilings, region, policy and supply type each shut an offer out, or let it in."""
    supplier, model = lab.serve(slots=16, input_price=50, output_price=100, region="eu-west",
                                data_policy=1, supply_type=3)
    client = lab.client()
    shut: list[dict[str, Any]] = [
        {"price_ceilings": (49, 100)}, {"price_ceilings": (50, 99)}, {"region": "eu"},
        {"region": "EU-WEST"}, {"data_policy": 2}, {"supply_types": 0xFB},
    ]
    for fields in shut:
        _refused(client, Code.NO_SUPPLIER, model, **fields)
    taken: list[dict[str, Any]] = [
        # Twice the ask: a ceiling is for what the client pays, the operator's fee included.
        {"price_ceilings": (100, 200)}, {"region": "eu-west"}, {"data_policy": 1},
        {"supply_types": 0x04}, {"preference": 3}, {"affinity_keys": (b"k" * 16,)},
        {"hedge_copies": 1}, {"priority": 0},
    ]
    for stream, fields in enumerate(taken, 2):
        lab.run(client, supplier, model, stream=stream, **fields)


@case("Q13", "Q14")
def affinity_and_preference(lab: Lab) -> None:
    """A conversation goes back to its supplier while that has a slot, then on; others by price."""
    home, model = lab.serve(slots=2, input_price=100, output_price=100)
    client = lab.client()
    conversation: dict[str, Any] = {
        "affinity_keys": (secrets.token_bytes(16),), "preference": _PRICE}
    lab.run(client, home, model, **conversation).end()
    client.expect_end(Code.COMPLETED)
    cheap, _ = lab.serve(slots=8, supplier=lab.supplier(1), model=model, input_price=1,
                         output_price=1)
    # Known once this second offer of the same connection is.
    lab.serve(supplier=cheap, offer=2)
    lab.run(client, cheap, model, stream=2, preference=_PRICE)
    for stream, supplier in ((3, home), (4, home), (5, cheap)):
        lab.run(client, supplier, model, stream=stream, **conversation)


@case("Q10", "D2")
def encoding_not_served(lab: Lab) -> None:
    """An offer of another encoding or operation alone serves nobody."""
    _, model = lab.serve(encodings=2, operations=1)
    client = lab.client()
    _refused(client, Code.NO_SUPPLIER, model, encoding=1)
    _refused(client, Code.NO_SUPPLIER, model, encoding=2, operation=2)


@case("Q11")
def later_names_a_time(lab: Lab) -> None:
    """END with advice `later` names the milliseconds until a retry can succeed."""
    end = _refused(lab.client(), Code.MODEL_UNKNOWN, lab.model())
    check(end.retry_after_ms > 0, "Q11", "model_unknown without retry after")


@case("Q12", "E12")
def deadline_covers_the_queue(lab: Lab) -> None:
    """A task that waits for a slot beyond its deadline ends deadline_exceeded."""
    _, model = lab.serve(slots=None)
    client, started = lab.client(), time.monotonic()
    lab.submit(client, model, deadline_ms=300)
    client.expect_end(Code.DEADLINE_EXCEEDED)
    check(time.monotonic() - started >= 0.25, "Q12", "the deadline came early")


@case("U1", "U12", "D2")
def free_part_without_credit(lab: Lab) -> None:
    """16,384 bytes travel without credit, in pieces; the supplier gets the same bytes."""
    supplier, model = lab.serve()
    client = lab.client()
    body = bytes(number * 31 % 251 for number in range(FREE_BODY_BYTES))
    client.say(wire.Submit(model, len(body), body[:100], credit=4_096), 1)
    client.say(wire.Body(body[100:5_000]), 1)
    supplier.quiet(0.2)
    client.say(wire.Body(body[5_000:]), 1)
    client.expect(wire.Queued, 1, skip=(wire.Credit,))
    check(_whole_body(supplier) == body, "U12", "the body arrived changed")


def _whole_body(supplier: Peer) -> bytes:
    """The next task's body, from ASSIGN and BODY."""
    seen = supplier.expect(wire.Assign)
    assign = cast(wire.Assign, seen.frame)
    body = assign.body
    while len(body) < assign.body_bytes:
        frame = supplier.expect(wire.Body, seen.header.stream).frame
        body += cast(wire.Body, frame).body
    return body


def _upload(client: Peer, body: bytes, sent: int) -> None:
    """Sends the rest of a body on stream 1 as credit comes; takes QUEUED."""
    limit = FREE_BODY_BYTES
    while sent < len(body):
        room = min(limit, len(body)) - sent
        if room >= min(1_024, len(body) - sent):
            size = min(room, MAX_PAYLOAD_BYTES)
            client.say(wire.Body(body[sent:sent + size]), 1)
            sent += size
        else:
            frame = client.expect(wire.Credit, 1).frame
            limit = max(limit, cast(wire.Credit, frame).limit)
    client.expect(wire.Queued, 1, skip=(wire.Credit,))


@case("U4", "U12", "C6", seconds=30)
def body_under_credit(lab: Lab) -> None:
    """300,000 bytes go as fast as the credit on the stream allows, and arrive as they were."""
    supplier, model = lab.serve()
    client, body = lab.client(), bytes(number * 7 % 253 for number in range(300_000))
    client.say(wire.Submit(model, len(body), b"", credit=4_096), 1)
    _upload(client, body, 0)
    check(_whole_body(supplier) == body, "U12", "the body arrived changed")


@case("U4", "U6", "C5", seconds=30)
def body_beyond_credit(lab: Lab) -> None:
    """A body sent without looking at credit is credit_exceeded, or was credited in time."""
    _, model = lab.serve()
    client = lab.client()
    assert client.welcome is not None
    size = min(client.welcome.max_body_bytes, 8 << 20)
    client.say(wire.Submit(model, size, b"", credit=4_096), 1)
    for start in range(0, size, 16_000):
        client.say(wire.Body(b"x" * min(16_000, size - start)), 1)
    limit = FREE_BODY_BYTES
    try:
        while (seen := client.next_of_case(5)) is not None:
            if isinstance(seen.frame, wire.Credit):
                limit = max(limit, seen.frame.limit)
            elif isinstance(seen.frame, wire.Error):
                check(seen.frame.code == Code.CREDIT_EXCEEDED, "U6",
                      f"ERROR {Code(seen.frame.code).label}")
                return
            elif isinstance(seen.frame, wire.Queued):
                check(limit >= size, "U6", f"{size} bytes were taken with credit for {limit}")
                return
            else:
                raise Failed(f"saw {type(seen.frame).__name__.upper()} during the upload [U6]")
    except Closed as closed:
        raise Failed(f"expected ERROR credit_exceeded, the connection was {closed}") from None
    raise Failed("neither QUEUED nor ERROR came [U6]")


def _free_bytes(client: Peer, sent: int, more: int) -> None:
    """Waits until the client may send so many free bytes more [U2]."""
    limit = time.monotonic() + 5
    while sent + more > client.upload_limit:
        check(time.monotonic() < limit, "U3", f"uploadLimit stays at {client.upload_limit} "
              f"after {sent} free bytes that are all accounted for")
        client.next(0.2)


@case("U2", "U3", "C2", seconds=40)
def upload_limit_rises(lab: Lab) -> None:
    """Free bytes of three times uploadLimit go through as CREDIT on stream 0 gives them back."""
    supplier, model = lab.serve(slots=1)
    client, sent = lab.client(), 0
    body = b"x" * 15_000
    while sent < 3 * (client.welcome.upload_limit if client.welcome else 0):
        _free_bytes(client, sent, len(body))
        run = lab.run(client, supplier, model, body=body)
        sent += len(body)
        run.end()
        client.expect_end(Code.COMPLETED)


@case("U2", "U3", "U7", "U8", seconds=40)
def late_bodies_give_back_their_bytes(lab: Lab) -> None:
    """Bodies that arrive behind their END return to uploadLimit, so that it never dries up."""
    client, model, sent = lab.client(), lab.model(), 0
    size = 15_000
    while sent < 3 * (client.welcome.upload_limit if client.welcome else 0):
        _free_bytes(client, sent, size)
        client.send(wire.pack(wire.Submit(model, size), 1), wire.pack(wire.Body(b"x" * size), 1))
        sent += size
        client.expect_end(Code.MODEL_UNKNOWN)
    client.alive()


@case("U7")
def late_body_beyond_its_size(lab: Lab) -> None:
    """BODY on an idle slot beyond what its last task declared raises no limit."""
    client = lab.client()
    assert client.welcome is not None
    client.send(wire.pack(wire.Body(b"x" * 16_000), 1) * 300)
    client.alive(skip=(wire.Credit,))
    check(client.upload_limit == client.welcome.upload_limit, "U7",
          "uploadLimit rose by bytes of no task")


@case("U9", "Q12")
def upload_at_the_deadline(lab: Lab) -> None:
    """A body that is not complete at the deadline is upload_timeout, without acceptance."""
    _, model = lab.serve()
    client = lab.client()
    client.say(wire.Submit(model, 5_000, _BODY, deadline_ms=400), 1)
    client.expect_end(Code.UPLOAD_TIMEOUT)
    client.say(wire.Body(b"x" * 3_976), 1)
    client.alive()


@case("U9", seconds=60, waits=True)
def upload_stalls(lab: Lab) -> None:
    """A body whose next byte stays out for 30 s is upload_timeout."""
    _, model = lab.serve()
    client, started = lab.client(), time.monotonic()
    client.say(wire.Submit(model, 5_000, _BODY), 1)
    client.expect_end(Code.UPLOAD_TIMEOUT, seconds=40)
    check(time.monotonic() - started > 29, "U9", "the upload was ended early")


@case("U11", "C5", "C6")
def body_credit_of_suppliers(lab: Lab) -> None:
    """A supplier gets no more body than its credit, from offset 0, and the rest when it rises."""
    supplier, model = lab.serve(supplier=lab.supplier(body_credit=4_096))
    body = bytes(number * 13 % 249 for number in range(12_000))
    lab.submit(lab.client(), model, body)
    seen = supplier.expect(wire.Assign)
    received, limit = cast(wire.Assign, seen.frame).body, 4_096
    check(len(received) <= limit, "U11", f"ASSIGN with {len(received)} bytes within {limit}")
    while len(received) < len(body):
        frame = supplier.next_of_case(0.5)
        if frame is not None:
            received += cast(wire.Body, frame.frame).body
            check(len(received) <= limit, "U11", f"{len(received)} bytes within {limit}")
            continue
        check(limit - len(received) < 2_048, "C6",
              f"the broker waits with {limit - len(received)} bytes of credit")
        limit = len(received) + 4_096
        supplier.say(wire.Credit(limit), seen.header.stream)
    check(received == body, "U12", "the body arrived changed")
