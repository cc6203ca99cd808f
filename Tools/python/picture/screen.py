"""A terminal of a fixed size, as far as a program needs one that clears and writes lines; and its
screen as SVG."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
_FONT_PX, _LINE_PX, _CELL_PX, _MARGIN_PX, _BAR_PX = 14, 19, 8.43, 16, 30


class UnknownSequence(Exception):
    """The program wrote what this terminal does not know; it shall not be guessed at."""


class Screen:
    """What a terminal shows. A line that is too long is a fault here: it would not be readable."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""]
        #: Screens that were whole when the next one began.
        self.earlier: list[list[str]] = []

    def feed(self, text: str) -> None:
        """Takes what the program wrote, sequences whole."""
        place = 0
        while place < len(text):
            if text[place] == "\x1b":
                match = _SEQUENCE.match(text, place)
                if match is None:
                    raise UnknownSequence(repr(text[place:place + 8]))
                self._command(match[1], match[2])
                place = match.end()
                continue
            self._write(text[place])
            place += 1

    def _command(self, numbers: str, letter: str) -> None:
        match (numbers, letter):
            case ("", "H"):
                if any(self.lines):
                    self.earlier.append(self.lines)
                self.lines = [""]
            case ("2", "J"):
                self.lines = [""]
            case _:
                raise UnknownSequence(f"{numbers}{letter}")

    def _write(self, character: str) -> None:
        if character == "\n":
            self.lines.append("")
        elif character != "\r":
            self.lines[-1] += character
            if len(self.lines[-1]) > self.columns:
                raise ValueError(f"longer than {self.columns} columns: {self.lines[-1]!r}")
        if len(self.lines) > self.rows + 1:
            raise ValueError(f"more than {self.rows} rows")


def svg(lines: list[str], title: str, columns: int = 80) -> str:
    """Lines as a picture of a terminal window."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    width = round(columns * _CELL_PX + 2 * _MARGIN_PX)
    height = _BAR_PX + len(lines) * _LINE_PX + 2 * _MARGIN_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#16202b"/>',
        f'<path d="M0 8a8 8 0 0 1 8-8H{width - 8}a8 8 0 0 1 8 8V{_BAR_PX}H0z" fill="#2a3a4a"/>',
        f'<text x="{_MARGIN_PX}" y="20" font-family="sans-serif" font-size="13" '
        f'fill="#c9d4de">{escape(title)}</text>',
        f'<g font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" '
        f'font-size="{_FONT_PX}" fill="#e8edf2">',
    ]
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        # Columns stand under each other in every font: each line is as wide as its cells.
        y = _BAR_PX + _MARGIN_PX + number * _LINE_PX + 12
        indent = len(line) - len(line.lstrip())
        text = line.strip()
        x = _MARGIN_PX + indent * _CELL_PX
        parts.append(
            f'<text x="{x:.1f}" y="{y}" xml:space="preserve" '
            f'textLength="{len(text) * _CELL_PX:.1f}" lengthAdjust="spacingAndGlyphs">'
            f'{escape(text)}</text>')
    return "\n".join([*parts, "</g>", "</svg>", ""])
