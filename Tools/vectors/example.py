"""Prints section 23 of Protocol/Specification.md: one task from HELLO to END, in hex."""

import frames as f

API_KEY = b"sk-example"
TOKEN = b"st-example"
MODEL = b"demo"
PROMPT = b"Say hi"
INSTANCE, COUNTER = 0x1122334455667788, 1

LINES = [
    ("supplier → broker", "HELLO: supplier, body credit 65,536",
     f.frame("HELLO", f.hello(role=2, kind=2, credential=TOKEN, body_credit=65_536))),
    ("broker → supplier", "WELCOME",
     f.frame("WELCOME", f.welcome(upload_limit=0, instance=INSTANCE))),
    ("supplier → broker", "OFFER 1: demo, 0.20 and 0.60 USD per million tokens",
     f.frame("OFFER", f.offer(context=8_192, input=200_000, cached=100_000, output=600_000,
                              reasoning=600_000, model=MODEL))),
    ("supplier → broker", "GRANT: 8 slots for offer 1", f.frame("GRANT", f.grant(1, 8))),
    ("client → broker", "HELLO: client",
     f.frame("HELLO", f.hello(role=1, kind=1, credential=API_KEY))),
    ("broker → client", "WELCOME", f.frame("WELCOME", f.welcome(instance=INSTANCE))),
    ("client → broker", "SUBMIT on stream 1: chat, text, 20 s, at most 16 tokens, body inline",
     f.frame("SUBMIT", f.submit(deadline=20_000, max_input=64, max_output=16, credit=65_536,
                                model=MODEL, body=PROMPT), stream=1)),
    ("broker → client", "QUEUED: accepted, r = 16,384",
     f.frame("QUEUED", f.queued(INSTANCE, COUNTER, 16_384, 0), stream=1)),
    ("broker → supplier", "ASSIGN on stream 1: limit min(65,536, 0 + r) = 16,384",
     f.frame("ASSIGN", f.assign(instance=INSTANCE, counter=COUNTER, deadline=19_999, max_input=64,
                                max_output=16, credit=16_384, body=PROMPT), stream=1)),
    ("supplier → broker", "STARTED: 3 input tokens", f.frame("STARTED", f.started(3, 0), stream=1)),
    ("supplier → broker", "TOKENS: 'Hi', 1 token", f.frame("TOKENS", b"Hi", stream=1, tokens=1)),
    ("broker → client", "TOKENS, as they came", f.frame("TOKENS", b"Hi", stream=1, tokens=1)),
    ("supplier → broker", "TOKENS: ' there!', 2 tokens",
     f.frame("TOKENS", b" there!", stream=1, tokens=2)),
    ("broker → client", "TOKENS, as they came",
     f.frame("TOKENS", b" there!", stream=1, tokens=2)),
    ("supplier → broker", "END: completed, stop, 3 in, 3 out",
     f.frame("END", f.end(input=3, output=3), stream=1)),
    ("broker → client", "END: the same, and the cost: 2.4 and a fee, 3 micro-USD",
     f.frame("END", f.end(input=3, output=3, cost=3), stream=1)),
]


def wrap(data, width=24):
    return [data[start:start + width].hex(" ") for start in range(0, len(data), width)]


def section():
    rows = ["```text"]
    for number, (direction, what, data) in enumerate(LINES, 1):
        rows += [f"# {number}. {direction}: {what}", *wrap(data), ""]
    rows[-1] = "```"
    return "\n".join(rows)


if __name__ == "__main__":
    print(section())
