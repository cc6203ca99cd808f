"""Faults of the places where files lie: a full tmpfs, a full disk, a sidecar that stands still."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import signal
import subprocess
import time

from sluice.codes import Code

from .cases import Skipped, case, check
from .deployment import Deployment, Program
from .load import Burst, Load, ask, connect, end_watched, serve_paced, watch

MIB = 1 << 20
_PAGE = 4_096


def mount_tmpfs(path: pathlib.Path, size: int, inodes: int = 1_000) -> None:
    """A small tmpfs in the case's own mount namespace."""
    path.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=0700", "none",
         str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Skipped(f"THIS MACHINE REFUSES TO MOUNT A TMPFS: {done.stderr.strip()}")


def fill(folder: pathlib.Path, leave: int = 0) -> pathlib.Path:
    """Fills a file system to the brim, or up to ``leave`` bytes; the file is the room to free."""
    ballast = folder / ".ballast"
    with open(ballast, "ab") as file:
        if leave:
            status = os.statvfs(folder)
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
            return ballast
        try:
            while True:
                os.write(file.fileno(), b"\0" * _PAGE)
        except OSError as error:
            check(error.errno == errno.ENOSPC, f"filling failed otherwise: {error}")
    return ballast


def unbroken(program: Program) -> None:
    """A process runs; where it does not, its end is told."""
    check(program.running, f"{program.name} died of the fault: {program.end_status()}")


@case("a broker starts on a run directory that has too little room, or no inode left",
      "the ring is halved or the start refused with a clear error; no signal",
      namespaces=("mount",))
async def full_run_tmpfs_at_start(deployment: Deployment) -> str:
    """Each size from plenty to nothing."""
    deployment.make()
    seen = []
    rooms = [(24 * MIB, 100), (16 * MIB, 100), (12 * MIB, 100), (9 * MIB, 100), (4 * MIB, 100),
             (256 * 1_024, 100), (24 * MIB, 5)]
    for size, inodes in rooms:
        mount_tmpfs(deployment.run, size, inodes)
        broker = deployment.launch_broker("--shards", "1")
        await deployment.until(lambda: not broker.running or bool(broker.events()), 10, "a start")
        label = f"{size / MIB:g} MiB" + (" without inodes" if inodes < 10 else "")
        if broker.events():
            reduced = broker.logged("ring_reduced")
            seen.append(f"{label}: " + (f"ring of {reduced[0]['records']} records"
                                        if reduced else "whole ring"))
            broker.signal(signal.SIGTERM)
            check(await broker.ended(10) == 0, f"{label}: ended with {broker.end_status()}")
        else:
            status = await broker.ended(1)
            check(status > 0, f"{label}: the start ended with {broker.end_status()}")
            check("noSpace" in broker.log_text() or "run directory" in broker.log_text(),
                  f"{label}: no clear error: {broker.log_text()[-200:]!r}")
            left = [path.name for path in deployment.run.iterdir()
                    if not path.name.startswith(".lock")]
            check(not left, f"{label}: left behind {left}")
            seen.append(f"{label}: refused, status {status}")
        subprocess.run(["umount", str(deployment.run)], check=True)
    check("whole" in seen[0] and any("records" in each for each in seen), f"{seen}")
    return "; ".join(seen)


@case("the run tmpfs is filled to the last byte while broker and sidecar serve; the broker is "
      "then killed and cannot start; then there is room again",
      "tasks go on, no SIGBUS, a start without room is refused, accepted = final at the end",
      namespaces=("mount",))
async def full_run_tmpfs_while_serving(deployment: Deployment) -> str:
    """Both phases."""
    mount_tmpfs(deployment.run, 48 * MIB)
    await deployment.start()
    async with Load(deployment, reconnects=True) as load:
        await deployment.until(lambda: load.completed_count > 50, 10, "50 answers")
        ballast = fill(deployment.run)
        before = load.completed_count
        await deployment.until(lambda: load.completed_count > before + 200, 10,
                               "200 answers on a full tmpfs")
        unbroken(deployment.broker)
        unbroken(deployment.sidecar)
        while_full = load.completed_count - before
        deployment.broker.kill()
        # The files of the dead instance stand until a successor has closed it.
        refused = deployment.launch_broker()
        status = await refused.ended(10)
        check(status > 0, f"a start without room ended with {refused.end_status()}")
        unbroken(deployment.sidecar)
        ballast.unlink()
        await deployment.start_broker()
        again = load.completed_count
        await deployment.until(lambda: load.completed_count > again + 50, 10, "answers again")
        await load.stop()
    counts = await deployment.settled()
    load.check_recorded()
    return (f"{while_full} answers on the full tmpfs; start refused with status {status}; "
            f"{counts.accepted} accepted = {counts.final} final")


