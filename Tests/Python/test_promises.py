"""`Protocol/Promises.md` names only what exists: files, and texts in them."""

from __future__ import annotations

import pathlib
import re
import unittest

from support import ROOT

PAGE = ROOT / "Protocol" / "Promises.md"
_SOURCE = re.compile(r"`([^`]+)`(?:: \"([^\"]+)\")?")
_STATES = ("proved", "partly", "said", "not built")


def rows() -> list[list[str]]:
    """The cells of every row but the heads."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| promise", "| ---")):
            found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def text_below(path: pathlib.Path) -> str:
    """A file's text, or that of all files of a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.*"))
    return "\n".join(file.read_text(errors="replace") for file in files if file.is_file())


class TestPromises(unittest.TestCase):
    def test_every_row_has_a_requirement_a_source_and_a_state(self) -> None:
        self.assertGreater(len(rows()), 30)
        for cells in rows():
            self.assertEqual(len(cells), 4, cells)
            self.assertRegex(cells[1], r"^S\d+(, S\d+)*$")
            self.assertRegex(cells[2], _SOURCE)
            self.assertTrue(cells[3].startswith(_STATES), cells[3])

    def test_what_is_named_exists(self) -> None:
        for cells in rows():
            for path, text in _SOURCE.findall(cells[2]):
                with self.subTest(path=path, text=text):
                    self.assertTrue((ROOT / path).exists(), f"{path} does not exist")
                    if text:
                        held = text_below(ROOT / path)
                        self.assertTrue(text in held, f"{path} does not hold that text")
                        if path.startswith("Tests/"):
                            # A test's title, the beginning of one, or its function.
                            escaped = re.escape(text)
                            test = rf"@Test\([^\n]*\"[^\"\n]*{escaped}|(func|def) {escaped}\("
                            self.assertRegex(held, test, f"{text} is no test")

    def test_no_requirement_is_forgotten(self) -> None:
        page = PAGE.read_text()
        named = {int(number) for number in re.findall(r"S(\d+)", page)}
        for first, last in re.findall(r"S(\d+) to S(\d+)", page):
            named |= set(range(int(first), int(last) + 1))
        self.assertEqual(set(range(1, 70)) - named, set())


if __name__ == "__main__":
    unittest.main()
