"""The picture of `sluice top`: the terminal that it is taken from, and the file in the README."""

from __future__ import annotations

import unittest
import xml.etree.ElementTree as ElementTree

from support import ROOT

from picture.screen import Screen, UnknownSequence, svg


class PictureTests(unittest.TestCase):
    """What the terminal shows is what is drawn."""

    def test_a_screen_is_whole_when_the_next_one_begins(self) -> None:
        screen = Screen()
        screen.feed("\x1b[H\x1b[2Jone\r\n  two\r\n")
        self.assertEqual(screen.earlier, [])
        screen.feed("\x1b[H\x1b[2Jthree")
        self.assertEqual(screen.earlier, [["one", "  two", ""]])

    def test_what_a_terminal_of_80_columns_would_wrap_is_refused(self) -> None:
        Screen().feed("x" * 80)
        with self.assertRaises(ValueError):
            Screen().feed("x" * 81)

    def test_a_sequence_that_is_not_known_is_not_guessed_at(self) -> None:
        with self.assertRaises(UnknownSequence):
            Screen().feed("\x1b[31mred")

    def test_a_picture_has_every_line_in_its_column(self) -> None:
        drawn = ElementTree.fromstring(svg(["a <b", "", "  c"], "top"))
        texts = drawn.findall(".//{*}g/{*}text")
        self.assertEqual([text.text for text in texts], ["a <b", "c"])
        self.assertGreater(float(texts[1].attrib["x"]), float(texts[0].attrib["x"]))

    def test_the_picture_in_the_readme_is_a_screen_of_sluice_top(self) -> None:
        path = "Documentation/pictures/top.svg"
        self.assertIn(path, (ROOT / "README.md").read_text())
        texts = ElementTree.parse(ROOT / path).getroot().findall(".//{*}g/{*}text")
        lines = [text.text or "" for text in texts]
        self.assertTrue(lines[0].startswith("broker "), lines)
        self.assertIn("shard", lines[-3])
        self.assertTrue(all(len(line) <= 80 for line in lines))


if __name__ == "__main__":
    unittest.main()
