"""A bucket on the loopback, for tests: gcp-storage-emulator, made to insist on who pays, as Google does, and to fail as networks do."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any

import pytest
from commands import free_port
from gcp_storage_emulator import server

PROJECT_THAT_PAYS = "my-project"


Serve = Callable[[str, bytes, Callable[[bytes], Any]], Any]


def honestly(name: str, content: bytes, send: Callable[[bytes], Any]) -> None:
    send(content)


class Emulator:
    """Listens while it is entered.

    Attributes:
        serve: sends what is to be sent of an object: takes its name, the content that was asked for, and the function that sends.
        ranges: object -> the Range of each request for its content ("" for a whole one).
    """

    def __init__(self, bucket: str):
        self.bucket = bucket
        self.serve: Serve = honestly
        self.ranges: dict[str, list[str]] = {}
        self.refused = 0
        self.counting = threading.Lock()

    def __enter__(self) -> "Emulator":
        self.patches = pytest.MonkeyPatch()
        self._wrap()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.server = server.create_server("127.0.0.1", port, in_memory=True, default_bucket=self.bucket)
        # one request after another would let one slow answer hold up all
        self.patches.setattr(server.server, "HTTPServer", server.server.ThreadingHTTPServer)
        self.server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.stop()
        self.patches.undo()

    @property
    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.url}

    def fill(self, objects: dict[str, bytes]) -> None:
        storage = pytest.importorskip("google.cloud.storage")
        before = dict(os.environ)
        os.environ |= self.environment | {"DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true"}
        try:
            bucket = storage.Client().bucket(self.bucket, user_project=PROJECT_THAT_PAYS)
            for name, content in objects.items():
                bucket.blob(name).upload_from_string(content)
        finally:
            os.environ.clear()
            os.environ |= before

    def _wrap(self) -> None:
        emulator, handle, close = self, server.Router.handle, server.Response.close

        def handle_if_paid(router: Any, method: str) -> None:
            request = server.Request(router._request_handler, method)
            if request.query.get("userProject") == [PROJECT_THAT_PAYS]:
                return handle(router, method)
            emulator.refused += 1
            response = server.Response(router._request_handler)
            response.status = HTTPStatus.BAD_REQUEST
            response.json({"error": {"code": 400, "message": "Bucket is a requester pays bucket but no user project provided."}})
            response.close()

        def close_spoiled(response: Any) -> None:
            handler, content = response._handler, response._content
            if not isinstance(content, bytes) or "/o/" not in handler.path:
                return close(response)
            name = handler.path.partition("/o/")[2].partition("?")[0].replace("%2F", "/")
            with emulator.counting:
                emulator.ranges.setdefault(name, []).append(handler.headers.get("Range", ""))
            handler.send_response(response.status.value, response.status.phrase)
            for key, value in response._headers.items():
                handler.send_header(key, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            with contextlib.suppress(ConnectionError):  # whoever was killed listens no more
                emulator.serve(name, content, handler.wfile.write)

        self.patches.setattr(server.Router, "handle", handle_if_paid)
        self.patches.setattr(server.Response, "close", close_spoiled)


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    """AssertionError if it does not become true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
