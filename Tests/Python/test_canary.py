"""`Tools/canary`: what is planted is found in every form, and what cannot be searched is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
import lzma
import os
import pathlib
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator
from unittest import mock

import support
from canary import media
from canary.drive import Drive
from canary.main import main
from canary.media import Search
from canary.mutations import MUTATIONS
from canary.needles import ADDRESS, CANARY, KEY, Canaries, spaced
from canary.outcome import Outcome
from canary.rig import Rig
from canary.suppliers import COUNT
from faults.cases import Failed
from sluice.codes import Code

PERIOD = 29


def forms(canaries: Canaries, data: bytes) -> set[str]:
    return {hit.form for hit in canaries.search(data)}


class NeedleTests(unittest.TestCase):
    def setUp(self) -> None:
        self.canaries = Canaries()
        self.value = self.canaries.new("a value").encode()

    def test_every_window_of_a_crash_report_is_found_with_its_name(self) -> None:
        for at in range(PERIOD):
            for write in (spaced, lambda part: spaced(part).upper()):
                with self.subTest(at=at):
                    line = b"rdi 0x00007ffdbc6f0ea0  " + write(self.value[at:at + 16]) + b"  text\n"
                    hits = list(self.canaries.search(line))
                    self.assertEqual({hit.form for hit in hits}, {"spaced hex"})
                    self.assertTrue({hit.canary for hit in hits} <= {"a value", "some canary"})

    def test_a_window_in_the_middle_of_other_bytes_is_found(self) -> None:
        for at in range(PERIOD):
            for before, after in ((0, 16), (16, 0), (7, 9)):
                part = secrets.token_bytes(before) + self.value[at:at + 16]
                dump = spaced(part + secrets.token_bytes(after))
                self.assertIn("spaced hex", forms(self.canaries, dump), (at, before))

    def test_a_window_is_named_where_it_holds_the_number(self) -> None:
        hits = list(self.canaries.search(spaced(self.value[16:32])))
        self.assertEqual({hit.canary for hit in hits}, {"a value"})

    def test_a_part_of_a_canary_is_found_as_text(self) -> None:
        for at in range(PERIOD):
            self.assertTrue(forms(self.canaries, b"\xff" + self.value[at:at + 16] + b"\xff"), at)

    def test_too_little_and_other_values_are_not_found(self) -> None:
        other = Canaries().new("another run's").encode()
        for data in (other, spaced(other), self.value[:10], spaced(self.value[:10]),
                     secrets.token_hex(100_000).encode(), spaced(secrets.token_bytes(100_000))):
            self.assertEqual(forms(self.canaries, data), set())

    def test_every_other_form_is_found_wherever_it_begins(self) -> None:
        text = self.value.decode()
        written = {
            "plain": self.value, "hex": self.value.hex().upper().encode(),
            "hex with colons": self.value.hex(":").encode(),
            "list of numbers": str(list(self.value)).encode(), "reversed": self.value[::-1],
            "utf-16le": text.encode("utf-16-le"), "utf-16be": text.encode("utf-16-be"),
        }
        for form, data in written.items():
            for before in range(4):
                self.assertIn(form, forms(self.canaries, b"\xfe" * before + data + b"\xfe"))
        for before in range(3):
            data = base64.b64encode(b"\xfe" * before + self.value)
            self.assertIn("base64", forms(self.canaries, data))

    def test_a_key_is_found_and_its_prefix_is_no_secret(self) -> None:
        key = "sk-" + secrets.token_urlsafe(40)
        self.canaries.key("a key", key)
        raw = key.encode()
        written = {"plain": raw, "hex": raw.hex().encode(), "base64": base64.b64encode(b"." + raw)}
        for form, data in written.items():
            hits = list(self.canaries.search(data))
            self.assertEqual([(hit.canary, hit.form, hit.kind) for hit in hits],
                             [("a key", form, KEY)])
        for at in range(10, len(raw) - 15):
            self.assertEqual(forms(self.canaries, spaced(raw[at:at + 16])), {"spaced hex"}, at)
        self.assertEqual(forms(self.canaries, raw[:10]), set())

    def test_an_address_is_found_and_no_longer_one(self) -> None:
        self.canaries.address("four", "127.101.102.10", 4_711)
        self.canaries.address("six", "2001:db8::aabb:ccdd:1:2")
        found = (b"127.101.102.10", b"from 127.101.102.10:443", b"::ffff:127.101.102.10,",
                 b"[2001:db8::aabb:ccdd:1:2]:443", b"2001:0db8:0000:0000:aabb:ccdd:0001:0002",
                 bytes.fromhex("20010db800000000aabbccdd00010002"),
                 b"\x02\x00\x12\x67\x7f\x65\x66\x0a", base64.b64encode(b"127.101.102.10"))
        for data in found:
            hits = list(self.canaries.search(data))
            self.assertEqual({hit.kind for hit in hits}, {ADDRESS}, data)
        for data in (b"127.101.102.101", b"1127.101.102.10", b"0.127.101.102.10"):
            self.assertEqual(forms(self.canaries, data), set(), data)


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="sluice-canary-test-")
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name).resolve()
        self.canaries = Canaries()
        self.value = self.canaries.new("a value")

    def searched(self, path: pathlib.Path | None = None, **options: object) -> Search:
        search = Search(self.canaries, **options)  # type: ignore[arg-type]
        search.directory(path or self.path)
        return search


class FileTests(Folder):
    def test_a_value_across_the_border_of_two_pieces_is_found(self) -> None:
        for before in range(40, 72):
            (self.path / "file").write_bytes(b"x" * before + spaced(self.value.encode()[:16]))
            with mock.patch.object(media, "_CHUNK_BYTES", 64):
                self.assertTrue(self.searched().findings, before)

    def test_a_link_that_is_named_is_followed(self) -> None:
        (self.path / "file").write_text(self.value)
        (self.path / "to file").symlink_to("file")
        folder = self.path / "folder"
        folder.mkdir()
        (folder / "inside").write_text(self.value)
        (self.path / "to folder").symlink_to("folder")
        for name in ("to file", "to folder"):
            search = self.searched(self.path / name)
            self.assertTrue(search.findings, name)
            self.assertEqual(search.unreadable, [])

    def test_a_link_that_leads_out_is_listed_unless_its_target_is_named(self) -> None:
        inside, outside = self.path / "inside", self.path / "outside"
        for folder in (inside, outside):
            folder.mkdir()
        (outside / "log").write_text(self.value)
        (inside / "link").symlink_to(outside / "log")
        self.assertEqual(len(self.searched(inside).unreadable), 1)
        self.assertIn(str(inside / "link"), self.searched(inside).unreadable[0])
        self.assertEqual(self.searched(inside, named=(inside, outside)).unreadable, [])

    def test_what_is_named_and_not_there_is_listed(self) -> None:
        (self.path / "dangling").symlink_to("nothing")
        (self.path / "circle").symlink_to("circle")
        for name in ("nothing", "dangling", "circle"):
            search = self.searched(self.path / name)
            self.assertEqual(len(search.unreadable), 1, name)

    def test_what_is_no_file_is_listed_only_if_it_can_hold_something(self) -> None:
        os.mkfifo(self.path / "pipe")
        self.assertEqual(self.searched().unreadable, [])
        self.assertEqual(len(self.searched(pathlib.Path("/dev/null")).unreadable), 1)

    def test_what_may_not_be_read_is_listed(self) -> None:
        """Asked as a user who owns nothing: root is not kept out by modes."""
        for name in ("closed folder", "folder"):
            (self.path / name).mkdir()
        (self.path / "closed folder" / "file").write_text(self.value)
        (self.path / "folder" / "closed file").write_text(self.value)
        (self.path / "closed folder").chmod(0)
        (self.path / "folder" / "closed file").chmod(0)
        self.path.chmod(0o755)
        # What is imported is imported before: the new user may not reach the interpreter's files.
        asked = subprocess.run([sys.executable, "-c", """
