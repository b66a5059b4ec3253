"""A W&B server on this machine that keeps all it is sent, for tests: it knows of W&B's protocol what logging a run, going on with one and syncing need."""

import base64
import gzip
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

KEY = "a" * 40


@dataclass
class Run:
    """Of one run, what was sent: config, summary, history lines and files."""

    fields: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class WandbServer:
    """Listens on a free port of the loopback while it is entered.

    Attributes:
        runs: by id.
        sent: every request's path and content, unpacked.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.sent: list[tuple[str, bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                server.sent.append((self.path, content))
                body = json.dumps(server.take(self.path, content)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that is killed breaks its connections: nothing to be told."""

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.listener.server_port}"

    def client_environment(self, mode: str) -> dict[str, str]:
        """In which a process finds this server and no other."""
        return os.environ | {"WANDB_MODE": mode, "WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.listener.shutdown()
        self.listener.server_close()

    def take(self, path: str, content: bytes) -> Any:
        if path == "/graphql":
            return {"data": self.query(json.loads(content))}
        if found := re.fullmatch(r"/files/.*/([^/]+)/file_stream", path):
            self.stream(self.runs.setdefault(found[1], Run()), json.loads(content))
            return {"exitcode": None, "limits": {}}
        if found := re.fullmatch(r"/put/([^/]+)/(.*)", path):
            self.runs.setdefault(found[1], Run()).files[found[2]] = content
        return {}

    def query(self, asked: dict[str, Any]) -> Any:
        given = asked.get("variables") or {}
        name = given.get("name") or ""
        if "upsertBucket" in asked["query"]:
            run = self.runs.setdefault(name, Run())
            run.fields.update({key: value for key, value in given.items() if value is not None})
            return {"upsertBucket": {"bucket": self.bucket(name, run), "inserted": True}}
        if "createRunFiles" in asked["query"]:
            files = [{"name": file, "uploadUrl": f"{self.url}/put/{given['run']}/{file}"} for file in given["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in asked["query"]:
            found = self.runs.get(name)
            return {"model": {"id": "p", "name": "cxr", "entity": {"id": "e", "name": "me"}, "bucket": self.bucket(name, found) if found else None}}
        if "createArtifact(" in asked["query"]:
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}}}
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}, "serverInfo": {"features": []}}

    def bucket(self, name: str, run: Run) -> dict[str, Any]:
        last = [json.dumps(run.history[max(run.history)])] if run.history else []
        return {
            "id": base64.b64encode(name.encode()).decode(),
            "name": name,
            "displayName": run.fields.get("displayName") or name,
            "summaryMetrics": json.dumps(run.summary),
            "config": run.fields.get("config") or "{}",
            "tags": run.fields.get("tags") or [],
            "notes": "",
            "wandbConfig": json.dumps({"t": {}}),  # without it, `wandb` takes the run for one that never began
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(last),
            "eventsTail": "[]",
            "sweepName": None,
            "project": {"id": "p", "name": "cxr", "entity": {"id": "e", "name": "me"}},
        }

    def stream(self, run: Run, told: dict[str, Any]) -> None:
        for file, chunk in (told.get("files") or {}).items():
            for number, line in enumerate(chunk["content"], start=chunk["offset"]):
                if file == "wandb-history.jsonl":
                    run.history[number] = json.loads(line)
                elif file == "wandb-summary.json":
                    run.summary = json.loads(line)
