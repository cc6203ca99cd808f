"""Section 13 and 16: END, CANCEL, quarantine, deadlines, stalled readers."""

from __future__ import annotations

import time
from typing import cast

from sluice import wire
from sluice.codes import HEADER_BYTES, Code

from .lab import Lab, case, check
from .peer import Failed, show

_GRACE_SECONDS = 2  # [E7]


@case("E1", "E10")
def frames_after_end(lab: Lab) -> None:
    """TOKENS, STARTED or END of a supplier on a stream it has ended are unexpected_frame."""
    for frame in (wire.Tokens(b"abc"), wire.Started(1), wire.End(Code.COMPLETED)):
        run = lab.running()
        run.end()
        run.client.expect_end(Code.COMPLETED)
        run.supplier.say(frame, run.slot, tokens=1 if isinstance(frame, wire.Tokens) else 0)
        run.supplier.expect_error(Code.UNEXPECTED_FRAME)


@case("E10", "F5")
def frames_on_a_slot_never_opened(lab: Lab) -> None:
    """The same on a slot that the broker never opened."""
    for frame in (wire.Tokens(b"abc"), wire.Started(1), wire.End(Code.COMPLETED)):
        supplier = lab.supplier()
        supplier.say(frame, 5)
        supplier.expect_error(Code.UNEXPECTED_FRAME)


@case("E1", "E2", "E3")
def one_end_after_all_tokens(lab: Lab) -> None:
    """A regular END follows all TOKENS of its stream, and nothing follows it."""
    run = lab.running(reserve_bytes=65_536)
    for _ in range(50):
        run.tokens(b"x" * 1_000)
    run.end(output_tokens=50)
    for _ in range(50):
        run.client.expect(wire.Tokens, 1)
    end = run.client.expect_end(Code.COMPLETED, skip=())
    check(end.output_tokens == 50, "E4", f"{end.output_tokens} tokens recorded of 50")
    run.client.quiet(0.2)


@case("E6")
def cancel_twice(lab: Lab) -> None:
    """A second CANCEL and a CREDIT behind it are ignored; one END comes."""
    run = lab.running()
    run.client.send(wire.pack(wire.Cancel(), 1) * 3, wire.pack(wire.Credit(1 << 20), 1))
    run.supplier.expect(wire.Cancel, run.slot)
    run.end(Code.CANCELLED)
    run.client.expect_end(Code.CANCELLED)
    run.client.alive()
    run.supplier.alive()


@case("E14", "Q4")
def cancel_before_acceptance(lab: Lab) -> None:
    """CANCEL during upload ends the task cancelled, without QUEUED."""
    _, model = lab.serve()
    client = lab.client()
    client.say(wire.Submit(model, 5_000, b"", credit=4_096), 1)
    client.say(wire.Cancel(), 1)
    end = client.expect_end(Code.CANCELLED)
    check(end.cost == 0, "Q4", "a task that was not accepted has a cost")


@case("E1", "E6")
def cancel_in_the_queue(lab: Lab) -> None:
    """CANCEL of a task that waits for a slot ends it at once."""
    supplier, model = lab.serve(slots=None)
    client = lab.client()
    lab.submit(client, model)
    client.say(wire.Cancel(), 1)
    client.expect_end(Code.CANCELLED, seconds=1.5)
    supplier.say(wire.Grant(1, 1))
    supplier.quiet(0.3)


@case("E7", "E8", "E9", "S7")
def cancel_grace_and_quarantine(lab: Lab) -> None:
    """Without the supplier's END the client's comes within 2 s; the slot stays taken until then."""
    run = lab.running(slots=1)
    run.tokens(b"abc")
    run.client.expect(wire.Tokens, 1)
    run.client.say(wire.Cancel(), 1)
    started = time.monotonic()
    run.supplier.expect(wire.Cancel, run.slot)
    end = run.client.expect_end(Code.CANCELLED, seconds=_GRACE_SECONDS + 2)
    took = time.monotonic() - started
    check(1.5 < took < _GRACE_SECONDS + 1.5 * lab.target.patience, "E9",
          f"the client's END came after {took:.1f} s")
    check(end.output_tokens == 1, "E9", f"{end.output_tokens} tokens known, 1 delivered")
    lab.submit(run.client, run.model)
    run.supplier.quiet(0.5)
    run.tokens(b"def")
    run.supplier.alive()
    run.end(Code.CANCELLED)
    seen = run.supplier.expect(wire.Assign)
    check(cast(wire.Assign, seen.frame).task_id != run.assign.task_id, "E8", "the task came again")


@case("E5", "E1")
def end_before_cancel_wins(lab: Lab) -> None:
    """A CANCEL behind the END changes nothing."""
    run = lab.running()
    run.tokens(b"abc")
    run.end(output_tokens=1)
    run.client.expect(wire.Tokens, 1)
    run.client.expect_end(Code.COMPLETED)
    run.client.say(wire.Cancel(), 1)
    run.client.alive()
    run.supplier.alive(skip=(wire.Credit, wire.Cancel))


