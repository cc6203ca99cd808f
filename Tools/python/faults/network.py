"""Faults of the network: dead links that say nothing, and everybody coming back at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import ssl
import subprocess
import time
from collections import Counter

from sluice import wire
from sluice.codes import Code
from sluice.session import ConnectionLost, tls_context

from .cases import PATIENCE, SHARDED, Skipped, case, check
from .deployment import Deployment
from .load import Burst, connect, end_watched, raw_hello, serve_paced, watch

_KEEP_ALIVE_SECONDS = 15
# The crowd shares one process: more handshakes at once would only wait for each other.
_HANDSHAKES = 128
_BROKER_ADDRESS, _PEER_ADDRESS = "10.77.0.1", "10.77.0.2"


def _command(*arguments: str) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True)
    except FileNotFoundError:
        raise Skipped(f"THIS MACHINE HAS NO {arguments[0]}: the case did not run") from None
    if done.returncode != 0:
        raise Skipped(f"THIS MACHINE REFUSES {' '.join(arguments)}: {done.stderr.strip()}")


class Link:
    """A pair of virtual interfaces between this network namespace and one more."""

    def __init__(self) -> None:
        _command("ip", "link", "set", "lo", "up")
        # Its only work is to hold the other namespace open.
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
        self._wait_for_namespace()
        _command("ip", "link", "add", "near", "type", "veth", "peer", "name", "far")
        _command("ip", "link", "set", "far", "netns", str(self._holder.pid))
        _command("ip", "address", "add", f"{_BROKER_ADDRESS}/24", "dev", "near")
        _command("ip", "link", "set", "near", "up")
        for arguments in (("ip", "link", "set", "lo", "up"),
                          ("ip", "address", "add", f"{_PEER_ADDRESS}/24", "dev", "far"),
                          ("ip", "link", "set", "far", "up")):
            _command(*self.far(*arguments))

    def _wait_for_namespace(self) -> None:
        own = os.readlink("/proc/self/ns/net")
        limit = time.monotonic() + PATIENCE * 5
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == own:
            check(time.monotonic() < limit, "no second network namespace")
            time.sleep(0.01)

    def far(self, *arguments: str) -> tuple[str, ...]:
        """A command line that runs behind the link."""
        return ("nsenter", "-t", str(self._holder.pid), "-n", *arguments)

    def cut(self) -> None:
        """From now on no packet passes, and neither side is told."""
        _command(*self.far("ip", "link", "set", "far", "down"))

    def close(self) -> None:
        """Lets the other namespace go."""
        self._holder.kill()
        self._holder.wait()


@case("the link to a supplier with running tasks and to an idle client dies without a word "
      "(network namespace, interface down)",
      "keep-alive finds both within twice 15 s, the tasks end supplier_lost with exact usage",
      seconds=50, quick=False, namespaces=("net",))
async def half_open(deployment: Deployment) -> str:
    """The client whose tasks run is on the broker's side of the link."""
    link = Link()
    try:
        deployment.host = _BROKER_ADDRESS
        deployment.make(names=(_BROKER_ADDRESS,))
        await deployment.start_sidecar()
        await deployment.start_broker()
        worker = await deployment.start_worker("--tokens-per-second", "20",
                                               prefix=link.far())
        idle = await deployment.start_idle_client(prefix=link.far())
        async with await connect(deployment) as client:
            streams = [await watch(client, 5_000, salt=salt) for salt in range(4)]
            await deployment.until(lambda: all(each.tokens > 5 for each in streams), 10, "tokens")
            await deployment.until(lambda: deployment.statistic("connectionsOpen") == 3, 5,
                                   "three connections")
            link.cut()
            began = time.monotonic()
            for each in streams:
                assert each.job is not None
                async with asyncio.timeout(PATIENCE * 40):
                    result = await each.job
                check(result is not None and result.code == Code.SUPPLIER_LOST,
                      f"ended {result.code.label if result else 'with its connection'}")
                check(result is not None and result.output_tokens == each.tokens,
                      "usage is not what was received")
            lost = time.monotonic() - began
            await deployment.until(lambda: deployment.statistic("connectionsOpen") == 1, 40,
                                   "the dead connections are closed")
            found = time.monotonic() - began
        check(lost >= _KEEP_ALIVE_SECONDS, f"found after {lost:.1f} s: was it told?")
        check(found <= 2 * _KEEP_ALIVE_SECONDS + 10, f"found only after {found:.1f} s")
        for program in (worker, idle):
            program.kill()
        counts = await deployment.settled()
        return (f"tasks ended after {lost:.1f} s, both connections closed after {found:.1f} s; "
                f"{counts.accepted} accepted = {counts.final} final")
    finally:
        link.close()


