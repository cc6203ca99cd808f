"""A store that is backed up at work and restored elsewhere, by the operator's own script."""

from __future__ import annotations

import asyncio
import json
import pathlib
import subprocess
import sys

from throwaway.postgres import Missing, Postgres

from .cases import Skipped, case, check
from .deployment import Deployment
from .load import Load, ask, connect

_SCRIPT = pathlib.Path(__file__).resolve().parents[3] / "Operations" / "backup"


def _backup(*arguments: str) -> None:
    done = subprocess.run([sys.executable, str(_SCRIPT), *arguments], capture_output=True,
                          text=True)
    check(done.returncode == 0, f"backup {arguments[0]}: {done.stderr.strip()}")


def _ledger(deployment: Deployment, store: str) -> dict[str, int]:
    """What the ledger's check says of a store; fails where it does not add up."""
    done = subprocess.run(
        [str(deployment.options.programs / "sluice"), "ledger", "check", "--store", store,
         "--json"], capture_output=True, text=True)
    check(done.returncode == 0, f"ledger check: {done.stderr.strip()} {done.stdout.strip()}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _pay(deployment: Deployment, store: str) -> None:
    """Gives the tasks a consumer who pays, so that there is money to add up."""
    command = [str(deployment.options.programs / "sluice")]
    place = ["--store", store, "--json"]
    for words in (["account", "create", "payer", "--prepaid"],
                  ["wallet", "topup", "payer", "--usd", "1000", "--reference", "first"]):
        done = subprocess.run([*command, *words, *place], capture_output=True, text=True)
        check(done.returncode == 0, f"sluice {' '.join(words)}: {done.stderr.strip()}")
    done = subprocess.run([*command, "key", "issue", "--account", "payer", *place[:2]],
                          capture_output=True, text=True)
    check(done.returncode == 0, f"sluice key issue: {done.stderr.strip()}")
    deployment.key = json.loads(done.stdout)["secret"]


async def _backed_up(deployment: Deployment, store: str, restored: str) -> str:
    """Backs up under load, restores, and holds the copy to what it must be."""
    copy = deployment.options.disk / "copy"
    async with Load(deployment, clients=3) as load:
        await deployment.until(lambda: load.completed_count > 100, 20, "100 answers")
        # What the copy must have: it was recorded before.
        await asyncio.sleep(1.0)
        known = _ledger(deployment, store)
        before = load.completed_count
        await asyncio.to_thread(_backup, "make", "--store", store, "--out", str(copy))
        during = load.completed_count - before
        await deployment.until(lambda: load.completed_count > before + 50, 20, "50 answers")
        await load.stop()
    await asyncio.to_thread(_backup, "restore", "--from", str(copy), "--store", restored)
    found = _ledger(deployment, restored)
    check(found["tasks"] >= known["tasks"] > 0,
          f"{found['tasks']} tasks in the copy, {known['tasks']} were there before it was made")
    check(found["postings"] >= known["postings"] > 0, "postings are missing from the copy")
    counts = await deployment.settled()
    load.check_recorded()
    again = subprocess.run([sys.executable, str(_SCRIPT), "restore", "--from", str(copy),
                            "--store", restored], capture_output=True, text=True)
    check(again.returncode == 1, "a second restore went over the first")
    return (f"{during} answers while it was made; the copy has {found['tasks']} tasks, "
            f"{found['postings']} postings, and adds up; {counts.accepted} accepted = "
            f"{counts.final} final")


@case("the SQLite store is backed up under load and restored into another directory",
      "load goes on, the copy holds all that was recorded before, `sluice ledger check` finds it "
      "sound, and broker and sidecar work on it", seconds=45)
async def backup_sqlite(deployment: Deployment) -> str:
    """The copy is as of one moment, without the log beside it."""
    deployment.make()
    store = deployment.data / "sluice.sqlite"
    _pay(deployment, str(store))
    await deployment.start_sidecar()
    await deployment.start_broker()
    await deployment.start_worker()
    other = deployment.options.disk / "restored"
    other.mkdir(mode=0o700)
    seen = await _backed_up(deployment, str(store), str(other / "sluice.sqlite"))
    # The machine is gone: another one goes on from the copy, with the keys that are in it.
    for program in deployment.programs:
        program.kill()
    deployment.data, deployment.run = other, deployment.options.memory / "other"
    deployment.run.mkdir(mode=0o700)
    deployment.port = 0
    await deployment.start_sidecar()
    await deployment.start_broker()
    await deployment.start_worker()
    async with await connect(deployment) as client:
        await ask(client)
    return seen + "; an answer came from the restored one"


@case("a PostgreSQL store is backed up under load and restored into another database",
      "load goes on, the copy holds all that was recorded before, and `sluice ledger check` finds "
      "it sound", seconds=60)
async def backup_postgres(deployment: Deployment) -> str:
    """pg_dump reads one snapshot."""
    try:
        server = Postgres()
    except Missing as reason:
        raise Skipped(str(reason)) from None
    with server:
        subprocess.run(["psql", server.url, "-Xqc", "CREATE DATABASE restored"], check=True,
                       capture_output=True)
        deployment.store = server.url
        deployment.make()
        _pay(deployment, server.url)
        await deployment.start_sidecar("--store", server.url)
        await deployment.start_broker()
        await deployment.start_worker()
        return await _backed_up(deployment, server.url,
                                server.url.replace("/postgres?", "/restored?"))
