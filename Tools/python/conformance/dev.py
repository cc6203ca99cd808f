"""A deployment to hold to the specification: ``sluice dev`` of this build, in its own folder."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import pathlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import cast

from .lab import CASES
from .peer import Target

_PROGRAM = pathlib.Path(__file__).resolve().parents[3] / ".build" / "release" / "sluice"
_START_SECONDS = 60
_STOP_SECONDS = 20
_DIRECTORY_SECONDS = 0.5
"""A running broker looks for new credentials every 100 ms."""


class NotStarted(Exception):
    """``sluice dev`` did not get ready; says what it wrote."""


def _token(folder: str, account: str) -> str:
    """A token of a supplier identity of its own."""
    issued = subprocess.run(
        [str(_PROGRAM), "key", "issue", "--data", folder, "--supplier", "--account", account],
        capture_output=True, text=True, check=True).stdout
    return str(json.loads(issued)["secret"])


def _certificate(folder: str) -> tuple[str, str]:
    """A certificate of the deployment's own authority that is a client's key, and its own key."""
    def run(*words: str) -> dict[str, str]:
        made = subprocess.run(
            [str(_PROGRAM), *words], capture_output=True, text=True, check=True).stdout
        return cast(dict[str, str], json.loads(made))

    made = run("certs", "--out", folder, "--client", "conformance")
    run("key", "add-certificate", "--data", folder, "--certificate", made["certificate"])
    return made["certificate"], made["privateKey"]


@contextlib.contextmanager
def deployment(backend: str, patience: float) -> Iterator[Target]:
    """Starts broker, sidecar and worker with the backend; ends them behind the caller."""
    with tempfile.TemporaryDirectory(prefix="sluice-conformance-") as folder:
        with open(pathlib.Path(folder) / "log", "w") as log:
            process = subprocess.Popen(
                [str(_PROGRAM), "dev", "--data", f"{folder}/data", "--backend", backend],
                stdout=subprocess.PIPE, stderr=log, text=True)
        impatience = threading.Timer(_START_SECONDS, process.kill)
        impatience.start()
        try:
            assert process.stdout is not None
            ready = next((event for line in process.stdout
                          if (event := json.loads(line)).get("event") == "ready"), None)
            impatience.cancel()
            if ready is None:
                log_text = (pathlib.Path(folder) / "log").read_text()
                raise NotStarted(f"sluice dev did not get ready: {log_text[-500:]}")
            data = f"{folder}/data"
            host, _, port = ready["broker"].rpartition(":")
            # Two for each case: a broker leaves out suppliers that fail too often [Q9], and many
            # cases are about failures.
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                names = [f"supplier-{number}" for number in range(2 * len(CASES))]
                tokens = tuple(pool.map(lambda name: _token(data, name), names))
            certificate = _certificate(data)
            time.sleep(_DIRECTORY_SECONDS * patience)
            yield Target(host, int(port), f"{data}/ca.pem", ready["clientKey"], tokens, patience,
                         prepaid=True, certificate=certificate)
        finally:
            impatience.cancel()
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