# MARK: Storm


class _Crowd:
    """Clients that connect all at once, and again when they were cut.

    So many handshakes go on at any moment as one process can do in the broker's 5 s.
    """

    def __init__(self, deployment: Deployment, size: int) -> None:
        self._deployment = deployment
        self._context = tls_context(deployment.ca_file)
        self._hello = wire.pack(raw_hello(deployment))
        self._size = size
        self._turn = asyncio.Semaphore(_HANDSHAKES)
        self.attempts = 0
        self.connected: list[asyncio.StreamWriter] = []

    async def connect(self, seconds: float) -> float:
        """All of them; answers how long it took until the last one had its WELCOME."""
        began = time.monotonic()
        limit = began + PATIENCE * seconds
        await asyncio.gather(*(self._one(limit) for _ in range(self._size)))
        return time.monotonic() - began

    async def _one(self, limit: float) -> None:
        pause = 0.5
        while True:
            check(time.monotonic() < limit, f"only {len(self.connected)} of {self._size} served")
            check(self._deployment.broker.running, "the broker is gone")
            self.attempts += 1
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError,
                                     TimeoutError):
                async with self._turn, asyncio.timeout(20):
                    reader, writer = await asyncio.open_connection(
                        self._deployment.host, self._deployment.port, ssl=self._context,
                        server_hostname=self._deployment.host)
                    writer.write(self._hello)
                    header = wire.Header.unpack(await reader.readexactly(wire.HEADER_BYTES))
                    await reader.readexactly(header.payload_bytes)
                if header.kind == wire.Welcome.kind:
                    self.connected.append(writer)
                    return
                writer.close()
            await asyncio.sleep(random.uniform(0, pause))  # [H10]
            pause = min(4.0, pause * 2)

    def drop(self) -> None:
        """Closes all sockets without a word of TLS."""
        for writer in self.connected:
            writer.transport.abort()
        self.connected.clear()


@case("5,000 clients connect at the same moment; the broker is killed and they all come back",
      "every client is served, memory per connection stays bounded, a running broker's other "
      "clients are served meanwhile", seconds=120, quick=False, sharded=True)
async def reconnect_storm(deployment: Deployment) -> str:
    """All clients live in one process, which does most of the work."""
    size = 5_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = size + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Skipped(f"THIS MACHINE ALLOWS {hard} DESCRIPTORS, {wanted} ARE NEEDED")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    await deployment.start()
    await Burst.run(deployment, most=50, streams=4)
    before = deployment.broker.memory_bytes()
    crowd = _Crowd(deployment, size)
    first = await crowd.connect(90)
    first_attempts = crowd.attempts
    # A handshake takes more than an idle connection: what stays is what counts.
    await asyncio.sleep(0.5)
    grown = deployment.broker.memory_bytes() - before
    check(grown <= size * 128 * 1_024, f"{grown} bytes for {size} connections")
    async with asyncio.timeout(PATIENCE * 10):
        burst = await Burst.run(deployment, most=50, streams=4)
    check(burst.codes[Code.COMPLETED] == 50, f"tasks beside the crowd ended {dict(burst.codes)}")
    deployment.broker.kill()
    crowd.drop()
    crowd.attempts = 0
    await deployment.start_broker()
    again = await crowd.connect(90)
    await asyncio.sleep(0.5)
    burst = await Burst.run(deployment, most=50, streams=4)
    check(burst.codes[Code.COMPLETED] == 50, f"tasks after the storm ended {dict(burst.codes)}")
    crowd.drop()
    await deployment.until(lambda: deployment.statistic("connectionsOpen") <= 2, 20,
                           "the crowd's connections are closed")
    counts = await deployment.settled()
    return (f"all served in {first:.1f} s ({first_attempts} attempts), after the kill in "
            f"{again:.1f} s ({crowd.attempts} attempts); {grown / size / 1_024:.1f} KiB a "
            f"connection; {counts.accepted} accepted = {counts.final} final")


# MARK: Silent connections


@case("bursts of 300 TCP connections that never say a word, 12,000 in all; the broker cuts "
      "each after 5 s while the next ones come",
      "the broker lives, all are cut, a stream beside them runs on and tasks are served",
      seconds=40, sharded=True)