async def _close_admission(deployment: Deployment) -> Burst:
    """Small tasks until the ring has no room for another one's records."""
    burst = await Burst.run(deployment, until=Code.JOURNAL_FULL, seconds=15)
    check(burst.codes[Code.JOURNAL_FULL] > 0,
          f"admission did not close; {dict(burst.codes)}, "
          f"{deployment.statistic('journalRecordsFree')} records free")
    others = set(burst.codes) - {Code.COMPLETED, Code.JOURNAL_FULL}
    check(not others, f"tasks ended otherwise: {others}")
    return burst


async def _admission_opens(deployment: Deployment, seconds: float) -> float:
    """How long until a task is accepted again."""
    began = time.monotonic()
    while True:
        burst = await Burst.run(deployment, streams=1, most=1)
        if burst.codes[Code.COMPLETED]:
            return time.monotonic() - began
        check(time.monotonic() - began < seconds, f"admission did not open: {dict(burst.codes)}")
        await asyncio.sleep(0.1)


@case("the sidecar is stopped (SIGSTOP) under load until the ring's budget is used, then goes on",
      "running streams are unaffected, admission closes with journal_full (retry later) and opens "
      "again, accepted = final", seconds=40, namespaces=("mount",), sharded=True)
async def sidecar_stopped(deployment: Deployment) -> str:
    """A ring of 3 MiB, so that its budget is soon used."""
    mount_tmpfs(deployment.run, 12 * MIB)
    await deployment.start()
    supplier = await serve_paced(deployment)
    client = await connect(deployment)
    watched = await watch(client, 6_000, model="paced")
    deployment.sidecar.signal(signal.SIGSTOP)
    burst = await _close_admission(deployment)
    count = watched.tokens
    await deployment.until(lambda: watched.tokens > count + 20, 10, "a stream goes on")
    unbroken(deployment.broker)
    deployment.sidecar.signal(signal.SIGCONT)
    opened = await _admission_opens(deployment, 10)
    await end_watched(watched)
    await client.close()
    await supplier.close()
    counts = await deployment.settled()
    return (f"admission closed after {burst.accepted} tasks, {watched.tokens} tokens streamed "
            f"meanwhile; open again {opened:.1f} s after SIGCONT; {counts.accepted} accepted = "
            f"{counts.final} final")


@case("the sidecar's data directory is a small tmpfs that fills while tasks run; later there is "
      "room again",
      "no SIGBUS; the sidecar goes on or can be started again; streams go on; admission closes "
      "with journal_full; afterwards accepted = final, none twice",
      seconds=45, namespaces=("mount",))
async def full_data_disk(deployment: Deployment) -> str:
    """Segments, database and write-ahead log share the full disk."""
    mount_tmpfs(deployment.run, 12 * MIB)
    mount_tmpfs(deployment.data, 8 * MIB)
    await deployment.start()
    supplier = await serve_paced(deployment)
    client = await connect(deployment)
    watched = await watch(client, 6_000, model="paced")
    for salt in range(20):
        await ask(client, 5, salt)
    ballast = fill(deployment.data)
    restarts = 0
    burst_job = asyncio.create_task(_close_admission(deployment))
    while not burst_job.done():
        restarts += await _revive(deployment)
        await asyncio.sleep(0.1)
    burst = await burst_job
    count = watched.tokens
    await deployment.until(lambda: watched.tokens > count + 10, 10, "a stream goes on")
    unbroken(deployment.broker)
    check(bool(deployment.sidecar.logged("diskFull")), "the sidecar did not say that it is full")
    # A sidecar that is started while the disk is full must be no worse off.
    deployment.sidecar.kill()
    deployment.launch_sidecar()
    for _ in range(10):
        restarts += await _revive(deployment)
        await asyncio.sleep(0.1)
    ballast.unlink()
    limit = time.monotonic() + 10
    while time.monotonic() < limit and not deployment.sidecar.events():
        restarts += await _revive(deployment)
        await asyncio.sleep(0.1)
    opened = await _admission_opens(deployment, 15)
    await end_watched(watched)
    await client.close()
    await supplier.close()
    counts = await deployment.settled()
    return (f"admission closed after {burst.accepted} tasks, the stream went on; the sidecar was "
            f"started again {restarts} times; open again {opened:.1f} s after there was room; "
            f"{counts.accepted} accepted = {counts.final} final")


