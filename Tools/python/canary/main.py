"""The command: drives, waits until all is over, searches, and says what it found."""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import time

from faults.cases import Failed, check
from sluice.client import TaskFailed
from sluice.codes import Code
from sluice.session import ConnectionLost
from throwaway.postgres import Missing

from .against import against
from .controls import plant
from .deaths import BROKER_OPTIONS, Deaths
from .drive import Drive
from .engine import MODEL, Engine, GatewayWays
from .mutations import negative_controls
from .outcome import Outcome
from .refusals import Refusals
from .rig import Rig, is_root
from .suppliers import COUNT

ROOT = pathlib.Path(__file__).resolve().parents[3]


async def suite(rig: Rig, outcome: Outcome) -> None:
    """All ends, all media, with the positive controls of each.

    Searches run on a thread: the peers of this process must not fall silent meanwhile.
    """
    rig.make(suppliers=COUNT)
    payer = rig.issue_prepaid("payer", dollars="10")
    drive = Drive(rig, payer)
    refusals = Refusals(drive)
    note_address(rig)
    await rig.deployment.start_sidecar()
    await rig.start_broker(*BROKER_OPTIONS)
    await drive.suppliers.connect(rig.deployment)
    slow = [asyncio.create_task(way) for way in (
        drive.stalled(), drive.upload_stalls(), drive.withdrawn_for_good())]
    if not is_root():
        outcome.notes.append("not searched: memory of processes, which needs root")
    await _live(rig, outcome, drive)
    await drive.tasks()
    await refusals.all()
    engine = Engine(rig.canaries)
    engine.start()
    try:
        deaths = Deaths(rig, drive, outcome)
        await _beside_broker(rig, outcome, drive, deaths, engine)
        await asyncio.gather(*slow)
        await rig.barrier()
        outcome.take(await asyncio.to_thread(rig.search_all))

        # Processes that die with tasks open, and what they leave.
        await deaths.all(engine)
        await refusals.journal_full()
        await rig.barrier()
        outcome.take(await asyncio.to_thread(rig.search_all))
    finally:
        await asyncio.to_thread(engine.stop)
    outcome.ends |= drive.ends
    plant(rig, outcome)


def note_address(rig: Rig) -> None:
    """The one place that takes an address to keep something of it: a hash under a secret."""
    address = rig.canaries.foreign_address()
    rig.canaries.address("an account's address", address)
    secret, key = os.urandom(32).hex(), rig.master_key
    key.write_text(secret + "\n")
    key.chmod(0o600)
    rig.canaries.key("the master key", secret)
    environment = os.environ | ({"SLUICE_STORE": rig.deployment.store}
                                if rig.deployment.store else {})

    def said(*words: str) -> str:
        done = subprocess.run(
            [str(rig.deployment.options.programs / "sluice"), "account", "address", *words,
             "--data", str(rig.deployment.data), "--master-key-file", str(key)],
            input=address + "\n", capture_output=True, text=True, env=environment)
        check(done.returncode == 0, f"sluice account address {words[0]} failed: {done.stderr}")
        return done.stdout

    said("note", "payer")
    check('"account"' in said("find", "--json"), "a noted address was not found again")


async def _live(rig: Rig, outcome: Outcome, drive: Drive) -> None:
    """A task that runs is in the broker's memory: where the search must find something."""
    client, task = await drive.open_task("running task")
    if is_root():
        live = rig.search()
        await asyncio.to_thread(live.memory, rig.deployment.broker.pid, "broker")
        outcome.controls["a running task is found in the broker's memory"] = bool(live.findings)
    task.cancel()
    await drive.end("running task, cancelled", task, Code.CANCELLED)
    await client.close()


async def _beside_broker(rig: Rig, outcome: Outcome, drive: Drive, deaths: Deaths,
                         engine: Engine) -> None:
    """A real worker in front of an engine, and the gateway in front of the broker: the ways
    through them, then their memory."""
    worker = await deaths.start_worker(engine)
    gateway = await deaths.start_gateway()
    if is_root():
        async with await drive.client() as client:
            body = {"messages": [{"role": "user", "content": "endless " + drive.prompt(
                "a worker's running task")}]}
            task = await client.submit(MODEL, body)
            async for _ in task:
                break
            live = rig.search()
            await asyncio.to_thread(live.memory, worker.pid, "worker")
            outcome.controls["a running task is found in the worker's memory"] = bool(
                live.findings)
            task.cancel()
            await drive.end("worker, cancelled in the answer", task, Code.CANCELLED)
    ways = GatewayWays(int((await gateway.event("listening"))["port"]), rig.deployment.key,
                       rig.canaries)
    await asyncio.to_thread(ways.all, engine)
    drive.ends |= ways.ends
    await rig.barrier()
    if is_root():
        search = rig.search()
        await asyncio.to_thread(search.memory, worker.pid, "worker")
        await asyncio.to_thread(search.memory, gateway.pid, "gateway")
        outcome.report(search)
    for program in (gateway, worker):
        program.signal(signal.SIGTERM)
        check(await program.ended(30) == 0, f"{program.name}: {program.end_status()}")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="Tools/canary", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--backend", choices=("auto", "ring", "epoll"), default="auto")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path(
        os.environ.get("SLUICE_PROGRAMS", ROOT / ".build" / "release")))
    own = parser.add_argument_group("against a deployment of your own")
    own.add_argument("--broker", metavar="HOST:PORT")
    own.add_argument("--ca", metavar="FILE")
    own.add_argument("--key-file", metavar="FILE")
    own.add_argument("--model", action="append", default=[])
    own.add_argument("--search", action="append", default=[], type=pathlib.Path, metavar="PATH")
    own.add_argument("--pid", action="append", default=[], type=int)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """0: clean; 1: something was found, could not be searched, or a control does not hold; 2: it
    could not be run."""
    options = _arguments(words)
    outcome, began = Outcome(), time.monotonic()
    try:
        if options.broker:
            asyncio.run(against(options, outcome))
        else:
            rig = Rig(options.programs, options.backend)
            try:
                if options.store == "postgres":
                    rig.use_postgres()
                asyncio.run(suite(rig, outcome))
            finally:
                rig.remove()
            # They do not look at the store. With one of them a core was written to be searched.
            if options.store == "sqlite":
                negative_controls(options.programs, options.backend, outcome)
    except (ConnectionLost, Failed, Missing, OSError, TaskFailed, TimeoutError) as failure:
        print(f"canary: {str(failure) or 'a step took too long'}", file=sys.stderr)
        return 2
    outcome.show(time.monotonic() - began, options.json)
    return 0 if outcome.is_clean else 1
