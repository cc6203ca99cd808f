"""`Tools/scan`: what is planted is found in every form; a deployment's own files hold nothing."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import pathlib
import sqlite3
import subprocess
import tempfile
import unittest

import support
from scan.files import scan
from scan.main import main
from scan.needles import read
from throwaway.postgres import Postgres

KEY = "slc_" + "Zq7" * 15
EMAIL = "Ada.Lovelace@example.org"
ADDRESSES = ["192.0.2.77", "2001:db8::1234:77"]


def needles():
    return (read("keys", [KEY]) + read("emails", [EMAIL]) + read("addresses", ADDRESSES))


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sluice-scan-test-")
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)

    def found(self, **options):
        report = scan([self.path], needles(), set(), **options)
        self.assertEqual(report.unreadable, [])
        return {(finding.value, finding.form) for finding in report.findings}


class PlantedTests(Folder):
    values = [("keys:1", KEY), ("emails:1", EMAIL), ("addresses:1", ADDRESSES[0]),
              ("addresses:2", ADDRESSES[1])]

    def test_every_form_is_found_wherever_it_begins(self):
        forms = {
            "plain": lambda raw: b" " + raw + b" ",
            "hex": lambda raw: raw.hex().upper().encode(),
            "base64": base64.b64encode,
        }
        for name, value in self.values:
            for form, encode in forms.items():
                for before in range(4):
                    with self.subTest(value=name, form=form, before=before):
                        raw = b"\xfe" * before + value.encode() + b"\xff\xfe"
                        if form == "plain":
                            raw = value.encode()
                        (self.path / "segment").write_bytes(
                            os.urandom(before) + encode(raw) + os.urandom(5))
                        self.assertIn((name, form), self.found())

    def test_base64_for_urls_and_bytes_of_an_address(self):
        raw = b"\xff\xff\xff" + KEY.encode() + b"??>"
        (self.path / "a").write_bytes(base64.urlsafe_b64encode(raw))
        self.assertEqual(self.found(), {("keys:1", "base64")})
        (self.path / "a").write_bytes(b"\x01" + bytes.fromhex("20010db8") + bytes(8)
                                      + bytes.fromhex("12340077"))
        self.assertEqual(self.found(), {("addresses:2", "bytes")})

    def test_what_lies_across_two_chunks_is_found(self):
        for before in range(0, 64):
            (self.path / "a").write_bytes(b"." * before + KEY.encode() + b"." * 40)
            self.assertIn(("keys:1", "plain"), self.found(chunk_bytes=16), before)

    def test_another_address_or_a_shown_prefix_is_no_finding(self):
        (self.path / "a").write_text(f"192.0.2.7 192.0.2.771 1192.0.2.77 {KEY[:10]} ada@example.org")
        self.assertEqual(self.found(), set())

    def test_a_database_is_searched_by_cell_by_free_page_and_by_log(self):
        path = self.path / "store.sqlite"
        database = sqlite3.connect(path)
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("CREATE TABLE t (v BLOB)")
        # Longer than a page, so that some copy lies in two pieces; and one that is removed again.
        database.execute("INSERT INTO t VALUES (?)", [b"x" * 4_000 + KEY.encode() + b"x" * 9_000])
        database.execute("INSERT INTO t VALUES (?)", [EMAIL])
        database.commit()
        database.execute("DELETE FROM t WHERE v = ?", [EMAIL])
        database.commit()
        report = scan([self.path], needles(), set())
        places = {(finding.value, finding.place) for finding in report.findings}
        self.assertIn(("keys:1", "t.v"), places)
        self.assertIn("emails:1", {value for value, _ in places})
        database.execute("DELETE FROM t")
        database.commit()
        database.execute("PRAGMA journal_mode = WAL").fetchall()
        database.execute("INSERT INTO t VALUES (?)", [ADDRESSES[0]])
        database.commit()
        report = scan([self.path], needles(), set())
        self.assertIn(
            "store.sqlite-wal",
            {pathlib.Path(finding.path).name for finding in report.findings
             if finding.value == "addresses:1"})
        database.close()


class CommandTests(Folder):
    def run_main(self, *words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(word) for word in words])
        return status, out.getvalue() + err.getvalue()

    def test_a_finding_is_named_and_never_printed(self):
        keys = self.path / "keys.txt"
        keys.write_text(f"slc_{'other' * 8}\n{KEY}\n")
        data = self.path / "data"
        data.mkdir()
        (data / "log").write_text(KEY)
        status, words = self.run_main(data, "--keys", keys)
        self.assertEqual(status, 1)
        self.assertIn("keys:2 in plain", words)
        self.assertNotIn(KEY[10:], words)
        status, _ = self.run_main(data, "--keys", keys, "--except", data / "log")
        self.assertEqual(status, 2, "nothing was searched")
        (data / "other").write_text("nothing")
        status, words = self.run_main(data, "--keys", keys, "--except", data / "log", "--json")
        self.assertEqual((status, json.loads(words)["findings"]), (0, []))

    def test_a_scan_for_nothing_or_of_nothing_is_no_pass(self):
        keys = self.path / "keys.txt"
        keys.write_text("\n")
        self.assertEqual(self.run_main(self.path, "--keys", keys)[0], 2)
        keys.write_text(KEY)
        self.assertEqual(self.run_main(self.path / "missing", "--keys", keys)[0], 2)
        self.assertEqual(self.run_main(self.path, "--addresses", keys)[0], 2)


class DeploymentTests(Folder):
    """What the programs write, on both stores: keys, a person, an erasure."""

    def run_sluice(self, words, place, stdin=""):
        done = self.sluice(words, place, stdin)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def test_a_refusal_says_what_to_do_and_nothing_of_the_person(self):
        place = ["--data", str(self.path / "data")]
        self.run_sluice(["account", "create", "ada"], place)
        master = self.path / "master.key"
        sealed = ["ada", "--master-key-file", str(master)]
        for words, stdin, expected in [
            (["set", *sealed], f"email: {EMAIL}", "make-key"),
            (["set", *sealed], f"email {EMAIL}", "line 1"),
            (["set", *sealed], f"name: Ada\nmail: {EMAIL}", "line 2"),
            (["set", *sealed], f"email: {EMAIL}\nemail: {EMAIL}", "line 2"),
            (["set", *sealed], f"email: {EMAIL * 50}", "1024 bytes"),
            (["show", *sealed], "", "never set"),
        ]:
            with self.subTest(words=words, expected=expected):
                done = self.sluice(["account", "person", *words], place, stdin)
                self.assertEqual(done.returncode, 1)
                self.assertIn(expected, done.stderr)
                self.assertNotIn(EMAIL, done.stderr + done.stdout)
            if not master.exists():
                self.run_sluice(["account", "person", "make-key", str(master)], [])
                self.assertEqual(master.stat().st_mode & 0o777, 0o600)

    def sluice(self, words, place, stdin=""):
        command = os.environ.get("SLUICE_COMMAND") or str(support.ROOT / ".build/release/sluice")
        return subprocess.run(
            [command, *words, *place], input=stdin, capture_output=True, text=True, check=False)

    def fill(self, place):
        """Gives the key that was issued."""
        master = str(self.path / "master.key")
        self.run_sluice(["account", "person", "make-key", master], [])
        issued = self.run_sluice(["key", "issue", "--account", "ada", "--json"], place)
        person = ["account", "person"]
        sealed = ["ada", "--master-key-file", master, "--json"]
        self.run_sluice([*person, "set", *sealed], place, f"email: {EMAIL}\nname: Ada\n")
        address = ["account", "address"]
        self.run_sluice([*address, "note", *sealed[:3]], place, f"{ADDRESSES[0]}\n")
        found = self.run_sluice([*address, "find", *sealed[1:]], place, ADDRESSES[0])
        self.assertEqual(len(found), 1)
        self.assertEqual(self.run_sluice([*address, "find", *sealed[1:]], place, "::1"), [])
        shown = self.run_sluice([*person, "show", *sealed], place)
        self.assertIn({"field": "email", "value": EMAIL}, shown)
        return issued[0]["secret"]

    def check(self, data, key):
        wanted = (read("keys", [key]) + read("emails", [EMAIL])
                  + read("addresses", [ADDRESSES[0]]))
        report = scan([data], wanted, set())
        self.assertEqual((report.findings, report.unreadable), (set(), []))
        self.assertGreater(report.bytes, 100_000)
        # The control: the same scan finds what is planted beside.
        (data / "planted").write_text(f"{key} {EMAIL.encode().hex()} {ADDRESSES[0]}")
        found = {finding.value for finding in scan([data], wanted, set()).findings}
        self.assertEqual(found, {"keys:1", "emails:1", "addresses:1"})

    def test_sqlite(self):
        data = self.path / "data"
        place = ["--data", str(data)]
        key = self.fill(place)
        self.check(data, key)
        erased = self.run_sluice(["account", "person", "erase", "ada", "--json"], place)
        self.assertEqual((erased[0]["erased"], erased[0]["remainsOverwritten"]), (True, True))
        self.assertEqual(
            self.sluice(["account", "person", "show", "ada", "--master-key-file",
                         str(self.path / "master.key")], place).returncode, 1)

    def test_postgres(self):
        with Postgres() as server:
            key = self.fill(["--store", server.url])
            self.check(server.folder / "data", key)


if __name__ == "__main__":
    unittest.main()
