"""The HTTP gateway as its users meet it: OpenAI's own Python client, curl and bare sockets against a
whole deployment (`sluice dev`) with an engine that speaks OpenAI's protocol.

Needs the package in gateway-requirements.txt; `Tools/test` installs it under .build.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import pathlib
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import IO

try:
    import openai
except ModuleNotFoundError as error:
    raise unittest.SkipTest("no package openai; Tools/test installs it") from error

from openai_upstream import (
    MODEL, REFUSAL, TOOL_EVENTS, Upstream, picture, serving, vector)
from support import program

_PATIENCE_SECONDS = 30


@contextlib.contextmanager
def deployment(upstream: str, *options: str) -> Iterator[tuple[dict[str, object], str]]:
    """A deployment in a folder of its own: its ready line and the folder."""
    with tempfile.TemporaryDirectory(prefix="sluice-gateway-") as folder:
        log = pathlib.Path(folder) / "log"
        with open(log, "w") as errors:
            process = subprocess.Popen(
                [program("sluice", "SLUICE_COMMAND"), "dev", "--data", f"{folder}/data",
                 "--upstream", upstream, *options],
                stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            ready = next((event for line in process.stdout
                          if (event := json.loads(line)).get("event") == "ready"), None)
            if ready is None:
                raise AssertionError(f"not ready: {log.read_text()[-500:]}")
            yield ready, folder
        finally:
            process.terminate()
            process.wait(60)
            if process.stdout is not None:
                process.stdout.close()


class GatewayBase(unittest.TestCase):
    """A deployment, and requests to its gateway."""

    upstream: Upstream
    ready: dict[str, object]
    folder: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.upstream = cls.enterClassContext(serving())
        cls.ready, cls.folder = cls.enterClassContext(
            deployment(cls.upstream.url, "--slots", "4"))
        cls.url = str(cls.ready["http"])
        cls.port = urllib.parse.urlsplit(cls.url).port or 0
        cls.key = str(cls.ready["clientKey"])

    def client(self, key: str | None = None, retries: int = 0,
               **options: object) -> openai.OpenAI:
        """OpenAI's client, which does not retry unless told to."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key,
                               max_retries=retries, **options)  # type: ignore[arg-type]
        self.addCleanup(client.close)
        return client

    def issue(self, *options: str) -> str:
        """A key of its own."""
        issued = subprocess.run(
            [program("sluice", "SLUICE_COMMAND"), "key", "issue", "--data",
             f"{self.folder}/data", "--account", "client", *options],
            capture_output=True, text=True, check=True).stdout
        key = str(json.loads(issued)["secret"])
        self.until(lambda: self.post({"model": MODEL}, key=key)[0] != 401,
                   "the broker knows the key")
        return key

    def until(self, condition, what: str) -> None:  # type: ignore[no-untyped-def]
        """Waits until something holds."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"not in {_PATIENCE_SECONDS} s: {what}")
            time.sleep(0.05)

    def post(self, body: dict[str, object] | bytes, path: str = "/v1/chat/completions",
             key: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """A request without any client library: status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {
            "authorization": f"Bearer {key or self.key}", "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()}})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, answer


class GatewayTests(GatewayBase):
    """What clients of the gateway may rely on."""

    @staticmethod
    def ask(text: str, **members: object) -> dict[str, object]:
        """A chat with one message."""
        return {"model": MODEL, "messages": [{"role": "user", "content": text}], **members}

    def open_stream(self, text: str) -> socket.socket:
        """A bare socket with a stream on it, whose answer nobody has read."""
        body = json.dumps(self.ask(text, stream=True)).encode()
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
            + self.key.encode() + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        return connection

    # Answers.

    def test_a_stream_brings_every_token_and_the_task_s_identity(self) -> None:
        with self.client().chat.completions.with_streaming_response.create(
                **self.ask("say 20", stream=True)) as response:  # type: ignore[call-overload]
            self.assertRegex(response.headers["x-request-id"], "^[0-9a-f]{32}$")
            chunks = list(response.parse())
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks), "word " * 20)
        self.assertTrue(all(c.usage is None for c in chunks))

    def test_usage_comes_in_the_stream_only_if_it_was_asked_for(self) -> None:
        stream = self.client().chat.completions.create(
            **self.ask("say 3", stream=True,
                       stream_options={"include_usage": True}))  # type: ignore[call-overload]
        self.assertEqual(list(stream)[-1].usage.total_tokens, 10)

    def test_an_answer_without_a_stream_is_one_object(self) -> None:
        answer = self.client().chat.completions.create(
            **self.ask("say 5"))  # type: ignore[call-overload]
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.choices[0].message.content, "word " * 5)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertEqual(answer.usage.completion_tokens, 5)

    def test_a_completion_works_in_both_forms(self) -> None:
        client = self.client()
        answer = client.completions.create(model=MODEL, prompt="say 4")
        self.assertEqual(answer.choices[0].text, "word " * 4)
        stream = client.completions.create(model=MODEL, prompt="say 4", stream=True)
        self.assertEqual("".join(c.choices[0].text for c in stream), "word " * 4)

    def test_events_pass_byte_for_byte(self) -> None:
        status, headers, body = self.post(self.ask("tools", stream=True))
        self.assertEqual(status, 200)
        self.assertTrue(headers["content-type"].startswith("text/event-stream"))
        events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
        self.assertEqual(events, [*TOOL_EVENTS, b"[DONE]"])

    def test_an_event_over_several_lines_comes_on_one(self) -> None:
        status, _, body = self.post(self.ask("lines 3", stream=True))
        self.assertEqual(status, 200)
        events = body.removesuffix(b"\n\n").split(b"\n\n")
        for event in events:
            self.assertTrue(event.startswith(b"data: ") and b"\n" not in event, event)
        self.assertEqual(events.pop(), b"data: [DONE]")
        self.assertEqual(
            [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events],
            ["word "] * 3)

    def test_tool_calls_are_joined(self) -> None:
        answer = self.client().chat.completions.create(
            **self.ask("tools", tools=[{"type": "function", "function": {
                "name": "weather", "parameters": {}}}]))  # type: ignore[call-overload]
        call = answer.choices[0].message.tool_calls[0]
        self.assertEqual((call.id, call.function.name, call.function.arguments),
                         ("call_1", "weather", '{"city":"Bern"}'))
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        self.assertEqual(answer.model_extra["x_big"], 12345678901234567890)

    def test_unknown_members_reach_the_engine_and_the_gateway_s_own_do_not(self) -> None:
        body = (b'{"model":"stand-in", "x_unknown" : {"a":[1.50, 9007199254740993]},'
                b'"sluice":{"priority":7,"deadline_ms":20000},'
                b'"messages":[{"role":"user","content":"say 1"}]}')
        self.assertEqual(self.post(body)[0], 200)
        seen = self.upstream.bodies[-1]
        self.assertIn(b'"x_unknown" : {"a":[1.50, 9007199254740993]}', seen)
        self.assertNotIn(b"sluice", seen)

    def test_options_go_as_extra_body_of_the_client(self) -> None:
        answer = self.client().chat.completions.create(
            **self.ask("say 2"), extra_body={"sluice": {"budget_micro_usd": 1_000_000}},
            extra_headers={"Sluice-Preference": "latency"})  # type: ignore[call-overload]
        self.assertEqual(answer.choices[0].message.content, "word word ")

    def test_a_curl_command_streams(self) -> None:
        output = subprocess.run(
            ["curl", "-sN", f"{self.url}/v1/chat/completions", "-H",
             f"Authorization: Bearer {self.key}", "-d", json.dumps(self.ask("say 3", stream=True))],
            capture_output=True, text=True, check=True, timeout=60).stdout
        self.assertEqual(output.count("data: {"), 3)
        self.assertTrue(output.endswith("data: [DONE]\n\n"))

    def test_a_connection_carries_one_request_after_the_other(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for stream in (False, True, False):
            connection.request("POST", "/v1/chat/completions",
                               json.dumps(self.ask("say 2", stream=stream)),
                               {"authorization": f"Bearer {self.key}"})
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            response.read()
        connection.close()

    # Responses.

    def test_a_response_is_made_of_a_chat(self) -> None:
        client = self.client()
        response = client.responses.create(model=MODEL, input="say 3", instructions="be kind")
        self.assertEqual(response.output_text, "word " * 3)
        self.assertEqual(response.status, "completed")
        self.assertEqual(response.usage.total_tokens, 10)
        self.assertEqual(json.loads(self.upstream.bodies[-1])["messages"][0],
                         {"role": "system", "content": "be kind"})

    def test_a_response_streams_its_events_in_order(self) -> None:
        with self.client().responses.stream(model=MODEL, input="say 3") as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        self.assertEqual(kinds[0], "response.created")
        self.assertEqual(kinds[-1], "response.completed")
        self.assertEqual(kinds.count("response.output_text.delta"), 3)
        self.assertEqual(final.output_text, "word " * 3)

    def test_a_response_carries_function_calls(self) -> None:
        response = self.client().responses.create(
            model=MODEL, input=[{"role": "user", "content": "tools"}],
            tools=[{"type": "function", "name": "weather", "parameters": {}, "strict": False}])
        call = response.output[0]
        self.assertEqual((call.type, call.call_id, call.arguments),
                         ("function_call", "call_1", '{"city":"Bern"}'))

    def test_a_response_that_needs_stored_state_is_refused(self) -> None:
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client().responses.create(
                model=MODEL, input="say 1", previous_response_id="resp_1")
        self.assertEqual(caught.exception.param, "previous_response_id")

    # Errors.

    def test_a_wrong_key_is_told_at_once_and_again(self) -> None:
        for _ in range(2):
            with self.assertRaises(openai.AuthenticationError) as caught:
                self.client("sk-wrong").chat.completions.create(
                    **self.ask("say 1"))  # type: ignore[call-overload]
            self.assertEqual(caught.exception.code, "invalid_api_key")

    def test_a_request_without_a_key_is_refused(self) -> None:
        self.assertEqual(self.post(self.ask("say 1"), authorization="")[0], 401)

    def test_an_unknown_model_is_404_also_for_a_stream(self) -> None:
        for stream in (False, True):
            with self.assertRaises(openai.NotFoundError) as caught:
                self.client().chat.completions.create(
                    **{**self.ask("say 1", stream=stream),
                       "model": "no-such-model"})  # type: ignore[call-overload]
            self.assertEqual(caught.exception.code, "model_not_found")

    def test_the_next_model_of_a_list_is_asked_when_one_has_no_supplier(self) -> None:
        answer = self.client().chat.completions.create(
            **{**self.ask("say 2"), "model": "no-such-model"},
            extra_body={"sluice": {"models": ["no-such-model", MODEL]}})  # type: ignore[call-overload]
        self.assertEqual(answer.model, MODEL)

    def test_the_engine_s_own_error_comes_as_it_is_also_for_a_stream(self) -> None:
        for stream in (False, True):
            status, headers, body = self.post(self.ask("refuse", stream=stream))
            self.assertEqual((status, body), (400, REFUSAL))
            self.assertRegex(headers["x-request-id"], "^[0-9a-f]{32}$")

    def test_an_engine_that_breaks_is_502(self) -> None:
        with self.assertRaises(openai.APIStatusError) as caught:
            self.client().chat.completions.create(
                **self.ask("break"))  # type: ignore[call-overload]
        self.assertIn(caught.exception.status_code, (502, 503))

    def test_a_limit_is_429_with_a_wait_and_the_client_s_own_retry_gets_through(self) -> None:
        key = self.issue("--concurrent-tasks", "1")
        first = self.client(key).chat.completions.create(
            **self.ask("slow 40", stream=True))  # type: ignore[call-overload]
        next(iter(first))
        status, headers, body = self.post(self.ask("say 1"), key=key)
        self.assertEqual(status, 429)
        self.assertEqual(json.loads(body)["error"]["code"], "rate_limited")
        if "retry-after" in headers:
            self.assertGreaterEqual(int(headers["retry-after"]), 1)
            self.assertGreaterEqual(int(headers["retry-after-ms"]), 1)
        answer = self.client(key, retries=8).chat.completions.create(
            **self.ask("say 1"))  # type: ignore[call-overload]
        self.assertEqual(answer.choices[0].message.content, "word ")
        first.close()

    def test_a_key_may_be_refused_an_operation(self) -> None:
        key = self.issue("--operation", "completion")
        with self.assertRaises(openai.PermissionDeniedError):
            self.client(key).chat.completions.create(
                **self.ask("say 1"))  # type: ignore[call-overload]

    def test_a_deadline_is_504(self) -> None:
        status, _, body = self.post(self.ask("wait 5"), sluice_deadline_ms="500")
        self.assertEqual(status, 504)
        self.assertEqual(json.loads(body)["error"]["code"], "deadline_exceeded")

    def test_an_error_after_the_first_event_ends_the_stream_without_done(self) -> None:
        status, _, body = self.post(
            self.ask("slow 100", stream=True), sluice_deadline_ms="1500")
        self.assertEqual(status, 200)
        self.assertNotIn(b"[DONE]", body)
        last = body.strip().split(b"\n\n")[-1]
        self.assertEqual(json.loads(last[6:])["error"]["code"], "deadline_exceeded")

    def test_the_same_idempotency_key_runs_once(self) -> None:
        key = f"k-{time.monotonic_ns()}"
        self.assertEqual(self.post(self.ask("say 1"), idempotency_key=key)[0], 200)
        status, _, body = self.post(self.ask("say 1", stream=True), idempotency_key=key)
        self.assertEqual(status, 409, body)

    def test_what_cannot_be_done_says_so(self) -> None:
        cases: list[tuple[str, bytes, int]] = [
            ("/v1/images/generations", b'{"model":"m","prompt":"p","n":11}', 400),
            ("/v1/images/generations", b'{"model":"m","prompt":"p","n":0}', 400),
            ("/v1/images/generations", b'{"model":"m","prompt":"p","stream":true}', 400),
            ("/v1/embeddings", b'{"model":"m"}', 400),
            ("/v1/embeddings", b'{"model":"m","input":[]}', 400),
            ("/v1/chat/completions", b"no json", 400),
            ("/v1/chat/completions", b'{"model":"m","sluice":{"speed":1}}', 400),
            ("/v1/audio/speech", b"{}", 404),
        ]
        for path, body, expected in cases:
            with self.subTest(path=path):
                status, _, answer = self.post(body, path)
                self.assertEqual(status, expected)
                self.assertIn("message", json.loads(answer)["error"])

    def test_a_body_above_the_limit_is_413(self) -> None:
        self.assertEqual(self.post(b'{"x":"' + b"x" * 17_000_000 + b'"}')[0], 413)

    # Cancelling and pacing.

    def test_a_client_that_leaves_a_stream_cancels_at_the_engine(self) -> None:
        before = self.upstream.gone
        stream = self.client().chat.completions.create(
            **self.ask("slow 400", stream=True))  # type: ignore[call-overload]
        next(iter(stream))
        stream.close()
        self.until(lambda: self.upstream.gone > before, "the engine's client is gone")

    def test_a_client_that_gives_up_without_a_stream_cancels_at_the_engine(self) -> None:
        before = self.upstream.gone
        with self.assertRaises(openai.APITimeoutError):
            self.client(timeout=1.0).chat.completions.create(
                **self.ask("slow 400"))  # type: ignore[call-overload]
        self.until(lambda: self.upstream.gone > before, "the engine's client is gone")

    def test_a_client_that_leaves_while_it_is_queued_never_reaches_the_engine(self) -> None:
        running = [self.client().chat.completions.create(
            **self.ask("slow 400", stream=True)) for _ in range(4)]  # type: ignore[call-overload]
        for stream in running:
            next(iter(stream))
        marker = f"say {time.monotonic_ns()}"
        with self.assertRaises(openai.APITimeoutError):
            self.client(timeout=1.0).chat.completions.create(
                **self.ask(marker))  # type: ignore[call-overload]
        for stream in running:
            stream.close()
        self.assertEqual(self.post(self.ask("say 1"))[0], 200)
        self.assertFalse(any(marker.encode() in body for body in self.upstream.bodies))

    def test_a_queued_stream_gets_signs_of_life(self) -> None:
        running = [self.client().chat.completions.create(
            **self.ask("slow 400", stream=True)) for _ in range(4)]  # type: ignore[call-overload]
        for stream in running:
            next(iter(stream))
        with self.open_stream("say 2") as connection:
            connection.settimeout(_PATIENCE_SECONDS)
            data = b""
            while b": keep-alive" not in data:
                piece = connection.recv(4_096)
                self.assertTrue(piece, data)
                data += piece
            for stream in running:
                stream.close()
            while b"[DONE]" not in data:
                data += connection.recv(4_096)
        self.assertTrue(data.startswith(b"HTTP/1.1 200"))

    def test_readers_that_stand_still_hold_the_engine_cost_little_memory_and_are_ended(self) -> None:
        """Four answers of 100 MB whose readers take a hundred bytes and then nothing."""
        def resident_bytes() -> int:
            status = pathlib.Path(f"/proc/{pids['gateway']}/status").read_text()
            return int(status.partition("VmRSS:")[2].split()[0]) * 1_024

        pids: dict[str, int] = self.ready["pids"]  # type: ignore[assignment]
        self.post(self.ask("say 1"))  # what is made once is made
        sent, gone, resident = self.upstream.sent, self.upstream.gone, resident_bytes()
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                connection = stack.enter_context(self.open_stream("flood 5000"))
                connection.settimeout(_PATIENCE_SECONDS)
                self.assertTrue(connection.recv(100))
            # What fits on the way: sockets, windows and one event; far below the whole.
            last, since = -1, time.monotonic()
            while time.monotonic() - since < 1.5:
                if self.upstream.sent != last:
                    last, since = self.upstream.sent, time.monotonic()
                time.sleep(0.05)
            self.assertLess(self.upstream.sent - sent, 4 * 40_000_000)
            self.assertLess(resident_bytes() - resident, 16 * 1_048_576)
            # Nobody reads for 30 s: the slots are for others. The sockets are open all the time.
            deadline = time.monotonic() + 30 + _PATIENCE_SECONDS
            while self.upstream.gone < gone + 4:
                self.assertLess(time.monotonic(), deadline, "the engine is still read")
                time.sleep(0.1)
            self.assertLess(resident_bytes() - resident, 16 * 1_048_576)
        # The store follows the journal by some 0.1 s.
        while (records := self.last_records()).count('"stalled"') < 4:
            self.assertLess(time.monotonic(), deadline, records)
            time.sleep(0.1)

    def last_records(self) -> str:
        """What `sluice records` says of the last eight tasks."""
        return subprocess.run(
            [program("sluice", "SLUICE_COMMAND"), "records", "--data", f"{self.folder}/data",
             "--json", "--last", "8"], capture_output=True, text=True, check=True).stdout

    def test_no_text_of_a_request_or_answer_is_in_the_deployment_s_log(self) -> None:
        self.post(self.ask("say 1 canary-in-a-prompt"))
        log = (pathlib.Path(self.folder) / "log").read_text()
        self.assertNotIn("canary", log)
        self.assertNotIn(self.key, log)


class ResultTests(GatewayBase):
    """Embeddings and images: workers of their own beside the deployment's, for prices of their
    own."""

    VECTORS = "vectors"
    PICTURES = "pictures"

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        for model, operation, price in ((cls.VECTORS, "embedding", 5_000_000),
                                        (cls.PICTURES, "image", 40_000)):
            worker = subprocess.Popen(
                [program("sluice-worker", "SLUICE_WORKER"), "--broker", str(cls.ready["broker"]),
                 "--ca", str(cls.ready["ca"]), "--token", str(cls.ready["supplierToken"]),
                 "--upstream", cls.upstream.url, "--model", f"{model}={MODEL}", "--operation",
                 operation, "--input-price", "2000000", "--output-price", str(price)],
                stderr=open(f"{cls.folder}/{model}.log", "w"))
            cls.addClassCleanup(cls.stop, worker)

    @staticmethod
    def stop(worker: subprocess.Popen[bytes]) -> None:
        """Ends a worker."""
        worker.kill()
        worker.wait()

    def setUp(self) -> None:
        self.until(lambda: self.post({"model": self.VECTORS, "input": "a"}, "/v1/embeddings")[0]
                   == 200, "embeddings are offered")
        self.until(lambda: self.post({"model": self.PICTURES, "prompt": "p"},
                                     "/v1/images/generations")[0] == 200, "images are offered")

    def record(self, task: str) -> dict[str, object]:
        """What the records say of a task that has ended."""
        found: list[dict[str, object]] = []

        def has_ended() -> bool:
            output = subprocess.run(
                [program("sluice", "SLUICE_COMMAND"), "task", task, "--json", "--data",
                 f"{self.folder}/data"], capture_output=True, text=True, check=False).stdout
            found[:] = [record for line in output.splitlines()
                        if "status" in (record := json.loads(line))]
            return bool(found)

        self.until(has_ended, "the task has its final record")
        return found[0]

    def assert_charged(self, task: str, usage: tuple[int, int], earning: int) -> None:
        """The record has this usage, and the cost is the earning and the fee."""
        record = self.record(task)
        self.assertEqual(record["status"], "completed")
        self.assertEqual((record["inputTokens"], record["outputTokens"]), usage)
        self.assertEqual(record["supplierEarningMicroUSD"], earning)
        self.assertEqual(record["consumerCostMicroUSD"],
                         earning + int(str(record["platformFeeMicroUSD"])))
        # The development's fee is a tenth.
        self.assertEqual(record["platformFeeMicroUSD"], earning // 10)

    def test_embeddings_come_as_openai_s_client_asks_for_them(self) -> None:
        inputs = [f"text {number}" for number in range(500)]
        response = self.client().embeddings.with_raw_response.create(
            model=self.VECTORS, input=inputs)
        answer = response.parse()
        self.assertIn(b'"encoding_format": "base64"', self.upstream.bodies[-1].replace(
            b'":"', b'": "'))
        self.assertEqual([entry.index for entry in answer.data], list(range(500)))
        for text, entry in zip(inputs, answer.data, strict=True):
            self.assertEqual(entry.embedding, vector(text, 4))
        self.assertEqual(answer.model, self.VECTORS)
        self.assertEqual(answer.usage.prompt_tokens, 1_500)
        # 1,500 tokens at 2 USD a million, and 500 embeddings at 5.
        self.assert_charged(response.headers["x-request-id"], (1_500, 500), 3_000 + 2_500)

    def test_embeddings_as_numbers_with_dimensions_and_unknown_members(self) -> None:
        answer = self.client().embeddings.create(
            model=self.VECTORS, input="a", encoding_format="float", dimensions=3,
            extra_body={"x_unknown": [1.10]})
        self.assertEqual(answer.data[0].embedding, vector("a", 3))
        self.assertIn(b"1.1", self.upstream.bodies[-1])

    def test_an_engine_that_knows_numbers_only_is_translated(self) -> None:
        status, _, body = self.post(
            {"model": self.VECTORS, "input": ["a", "b"], "encoding_format": "base64",
             "x_floats_only": True}, "/v1/embeddings")
        self.assertEqual(status, 200)
        for text, entry in zip("ab", json.loads(body)["data"], strict=True):
            packed = base64.b64decode(entry["embedding"])
            self.assertEqual(list(struct.unpack("<4f", packed)), vector(text, 4))

    def test_token_numbers_are_inputs(self) -> None:
        one = self.client().embeddings.create(model=self.VECTORS, input=[1, 2, 3])
        self.assertEqual(len(one.data), 1)
        two = self.client().embeddings.create(model=self.VECTORS, input=[[1, 2], [3]])
        self.assertEqual(len(two.data), 2)

    def test_images_come_as_base64_and_cost_by_the_image(self) -> None:
        response = self.client(retries=4).images.with_raw_response.generate(
            model=self.PICTURES, prompt="paint 3000000", n=2, response_format="b64_json")
        answer = response.parse()
        self.assertEqual([base64.b64decode(image.b64_json or "") for image in answer.data or []],
                         [picture(number, 3_000_000) for number in range(2)])
        # 7 tokens at 2 USD a million, and 2 images at 0.04 USD.
        self.assert_charged(response.headers["x-request-id"], (7, 2), 14 + 80_000)

    def test_images_are_base64_where_nothing_is_said_and_never_a_url(self) -> None:
        answer = self.client(retries=4).images.generate(model=self.PICTURES, prompt="paint")
        self.assertEqual(base64.b64decode((answer.data or [])[0].b64_json or ""), picture(0, 9))
        self.assertIn(b'"response_format":"b64_json"', self.upstream.bodies[-1])
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client(retries=4).images.generate(
                model=self.PICTURES, prompt="paint", response_format="url")
        self.assertEqual(caught.exception.param, "response_format")
        self.assertIn("b64_json", caught.exception.message)

    def test_an_engine_s_refusal_and_failure_are_told(self) -> None:
        for call in (
                lambda word: self.client().embeddings.create(model=self.VECTORS, input=word),
                lambda word: self.client().images.generate(model=self.PICTURES, prompt=word)):
            with self.assertRaises(openai.BadRequestError) as refused:
                call("refuse")
            self.assertEqual(refused.exception.code, "context_length_exceeded")
            with self.assertRaises(openai.InternalServerError):
                call("break")

    def test_what_a_worker_does_not_offer_has_no_supplier(self) -> None:
        for model, path, body in (
                (self.VECTORS, "/v1/images/generations", {"prompt": "p"}),
                (self.PICTURES, "/v1/embeddings", {"input": "a"}),
                (MODEL, "/v1/embeddings", {"input": "a"})):
            status, _, answer = self.post({"model": model, **body}, path)
            self.assertEqual((status, json.loads(answer)["error"]["code"]), (503, "no_supplier"))

    def test_another_model_answers_where_the_first_cannot(self) -> None:
        answer = self.client().embeddings.create(
            model="nobody", input="a", extra_body={"sluice": {"models": ["no-one", self.VECTORS]}})
        self.assertEqual(answer.model, self.VECTORS)

    def test_an_answer_cut_in_the_middle_breaks_the_connection(self) -> None:
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            self.post({"model": self.PICTURES, "prompt": "cut 3000000"}, "/v1/images/generations")

    def test_a_client_that_leaves_an_image_cancels_at_the_engine(self) -> None:
        before = self.upstream.gone
        body = json.dumps({"model": self.PICTURES, "prompt": "hang 300000"}).encode()
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(
                b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
                + self.key.encode() + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            self.assertTrue(connection.recv(100))
        self.until(lambda: self.upstream.gone > before, "the engine's client is gone")

    def test_the_same_idempotency_key_runs_once(self) -> None:
        key = f"k-{time.monotonic_ns()}"
        body: dict[str, object] = {"model": self.VECTORS, "input": "a"}
        self.assertEqual(self.post(body, "/v1/embeddings", idempotency_key=key)[0], 200)
        self.assertEqual(self.post(body, "/v1/embeddings", idempotency_key=key)[0], 409)

    def test_no_prompt_vector_or_image_is_in_a_log_or_record(self) -> None:
        self.post({"model": self.VECTORS, "input": "canary-in-an-input"}, "/v1/embeddings")
        self.post({"model": self.PICTURES, "prompt": "canary-in-a-prompt"},
                  "/v1/images/generations")
        marks = [b"canary", base64.b64encode(picture(0, 9))]
        for path in pathlib.Path(self.folder).rglob("*"):
            if path.is_file():
                with contextlib.suppress(FileNotFoundError):
                    content = path.read_bytes()
                    for mark in marks:
                        self.assertNotIn(mark, content, path)


class GatewayProcessTests(unittest.TestCase):
    """The program by itself."""

    @contextlib.contextmanager
    def gateway(
            self, *options: str, errors: IO[str] | None = None
    ) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
        """A gateway and its line."""
        process = subprocess.Popen(
            [program("sluice-gateway", "SLUICE_GATEWAY"), "--port", "0", *options],
            stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def test_without_a_broker_a_request_is_503_with_a_wait_and_models_are_listed(self) -> None:
        with self.gateway("--broker", "127.0.0.1:1", "--connect-seconds", "1", "--model",
                          "fast=a,b", "--model", "c/d") as (process, line):
            client = openai.OpenAI(base_url=f"{line['http']}/v1", api_key="k", max_retries=0)
            self.addCleanup(client.close)
            self.assertEqual([model.id for model in client.models.list()], ["fast", "c/d"])
            self.assertEqual(client.models.retrieve("c/d").id, "c/d")
            with self.assertRaises(openai.NotFoundError):
                client.models.retrieve("x")
            with self.assertRaises(openai.InternalServerError) as caught:
                client.chat.completions.create(model="m", messages=[])
            self.assertEqual(caught.exception.status_code, 503)
            self.assertIn("retry-after", caught.exception.response.headers)
            process.terminate()
            self.assertEqual(process.wait(_PATIENCE_SECONDS), 0)

    def test_prometheus_reads_what_the_gateway_did(self) -> None:
        with serving() as upstream, deployment(upstream.url) as (ready, _), self.gateway(
                "--broker", str(ready["broker"]), "--ca", str(ready["ca"]), "--metrics-port",
                "0") as (_, line):
            key = str(ready["clientKey"])
            client = openai.OpenAI(base_url=f"{line['http']}/v1", api_key=key, max_retries=0)
            self.addCleanup(client.close)

            def ask(text: str, **members: object) -> object:
                return client.chat.completions.create(**{  # type: ignore[call-overload]
                    "model": MODEL, "messages": [{"role": "user", "content": text}], **members})

            self.assertEqual(len(list(ask("say 20", stream=True))), 20)  # type: ignore[call-overload]
            ask("say 5")
            with self.assertRaises(openai.NotFoundError):
                ask("say 1", model="no-such-model")
            with self.assertRaises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{line['http']}/{key}", timeout=_PATIENCE_SECONDS)
            running = ask("slow 400", stream=True)
            next(iter(running))  # type: ignore[call-overload]
            text = self.metrics(line)
            checked = subprocess.run(["promtool", "check", "metrics"], input=text.encode(),
                                     capture_output=True)
            self.assertEqual((checked.returncode, checked.stderr), (0, b""))
            self.assertNotIn(key, text)
            samples = dict(sample.rsplit(" ", 1) for sample in text.splitlines()
                           if not sample.startswith("#"))
            chat = 'sluice_gateway_requests_total{route="/v1/chat/completions",status="%d"}'
            self.assertEqual(samples[chat % 200], "3")
            self.assertEqual(samples[chat % 404], "1")
            self.assertEqual(
                samples['sluice_gateway_requests_total{route="other",status="404"}'], "1")
            self.assertGreaterEqual(int(samples["sluice_gateway_events_total"]), 21)
            self.assertGreater(int(samples["sluice_gateway_answer_bytes_total"]), 2_000)
            self.assertGreater(int(samples["sluice_gateway_request_bytes_total"]), 100)
            self.assertEqual(samples["sluice_gateway_streams_open"], "1")
            self.assertEqual(samples["sluice_gateway_streams_broken_total"], "0")
            self.assertEqual(samples["sluice_gateway_first_byte_seconds_count"], "3")
            self.assertGreater(float(samples["sluice_gateway_first_byte_seconds_sum"]), 0)
            running.close()  # type: ignore[attr-defined]
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while "sluice_gateway_streams_open 0\n" not in self.metrics(line):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)

    @staticmethod
    def metrics(line: dict[str, object]) -> str:
        """What Prometheus would get."""
        with urllib.request.urlopen(str(line["metrics"]), timeout=_PATIENCE_SECONDS) as response:
            return response.read().decode()

    def test_an_answer_to_head_has_no_body(self) -> None:
        """Else what it holds would be taken for the next answer."""
        with self.gateway("--broker", "127.0.0.1:1", "--metrics-port", "0") as (_, line):
            for url, path in ((line["http"], "/health"), (line["http"], "/no-such-path"),
                              (line["metrics"], "/metrics")):
                connection = http.client.HTTPConnection(
                    urllib.parse.urlsplit(str(url)).netloc, timeout=_PATIENCE_SECONDS)
                self.addCleanup(connection.close)
                statuses = []
                for method in ("HEAD", "GET", "HEAD", "GET"):
                    connection.request(method, path)
                    answer = connection.getresponse()
                    statuses.append(answer.status)
                    self.assertEqual(len(answer.read()) > 0, method == "GET", (method, path))
                self.assertEqual(len(set(statuses)), 1, path)

    def test_sighup_takes_a_certificate_over_and_running_streams_go_on(self) -> None:
        """Settings from a file; a pair that is none is refused, and the one in use stays."""
        with serving() as upstream, deployment(upstream.url) as (ready, _), \
                tempfile.TemporaryDirectory() as folder:
            here = pathlib.Path(folder)
            for name in ("old", "new"):
                subprocess.run([program("sluice", "SLUICE_COMMAND"), "certs", "--out", here / name],
                               check=True, stdout=subprocess.DEVNULL)

            def use(certificate: str, key: str) -> None:
                for name, source in (("server.pem", certificate), ("server-key.pem", key)):
                    (here / name).write_bytes((here / source / name).read_bytes())

            def shown() -> bytes:
                port = urllib.parse.urlsplit(str(line["http"])).port
                return ssl.PEM_cert_to_DER_cert(
                    ssl.get_server_certificate(("127.0.0.1", port or 0)))

            def served(name: str) -> bytes:
                return ssl.PEM_cert_to_DER_cert((here / name / "server.pem").read_text())

            def until_said(event: str) -> None:
                deadline = time.monotonic() + _PATIENCE_SECONDS
                while event not in log.read_text():
                    self.assertLess(time.monotonic(), deadline, event)
                    time.sleep(0.05)

            use("old", "old")
            (here / "sluice.json").write_text(json.dumps({"gateway": {
                "broker": [ready["broker"]], "ca": ready["ca"], "model": [f"alias={MODEL}|other"],
                "certificate": str(here / "server.pem"),
                "private-key": str(here / "server-key.pem")}}))
            subprocess.run(
                [program("sluice", "SLUICE_COMMAND"), "config", "check", here / "sluice.json"],
                check=True, stdout=subprocess.DEVNULL)
            log = here / "log"
            with open(log, "w") as errors, self.gateway(
                    "--config", str(here / "sluice.json"), errors=errors) as (process, line):
                self.assertTrue(str(line["http"]).startswith("https://"))
                self.assertEqual(shown(), served("old"))
                trust = ssl.create_default_context(cafile=str(here / "old" / "ca.pem"))
                connection = http.client.HTTPSConnection(
                    str(line["http"]).removeprefix("https://"), context=trust,
                    timeout=_PATIENCE_SECONDS)
                self.addCleanup(connection.close)
                connection.request("POST", "/v1/chat/completions", json.dumps({
                    "model": "alias", "stream": True,
                    "messages": [{"role": "user", "content": "slow 100"}]}),
                    {"authorization": f"Bearer {ready['clientKey']}"})
                answer = connection.getresponse()
                self.assertEqual(answer.status, 200)
                self.assertTrue(answer.readline().startswith(b"data: {"))
                use("new", "new")
                process.send_signal(signal.SIGHUP)
                until_said("certificate_replaced")
                self.assertEqual(shown(), served("new"))
                use("new", "old")
                process.send_signal(signal.SIGHUP)
                until_said("certificate_refused")
                self.assertEqual(shown(), served("new"))
                self.assertEqual(answer.read().count(b"data: {"), 99)

    def test_a_stop_lets_a_running_stream_end(self) -> None:
        with serving() as upstream, deployment(upstream.url) as (ready, folder):
            with self.gateway("--broker", str(ready["broker"]), "--ca",
                              str(ready["ca"])) as (process, line):
                client = openai.OpenAI(
                    base_url=f"{line['http']}/v1", api_key=str(ready["clientKey"]), max_retries=0)
                self.addCleanup(client.close)
                stream = iter(client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "slow 40"}], stream=True))
                next(stream)
                process.terminate()
                self.assertEqual(len(list(stream)), 39)
                self.assertEqual(process.wait(_PATIENCE_SECONDS), 0)


if __name__ == "__main__":
    unittest.main()
