"""Section 7: offers, grants, withdrawals."""

from __future__ import annotations

import time

from sluice import wire
from sluice.codes import Code, Flag

from .lab import Lab, case, check
from .peer import Failed, Peer


def _assigns(supplier: Peer, count: int) -> list[int]:
    """Exactly so many ASSIGNs come; their slots."""
    slots = [supplier.expect(wire.Assign).header.stream for _ in range(count)]
    supplier.quiet()
    return slots


@case("S1", "Q10")
def names_compared_byte_by_byte(lab: Lab) -> None:
    """A name in other case is another model."""
    _, model = lab.serve(model=lab.model() + "/Aa")
    client = lab.client()
    for other in (model.lower(), model.upper(), model + "x", model[:-1]):
        client.say(wire.Submit(other, 0), 1)
        client.expect_end(Code.MODEL_UNKNOWN)


@case("S2", "S3")
def offer_number_twice(lab: Lab) -> None:
    """A number that stands, or was withdrawn with an open stream, takes no other offer."""
    for withdraw in (False, True):
        run = lab.running()
        if withdraw:
            run.supplier.say(wire.Withdraw(1))
            run.supplier.alive()
        run.supplier.say(wire.Offer(1, run.model, output_price=5))
        run.supplier.expect_error(Code.INVALID_OFFER)


@case("S2")
def too_many_offers(lab: Lab) -> None:
    """256 offers stand; another is refused; after a WITHDRAW there is room again."""
    supplier, model = lab.supplier(), lab.model()
    supplier.send(*(wire.pack(wire.Offer(number, model)) for number in range(1, 257)))
    supplier.alive()
    supplier.say(wire.Withdraw(1))
    supplier.say(wire.Offer(257, model))
    supplier.alive()
    supplier.say(wire.Offer(258, model))
    supplier.expect_error(Code.INVALID_OFFER)


@case("S10")
def no_such_offer(lab: Lab) -> None:
    """GRANT or WITHDRAW for what does not stand, and WITHDRAW of offer 0, are invalid_offer."""
    for frame in (wire.Grant(1, 1), wire.Withdraw(1), wire.Withdraw(0), wire.Grant(7, 0)):
        supplier = lab.supplier()
        supplier.say(frame)
        supplier.expect_error(Code.INVALID_OFFER)
    for frame in (wire.Grant(1, 1), wire.Withdraw(1)):
        supplier, _ = lab.serve()
        supplier.say(wire.Withdraw(1))
        supplier.say(frame)
        supplier.expect_error(Code.INVALID_OFFER)


@case("S4", "S5", "S7")
def nothing_before_a_grant(lab: Lab) -> None:
    """A new offer has no slots: the task waits, accepted, until the GRANT."""
    supplier, model = lab.serve(slots=None)
    client = lab.client()
    lab.submit(client, model)
    supplier.quiet()
    supplier.say(wire.Grant(1, 1))
    _assigns(supplier, 1)


@case("S4", "S7", "E2")
def grant_bounds_open_streams(lab: Lab) -> None:
    """Two slots take two of four tasks; each END lets one more in."""
    supplier, model = lab.serve(slots=2)
    client = lab.client()
    for stream in range(1, 5):
        lab.submit(client, model, stream=stream)
    slots = _assigns(supplier, 2)
    for _ in range(2):
        slot = slots.pop(0)
        supplier.taken.discard(slot)
        supplier.say(wire.End(Code.COMPLETED), slot)
        slots += _assigns(supplier, 1)


@case("S4", "S5", "S7")
def connection_grant_bounds_all_offers(lab: Lab) -> None:
    """GRANT for offer 0 bounds the connection over all offers; a higher one lets more in."""
    supplier, model = lab.serve(slots=8)
    _, other = lab.serve(slots=8, supplier=supplier, offer=2)
    supplier.say(wire.Grant(0, 1))
    supplier.alive()
    client = lab.client()
    for stream, name in enumerate((model, other, model), 1):
        lab.submit(client, name, stream=stream)
    _assigns(supplier, 1)
    supplier.say(wire.Grant(0, 3))
    _assigns(supplier, 2)


@case("S6", "S7")
def lower_grant_takes_nothing_back(lab: Lab) -> None:
    """A lower GRANT lets open streams go on and opens no other until enough have ended."""
    supplier, model = lab.serve(slots=2)
    client = lab.client()
    runs = [lab.run(client, supplier, model, stream=stream) for stream in (1, 2)]
    supplier.say(wire.Grant(1, 1))
    supplier.alive()
    lab.submit(client, model, stream=3)
    runs[0].tokens(b"abc")
    client.expect(wire.Tokens, 1)
    runs[0].end(output_tokens=1)
    client.expect_end(Code.COMPLETED, 1)
    supplier.quiet()
    runs[1].end()
    client.expect_end(Code.COMPLETED, 2)
    _assigns(supplier, 1)


