"""Faults of the database: another process holds it, or it cannot be opened."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3

from throwaway.postgres import Missing, Postgres

from .cases import Skipped, case, check
from .deployment import Deployment
from .load import Load
from .storage import unbroken

_LOCK_SECONDS = 8.0


@case(f"another process holds the database with BEGIN IMMEDIATE for {_LOCK_SECONDS:g} s",
      "streams and admission go on, the sidecar waits and catches up, accepted = final")
async def database_locked(deployment: Deployment) -> str:
    """The busy timeout of the sidecar is shorter than the lock is held."""
    await deployment.start()
    async with Load(deployment) as load:
        await deployment.until(lambda: load.completed_count > 20, 10, "20 answers")
        with contextlib.closing(sqlite3.connect(
                deployment.data / "sluice.sqlite", isolation_level=None,
                check_same_thread=False)) as other:
            await asyncio.to_thread(_begin, other)
            before, recorded = load.completed_count, deployment.counts().final
            await asyncio.sleep(_LOCK_SECONDS)
            during = load.completed_count - before
            check(deployment.counts().final == recorded, "the lock held nothing")
            other.execute("ROLLBACK")
        unbroken(deployment.sidecar)
        unbroken(deployment.broker)
        check(during > 20, f"only {during} answers while the database was locked")
        await load.stop()
    counts = await deployment.settled()
    load.check_recorded()
    check(set(load.codes) == {"completed"}, f"tasks ended otherwise: {dict(load.codes)}")
    busy = len(deployment.sidecar.logged("storeBusy"))
    return (f"{during} answers while locked, {busy} lines storeBusy; {counts.accepted} accepted = "
            f"{counts.final} final")


def _begin(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA busy_timeout = 5000")
    database.execute("BEGIN IMMEDIATE")


@case("the database cannot be opened (a directory stands in its place) when the sidecar starts; "
      "later it is put back",
      "streams go on, records wait in segments, the sidecar takes the database up again by "
      "itself, accepted = final")
async def database_unopenable(deployment: Deployment) -> str:
    """As with missing rights or a volume that is not there, but for any user."""
    await deployment.start()
    async with Load(deployment) as load:
        await deployment.until(lambda: load.completed_count > 20, 10, "20 answers")
        deployment.sidecar.kill()
        moved = []
        for path in sorted(deployment.data.glob("sluice.sqlite*")):
            path.rename(path.with_name("kept-" + path.name))
            moved.append(path)
        (deployment.data / "sluice.sqlite").mkdir()
        sidecar = deployment.launch_sidecar()
        before = load.completed_count
        await deployment.until(lambda: load.completed_count > before + 50, 10, "50 answers")
        await deployment.until(lambda: bool(sidecar.logged("storeFailed")), 10,
                               "the sidecar says that the store fails")
        unbroken(sidecar)
        (deployment.data / "sluice.sqlite").rmdir()
        for path in moved:
            path.with_name("kept-" + path.name).rename(path)
        await load.stop()
    counts = await deployment.settled()
    load.check_recorded()
    unbroken(sidecar)
    check(bool(sidecar.logged("storeRecovered")), "the sidecar did not say that it recovered")
    return f"storeFailed, then storeRecovered; {counts.accepted} accepted = {counts.final} final"


@case("the sidecar is killed (SIGKILL) five times under load and started again",
      "streams go on, none of its records is lost or applied twice")
async def sidecar_killed(deployment: Deployment) -> str:
    """What was copied and not yet applied is applied once by its successor."""
    await deployment.start()
    async with Load(deployment) as load:
        for _ in range(5):
            before = load.completed_count
            await deployment.until(lambda: load.completed_count > before + 20, 10, "20 answers")
            deployment.sidecar.signal(signal.SIGKILL)
            await deployment.sidecar.ended(5)
            await deployment.start_sidecar()
        await load.stop()
    counts = await deployment.settled()
    load.check_recorded()
    check(set(load.codes) == {"completed"}, f"tasks ended otherwise: {dict(load.codes)}")
    return f"5 kills; {counts.accepted} accepted = {counts.final} final, none twice"


@case(f"PostgreSQL, which has the store, is stopped as in a crash for {_LOCK_SECONDS:g} s and "
      "started again",
      "streams and admission go on, records wait in segments, the sidecar takes the store up again "
      "by itself, accepted = final", seconds=40)
async def postgres_stopped(deployment: Deployment) -> str:
    """A server of the case's own, on a socket in a directory that is removed with it."""
    try:
        server = await asyncio.to_thread(Postgres().__enter__)
    except Missing as reason:
        raise Skipped(str(reason)) from None
    os.environ["SLUICE_STORE"] = server.url
    try:
        await deployment.start()
        async with Load(deployment) as load:
            await deployment.until(lambda: load.completed_count > 20, 10, "20 answers")
            await asyncio.to_thread(server.stop)
            before = load.completed_count
            await asyncio.sleep(_LOCK_SECONDS)
            during = load.completed_count - before
            unbroken(deployment.sidecar)
            unbroken(deployment.broker)
            await asyncio.to_thread(server.start)
            check(during > 20, f"only {during} answers while the store was away")
            await load.stop()
        counts = await deployment.settled(25)
        load.check_recorded()
        unbroken(deployment.sidecar)
        check(set(load.codes) == {"completed"}, f"tasks ended otherwise: {dict(load.codes)}")
        return (f"{during} answers while the store was away; {counts.accepted} accepted = "
                f"{counts.final} final")
    finally:
        for program in deployment.programs:
            program.kill()
        await asyncio.to_thread(server.__exit__, None, None, None)
