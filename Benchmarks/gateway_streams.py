#!/usr/bin/env python3
"""Many server-sent streams at once through the gateway of a `sluice dev`, every tenth read slowly:
what came, how soon, and what it cost each process. Reports, asserts nothing; ends after two minutes.

    Benchmarks/gateway_streams.py [--streams 1000] [--tokens 40]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import subprocess
import tempfile
import time

_SECONDS_MAX = 120
_SLOW_BYTES, _SLOW_SECONDS = 512, 0.2


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> int:
    """Memory of a process in the machine's RAM."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1_024


class Load:
    """What all streams together have brought."""

    def __init__(self, port: int, key: str, tokens: int) -> None:
        self.port, self.key, self.tokens = port, key, tokens
        self.done = self.cut = self.events = 0
        self.first_event_seconds: list[float] = []

    async def stream(self, number: int) -> None:
        """One stream from its connection to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=8_192)
        body = json.dumps({
            "model": "demo", "stream": True, "max_tokens": self.tokens,
            "messages": [{"role": "user", "content": f"Question {number}"}]}).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
                     b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
                     % (self.key.encode(), len(body), body))
        begun, tail, is_first = time.monotonic(), b"", True
        is_slow = number % 10 == 0
        while b"data: [DONE]" not in tail:
            piece = await reader.read(_SLOW_BYTES if is_slow else 65_536)
            if not piece:
                self.cut += 1
                break
            self.events += (tail[-6:] + piece).count(b"data: {")
            tail = (tail + piece)[-32:]
            if is_first and b"data: " in piece:
                self.first_event_seconds.append(time.monotonic() - begun)
                is_first = False
            if is_slow:
                await asyncio.sleep(_SLOW_SECONDS)
        else:
            self.done += 1
        writer.close()


async def measure(ready: dict[str, object], streams: int, tokens: int) -> None:
    """Runs the load and prints what it took."""
    pids: dict[str, int] = ready["pids"]  # type: ignore[assignment]
    load = Load(int(str(ready["http"]).rpartition(":")[2]), str(ready["clientKey"]), tokens)
    before = {name: processor_seconds(pid) for name, pid in pids.items()}
    idle_mib, peak_mib, begun = resident_mib(pids["gateway"]), 0, time.monotonic()
    running = asyncio.gather(*(load.stream(number) for number in range(streams)))
    while not running.done():
        peak_mib = max(peak_mib, resident_mib(pids["gateway"]))
        await asyncio.wait([running], timeout=0.2)
    await running
    waits = sorted(load.first_event_seconds)
    print(f"{load.done} of {streams} streams complete, {load.cut} cut, {load.events} events in "
          f"{time.monotonic() - begun:.1f} s")
    print(f"first event: p50 {waits[len(waits) // 2] * 1e3:.0f} ms, "
          f"p99 {waits[len(waits) * 99 // 100] * 1e3:.0f} ms, all asked at once")
    print(f"gateway: {idle_mib} MiB before, {peak_mib} MiB at most")
    for name, pid in pids.items():
        used = processor_seconds(pid) - before[name]
        print(f"{name}: {used:.2f} s of processor, {used / max(1, load.events) * 1e6:.1f} us an "
              "event, connecting included")


def main() -> None:
    """Starts a deployment of this build and ends it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--tokens", type=int, default=40)
    options = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="sluice-streams-") as folder:
        with open(pathlib.Path(folder) / "log", "w") as log:
            deployment = subprocess.Popen(
                [str(root / ".build/release/sluice"), "dev", "--data", f"{folder}/data",
                 "--slots", str(options.streams)],
                stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert deployment.stdout is not None
            ready = json.loads(deployment.stdout.readline())
            asyncio.run(asyncio.wait_for(
                measure(ready, options.streams, options.tokens), _SECONDS_MAX))
        finally:
            deployment.terminate()
            deployment.wait(60)


if __name__ == "__main__":
    main()
