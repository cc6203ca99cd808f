"""Options and words of `Tools/scan`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys

from scan.files import scan
from scan.needles import KINDS, Needle, read


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="Tools/scan", description="Looks for what must stand in no file.")
    parser.add_argument("directories", nargs="+", type=pathlib.Path, metavar="DIRECTORY")
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=pathlib.Path, metavar="FILE")
    parser.add_argument(
        "--except", dest="excepted", action="append", default=[], type=pathlib.Path,
        metavar="PATH", help="a file that may hold them: where a key was written for its owner")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """The exit status."""
    options = _arguments(words)
    needles: list[Needle] = []
    try:
        for kind in KINDS:
            if path := getattr(options, kind):
                needles += read(kind, path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        print(f"scan: {error}", file=sys.stderr)
        return 2
    if not needles:
        # A scan for nothing finds nothing, and says nothing.
        print("scan: no value to look for; give --keys, --addresses or --emails", file=sys.stderr)
        return 2
    report = scan(options.directories, needles, {path.resolve() for path in options.excepted})
    findings = sorted(report.findings, key=dataclasses.astuple)
    if options.json:
        print(json.dumps({
            "files": report.files, "bytes": report.bytes, "cells": report.cells,
            "values": len({needle.value for needle in needles}),
            "findings": [dataclasses.asdict(finding) for finding in findings],
            "unreadable": report.unreadable,
        }))
    else:
        for finding in findings:
            print(f"{finding.path}: {finding.value} in {finding.form} at {finding.place}")
        for path in report.unreadable:
            print(f"{path}: cannot be read")
        print(f"scan: {report.files} files, {report.bytes} bytes, {report.cells} cells; "
              f"{len(findings)} findings")
    if findings:
        return 1
    return 2 if report.unreadable or report.files == 0 else 0
