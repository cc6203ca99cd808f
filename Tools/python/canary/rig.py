"""Directories of one run, and the processes in them."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import resource
import shutil
import tempfile
from typing import Any

from faults.deployment import Deployment, Options
from throwaway.postgres import Postgres

from .media import Search
from .needles import Canaries


def is_root() -> bool:
    """Whether the memory of other processes can be read."""
    return os.geteuid() == 0


def allow_cores() -> None:
    """For a new process: it may leave a core, unless it forbids that itself."""
    resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))


def cores_are_files() -> bool:
    """Whether a crash writes its core beside the process, where this run can look at it."""
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    return "/" not in pattern and not pattern.startswith("|")


class Rig:
    """Directories of one run, and the processes in them."""

    def __init__(self, programs: pathlib.Path, backend: str) -> None:
        # Without this setting Swift's runtime writes crash reports: the programs must see to it.
        os.environ.pop("SWIFT_BACKTRACE", None)
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.disk = pathlib.Path(tempfile.mkdtemp(prefix="sluice-canary-"))
        self.shared = pathlib.Path(tempfile.mkdtemp(prefix="sluice-canary-", dir=shared))
        self.cores = self.disk / "cores"
        self.cores.mkdir()
        self.master_key = self.disk / "master-key"
        options = Options(programs, self.disk, self.shared, backend, ())
        self.deployment = Deployment(options)
        self.canaries = Canaries()
        self.server: Postgres | None = None

    @property
    def directories(self) -> list[pathlib.Path]:
        """Everything that the processes could write to."""
        return [self.disk, self.shared] + ([self.server.folder] if self.server else [])

    def use_postgres(self) -> None:
        """Keeps the store on a PostgreSQL server of its own. Raises ``Missing``."""
        self.server = Postgres().__enter__()
        self.deployment.store = self.server.url

    def command(self, *words: str) -> str:
        """What `sluice` prints, asked about this run's store."""
        return self.deployment._command(*words, "--data", str(self.deployment.data))

    def issue(self, account: str, *options: str) -> str:
        """A client key, which is looked for from now on."""
        line = self.command("key", "issue", "--account", account, *options)
        key = str(json.loads(line)["secret"])
        self.canaries.key(f"the key of {account}", key)
        return key

    def issue_prepaid(self, account: str, dollars: str = "") -> str:
        """A client key of an account that prepays, with so much or nothing."""
        self.command("account", "create", account, "--prepaid")
        if dollars:
            self.command("wallet", "topup", account, "--usd", dollars, "--reference", account)
        return self.issue(account)

    def make(self, suppliers: int) -> None:
        """Certificates, keys and tokens; these are looked for too."""
        self.deployment.make(suppliers=suppliers)
        self.canaries.key("the client's key", self.deployment.key)
        for number, token in enumerate(self.deployment.tokens):
            self.canaries.key(f"the token of supplier {number}", token)

    async def start_broker(self, *options: str, **popen: Any) -> None:
        """Where cores would be written and found, if its own guards did not forbid them."""
        await self.deployment.start_broker(
            *options, cwd=str(self.cores), preexec_fn=allow_cores, **popen)

    async def barrier(self) -> None:
        """All tasks have ended and are written down."""
        await self.deployment.settled(30)
        await asyncio.sleep(1.2)  # record buffers of connections in use live for a second

    # MARK: Searching

    def search(self) -> Search:
        """One that knows where this run's keys are kept by whoever issued them."""
        certificates = self.deployment.certificates.resolve()
        tokens = (certificates / f"supplier-{number}.token"
                  for number in range(len(self.deployment.tokens)))
        return Search(self.canaries, named=tuple(self.directories),
                      keepers=frozenset([*tokens, self.master_key.resolve()]))

    def search_files(self) -> Search:
        """Everything that was written."""
        search = self.search()
        for directory in self.directories:
            search.directory(directory)
        if self.server:
            search.content("dump of PostgreSQL", "dump of PostgreSQL", self.server.dump())
        return search

    def search_all(self) -> Search:
        """The memory of broker and sidecar too."""
        search = self.search_files()
        if is_root():
            search.memory(self.deployment.broker.pid, "broker")
            search.memory(self.deployment.sidecar.pid, "sidecar")
        return search

    def core_files(self) -> list[pathlib.Path]:
        """Cores that were left since they were last removed."""
        return sorted(self.cores.iterdir())

    def remove(self) -> None:
        """Ends the processes and removes the directories."""
        self.deployment.stop()
        if self.server:
            self.server.__exit__(None, None, None)
        for folder in (self.disk, self.shared):
            shutil.rmtree(folder, ignore_errors=True)
