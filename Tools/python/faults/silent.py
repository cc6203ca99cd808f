"""A supplier process that takes tasks and never answers one: it is there to be killed.

    python3 -m faults.silent HOST PORT CA TOKEN-FILE MODEL SLOTS
"""

from __future__ import annotations

import asyncio
import pathlib
import sys
from collections.abc import AsyncGenerator

from sluice.supplier import Assignment, Offer, Piece, Supplier


async def silent(task: Assignment) -> AsyncGenerator[Piece, None]:
    """Reads the body and goes no further."""
    await task.body()
    await asyncio.sleep(600)
    yield Piece("never")


async def main() -> None:
    """Offers the model until it is killed."""
    host, port, ca_file, token_file, model, slots = sys.argv[1:]
    token = pathlib.Path(token_file).read_text().strip()
    async with await Supplier.connect(host, int(port), ca_file=ca_file, token=token) as supplier:
        supplier.offer(Offer(model, output_price=600_000), silent, slots=int(slots))
        print('{"event":"offered"}', flush=True)
        await supplier.wait()


if __name__ == "__main__":
    asyncio.run(main())
