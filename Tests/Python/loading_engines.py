"""Engines that load models, for tests: what Ollama and llama.cpp's server document of it.

Ollama holds a request until its model is in memory, tells at `/api/ps` which are, and loads one that
`/api/generate` names without a prompt. llama.cpp's server lists its model at once, answers 503
"Loading model" to everything else while it loads, and says at `/health` when it is done.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator

LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'


class Engine(http.server.ThreadingHTTPServer):
    """What both have: `asked` are the paths in the order of their arrival; an answer has `tokens`
    tokens, each after `pause` seconds, or more where `carries` answers at once are exceeded."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, handler: type[_Handler], model: str, tokens: int, pause: float,
                 carries: int | None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.model = model
        self.tokens = tokens
        self.pause = pause
        self.carries = carries
        # Models beside it that write no text, listed first.
        self.silent: tuple[str, ...] = ()
        self.asked: list[str] = []
        self.active = 0
        self.lock = threading.Lock()
        self.loaded = threading.Event()
        self.load_seconds = 0.0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no matter; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answers(self) -> int:
        """How many answers were asked for."""
        return sum(path.endswith("/chat/completions") for path in self.asked)

    def token_pause(self) -> float:
        """Each answer beyond what the engine carries makes all of them slower."""
        with self.lock:
            beyond = max(0, self.active - (self.carries or self.active))
        return self.pause * (1 + 2 * beyond)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def json(self, status: int, body: object) -> None:
        """Sends one object, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def list_models(self) -> None:
        """The list of models."""
        self.json(200, {"object": "list", "data": [
            {"id": name, "object": "model", "created": 1, "owned_by": "tests"}
            for name in (*self.server.silent, self.server.model)]})

    def body(self) -> dict[str, object]:
        """The request's object."""
        read: dict[str, object] = json.loads(
            self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
        return read

    def answer(self) -> None:
        """A stream of tokens."""
        engine = self.server
        with engine.lock:
            engine.active += 1
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            for _ in range(engine.tokens):
                time.sleep(engine.token_pause())
                self.event({"choices": [{"index": 0, "delta": {"content": "word "},
                                         "finish_reason": None}]})
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.event({"choices": [], "usage": {
                "prompt_tokens": 7, "completion_tokens": engine.tokens}})
            self.wfile.write(b"data: [DONE]\n\n")
        finally:
            with engine.lock:
                engine.active -= 1
            self.close_connection = True

    def event(self, fields: dict[str, object]) -> None:
        """One event."""
        event = {"id": "c", "object": "chat.completion.chunk", "created": 1,
                 "model": self.server.model, **fields}
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()


class _Ollama(_Handler):
    def do_GET(self) -> None:
        """What is installed, and what is in memory."""
        engine = self.server
        engine.asked.append(self.path)
        if self.path == "/v1/models":
            self.list_models()
        elif self.path == "/api/ps":
            models = [{"name": engine.model, "model": engine.model}] if engine.loaded.is_set() else []
            self.json(200, {"models": models})
        elif self.path == "/api/version":
            self.json(200, {"version": "0.0.0"})
        else:
            self.json(404, {"error": "not found"})

    def do_POST(self) -> None:
        """A load, or an answer, which waits for the load."""
        engine, request = self.server, self.body()
        engine.asked.append(self.path)
        if request.get("model") != engine.model:
            self.json(404, {"error": "model not found"})
            return
        if not engine.loaded.is_set():
            time.sleep(engine.load_seconds)
            engine.loaded.set()
        if self.path == "/api/generate":
            self.json(200, {"model": engine.model, "done": True, "done_reason": "load",
                            "response": ""})
        else:
            self.answer()


class _LlamaCpp(_Handler):
    def do_GET(self) -> None:
        """The model list, which is there from the start; health, which is not."""
        engine = self.server
        engine.asked.append(self.path)
        if self.path == "/v1/models":
            self.list_models()
        elif self.path == "/health":
            if engine.loaded.is_set():
                self.json(200, {"status": "ok"})
            else:
                self.json(503, LOADING)
        else:
            self.json(404 if engine.loaded.is_set() else 503,
                      {"error": "not found"} if engine.loaded.is_set() else LOADING)

    def do_POST(self) -> None:
        """An answer, or 503 while the model loads."""
        request = self.body()
        self.server.asked.append(self.path)
        if request.get("model") in self.server.silent:
            self.json(400, {"error": {"message": "this model does not support chat"}})
        elif self.server.loaded.is_set():
            self.answer()
        else:
            self.json(503, LOADING)


@contextlib.contextmanager
def _serving(engine: Engine) -> Iterator[Engine]:
    thread = threading.Thread(target=engine.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        engine.shutdown()
        engine.server_close()
        thread.join()


def ollama(load_seconds: float, model: str = "llama:latest", tokens: int = 4, pause: float = 0,
           carries: int | None = None) -> contextlib.AbstractContextManager[Engine]:
    """An engine like Ollama that needs so long to load its model."""
    engine = Engine(_Ollama, model, tokens, pause, carries)
    engine.load_seconds = load_seconds
    return _serving(engine)


def llama_cpp(model: str = "llama", tokens: int = 4, pause: float = 0,
              carries: int | None = None, silent: tuple[str, ...] = ()
              ) -> contextlib.AbstractContextManager[Engine]:
    """An engine like llama.cpp's server that loads until the test sets `loaded`."""
    engine = Engine(_LlamaCpp, model, tokens, pause, carries)
    engine.silent = silent
    return _serving(engine)
