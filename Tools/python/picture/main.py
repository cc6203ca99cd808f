"""`Tools/picture`: a real deployment, a real load, a real screen."""

from __future__ import annotations

import argparse
import asyncio
import codecs
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time

from sluice.client import Client, TaskFailed

from picture.screen import Screen, svg

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_PROGRAM = _ROOT / ".build/release/sluice"


async def _ask(client: Client, number: int, after_seconds: float) -> None:
    """One question after the other, until cancelled."""
    await asyncio.sleep(after_seconds)
    while True:
        with contextlib.suppress(TaskFailed):
            task = await client.submit("demo", f"Question {number}", max_output_tokens=80)
            await task.text()
        await asyncio.sleep(0.05)


async def _load(ready: dict[str, str], folder: str, streams: int, seconds: float) -> None:
    """Streams on eight connections for so long."""
    host, _, port = ready["broker"].rpartition(":")
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await Client.connect(
                host, int(port), ca_file=f"{folder}/data/ca.pem", key=ready["clientKey"]))
            for _ in range(8)]
        # An answer of the demo engine takes two seconds: tasks begin and end all the time.
        asking = [asyncio.create_task(
            _ask(clients[number % len(clients)], number, 2 * number / streams))
            for number in range(streams)]
        done, _ = await asyncio.wait(
            asking, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in asking:
            task.cancel()
        for task in done:
            task.result()


def _read(descriptor: int) -> bytes:
    """What a terminal's program wrote; nothing once it has ended."""
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # EIO: the last one that had the terminal open is gone
        return b""


def _watch(data: str, screen: Screen, seconds: float) -> None:
    """`sluice top` in a terminal of its own for so long."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(_PROGRAM, ["sluice", "top", "--data", data])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ,
                struct.pack("HHHH", screen.rows, screen.columns, 0, 0))
    decoder = codecs.getincrementaldecoder("utf-8")()
    deadline = time.monotonic() + seconds
    pending = ""
    try:
        while time.monotonic() < deadline and (piece := _read(terminal)):
            pending += decoder.decode(piece)
            # A sequence that is cut waits for its rest.
            cut = pending.rfind("\x1b")
            whole = len(pending) if cut < 0 or len(pending) - cut > 8 else cut
            screen.feed(pending[:whole])
            pending = pending[whole:]
    finally:
        os.kill(child, 2)
        os.waitpid(child, 0)
        os.close(terminal)


async def _draw(ready: dict[str, str], folder: str, streams: int, seconds: float) -> Screen:
    screen = Screen()
    watching = asyncio.to_thread(_watch, f"{folder}/data", screen, seconds)
    await asyncio.gather(_load(ready, folder, streams, seconds + 1), watching)
    return screen


def main() -> int:
    """Draws one picture."""
    parser = argparse.ArgumentParser(description="Draws the screen of `sluice top`.")
    parser.add_argument("--out", default=str(_ROOT / "Documentation/pictures/top.svg"))
    parser.add_argument("--streams", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=7)
    options = parser.parse_args()
    if not _PROGRAM.exists():
        sys.exit("picture: nothing is built yet; run Tools/build first")
    with tempfile.TemporaryDirectory(prefix="sluice-picture-") as folder:
        with open(f"{folder}/log", "w") as log:
            deployment = subprocess.Popen(
                [str(_PROGRAM), "dev", "--data", f"{folder}/data", "--slots",
                 str(options.streams + 16)], stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert deployment.stdout is not None
            ready = json.loads(deployment.stdout.readline())
            screen = asyncio.run(_draw(ready, folder, options.streams, options.seconds))
        finally:
            deployment.terminate()
            deployment.wait(60)
    if not screen.earlier:
        sys.exit("picture: sluice top has shown nothing")
    lines = screen.earlier[-1]
    pathlib.Path(options.out).write_text(svg(lines, "sluice top --data ./data"))
    print("\n".join(lines))
    print(f"picture: {options.out}")
    return 0