@case("E3", "O1")
def cancel_passes_what_is_unsent(lab: Lab) -> None:
    """END after CANCEL does not wait for TOKENS that the client has no credit for."""
    run = lab.running(credit=2_500)
    run.tokens(b"x" * 2_000)
    run.client.expect(wire.Tokens, 1)
    run.client.say(wire.Cancel(), 1)
    run.supplier.expect(wire.Cancel, run.slot)
    run.tokens(b"x" * 400)
    run.end(Code.CANCELLED, output_tokens=2)
    end = run.client.expect_end(Code.CANCELLED)
    check(end.output_tokens == 1, "K9", f"{end.output_tokens} tokens billed")


@case("E13", "C11", seconds=70, waits=True)
def stalled_credit(lab: Lab) -> None:
    """A client that leaves a running task with less than 2,048 bytes for 30 s is ended stalled."""
    run = lab.running(credit=1_000)
    started = time.monotonic()
    cancel = None
    while cancel is None and time.monotonic() - started < 40:
        check(run.client.next_of_case(0.5) is None, "E13", "a frame before the supplier's END")
        cancel = run.supplier.next_of_case(0.5)
    check(cancel is not None and cancel.frame == wire.Cancel(Code.STALLED), "E13",
          f"expected CANCEL stalled, saw {show(cancel) if cancel else 'nothing'}")
    run.end(Code.CANCELLED)
    run.client.expect_end(Code.STALLED)
    check(time.monotonic() - started > 29, "E13", "the task was ended early")


@case("E13", seconds=70, waits=True)
def stalled_socket(lab: Lab) -> None:
    """When a client's socket takes nothing for 30 s, its tasks are stalled and it is closed."""
    run = lab.running(credit=1 << 40, reserve_bytes=65_536)
    used, limit = 0, run.assign.credit
    started = full = time.monotonic()
    signed = started
    while time.monotonic() - started < 55:
        if limit - used >= 16_384:
            run.tokens(b"x" * (16_384 - HEADER_BYTES))
            used, full = used + 16_384, time.monotonic()
            continue
        if time.monotonic() - signed > 5:
            signed = time.monotonic()
            run.client.say(wire.Pong(1))  # a sign of life, so that keep-alive is content
        seen = run.supplier.next_of_case(0.5)
        if seen is not None and isinstance(seen.frame, wire.Credit):
            limit = max(limit, seen.frame.limit)
        elif seen is not None:
            check(seen.frame == wire.Cancel(Code.STALLED), "E13",
                  f"expected CANCEL stalled, saw {show(seen)}")
            check(time.monotonic() - full > 25, "E13", "the task was ended early")
            run.end(Code.CANCELLED)
            return
    raise Failed("a client that reads nothing for 30 s keeps its task [E13]")


@case("E9", "E12", "E8")
def deadline_with_a_silent_supplier(lab: Lab) -> None:
    """After the deadline the client's END waits at most 2 s for the supplier's."""
    run = lab.running(deadline_ms=300)
    run.tokens(b"abc")
    run.client.expect(wire.Tokens, 1)
    started = time.monotonic()
    run.supplier.expect(wire.Cancel, run.slot)
    run.tokens(b"def")
    end = run.client.expect_end(Code.DEADLINE_EXCEEDED, seconds=_GRACE_SECONDS + 2)
    took = time.monotonic() - started
    check(took < _GRACE_SECONDS + 1.5 * lab.target.patience, "E9",
          f"the client's END came after {took:.1f} s")
    check(end.output_tokens == 1, "K9", f"{end.output_tokens} tokens billed, 1 delivered")
    run.end(Code.DEADLINE_EXCEEDED)
    run.supplier.alive()


@case("L7", "E1", "S7")
def lost_client_frees_its_slots(lab: Lab) -> None:
    """Tasks of a lost client are cancelled at their suppliers, and those that wait never start."""
    supplier, model = lab.serve(slots=2)
    client = lab.client()
    runs = [lab.run(client, supplier, model, stream=stream) for stream in (1, 2)]
    lab.submit(client, model, stream=3)
    client.close(clean=False)
    for _ in runs:
        slot = supplier.expect(wire.Cancel).header.stream
        supplier.taken.discard(slot)
        supplier.say(wire.End(Code.CANCELLED), slot)
    supplier.quiet()
    lab.run(lab.client(), supplier, model)


@case("O1", "C12", "E4", seconds=30)
def streams_keep_apart(lab: Lab) -> None:
    """Answers of 16 streams that come mixed reach their own clients in order, with their sums."""
    supplier, model = lab.serve(slots=16)
    clients = [lab.client(), lab.client()]
    runs = [lab.run(clients[number % 2], supplier, model, stream=1 + number // 2)
            for number in range(16)]
    for step in range(30):
        for number, run in enumerate(runs):
            run.tokens(bytes([number, step]) * (1 + number), 1)
    for run in runs:
        run.end(output_tokens=30)
    steps = dict.fromkeys(range(16), 0)
    for parity, client in enumerate(clients):
        ended = 0
        while ended < 8:
            seen = client.next_of_case(5)
            check(seen is not None, "O1", "answers stopped before their END")
            assert seen is not None
            number = 2 * (seen.header.stream - 1) + parity
            if isinstance(seen.frame, wire.Tokens):
                expected = bytes([number, steps[number]]) * (1 + number)
                check(seen.frame.content == expected, "O1", "a frame of another stream or step")
                steps[number] += 1
            elif isinstance(seen.frame, wire.End):
                check(seen.frame.output_tokens == 30 == steps[number], "E4",
                      f"{steps[number]} frames, {seen.frame.output_tokens} tokens recorded")
                ended += 1
