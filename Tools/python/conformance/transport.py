"""Sections 2 and 5: TLS, records, close, KeyUpdate, handshake."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import ssl
import subprocess
import time
from collections.abc import Callable

from sluice import wire
from sluice.codes import HEADER_BYTES, Code, Kind, Role

from .lab import Lab, case, check
from .peer import Closed, Failed, Peer, Skipped, context, show

_HANDSHAKE_SECONDS = 5  # [H1]
_SLACK_SECONDS = 3
FRAMES_OF_ANY_KIND: dict[Kind, wire.Frame] = {
    Kind.WELCOME: wire.Welcome(1, 0, 1, 1, 0, 16_384, 1, 1, 1),
    Kind.PING: wire.Ping(1), Kind.PONG: wire.Pong(1),
    Kind.GO_AWAY: wire.GoAway(Code.SHUTTING_DOWN, 0),
    Kind.OFFER: wire.Offer(1, "m"), Kind.GRANT: wire.Grant(0, 1), Kind.WITHDRAW: wire.Withdraw(1),
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


@case("T4", "F4")
def split_at_each_offset(lab: Lab) -> None:
    """HELLO, PING and SUBMIT arrive split at every offset, each part in a record of its own."""
    hello = wire.pack(lab.hello())
    for offset in range(1, len(hello)):
        peer = lab.connect()
        peer.send(hello[:offset])
        peer.send(hello[offset:])
        peer.welcomed()
        peer.close()
    client, model = lab.client(), lab.model()
    for value, offset in enumerate(range(1, HEADER_BYTES + 8)):
        ping = wire.pack(wire.Ping(value))
        client.send(ping[:offset])
        client.send(ping[offset:])
        check(client.expect(wire.Pong).frame == wire.Pong(value), "L1", "another value came back")
    submit = wire.pack(wire.Submit(model, 5, b"hello", region="eu", trace=(1, 2, 3)), 1)
    for offset in range(1, len(submit)):
        client.send(submit[:offset])
        client.send(submit[offset:])
        client.expect_end(Code.MODEL_UNKNOWN)


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


@case("T5", "L7")
def cut_off_frame_never_happened(lab: Lab) -> None:
    """A SUBMIT without its last byte, then the end of TCP: nobody gets the task."""
    supplier, model = lab.serve()
    submit = wire.pack(wire.Submit(model, 2, b"hi", credit=1_000), 1)
    for end in (1, HEADER_BYTES, len(submit) - 1):
        client = lab.client()
        client.send(submit[:end])
        client.close(clean=False)
    supplier.quiet()
    supplier.alive()


@case("T5", "L7")
def loss_without_close_notify(lab: Lab) -> None:
    """A client lost in a stream, without close_notify, has its tasks cancelled."""
    run = lab.running()
    run.client.close(clean=False)
    cancel = run.supplier.expect(wire.Cancel, run.slot)
    run.end(Code.CANCELLED)
    run.supplier.alive()
    check(32 <= getattr(cancel.frame, "code") <= 47, "E7", "CANCEL without a reason")


class _Shell:
    """``openssl s_client``, whose line commands send KeyUpdates."""

    def __init__(self, lab: Lab) -> None:
        self._process = subprocess.Popen(
            _s_client(lab), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self._process.stdin and self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout
        fcntl.fcntl(self._output, fcntl.F_SETFL, os.O_NONBLOCK)
        self._seen = b""
        self.wait_for(lambda seen: b"Verify return code" in seen and b"---\n" in seen)

    def write(self, data: bytes) -> None:
        """Writes in one piece: a piece that begins with K is a command."""
        with contextlib.suppress(OSError):
            self._input.write(data)
            self._input.flush()

    def wait_for(self, holds: Callable[[bytes], bool], seconds: float = 5) -> bool:
        """Reads until the condition holds, the broker closes or time is over."""
        limit = time.monotonic() + seconds
        while not holds(self._seen) and time.monotonic() < limit:
            select.select([self._output], [], [], 0.1)
            data = self._output.read(65_536)
            if data:
                self._seen += data
            elif data == b"":
                break
        return holds(self._seen)

    def key_update(self) -> None:
        """Sends one KeyUpdate that asks for another; waits until the tool has done so."""
        told = self._seen.count(b"KEYUPDATE")
        self.write(b"K\n")
        self.wait_for(lambda seen: seen.count(b"KEYUPDATE") > told, 2)

    def frames(self, kind: type[wire.Frame], least: int = 1) -> bool:
        """Whether frames of a kind came: looked for by their header among the tool's own lines."""
        size = {wire.Welcome: 40, wire.Pong: 8}[kind]
        header = wire.Header(size, kind.kind, 0, 0, 0).pack()
        return self.wait_for(lambda seen: seen.count(header) >= least)

    @property
    def closed(self) -> bool:
        """Whether the broker ended the connection within 5 s."""
        self.wait_for(lambda _: self._process.poll() is not None)
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ends the tool."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._input.close()
        self._output.close()


def _key_updates(lab: Lab, count: int, every_seconds: float, data_between: bool = False) -> bool:
    """Sends HELLO, then KeyUpdates that ask for one; says whether the broker still answers."""
    shell = _Shell(lab)
    try:
        shell.write(wire.pack(lab.hello()))
        check(shell.frames(wire.Welcome), "H8", "no WELCOME through openssl s_client")
        for _ in range(count):
            shell.key_update()
            if data_between:
                shell.write(wire.pack(wire.Pong(1)))
            time.sleep(every_seconds)
        shell.write(wire.pack(wire.Ping(1)))
        answered = shell.frames(wire.Pong)
        if not answered:
            check(shell.closed, "T7", "neither an answer to PING nor the end of the connection")
        return answered
    finally:
        shell.stop()


@case("T7")
def key_update_taken(lab: Lab) -> None:
    """Three KeyUpdates are well; frames go on under the new keys."""
    check(_key_updates(lab, 3, 0.15), "T7", "three KeyUpdates ended the connection")


@case("T7")
def key_update_flood(lab: Lab) -> None:
    """More KeyUpdates than a burst of 32 end the connection, also with data between them."""
    check(not _key_updates(lab, 60, 0, data_between=True), "T7", "60 KeyUpdates at once were taken")


@case("T7", seconds=25)
def key_updates_without_data(lab: Lab) -> None:
    """33 KeyUpdates without data between them end the connection, however slowly they come."""
    check(not _key_updates(lab, 36, 0.2), "T7", "36 KeyUpdates without data were taken")


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
        if time.monotonic() - started > _HANDSHAKE_SECONDS + _SLACK_SECONDS:
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
        raw.settimeout(_HANDSHAKE_SECONDS + _SLACK_SECONDS)
        try:
            while raw.recv(1_024):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise Failed("a connection without TLS is open after 8 s [H1]") from None
    check(time.monotonic() - started >= _HANDSHAKE_SECONDS - 0.5, "H1", "closed too early")