@case("S8")
def withdrawn_offer_goes_on(lab: Lab) -> None:
    """WITHDRAW takes no open stream back and no new task."""
    run = lab.running(slots=4)
    run.supplier.say(wire.Withdraw(1))
    run.supplier.alive()
    run.client.say(wire.Submit(run.model, 2, b"hi", credit=4_096, deadline_ms=600), 2)
    run.supplier.quiet()
    run.client.expect(wire.End, 2, skip=(wire.Queued,))
    run.tokens(b"abc")
    run.client.expect(wire.Tokens, 1)
    run.end(output_tokens=1)
    run.client.expect_end(Code.COMPLETED)


@case("S12")
def offers_die_with_their_connection(lab: Lab) -> None:
    """After its only supplier has gone, a task of the model runs nowhere."""
    supplier, model = lab.serve()
    supplier.close()
    other, _ = lab.serve()
    client = lab.client()
    for _ in range(20):
        client.say(wire.Submit(model, 2, b"hi", credit=4_096, deadline_ms=600), 1)
        end = client.expect_end(None, skip=(wire.Queued,))
        if end.code != Code.SUPPLIER_LOST:  # the task and the end of the connection crossed
            break
        time.sleep(0.05)
    check(end.code in (Code.NO_SUPPLIER, Code.DEADLINE_EXCEEDED), "Q10",
          f"END {Code(end.code).label}")
    other.quiet(0.1)


def _report(supplier: Peer, question: int) -> dict[str, dict[int, int]]:
    """An answer's rows by model, each a number's value by number; asked until it comes [S17]."""
    rows: dict[str, dict[int, int]] = {}
    left: int | None = None
    for _ in range(5):
        supplier.say(wire.Ask(question), flags=Flag.IGNORABLE)
        try:
            while left != 0:
                received = supplier.expect(wire.Report, seconds=1.5)
                frame = received.frame
                assert isinstance(frame, wire.Report)
                check(frame.question == question, "S14", f"question {frame.question}")
                check(bool(received.header.flags & Flag.IGNORABLE), "S14", "not ignorable")
                check((frame.model == "") == (left is None), "S15", "the whole is the first row")
                check(left is None or frame.rows_left == left - 1, "S15", "rows left")
                rows[frame.model], left = dict(frame.counts), frame.rows_left
            return rows
        except Failed:
            if left is not None:
                raise
    raise Failed("[S14] no REPORT")


@case("S14", "S15", "S16", seconds=30)
def supplier_learns_how_it_stands(lab: Lab) -> None:
    """What came, ended and was lost is told by model, on any connection of the supplier."""
    run = lab.running(slots=2)
    run.tokens(b"abc")
    run.client.expect(wire.Tokens, 1)
    run.end(output_tokens=1, input_tokens=2)
    run.client.expect_end(Code.COMPLETED)
    rows = _report(run.supplier, 7)
    row = rows[run.model]
    check(row[4] == 1 and row[5] == 2 and row.get(6, 0) == 0, "S15", f"offers and slots {row}")
    check((row[8], row[9], row[13], row[14]) == (1, 1, 2, 1), "S15", f"tasks and tokens {row}")
    whole = rows[""]
    check(whole[3] >= 1 and whole[8] >= row[8] and whole[2] <= whole[1], "S15", f"whole {whole}")
    again = lab.run(run.client, run.supplier, run.model, stream=1)
    again.end(Code.DECLINED)
    run.client.expect_end(Code.SUPPLIER_FAILED)
    other = lab.supplier()
    check(_report(other, 8)[run.model][10] == 1, "S15", "declined, asked on another connection")


@case("S17", "L9", waits=True)
def reports_at_most_once_a_second(lab: Lab) -> None:
    """Of questions at once one is answered; a flood of them ends the connection."""
    supplier, _ = lab.serve()
    _report(supplier, 1)
    supplier.send(wire.pack(wire.Ask(2)) * 20)
    supplier.quiet(0.2)
    supplier.alive()
    supplier.send(wire.pack(wire.Ask(3)) * 1_100)
    supplier.expect_error(Code.FLOOD)


@case("S9", "D6", "D8", "D9")
def declined_is_no_fault(lab: Lab) -> None:
    """A declined task with nobody else to take it is supplier_failed; the supplier stays."""
    run = lab.running(slots=1)
    run.end(Code.DECLINED)
    run.client.expect_end(Code.SUPPLIER_FAILED)
    run.supplier.alive()
    again = lab.run(run.client, run.supplier, run.model, stream=1)
    again.end()
    run.client.expect_end(Code.COMPLETED)
