#!/usr/bin/env python3
"""Serves any Python generator as a model.

    Tools/python/examples/supplier.py HOST:PORT --ca FILE --token TOKEN [--model NAME]
"""

import argparse
import asyncio
import pathlib
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sluice.supplier import Assignment, Offer, Supplier, from_generator  # noqa: E402


def shout(task: Assignment, prompt: bytes) -> Iterator[str]:
    """The model: any generator that takes a prompt and yields pieces of text, one token each."""
    words = prompt.decode().split()
    task.started(input_tokens=len(words))
    for word in words:
        yield word.upper() + " "


async def main() -> None:
    """Offers the model until the connection ends; Ctrl-C closes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("broker")
    for name, default in (("--ca", None), ("--token", None), ("--model", "shout")):
        parser.add_argument(name, default=default, required=default is None)
    options = parser.parse_args()
    host, _, port = options.broker.rpartition(":")
    async with await Supplier.connect(host, int(port), ca_file=options.ca,
                                      token=options.token) as supplier:
        supplier.offer(Offer(options.model, output_price=600_000), from_generator(shout), slots=8)
        print(await supplier.wait())

asyncio.run(main())
