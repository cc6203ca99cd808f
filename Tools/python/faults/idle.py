"""A client process that connects, answers PINGs, and wants nothing.

    python3 -m faults.idle HOST PORT CA KEY-FILE
"""

from __future__ import annotations

import asyncio
import pathlib
import sys

from sluice import Client


async def main() -> None:
    """Stays connected until it is killed or the broker closes."""
    host, port, ca_file, key_file = sys.argv[1:]
    key = pathlib.Path(key_file).read_text().strip()
    async with await Client.connect(host, int(port), ca_file=ca_file, key=key):
        print('{"event":"connected"}', flush=True)
        await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main())