import json, os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from canary.media import Search
from canary.needles import Canaries
search = Search(Canaries())
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for path in sys.argv[2:]:
    search.directory(pathlib.Path(path))
search.memory(os.getppid() if os.geteuid() == 65534 else 1, "parent")
print(json.dumps(search.unreadable))
""", str(support.ROOT / "Tools" / "python"), str(self.path),
            str(self.path / "closed folder"), str(self.path / "folder" / "closed file")],
            capture_output=True, text=True)
        (self.path / "closed folder").chmod(0o700)
        self.assertEqual(asked.returncode, 0, asked.stderr)
        told = json.loads(asked.stdout)
        for place in ("closed folder", "folder/closed file"):
            listed = [text for text in told if text.startswith(f"{self.path / place}: ")]
            self.assertEqual(len(listed), 2, told)  # below the first path, and named
        self.assertTrue(told[-1].startswith("memory of parent"), told)
        self.assertEqual(len(told), 5, told)

    def test_compressed_files_are_unpacked_as_far_as_they_go(self) -> None:
        second = self.value.encode() + secrets.token_bytes(9_000)
        packed = gzip.compress(b"x") + gzip.compress(second)
        (self.path / "cut.gz").write_bytes(packed[:-2_000])
        (self.path / "whole.xz").write_bytes(lzma.compress(self.value.encode()))
        search = self.searched()
        self.assertEqual({pathlib.Path(place).name for place, _ in search.findings},
                         {"cut.gz, unpacked", "whole.xz, unpacked"})
        self.assertEqual(search.unreadable, [])

    def test_what_cannot_be_unpacked_is_listed(self) -> None:
        (self.path / "zstd").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
        (self.path / "broken.gz").write_bytes(b"\x1f\x8b\x08\x00" + b"\xff" * 100)
        self.assertEqual(len(self.searched().unreadable), 2)

    def test_a_database_that_cannot_be_read_is_listed(self) -> None:
        path = self.path / "database"
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE leak (text TEXT)")
        database.execute("INSERT INTO leak VALUES (?)", ("y" * 10_000 + self.value,))
        database.commit()
        database.close()
        self.assertTrue(any("table leak" in place for place, _ in self.searched().findings))
        content = path.read_bytes()
        path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
        with mock.patch.object(time, "sleep"):
            self.assertEqual(len(self.searched().unreadable), 1)

    def test_keys_are_left_out_where_they_are_kept_and_nowhere_else(self) -> None:
        key = "sk-" + secrets.token_urlsafe(40)
        self.canaries.key("a key", key)
        kept, leak = self.path / "kept", self.path / "leak"
        for path in (kept, leak):
            path.write_text(key + "\n")
        search = self.searched(keepers=frozenset([kept]))
        self.assertEqual([place for place, _ in search.findings], [str(leak)])
        kept.write_text(key + self.value)
        search = self.searched(keepers=frozenset([kept]))
        self.assertIn((str(kept), CANARY), {(place, hit.kind) for place, hit in search.findings})


class MemoryTests(Folder):
    @contextlib.contextmanager
    def child(self, words: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def test_what_a_process_keeps_is_found(self) -> None:
        with self.child("import sys; kept = input(); print(1, flush=True); input()") as process:
            assert process.stdin and process.stdout
            process.stdin.write(self.value + "\n")
            process.stdin.flush()
            process.stdout.readline()
            search = Search(self.canaries)
            search.memory(process.pid, "child")
        if search.unreadable and "Permission" in search.unreadable[0]:
            self.skipTest("memory of other processes may not be read here")
        self.assertTrue(search.findings)
        self.assertEqual(search.unreadable, [])

    def test_a_process_that_has_ended_is_listed(self) -> None:
        with self.child("") as process:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays, with no memory
            search = Search(self.canaries)
            search.memory(process.pid, "child")
        search.memory(process.pid, "child")
        self.assertEqual(len(search.unreadable), 2)

    def test_a_process_without_memory_is_listed(self) -> None:
        with mock.patch.object(media, "_regions", lambda _: []):
            search = Search(self.canaries)
            search.memory(os.getpid(), "this process")
        self.assertEqual(len(search.unreadable), 1)

    def test_a_part_that_cannot_be_read_is_listed(self) -> None:
        """Nothing is mapped at its address, and the list of what is mapped says otherwise."""
        regions = media._regions
        with mock.patch.object(media, "_regions",
                               lambda pid: [*regions(pid), (4_096, 8_192, "a device")]):
            search = Search(self.canaries)
            search.memory(os.getpid(), "this process")
        self.assertEqual(len(search.unreadable), 1, search.unreadable)
        self.assertIn("1000-2000 a device", search.unreadable[0])


class OutcomeTests(Folder):
    def test_what_was_not_searched_makes_a_run_not_clean(self) -> None:
        outcome = Outcome(controls={"one": True})
        self.assertTrue(outcome.is_clean)
        outcome.take(self.searched(self.path / "nothing"))
        self.assertFalse(outcome.is_clean)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            outcome.show(1, as_json=False)
        self.assertIn(f"NOT SEARCHED {self.path / 'nothing'}", printed.getvalue())
        self.assertIn("1 places not searched", printed.getvalue())

    def test_a_finding_or_a_control_that_does_not_hold_makes_a_run_not_clean(self) -> None:
        self.assertFalse(Outcome(controls={"one": True, "other": False}).is_clean)
        (self.path / "leak").write_text(self.value)
        outcome = Outcome()
        outcome.take(self.searched())
        self.assertFalse(outcome.is_clean)

    def test_every_defence_is_taken_away_by_itself(self) -> None:
        alone = {mutation.taken[0] for mutation in MUTATIONS if len(mutation.taken) == 1}
        self.assertEqual(alone, {defence for each in MUTATIONS for defence in each.taken})
        self.assertEqual(len({mutation.words for mutation in MUTATIONS}), len(MUTATIONS))


class OwnDeploymentTests(Folder):
    """`--broker`: somebody's own deployment, here one of this test's."""

    def run_against(self, rig: Rig, *options: str) -> tuple[int, dict[str, object]]:
        deployment = rig.deployment
        key_file = deployment.data / "client.key"
        key_file.write_text(deployment.key + "\n")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), \
                mock.patch("canary.against._BARRIER_SECONDS", 1.0):
            status = main(["--broker", f"{deployment.host}:{deployment.port}", "--ca",
                           deployment.ca_file, "--key-file", str(key_file), "--model", "echo",
                           "--search", str(rig.disk), "--search", str(rig.shared), "--json",
                           *options])
        return status, json.loads(printed.getvalue())

    def test_it_is_clean_only_if_all_that_was_named_could_be_searched(self) -> None:
        rig = Rig(pathlib.Path(support.program("sluice-broker", "SLUICE_BROKER")).parent, "auto")
        self.addCleanup(rig.remove)

        async def start() -> None:
            rig.make(suppliers=COUNT)
            await rig.deployment.start_sidecar()
            await rig.deployment.start_broker()
            await rig.deployment.start_worker()

        asyncio.run(start())
        status, told = self.run_against(rig)
        self.assertEqual((status, told["unsearched"], told["findings"]), (0, [], []))
        ended = subprocess.Popen(["true"])
        ended.wait()
        status, told = self.run_against(rig, "--pid", str(ended.pid))
        self.assertEqual(status, 1)
        self.assertEqual(len(told["unsearched"]), 1)  # type: ignore[arg-type]
        (rig.disk / "leak").write_text(rig.deployment.key)
        status, told = self.run_against(rig)
        self.assertEqual(status, 1)
        self.assertIn("the client's key", told["findings"][0])  # type: ignore[index]


class SignTests(unittest.IsolatedAsyncioTestCase):
    """A way that did not take place is a failure, and not silence."""

    async def test_an_end_with_another_code_fails(self) -> None:
        drive = Drive(mock.Mock(canaries=Canaries()))
        drive.note("as it should be", Code.CANCELLED, Code.CANCELLED)
        with self.assertRaises(Failed):
            drive.note("otherwise", Code.COMPLETED, Code.CANCELLED)
        self.assertEqual(list(drive.ends), ["as it should be"])


if __name__ == "__main__":
    unittest.main()
