"""What one run showed, and the words for it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from .media import Search

_FINDINGS_SHOWN = 50


@dataclass
class Outcome:
    """Ends that took place, controls that held, and what was found."""

    ends: dict[str, str] = field(default_factory=dict)
    controls: dict[str, bool] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    media: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    unsearched: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Nothing was found that must not be, everything that must be was, and all that was to be
        searched could be."""
        return not self.findings and not self.unsearched and all(self.controls.values())

    def _searched(self, search: Search) -> None:
        for medium, count in search.media.items():
            self.media[medium] = self.media.get(medium, 0) + count
        self.unsearched += [text for text in search.unreadable if text not in self.unsearched]

    def take(self, search: Search) -> None:
        """Adds what a search did and found."""
        self._searched(search)
        self.findings += [f"{place}: {hit.canary} ({hit.form}) at {hit.offset}"
                          for place, hit in search.findings]

    def report(self, search: Search) -> None:
        """Adds what a search did, and what it found as a report: worker and gateway overwrite what
        they free, but a connection that stays may keep the last that went over it."""
        self._searched(search)
        self.kept |= Counter(f"{medium.partition(' (')[0]}: {hit.canary} ({hit.form})"
                             for medium, hit in search.findings)

    def show(self, seconds: float, as_json: bool) -> None:
        """Prints all of it."""
        if as_json:
            print(json.dumps({
                "clean": self.is_clean, "ends": self.ends, "controls": self.controls,
                "findings": self.findings, "searchedBytes": self.media, "kept": self.kept,
                "unsearched": self.unsearched, "notes": self.notes, "seconds": round(seconds, 1)}))
            return
        for name, end in self.ends.items():
            print(f"driven      {name}: {end}")
        for medium, count in self.media.items():
            print(f"searched    {medium}: {count / 1_048_576:.1f} MiB")
        for name, holds in self.controls.items():
            print(f"control     {name}: {'yes' if holds else 'NO'}")
        for name, count in self.kept.items():
            print(f"note: kept, not promised otherwise: {name} at {count} places")
        for note in self.notes:
            print(f"note: {note}")
        for text in self.unsearched:
            print(f"NOT SEARCHED {text}")
        for finding in self.findings[:_FINDINGS_SHOWN]:
            print(f"FOUND       {finding}")
        print(f"canary: {len(self.ends)} ends, {len(self.findings)} findings, "
              f"{sum(self.controls.values())} of {len(self.controls)} controls, "
              f"{len(self.unsearched)} places not searched, {seconds:.0f} s")
