"""An engine that speaks OpenAI's documented HTTP protocol, for tests: what it answers is said by the
last message of a request, and what reached it can be looked at."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import struct
import sys
import threading
import time
from collections.abc import Iterator

MODEL = "stand-in"
TOOL_EVENTS = [
    b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"stand-in","x_big":'
    b'12345678901234567890,"choices":[{"index":0,"delta":{"role":"assistant","content":null,'
    b'"tool_calls":[{"index":0,"id":"call_1","type":"function","x_engine":{"a":[1.10]},"function":'
    b'{"name":"weather","arguments":""}}]},"finish_reason":null}]}',
    b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"stand-in","choices":'
    b'[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"city\\":"}}]},'
    b'"finish_reason":null}]}',
    b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"stand-in","choices":'
    b'[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\\"Bern\\"}"}}]},'
    b'"finish_reason":null}]}',
    b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"stand-in","choices":'
    b'[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}',
]
REFUSAL = (b'{"error":{"message":"the context is too long","type":"invalid_request_error",'
           b'"param":"messages","code":"context_length_exceeded","x":[1.0]}}')


def vector(text: str, size: int) -> list[float]:
    """The embedding of a text: numbers that 32 bits hold."""
    return [byte / 8 for byte in (text.encode() * size)[:size]]


def embeddings(request: dict[str, object]) -> dict[str, object]:
    """The answer to a request for embeddings; numbers only, whatever format was asked for, when the
    request has the member ``x_floats_only``."""
    given = request["input"]
    is_one = isinstance(given, str) or isinstance(given[0], int)  # type: ignore[index]
    inputs = [given] if is_one else list(given)  # type: ignore[call-overload]
    packs = request.get("encoding_format") == "base64" and "x_floats_only" not in request
    data: list[dict[str, object]] = []
    for index, text in enumerate(inputs):
        numbers = vector(str(text), int(str(request.get("dimensions") or 4)))
        data.append({"object": "embedding", "index": index, "embedding":
                     base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
                     if packs else numbers})
    return {"object": "list", "data": data, "model": MODEL,
            "usage": {"prompt_tokens": 3 * len(inputs), "total_tokens": 3 * len(inputs)}}


def picture(number: int, size: int) -> bytes:
    """The bytes of an image."""
    return (b"picture %d " % number * (size // 8 + 1))[:size]


class Upstream(http.server.ThreadingHTTPServer):
    """The engine. `bodies` are the requests as they came; `gone` counts the clients that left in the
    middle of an answer; `sent` counts the bytes of answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        self.gone = 0
        self.sent = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is what the tests are about; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serving() -> Iterator[Upstream]:
    """An engine that runs as long as the block."""
    upstream = Upstream()
    thread = threading.Thread(target=upstream.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        upstream.shutdown()
        upstream.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """The list of models."""
        self.json(200, json.dumps(
            {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1,
                                         "owned_by": "tests"}]}).encode())

    def do_POST(self) -> None:
        """An answer in the form that the last message, or the prompt, asks for: WORD NUMBER."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(body)
        request = json.loads(body)
        if self.path.endswith(("/embeddings", "/images/generations")):
            self.results(request)
            return
        is_chat = "messages" in request
        text = request["messages"][-1]["content"] if is_chat else request.get("prompt")
        word, _, number = str(text or "say 1").partition(" ")
        if word == "refuse":
            self.json(400, REFUSAL)
            return
        if word == "break":
            self.json(500, b'{"error":{"message":"out of memory"}}')
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for event in self.events(word, number, is_chat):
                self.write(b"data: " + event.replace(b"\n", b"\ndata: ") + b"\n\n")
        except OSError:
            self.server.gone += 1
        self.close_connection = True

    def results(self, request: dict[str, object]) -> None:
        """Embeddings or images, as many as were asked for."""
        text = str(request.get("input") or request.get("prompt"))
        if "refuse" in text:
            self.json(400, REFUSAL)
        elif "break" in text:
            self.json(500, b'{"error":{"message":"out of memory"}}')
        elif self.path.endswith("/embeddings"):
            self.json(200, json.dumps(embeddings(request)).encode())
        else:
            self.images(request)

    def images(self, request: dict[str, object]) -> None:
        """Images of as many bytes as the prompt says, in chunks; ``cut`` leaves in the middle."""
        word, _, size = str(request["prompt"]).partition(" ")
        answer = json.dumps({
            "created": 1, "data": [
                {"b64_json": base64.b64encode(picture(number, int(size or 9))).decode()}
                for number in range(int(str(request.get("n") or 1)))],
            "usage": {"input_tokens": 7, "output_tokens": 0, "total_tokens": 7}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        try:
            half = len(answer) // 2
            self.write(answer[:half])
            if word == "cut":
                self.close_connection = True
                return
            while word == "hang":
                time.sleep(0.05)
                self.write(b" ")
            self.write(answer[half:])
        except OSError:
            self.server.gone += 1

    def events(self, word: str, number: str, is_chat: bool) -> Iterator[bytes]:
        """The events of an answer."""
        count = int(number or 1) if number.isdigit() or not number else 1
        if word == "tools":
            yield from TOOL_EVENTS
        elif word == "lines":
            for _ in range(count):
                yield self.piece("word ", is_chat).replace(b", ", b",\n")
        elif word == "wait":
            time.sleep(count)
            yield self.piece("late", is_chat)
        else:
            piece = "x" * 20_000 if word == "flood" else "word "
            for _ in range(count):
                if word == "slow":
                    time.sleep(0.05)
                yield self.piece(piece, is_chat)
        usage = {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}
        yield json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1,
                          "model": MODEL, "choices": [], "usage": usage}).encode()
        yield b"[DONE]"

    @staticmethod
    def piece(text: str, is_chat: bool) -> bytes:
        """One event with text."""
        choice: dict[str, object] = {"index": 0, "finish_reason": None}
        choice |= {"delta": {"content": text}} if is_chat else {"text": text}
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        return json.dumps({"id": "c", "object": kind, "created": 1, "model": MODEL,
                           "choices": [choice]}).encode()

    def write(self, data: bytes) -> None:
        """Sends bytes and counts them."""
        self.wfile.write(data)
        self.wfile.flush()
        self.server.sent += len(data)

    def json(self, status: int, body: bytes) -> None:
        """Sends one object."""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
