"""What the tests share: the package on the path, and a broker of their own.

The broker is a black box: ``SLUICE_BROKER`` names its program, else a build is looked for. Its
directory of credentials is written here, as ``Protocol/Files.md`` says.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tools" / "python"))

KEY = "sk-" + "0123456789abcdef" * 4
OTHER_KEY = "sk-" + "fedcba9876543210" * 4
REVOKED_KEY = "sk-" + "00000000ffffffff" * 4
EXPIRED_KEY = "sk-" + "ffffffff00000000" * 4
# Keys of accounts of their own, for loads that one account may not have.
LOAD_KEYS = [f"sk-load-{number}" + "0123456789abcdef" * 3 for number in range(8)]
TOKENS = [f"st-{number}" + "0123456789abcdef" * 4 for number in range(4)]
_CLIENT, _SUPPLIER, _REVOKED = 1, 2, 1


def program(name: str, variable: str) -> str:
    """A program of this build. Where the variable names one, it must be there; else the test is
    skipped without a build."""
    named = os.environ.get(variable)
    if named:
        if not os.access(named, os.X_OK):
            raise AssertionError(f"{variable}: no program {named}")
        return named
    for build in ("release", "debug"):
        path = str(ROOT / ".build" / build / name)
        if os.access(path, os.X_OK):
            return path
    raise unittest.SkipTest(f"no {name}: build it or set {variable}")


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _block(data: bytes) -> bytes:
    """A block of 128 bytes with its CRC at offset 4."""
    block = bytearray(data.ljust(128, b"\0"))
    struct.pack_into("<I", block, 4, _crc32c(bytes(block)))
    return bytes(block)


def write_directory(folder: pathlib.Path) -> None:
    """The credentials of the tests, as generation 1."""
    folder.mkdir(mode=0o700)
    rows = [(_CLIENT, 0, KEY, 1, 0, 0), (_CLIENT, 0, OTHER_KEY, 2, 0, 0),
            (_CLIENT, _REVOKED, REVOKED_KEY, 1, 0, 0), (_CLIENT, 0, EXPIRED_KEY, 1, 1_000, 0)]
    rows += [(_CLIENT, 0, key, 11 + number, 0, 0) for number, key in enumerate(LOAD_KEYS)]
    rows += [(_SUPPLIER, 0, token, 100 + number, 0, 100 + number)
             for number, token in enumerate(TOKENS)]
    # Those that bring load have no limit of concurrent tasks.
    entries = b"".join(
        _block(struct.pack("<BBBBIQ32sQQIIQ", 1, 1, role, flags, 0, number,
                           hashlib.sha256(secret.encode()).digest(), account, expires,
                           0 if secret in LOAD_KEYS else 1_024, 1_000_000_000, supplier))
        for number, (role, flags, secret, account, expires, supplier) in enumerate(rows, 1))
    for name, kind, count, content in (("snapshot-1", 0x41, len(rows), entries),
                                       ("changes-1", 0x42, 0, b"")):
        header = struct.pack("<BBHI8sQQQ", 1, kind, 0, 0, b"SLCFILE1", 1, count,
                             len(rows) if kind == 0x41 else 0)
        path = folder / name
        path.write_bytes(_block(header) + content)
        path.chmod(0o600)


def make_certificate(folder: pathlib.Path) -> tuple[str, str]:
    """A certificate for this machine that is its own authority, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out",
         str(certificate)], check=True, capture_output=True)
    key.chmod(0o600)
    return str(certificate), str(key)


@dataclass
class Broker:
    """A running broker and where to find it."""

    host: str
    port: int
    ca_file: str
    process: subprocess.Popen[str]
    folder: pathlib.Path

    @classmethod
    def start(cls, *options: str) -> Broker:
        """Starts a broker with a certificate and directory of its own."""
        broker = program("sluice-broker", "SLUICE_BROKER")
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-py-", dir=base))
        (folder / "run").mkdir(mode=0o700)
        write_directory(folder / "directory")
        certificate, key = make_certificate(folder)
        command = [broker, "--run", str(folder / "run"), "--directory", str(folder / "directory"),
                   "--certificate", certificate, "--private-key", key, "--port", "0"]
        with open(folder / "log", "w") as log:
            process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=log, text=True)
        running = cls("127.0.0.1", 0, certificate, process, folder)
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event.get("event") == "listening":
                running.port = int(event.get("port") or event["address"].rpartition(":")[2])
                return running
        running.stop()
        raise RuntimeError(f"the broker did not start: {(folder / 'log').read_text()}")

    def stop(self) -> None:
        """Kills the broker and removes its files."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
