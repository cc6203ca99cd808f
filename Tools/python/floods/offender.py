"""One flood in a process of its own: `python3 -m floods.offender FLOOD HOST PORT CA KEY-FILE N`."""

from __future__ import annotations

import json
import pathlib
import sys
import time

from conformance.peer import Target

from .kinds import FLOODS, Offender


def main() -> None:
    """Floods for N seconds, then says what it did and saw."""
    name, host, port, ca_file, key_file, seconds = sys.argv[1:]
    key = pathlib.Path(key_file).read_text().strip()
    began = time.monotonic()
    offender = Offender(Target(host, int(port), ca_file, key, ()), began + float(seconds))
    FLOODS[name].run(offender)
    print(json.dumps({"event": "done", "sent": offender.sent, "codes": offender.codes,
                      "connections": offender.connections, "closed": offender.closed}),
          flush=True)


if __name__ == "__main__":
    main()
