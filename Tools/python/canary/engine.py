"""An engine that speaks OpenAI's protocol and answers with canaries, and the ways through the
gateway and a real worker to it."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from faults.cases import Failed, check

from .needles import Canaries

MODEL = "engine"
_SECONDS = 30.0


class Engine(http.server.ThreadingHTTPServer):
    """Runs from ``start`` to ``stop``. The last message's first word says how it ends."""

    daemon_threads = True

    def __init__(self, canaries: Canaries) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.canaries = canaries
        # What a broken answer waits for: that its client has some of it.
        self.may_break = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        """Serves on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Serves no more."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle of an answer is one of the ways."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """The list of models."""
        self._json(200, {"object": "list", "data": [
            {"id": MODEL, "object": "model", "created": 1, "owned_by": "canary"}]})

    def do_POST(self) -> None:
        """A chat."""
        body = self.rfile.read(int(self.headers["content-length"]))
        text = str(json.loads(body)["messages"][-1]["content"])
        word = text.split(" ")[0]
        new = self.server.canaries.new
        if word == "refuse":
            # As engines do, it says the prompt again.
            self._json(400, {"error": {"message": text + new("engine's error"),
                                       "type": "invalid_request_error"}})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        count = 2_000 if word == "endless" else 20
        for number in range(count):
            self._event(self._piece(new("engine's answer")))
            if word == "endless":
                time.sleep(0.005)
            if word == "break" and number == 5:
                self.server.may_break.wait(_SECONDS)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
        self._event(json.dumps({
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
            "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": count,
                                     "total_tokens": 7 + count}}))
        self._event("[DONE]")
        self._chunk(b"")

    @staticmethod
    def _piece(text: str) -> str:
        return json.dumps({
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
            "choices": [{"index": 0, "finish_reason": None, "delta": {"content": text}}]})

    def _event(self, data: str) -> None:
        self._chunk(b"data: " + data.encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class GatewayWays:
    """Requests of an HTTP client, one for each way in which they end. Blocking: for a thread."""

    def __init__(self, port: int, key: str, canaries: Canaries) -> None:
        self._port, self._key, self._canaries = port, key, canaries
        self._address = canaries.loopback_address()
        self.ends: dict[str, str] = {}

    def _prompt(self, word: str, name: str, copies: int) -> str:
        return f"{word} " + "\n".join(
            self._canaries.new(f"prompt of gateway, {name}") for _ in range(copies))

    def _post(self, body: bytes, path: str = "/v1/chat/completions",
              key: str = "") -> http.client.HTTPConnection:
        """From an address of its own, and on behalf of another one, as a proxy says it."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=_SECONDS, source_address=(self._address, 0))
        connection.connect()
        self._canaries.address("the address of the gateway's client",
                               *connection.sock.getsockname())
        behind = self._canaries.foreign_address()
        self._canaries.address("the address behind a proxy", behind)
        connection.request("POST", path, body, {
            "authorization": f"Bearer {key or self._key}", "content-type": "application/json",
            "x-forwarded-for": behind, "x-real-ip": behind, "forwarded": f'for="[{behind}]"',
            "user-agent": self._canaries.new("user agent")})
        return connection

    def _ask(self, name: str, word: str, status: int, copies: int = 3, **members: Any) -> None:
        body = {"model": MODEL, **members,
                "messages": [{"role": "user", "content": self._prompt(word, name, copies)}]}
        connection = self._post(json.dumps(body).encode())
        response = connection.getresponse()
        response.read()
        connection.close()
        self._note(name, response.status, status)

    def _note(self, name: str, status: int, expected: int) -> None:
        check(status == expected, f"gateway, {name}: {status} and not {expected}")
        self.ends[f"gateway, {name}"] = str(status)

    def all(self, engine: Engine) -> None:
        """One after the other, to this engine."""
        self._ask("stream", "say", 200, stream=True)
        self._ask("joined answer", "say", 200)
        self._ask("large body", "say", 200, copies=1_000)
        self._ask("upstream refused", "refuse", 400)
        self._broken(engine)
        self._client_gone()
        bad = self._post(self._prompt("{", "no JSON", 20).encode())
        self._note("no JSON", bad.getresponse().status, 400)
        bad.close()
        asked = json.dumps({"model": MODEL, "messages": [
            {"role": "user", "content": self._prompt("say", "wrong key", 3)}]}).encode()
        wrong = self._post(asked, key=self._canaries.new("key at the gateway"))
        self._note("wrong key", wrong.getresponse().status, 401)
        wrong.close()
        lost = self._post(b"{}", path="/v1/" + self._canaries.new("path at the gateway"))
        self._note("unknown path", lost.getresponse().status, 404)
        lost.close()

    def _stream(self, word: str, name: str) -> http.client.HTTPConnection:
        return self._post(json.dumps({
            "model": MODEL, "stream": True, "messages": [
                {"role": "user", "content": self._prompt(word, name, 3)}],
        }).encode())

    def _broken(self, engine: Engine) -> None:
        """The engine breaks off in the middle, when some of its answer has come."""
        connection = self._stream("break", "broken answer")
        response = connection.getresponse()
        check(b"chat.completion.chunk" in response.readline(), "no part of the broken answer came")
        engine.may_break.set()
        text = response.read()
        connection.close()
        check(b'"supplier_failed"' in text, "a broken answer did not say that it broke")
        self.ends["gateway, broken answer"] = "supplier_failed"

    def _client_gone(self) -> None:
        connection = self._stream("endless", "client gone")
        check(len(connection.getresponse().read(4_000)) == 4_000, "the answer was short")
        connection.close()
        self.ends["gateway, client gone"] = "connection closed"

    def cut_off(self, name: str, end: Callable[[], None]) -> None:
        """Reads an answer until its gateway is ended in the middle of it."""
        connection = self._stream("endless", name)
        response = connection.getresponse()
        check(len(response.read(4_000)) == 4_000, "the answer was short")
        end()
        try:
            response.read()
        except (http.client.IncompleteRead, ConnectionError):
            connection.close()
            return
        raise Failed(f"{name}, but its answer came to an end")
