"""Sections 2 and 5: TLS, records, close, KeyUpdate, handshake."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import tempfile
import time

from sluice import wire
from sluice.codes import HEADER_BYTES, Code, Kind, Role

from .lab import Lab, case, check
from .libssl import KeyUpdater
from .peer import Closed, Failed, Peer, Skipped, context, show

_HANDSHAKE_SECONDS = 5  # [H1]
_SLACK_SECONDS = 3
FRAMES_OF_ANY_KIND: dict[Kind, wire.Frame] = {
    Kind.WELCOME: wire.Welcome(1, 0, 1, 1, 0, 16_384, 1, 1, 1),
    Kind.PING: wire.Ping(1), Kind.PONG: wire.Pong(1),
    Kind.GO_AWAY: wire.GoAway(Code.SHUTTING_DOWN, 0),
    Kind.OFFER: wire.Offer(1, "m"), Kind.GRANT: wire.Grant(0, 1), Kind.WITHDRAW: wire.Withdraw(1),
    Kind.ASK: wire.Ask(1), Kind.REPORT: wire.Report(1),
    Kind.SUBMIT: wire.Submit("m", 0), Kind.BODY: wire.Body(b"x" * 1_024),
    Kind.QUEUED: wire.Queued(1, 1, 16_384), Kind.ASSIGN: wire.Assign(1, 1, 1, 0),
    Kind.STARTED: wire.Started(1), Kind.TOKENS: wire.Tokens(b"x"),
    Kind.END: wire.End(Code.COMPLETED), Kind.CANCEL: wire.Cancel(), Kind.CREDIT: wire.Credit(1),
}


def whole(kind: Kind, stream: int = 1) -> bytes:
    """A well-formed frame of a kind, on the stream where it belongs."""
    return wire.pack(FRAMES_OF_ANY_KIND[kind], stream if kind >= Kind.SUBMIT else 0)


def _refused(lab: Lab, tls: ssl.SSLContext) -> ssl.SSLError:
    """The error of a TLS handshake that must not succeed."""
    try:
        peer = lab.connect(tls=tls)
        peer.socket.settimeout(2)
        peer.socket.recv(1)
    except ssl.SSLError as error:
        return error
    except TimeoutError:
        raise Failed("the TLS handshake succeeded") from None
    except OSError as error:
        return ssl.SSLError(str(error))
    raise Failed("the TLS handshake succeeded")


@case("T1")
def tls_1_2_refused(lab: Lab) -> None:
    """A peer that speaks nothing newer than TLS 1.2 gets no connection."""
    tls = context(lab.target)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    _refused(lab, tls)
    check(lab.client().socket.version() == "TLSv1.3", "T1", "the version is not TLS 1.3")


@case("T2")
def alpn_missing_refused(lab: Lab) -> None:
    """Without ALPN, or with another one, the handshake ends with no_application_protocol."""
    for alpn in (None, "h2", "sluice/2"):
        error = _refused(lab, context(lab.target, alpn))
        check("no application protocol" in str(error).lower(), "T2",
              f"expected the alert no_application_protocol for ALPN {alpn}, saw {error}")
    check(lab.client().socket.selected_alpn_protocol() == "sluice/1", "T2", "no ALPN was chosen")


def _s_client(lab: Lab, *options: str) -> list[str]:
    target = lab.target
    return ["openssl", "s_client", "-connect", f"{target.host}:{target.port}", "-CAfile",
            target.ca_file, "-alpn", "sluice/1", "-tls1_3", *options]


@case("T3")
def groups(lab: Lab) -> None:
    """X25519 and P-256 are taken; a peer with neither is refused."""
    for group, taken in (("X25519", True), ("P-256", True), ("P-521", False)):
        run = subprocess.run(_s_client(lab, "-groups", group), input=b"", capture_output=True,
                             timeout=10)
        check((b"Cipher is TLS_" in run.stdout) == taken, "T3",
              f"group {group} was {'refused' if taken else 'taken'}")


@case("T3")
def no_session_tickets(lab: Lab) -> None:
    """No session ticket comes, so that early data has nothing to rest on."""
    client = lab.client()
    client.alive()
    session = client.socket.session
    check(session is None or not session.has_ticket, "T3", "the broker issued a session ticket")


def _cut(peer: Peer, data: bytes, offset: int) -> None:
    """Sends a frame in two records, cut at the offset, or before its end where it is shorter."""
    at = min(offset, len(data) - 1)
    peer.send(data[:at])
    peer.send(data[at:])


@case("T4", "F4")
def hello_split_at_each_offset(lab: Lab) -> None:
    """HELLO of either role arrives split at every offset, each part in a record of its own."""
    for role in (Role.CLIENT, Role.SUPPLIER):
        hello = wire.pack(lab.hello(role))
        for offset in range(1, len(hello)):
            peer = lab.connect()
            _cut(peer, hello, offset)
            peer.welcomed()
            peer.close()


@case("T4", "F4", seconds=40)
def each_frame_split_at_each_offset(lab: Lab) -> None:
    """A task whose every frame is split, at each offset that the longest of them has."""
    client, supplier, model = lab.client(), lab.supplier(), lab.model()
    submit = wire.pack(wire.Submit(model, 5, b"he", credit=65_536, trace=(1, 2, 3)), 1)
    for offset in range(1, len(submit)):
        offers: tuple[wire.Frame, ...] = (wire.Offer(offset, model, region="eu"),
                                          wire.Grant(offset, 1), wire.Pong(1), wire.Ping(offset))
        for frame in offers:
            _cut(supplier, wire.pack(frame), offset)
        check(supplier.expect(wire.Pong).frame == wire.Pong(offset), "L1", "another value")
        if offset == 1:
            lab.settle(model)
        for data in (submit, wire.pack(wire.Body(b"llo"), 1), wire.pack(wire.Credit(1 << 20), 1)):
            _cut(client, data, offset)
        client.expect(wire.Queued, 1)
        seen = supplier.expect(wire.Assign)
        check(getattr(seen.frame, "body") == b"hello", "T4", "the body arrived changed")
        _cut(supplier, wire.pack(wire.Started(1), seen.header.stream), offset)
        _cut(supplier, wire.pack(wire.Tokens(b"answer"), seen.header.stream, 0, 1), offset)
        check(client.expect(wire.Tokens, 1).frame == wire.Tokens(b"answer"), "T4", "changed")
        _cut(client, wire.pack(wire.Cancel(), 1), offset)
        supplier.expect(wire.Cancel, seen.header.stream, skip=(wire.Credit,))
        supplier.taken.discard(seen.header.stream)
        _cut(supplier, wire.pack(wire.End(Code.CANCELLED), seen.header.stream), offset)
        client.expect_end(Code.CANCELLED)
        _cut(supplier, wire.pack(wire.Withdraw(offset)), offset)


@case("T4")
def byte_by_byte_and_all_at_once(lab: Lab) -> None:
    """A handshake in records of one byte; then a hundred frames in one record."""
    peer = lab.connect()
    for byte in wire.pack(lab.hello()):
        peer.send(bytes([byte]))
    peer.welcomed()
    peer.send(*(wire.pack(wire.Ping(value)) for value in range(100)))
    for value in range(100):
        check(peer.expect(wire.Pong).frame == wire.Pong(value), "L1", "PONGs out of order")


@case("T5")
def close_is_answered(lab: Lab) -> None:
    """The broker answers close_notify with its own."""
    client = lab.client()
    client.socket.settimeout(5)
    try:
        client.socket.unwrap()
    except OSError as error:
        raise Failed(f"close_notify was not answered: {type(error).__name__} [T5]") from None


@case("T5", "L7", seconds=30)
def cut_off_frame_never_happened(lab: Lab) -> None:
    """SUBMIT and OFFER cut off at each length by the end of TCP: no task, no offer."""
    supplier, model = lab.serve()
    submit = wire.pack(wire.Submit(model, 2, b"hi", credit=1_000), 1)
    for end in range(1, len(submit)):
        client = lab.client()
        client.send(submit[:end])
        client.close(clean=False)
    supplier.quiet()
    supplier.alive()
    name = lab.model()
    offer = wire.pack(wire.Offer(1, name))
    for end in range(1, len(offer)):
        late = lab.supplier()
        late.send(offer[:end])
        late.close(clean=False)
    asker = lab.client()
    asker.say(wire.Submit(name, 0), 1)
    asker.expect_end(Code.MODEL_UNKNOWN)


@case("T5", "L7")
def loss_without_close_notify(lab: Lab) -> None:
    """A client lost in a stream, without close_notify, has its tasks cancelled."""
    run = lab.running()
    run.client.close(clean=False)
    cancel = run.supplier.expect(wire.Cancel, run.slot)
    run.end(Code.CANCELLED)
    run.supplier.alive()
    check(32 <= getattr(cancel.frame, "code") <= 47, "E7", "CANCEL without a reason")


# MARK: KeyUpdate


def _frames(tls: KeyUpdater, decoder: wire.Decoder, kind: Kind) -> bool:
    """Reads until a frame of the kind comes; false at the end of the connection."""
    while data := tls.read():
        if any(header.kind == kind for header, _ in decoder.feed(data)):
            return True
    return False


def _key_updates(lab: Lab, count: int, every_seconds: float, data_between: bool = False) -> bool:
    """Sends HELLO, then KeyUpdates that ask for one; says whether the broker still answers."""
    tls, decoder = KeyUpdater(lab.target), wire.Decoder()
    try:
        tls.write(wire.pack(lab.hello()))
        check(_frames(tls, decoder, Kind.WELCOME), "H8", "no WELCOME through libssl")
        for _ in range(count):
            if not tls.key_update() or data_between and not tls.write(wire.pack(wire.Pong(1))):
                return False
            time.sleep(every_seconds)
        return tls.write(wire.pack(wire.Ping(1))) and _frames(tls, decoder, Kind.PONG)
    finally:
        tls.close()


@case("T7")
def key_update_taken(lab: Lab) -> None:
    """30 KeyUpdates at once, with data between them, are well; frames go on under new keys."""
    check(_key_updates(lab, 30, 0, data_between=True), "T7", "30 KeyUpdates ended the connection")


@case("T7")
def key_update_flood(lab: Lab) -> None:
    """More KeyUpdates than a burst of 32 end the connection, also with data between them."""
    check(not _key_updates(lab, 60, 0, data_between=True), "T7", "60 KeyUpdates at once were taken")


@case("T7", seconds=25)
def key_updates_without_data(lab: Lab) -> None:
    """33 KeyUpdates without data between them end the connection, however slowly they come."""
    check(not _key_updates(lab, 36, 0.15), "T7", "36 KeyUpdates without data were taken")


@case("T7", seconds=25)
def key_updates_with_data(lab: Lab) -> None:
    """40 KeyUpdates at 8 a second with data between them stay within the allowance."""
    check(_key_updates(lab, 40, 0.125, data_between=True), "T7",
          "40 KeyUpdates in 5 s ended the connection")


# MARK: Handshake


@case("H2", "H4", "H8")
def welcome_first(lab: Lab) -> None:
    """WELCOME answers HELLO, with limits inside their ranges, for both roles."""
    for role in (Role.CLIENT, Role.SUPPLIER):
        welcome = lab.peer(role).welcome
        assert welcome is not None
        check(welcome.version == 1, "H4", f"version {welcome.version} was chosen")
        check(role != Role.CLIENT or welcome.upload_limit >= 16_384, "H8", "uploadLimit too low")
        check(1 <= welcome.max_deadline_ms and welcome.keep_alive_ms >= 1, "H8", "limits of 0")


@case("H3", "H8")
def frames_behind_hello_wait(lab: Lab) -> None:
    """What a hasty peer sends with its HELLO is refused, or answered after WELCOME."""
    peer = lab.connect()
    peer.send(wire.pack(lab.hello()), wire.pack(wire.Ping(7)))
    seen = peer.next_of_case()
    if seen is not None and isinstance(seen.frame, wire.Error):
        check(seen.frame.code == Code.UNEXPECTED_FRAME, "H3", f"saw {show(seen)}")
        peer.expect_closed()
        return
    check(seen is not None and isinstance(seen.frame, wire.Welcome), "H8", "WELCOME is not first")
    check(peer.expect(wire.Pong).frame == wire.Pong(7), "H2", "PING read but not answered")


@case("H2", "F5")
def first_frame_not_hello(lab: Lab) -> None:
    """Any other first frame is unexpected_frame."""
    for kind in FRAMES_OF_ANY_KIND:
        peer = lab.connect()
        peer.send(whole(kind))
        peer.expect_error(Code.UNEXPECTED_FRAME)


@case("H2")
def hello_twice(lab: Lab) -> None:
    """A second HELLO is unexpected_frame, in either role."""
    for role in (Role.CLIENT, Role.SUPPLIER):
        peer = lab.peer(role)
        peer.say(lab.hello(role))
        peer.expect_error(Code.UNEXPECTED_FRAME)


@case("H4", "H5", "V1")
def versions(lab: Lab) -> None:
    """The highest common version is chosen; without one, version_mismatch."""
    for oldest, newest in ((0, 1), (1, 2), (0, 65_535)):
        welcome = lab.connect().hello(lab.hello(oldest_version=oldest, newest_version=newest))
        check(welcome.version == 1, "H4", f"version {welcome.version} for {oldest}…{newest}")
    for oldest, newest in ((0, 0), (2, 2), (2, 65_535)):
        peer = lab.connect()
        peer.say(lab.hello(oldest_version=oldest, newest_version=newest))
        peer.expect_error(Code.VERSION_MISMATCH)


@case("H6")
def credentials_unknown(lab: Lab) -> None:
    """Unknown and empty credentials and certificates are unauthenticated."""
    for fields in ({"credential": b"sk-nobody-has-this"}, {"credential": b""},
                   {"credential": bytes(512)}, {"credential_kind": 3},
                   {"credential": lab.target.key.encode() + b"x"}):
        peer = lab.connect()
        peer.say(lab.hello(**fields))
        peer.expect_error(Code.UNAUTHENTICATED)


@case("H6", "H7")
def credentials_of_the_other_role(lab: Lab) -> None:
    """A credential that is known but for the other role is forbidden."""
    token, key = lab.target.tokens[0].encode(), lab.target.key.encode()
    for hello in (lab.hello(Role.CLIENT, credential=token, credential_kind=2),
                  lab.hello(Role.SUPPLIER, credential=key, credential_kind=1)):
        peer = lab.connect()
        peer.say(hello)
        peer.expect_error(Code.FORBIDDEN)


def _stranger(folder: str) -> tuple[str, str]:
    """A certificate of nobody that a broker trusts, and its key."""
    certificate, key = f"{folder}/stranger.pem", f"{folder}/stranger-key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=stranger", "-keyout", key, "-out", certificate],
        check=True, capture_output=True)
    return certificate, key


def _without_certificate(lab: Lab, tls: ssl.SSLContext, why: str) -> None:
    """A peer whose certificate does not count may use a key, and nothing but a key."""
    welcome = lab.connect(tls=tls).hello(lab.hello())
    check(welcome.version == 1, "T8", f"{why} kept a key from being taken")
    for field in (b"", b"x"):
        peer = lab.connect(tls=tls)
        peer.say(lab.hello(credential_kind=3, credential=field))
        peer.expect_error(Code.UNAUTHENTICATED)


@case("T8", "H11")
def certificates_that_do_not_count(lab: Lab) -> None:
    """No certificate, or a stranger's, does not end the handshake and is not a credential."""
    _without_certificate(lab, context(lab.target), "no certificate")
    with tempfile.TemporaryDirectory() as folder:
        tls = context(lab.target, certificate=_stranger(folder))
        _without_certificate(lab, tls, "a stranger's certificate")