async def silent_connections(deployment: Deployment) -> str:
    """What is cut and what is accepted meet in the same turns of the broker."""
    await deployment.start()
    supplier = await serve_paced(deployment)
    client = await connect(deployment)
    watched = await watch(client, 6_000, model="paced")
    address = (deployment.host, deployment.port)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 8_000:
        raise Skipped(f"THIS MACHINE ALLOWS {hard} DESCRIPTORS, 8,000 ARE NEEDED")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 8_000), hard))
    silent: list[socket.socket] = []
    opened = 0
    try:
        for _ in range(40):
            for _ in range(300):
                check(deployment.broker.running, f"the broker died after {opened} connections")
                one = socket.socket()
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect(address)
                silent.append(one)
                opened += 1
            await asyncio.sleep(0.3)
            while len(silent) > 7_500:
                silent.pop(0).close()
        tokens = watched.tokens
        await deployment.until(lambda: watched.tokens > tokens + 20, 5, "the stream runs on")
        burst = await Burst.run(deployment, most=50, streams=4)
        check(burst.codes[Code.COMPLETED] == 50, f"tasks ended {dict(burst.codes)}")
        await deployment.until(lambda: deployment.statistic("connectionsOpen") <= 4, 15,
                               "the silent connections are cut")
        await deployment.until(lambda: watched.tokens > tokens + 40, 5, "the stream runs on")
    finally:
        for one in silent:
            one.close()
    await end_watched(watched)
    await client.close()
    await supplier.close()
    counts = await deployment.settled()
    return (f"{opened} connections opened and cut, {watched.tokens} tokens streamed meanwhile; "
            f"{counts.accepted} accepted = {counts.final} final")


@case("the broker is killed and started eight times, four of them with 3 shards and a dispatcher's "
      "thread, and a client connects the moment it listens",
      "every client is authenticated: none is told that its key is unknown")
async def first_hello(deployment: Deployment) -> str:
    """What advises never to try again must not be said of a directory that is not read yet."""
    deployment.make()
    refused: Counter[str] = Counter()
    for form in ((), SHARDED) * 4:
        broker = deployment.launch_broker(*form)
        while not broker.events():
            check(broker.running, f"the broker ended with {broker.end_status()}")
            await asyncio.sleep(0.001)
        deployment.port = int(broker.events()[0]["port"])
        try:
            await (await connect(deployment)).close()
        except ConnectionLost as lost:
            reason = lost.code.label if lost.code else "closed"
            refused[f"{reason} ({' '.join(form) or 'plain'})"] += 1
        broker.kill()
    check(not refused, f"of 8 first clients {dict(refused)}")
    return "8 of 8 first clients authenticated"


@case("a broker's name has two addresses, and nothing listens at one of them; in both orders",
      "`doctor` finds nothing wrong by way of the other one, and a worker connects",
      namespaces=("mount",))
async def dead_address(deployment: Deployment) -> str:
    """Names come from a file of hosts in the case's own mount namespace."""
    hosts = deployment.options.disk / "hosts"
    hosts.touch()
    _command("mount", "--bind", str(hosts), "/etc/hosts")
    deployment.make(names=("two.test",))
    await deployment.start_sidecar()
    await deployment.start_broker()
    for addresses in (("127.0.0.2", deployment.host), (deployment.host, "127.0.0.2")):
        hosts.write_text("".join(f"{address} two.test\n" for address in addresses))
        resolved = {found[4][0] for found in socket.getaddrinfo("two.test", None)}
        if resolved != set(addresses):
            raise Skipped("THIS MACHINE RESOLVES NAMES WITHOUT /etc/hosts: the case did not run")
        done = await asyncio.to_thread(
            subprocess.run,
            [str(deployment.options.programs / "sluice-worker"), "doctor", "--json",
             "--broker", f"two.test:{deployment.port}", "--ca", deployment.ca_file,
             "--token-file", str(deployment.certificates / "supplier-0.token"),
             "--engine", "echo"], capture_output=True, text=True)
        checks = json.loads(done.stdout)["checks"]
        wrong = [each for each in checks if each["level"] == "FAIL"]
        check(done.returncode == 0 and not wrong, f"doctor says {wrong or done.stderr}")
        check(any(each["name"].endswith("tcp") for each in checks), f"no look at TCP: {checks}")
    deployment.host = "two.test"
    await deployment.start_worker()
    return f"doctor: {len(checks)} checks, none failed, in both orders; the worker connected"
