"""A PostgreSQL server on a socket of its own, in a directory that is removed with it."""

from __future__ import annotations

import glob
import os
import pathlib
import shutil
import subprocess
import tempfile
from types import TracebackType


class Missing(Exception):
    """There is no PostgreSQL server on this machine."""


def _programs() -> pathlib.Path:
    """Where initdb lies: Debian keeps each version in a folder of its own."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if found:
        return pathlib.Path(found[-1]).parent
    if named := shutil.which("initdb"):
        return pathlib.Path(named).parent
    raise Missing("no PostgreSQL server; Tools/setup --tests installs it")


class Postgres:
    """Running from `with` to its end. It refuses to run as root, so root lends it a user."""

    def __init__(self) -> None:
        self._programs = _programs()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-pg-"))
        self._user: list[str] = []
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
            self._user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        self.folder.chmod(0o755)

    @property
    def url(self) -> str:
        """For libpq."""
        return f"postgresql:///postgres?host={self.folder}&user=test"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._user, str(self._programs / program), "-D", str(self.folder / "data"),
             *arguments], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr.strip()[-300:]}")

    def start(self) -> None:
        """Accepts connections when this returns."""
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o",
                  f"-c listen_addresses='' -k {self.folder} -c full_page_writes=off", "start")

    def stop(self) -> None:
        """At once, as a crash would."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def dump(self) -> bytes:
        """Everything that is in its tables, as text: in its files long values are compressed."""
        done = subprocess.run(
            [*self._user, str(self._programs / "pg_dump"), "--data-only", "--dbname", self.url],
            cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise RuntimeError(f"pg_dump failed: {done.stderr.decode().strip()[-300:]}")
        return done.stdout

    def __enter__(self) -> Postgres:
        try:
            self._run("initdb", "-A", "trust", "-U", "test", "-E", "UTF8", "--no-locale",
                      "--no-sync")
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self.stop()
        except RuntimeError:
            pass  # It is down already.
        shutil.rmtree(self.folder, ignore_errors=True)