@case("H7", "H11")
def certificates_that_count(lab: Lab) -> None:
    """A certificate that is a key is taken for its role, and its bytes are no secret's."""
    certificate = lab.target.certificate
    if certificate is None:
        raise Skipped("needs --certificate and --private-key")
    tls = context(lab.target, certificate=certificate)
    peer = lab.connect(tls=tls)
    peer.hello(lab.hello(credential_kind=3, credential=b""))
    peer.alive()
    lab.connect(tls=tls).hello(lab.hello())
    with open(certificate[0]) as file:
        der = ssl.PEM_cert_to_DER_cert(file.read())
    digest = hashlib.sha256(der).digest()
    for hello, code in (
            (lab.hello(Role.SUPPLIER, credential_kind=3, credential=b""), Code.FORBIDDEN),
            (lab.hello(credential_kind=3, credential=digest), Code.UNAUTHENTICATED),
            (lab.hello(credential=digest), Code.UNAUTHENTICATED),
            (lab.hello(credential=der[:512]), Code.UNAUTHENTICATED)):
        peer = lab.connect(tls=tls)
        peer.say(hello)
        peer.expect_error(code)


def _until_closed(lab: Lab) -> float:
    """How long a connection without HELLO may last."""
    return _HANDSHAKE_SECONDS + _SLACK_SECONDS * lab.target.patience


