"""One flood in a process of its own.

`python3 -m floods.offender FLOOD HOST PORT CA KEY-FILE TOKEN-FILE SECONDS`. `burner` sends
nothing and only uses its core.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

from conformance.peer import Target

from .kinds import FLOODS, Offender

BURNER = "burner"


def main() -> None:
    """Floods for N seconds, then says what it did and saw."""
    name, host, port, ca_file, key_file, token_file, seconds = sys.argv[1:]
    key = pathlib.Path(key_file).read_text().strip()
    token = pathlib.Path(token_file).read_text().strip()
    began = time.monotonic()
    offender = Offender(
        Target(host, int(port), ca_file, key, (token,)), began + float(seconds))
    if name == BURNER:
        while offender.goes_on():
            pass
    else:
        FLOODS[name].run(offender)
    print(json.dumps({"event": "done", "sent": offender.sent, "codes": offender.codes,
                      "connections": offender.connections, "closed": offender.closed}),
          flush=True)


if __name__ == "__main__":
    main()