async def _revive(deployment: Deployment) -> int:
    """Starts the sidecar again as a supervisor would; a signal as its end fails the case."""
    sidecar = deployment.sidecar
    if sidecar.running:
        return 0
    status = await sidecar.ended(1)
    check(status > 0, f"the sidecar ended with {sidecar.end_status()}")
    await asyncio.sleep(0.2)
    deployment.launch_sidecar()
    return 1


@case("the data disk is remounted read-only; the sidecar is killed and started on it",
      "streams go on; the sidecar's start is refused with its reason; writable again, accepted = "
      "final", namespaces=("mount",))
async def read_only_data_disk(deployment: Deployment) -> str:
    """The kernel refuses a remount while a file is open for writing: so it is killed first."""
    mount_tmpfs(deployment.data, 32 * MIB)
    await deployment.start()
    async with Load(deployment) as load:
        await deployment.until(lambda: load.completed_count > 50, 10, "50 answers")
        deployment.sidecar.kill()
        subprocess.run(["mount", "-o", "remount,ro", str(deployment.data)], check=True)
        ends = []
        for _ in range(3):
            sidecar = deployment.launch_sidecar()
            status = await sidecar.ended(10)
            check(status > 0, f"the sidecar ended with {sidecar.end_status()}")
            check("fileFailed" in sidecar.log_text(), f"no word of why: {sidecar.log_text()}")
            ends.append(status)
        before = load.completed_count
        await deployment.until(lambda: load.completed_count > before + 50, 10, "streams go on")
        subprocess.run(["mount", "-o", "remount,rw", str(deployment.data)], check=True)
        await deployment.start_sidecar()
        await load.stop()
    counts = await deployment.settled()
    load.check_recorded()
    return (f"3 starts refused with status {ends}; {counts.accepted} accepted = "
            f"{counts.final} final")


@case("kill -9 of the broker under load; the header of its ring is overwritten, and the sidecar "
      "and a new broker are started; later the header is put right",
      "both start, say once which instance is damaged, serve, and leave it as it is; put right, "
      "accepted = final", seconds=30)
async def damaged_ring(deployment: Deployment) -> str:
    """What no process of ours does: a disk tool, or an operator's hand, in the run directory."""
    await deployment.start()
    await deployment.start_worker("--tokens-per-second", "40", "--model", "paced=echo")
    async with Load(deployment, reconnects=True) as load, await connect(deployment) as client:
        watched = await watch(client, 2_000, model="paced")
        await deployment.until(lambda: load.completed_count > 50 and watched.tokens > 20, 10,
                               "50 answers")
        deployment.broker.kill()
        deployment.sidecar.kill()
        name = f"{deployment.instance:016x}"
        ring = deployment.run / name / "ring"
        right = ring.read_bytes()[:_PAGE]
        damaged = _overwrite(ring, b"not a ring")
        await deployment.start_sidecar()
        await deployment.start_broker()
        before = load.completed_count
        await deployment.until(lambda: load.completed_count > before + 50, 15, "answers again")
        await asyncio.sleep(2.5)  # it looks for what it could not close once a second
        said = deployment.broker.logged("instance_damaged")
        check([each["instance"] for each in said] == [name], f"the broker said {said}")
        said_beside = deployment.sidecar.logged("instanceDamaged")
        check([each["instance"] for each in said_beside] == [int(name, 16)],
              f"the sidecar said {said_beside}")
        check(ring.read_bytes()[:_PAGE] == damaged, "the damaged file was changed")
        _overwrite(ring, right[:16])
        deployment.sidecar.kill()
        await deployment.start_sidecar()
        await load.stop()
    counts = await deployment.settled()
    load.check_recorded()
    await deployment.until(lambda: not ring.exists(), 10, "the instance is closed and removed")
    ended = sum(each["ended"] for each in deployment.broker.logged("instance_closed"))
    check(ended > 0, "the stream that the kill met was not ended")
    return (f"both started and said so once; {load.completed_count} answers; put right, {ended} "
            f"tasks of it ended; {counts.accepted} accepted = {counts.final} final")


def _overwrite(path: pathlib.Path, start: bytes) -> bytes:
    """Writes over the beginning of a file; answers its first page as it is then."""
    with open(path, "r+b") as file:
        file.write(start)
        file.seek(0)
        return file.read(_PAGE)