def _closes_in_time(started: float, peer: Peer) -> None:
    peer.expect_error(Code.HANDSHAKE_TIMEOUT, _HANDSHAKE_SECONDS + _SLACK_SECONDS)
    took = time.monotonic() - started
    check(took >= _HANDSHAKE_SECONDS - 0.5, "H1", f"HELLO was given only {took:.1f} s")


@case("H1", seconds=25)
def hello_late(lab: Lab) -> None:
    """A peer that says nothing after TLS is told handshake_timeout after 5 s."""
    started = time.monotonic()
    _closes_in_time(started, lab.connect())


@case("H1", seconds=25)
def hello_drips(lab: Lab) -> None:
    """The 5 s are in total: a byte now and then does not extend them."""
    peer, hello = lab.connect(), wire.pack(lab.hello())
    started = time.monotonic()
    for byte in hello:
        if time.monotonic() - started > _until_closed(lab):
            raise Failed("a HELLO that drips is waited for beyond 5 s [H1]")
        peer.send(bytes([byte]))
        try:
            if peer.next(0.4) is not None:
                return  # ERROR; which one is shown by hello-late
        except Closed:
            return
    raise Skipped("the credential is too short to drip for longer than 5 s")


@case("H1", seconds=25)
def tls_late(lab: Lab) -> None:
    """A TCP connection without TLS is closed after 5 s."""
    started = time.monotonic()
    with socket.create_connection((lab.target.host, lab.target.port)) as raw:
        raw.settimeout(_until_closed(lab))
        try:
            while raw.recv(1_024):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise Failed(f"a connection without TLS is open after {_until_closed(lab):g} s "
                         "[H1]") from None
    check(time.monotonic() - started >= _HANDSHAKE_SECONDS - 0.5, "H1", "closed too early")
