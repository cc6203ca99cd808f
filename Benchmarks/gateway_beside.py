#!/usr/bin/env python3
"""What a paced server-sent stream costs at the gateway, beside other HTTP proxies that pass the same
engine's streams on: processor time of each process for an event, in interleaved pairs of one run.

    Benchmarks/gateway_beside.py [--peer nginx|litellm|sluice] [--streams 100] [--rate 50] [--seconds 5]
                                 [--pairs 3] [--plain] [--programs DIR] [--json FILE]

nginx (Debian's nginx-light) proxies without buffers; it is a pipe that knows nothing of tasks, keys
or money, and so the least that can be had. Its connection to the engine is TLS, as the gateway's to
the broker is, unless --plain. LiteLLM is a gateway as ours is: `python3 -m venv .build/litellm &&
.build/litellm/bin/pip install 'litellm[proxy]'`. `--peer sluice --against DIR` is another build of
this one. Connections of clients are plain HTTP for all.
Only ratios of one run say something; the load runs on the same processors. Asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import pathlib
import secrets
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_MODEL = "paced"
_EVENT = (b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"paced",'
          b'"choices":[{"index":0,"delta":{"content":" %05d"},"finish_reason":null}]}\n\n')


class Engine:
    """Answers every chat with events at an even pace, until its reader is gone."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if head.startswith(b"get "):
                body = json.dumps({"object": "list", "data": [
                    {"id": _MODEL, "object": "model", "created": 1, "owned_by": "x"}]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: "
                             b"close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
                return
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                         b"connection: close\r\n\r\n")
            due, number = time.monotonic(), 0
            while not writer.is_closing():
                # LiteLLM ends a stream that says the same a hundred times.
                writer.write(_EVENT % (number % 100_000))
                await writer.drain()
                number += 1
                due += 1 / self.rate
                await asyncio.sleep(due - time.monotonic())
        writer.close()


@contextlib.asynccontextmanager
async def engine(rate: float, folder: str) -> AsyncIterator[tuple[int, int]]:
    """The engine's ports: plain and TLS."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2", "-keyout", f"{folder}/engine.key",
         "-out", f"{folder}/engine.pem"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/engine.pem", f"{folder}/engine.key")
    serve = Engine(rate).serve
    plain = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2_048)
    sealed = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2_048, ssl=context)
    async with plain, sealed:
        yield plain.sockets[0].getsockname()[1], sealed.sockets[0].getsockname()[1]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def process(arguments: list[str], folder: str) -> Iterator[subprocess.Popen[str]]:
    """A program that ends with the block."""
    with open(f"{folder}/{pathlib.Path(arguments[0]).name}.log", "w") as log:
        running = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield running
    finally:
        running.terminate()
        running.wait(60)
        assert running.stdout is not None
        running.stdout.close()


class Target:
    """A door to the engine: where it is, how it is asked, and which processes it is."""

    def __init__(self, name: str, port: int, key: str, pids: list[int]) -> None:
        self.name, self.port, self.key, self.pids = name, port, key, pids

    def processor_ns(self) -> int:
        """Processor time so far of all threads."""
        used = 0
        for pid in self.pids:
            for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    used += int((thread / "schedstat").read_text().split()[0])
        return used


@contextlib.contextmanager
def sluice(programs: str, port: int, streams: int, folder: str) -> Iterator[Target]:
    """A whole deployment in front of the engine."""
    with process([f"{programs}/sluice", "dev", "--data", f"{folder}/data", "--slots",
                  str(2 * streams), "--upstream", f"http://127.0.0.1:{port}"], folder) as running:
        assert running.stdout is not None
        ready = json.loads(running.stdout.readline())
        target = Target("sluice-gateway", int(str(ready["http"]).rpartition(":")[2]),
                        str(ready["clientKey"]), [ready["pids"]["gateway"]])
        yield target


_NGINX = """
worker_processes 1; error_log {folder}/nginx.log; pid {folder}/nginx.pid; daemon off;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/nb; proxy_temp_path {folder}/np;
  fastcgi_temp_path {folder}/nf; uwsgi_temp_path {folder}/nu; scgi_temp_path {folder}/ns;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass {scheme}://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_buffering off;
      proxy_ssl_verify off; proxy_ssl_protocols TLSv1.3;
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(port: int, is_sealed: bool, folder: str) -> Iterator[Target]:
    """nginx in front of the engine."""
    listen = free_port()
    pathlib.Path(f"{folder}/nginx.conf").write_text(_NGINX.format(
        folder=folder, port=listen, upstream=port, scheme="https" if is_sealed else "http"))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with process([program, "-c", f"{folder}/nginx.conf", "-p", folder], folder) as running:
        until_open(listen)
        # It listens before its worker is there.
        children: list[str] = []
        while not children:
            time.sleep(0.1)
            children = pathlib.Path(
                f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        yield Target("nginx", listen, "x", [running.pid, *map(int, children)])


@contextlib.contextmanager
def litellm(port: int, folder: str) -> Iterator[Target]:
    """LiteLLM in front of the engine."""
    listen, key = free_port(), f"sk-{secrets.token_hex(32)}"
    pathlib.Path(f"{folder}/litellm.yaml").write_text(json.dumps({
        "general_settings": {"master_key": key}, "model_list": [{
        "model_name": _MODEL, "litellm_params": {
            "model": f"openai/{_MODEL}", "api_base": f"http://127.0.0.1:{port}/v1",
            "api_key": "x"}}]}))
    program = str(_ROOT / ".build/litellm/bin/litellm")
    with process([program, "--config", f"{folder}/litellm.yaml", "--host", "127.0.0.1", "--port",
                  str(listen), "--telemetry", "False"], folder) as running:
        until_open(listen)
        yield Target("litellm", listen, key, [running.pid])


def until_open(port: int) -> None:
    """Waits until somebody listens."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline:
            sys.exit(f"nobody listens on {port}")
        time.sleep(0.1)


class Load:
    """Streams that are read as they come."""

    def __init__(self, target: Target) -> None:
        self.target, self.events, self.open = target, 0, 0

    async def stream(self) -> None:
        """One stream, until cancelled."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target.port)
        body = json.dumps({"model": _MODEL, "stream": True,
                           "messages": [{"role": "user", "content": "Go on."}]}).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s"
                     b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                     % (self.target.key.encode(), len(body), body))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise AssertionError(f"{self.target.name}: {head!r}")
            self.open += 1
            while piece := await reader.read(65_536):
                self.events += piece.count(b"data: {")
            raise AssertionError(f"{self.target.name} ended a stream")
        finally:
            writer.close()


async def measure(target: Target, streams: int, seconds: float) -> dict[str, object]:
    """Opens the streams, and looks at `seconds` of them."""
    load = Load(target)
    running = []
    for number in range(streams):
        running.append(asyncio.create_task(load.stream()))
        # Streams that begin together would go on together, and share turns that others would not.
        await asyncio.sleep(0.005 + 0.01 * (number % 2))
    while load.open < streams:
        await asyncio.sleep(0.05)
        for task in running:
            if task.done():
                task.result()
    await asyncio.sleep(0.5)
    events, used, begun = load.events, target.processor_ns(), time.monotonic()
    await asyncio.sleep(seconds)
    events, used = load.events - events, target.processor_ns() - used
    spent = time.monotonic() - begun
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await asyncio.sleep(0.5)
    return {"target": target.name, "events": events, "eventsPerSecond": round(events / spent),
            "usPerEvent": round(used / max(1, events) / 1_000, 2)}


async def compare(options: argparse.Namespace, folder: str) -> list[dict[str, object]]:
    """All pairs, one after the other."""
    results = []
    async with engine(options.rate, folder) as (plain, sealed):
        with contextlib.ExitStack() as stack:
            def enter(target: contextlib.AbstractContextManager[Target]) -> Target:
                return stack.enter_context(target)
            # Each waits for the engine, which this thread's loop is.
            ours = await asyncio.to_thread(enter, sluice(
                options.programs, plain, options.streams, folder))
            if options.peer == "nginx":
                port = plain if options.plain else sealed
                peer = await asyncio.to_thread(enter, nginx(port, not options.plain, folder))
            elif options.peer == "sluice":
                other = stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-other-"))
                peer = await asyncio.to_thread(enter, sluice(
                    options.against, plain, options.streams, other))
            else:
                peer = await asyncio.to_thread(enter, litellm(plain, folder))
            await asyncio.sleep(2)
            for _ in range(options.pairs):
                pair = [await measure(target, options.streams, options.seconds)
                        for target in (ours, peer)]
                for one in pair:
                    print(f"{one['target']}: {one['usPerEvent']} us of processor an event, "
                          f"{one['eventsPerSecond']} events/s", flush=True)
                results += pair
    return results


def main() -> None:
    """Runs one comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", choices=["nginx", "litellm", "sluice"], default="nginx")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="nginx reaches the engine without TLS")
    parser.add_argument("--programs", default=str(_ROOT / ".build/release"),
                        help="directory of the build")
    parser.add_argument("--against", help="directory of the other build, for --peer sluice")
    parser.add_argument("--json", help="file for all results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-beside-") as folder:
        results = asyncio.run(compare(options, folder))
    costs = [float(str(one["usPerEvent"])) for one in results]
    ratios = [ours / peer for ours, peer in zip(costs[::2], costs[1::2], strict=True)]
    print(f"sluice-gateway / {options.peer}: {statistics.median(ratios):.2f} "
          f"({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
