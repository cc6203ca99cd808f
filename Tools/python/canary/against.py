"""The same question to somebody's own deployment: tasks are sent, then what is named is
searched."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import pathlib
import tempfile
from typing import TYPE_CHECKING

from faults.cases import check
from sluice import Client
from sluice.client import TaskFailed
from sluice.codes import Code

from .media import Search
from .needles import Canaries

if TYPE_CHECKING:
    from .outcome import Outcome

_BARRIER_SECONDS = 5.0


async def against(options: argparse.Namespace, outcome: Outcome) -> None:
    """Sends canaries through a broker with a client's key, complete and cancelled, and searches
    the directories and processes named, where the key is looked for too. What could not be searched
    makes the run not clean. What its suppliers keep is theirs to search."""
    check(bool(options.ca and options.key_file and options.model),
          "--broker needs --ca FILE, --key-file FILE and at least one --model NAME")
    check(bool(options.search or options.pid),
          "name what is to be searched: --search PATH (data and run directories, logs), --pid N")
    host, _, port = options.broker.rpartition(":")
    for path in options.search:
        # What is there and may not be looked at is for the search to list.
        with contextlib.suppress(PermissionError):
            check(path.exists(),
                  f"{path} is not there: name the directories as this machine has them")
    canaries = Canaries()
    key_file = pathlib.Path(options.key_file).resolve()
    key = key_file.read_text().split("\n")[0].strip()
    canaries.key("the client's key", key)
    async with await Client.connect(host, int(port), ca_file=options.ca, key=key) as client:
        for model in options.model:
            outcome.controls[f"{model} has answered"] = False
            for number in range(3):
                name = f"{model}, {'cancelled' if number == 2 else 'whole'}"
                prompt = canaries.new(f"prompt of {name}")
                task = await client.submit(model, prompt, max_output_tokens=256)
                try:
                    if number == 2:
                        async for _ in task:
                            break
                        task.cancel()
                    result = await task.finished()
                    outcome.ends[name] = result.code.label
                    if result.code is Code.COMPLETED:
                        outcome.controls[f"{model} has answered"] = True
                except TaskFailed as failure:
                    outcome.ends[name] = failure.code.label
    await asyncio.sleep(_BARRIER_SECONDS)
    search = Search(canaries, frozenset([key_file]), tuple(options.search))
    for path in options.search:
        await asyncio.to_thread(search.directory, path)
    for pid in options.pid:
        await asyncio.to_thread(search.memory, pid, "process")
    outcome.take(search)
    with tempfile.TemporaryDirectory(prefix="sluice-canary-") as folder:
        (pathlib.Path(folder) / "planted").write_text(canaries.new("planted value"))
        control = Search(canaries)
        control.directory(pathlib.Path(folder))
        outcome.controls["a planted value is found"] = bool(control.findings)
