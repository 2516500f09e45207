"""A stand-in for the Hugging Face hub on this machine: repositories, large files, commits; it can break off."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Keeps what is uploaded.

    Attributes:
        repos: Id -> {"private": ..., "files": {name: bytes}}.
        uploads: Names of committed files, in order.
        break_after: Commits after which the connection is cut; None never.
    """

    def __init__(self):
        self.repos, self.blobs, self.uploads, self.break_after = {}, {}, [], None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def info(self, repo):
        files = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest(),
                **(
                    {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
                    if is_lfs(name)
                    else {}
                ),
            }
            for name, data in self.repos[repo]["files"].items()
        ]
        return {"id": repo, "modelId": repo, "private": self.repos[repo]["private"], "siblings": files, "tags": []}

    def commit(self, repo, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                data = self.blobs[value["oid"]]
            else:
                continue
            self.repos[repo]["files"][value["path"]] = data
            self.uploads.append(value["path"])


def is_lfs(name):
    return name.endswith((".safetensors", ".png"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def _answer(self, status=200, body=None, **headers):
        data = json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self):
        path = self.path.split("?")[0]
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self._answer(401, {"error": "Invalid credentials"})
        repo = path.removeprefix("/api/models/").split("/revision/")[0]
        if repo not in self.hub.repos:
            return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return self._answer(body=self.hub.info(repo))

    def do_PUT(self):
        data = self._body()
        self.hub.blobs[hashlib.sha256(data).hexdigest()] = data
        self._answer()

    def do_POST(self):
        raw, path = self._body(), self.path.split("?")[0]
        hub = self.hub
        if path == "/api/repos/create":
            asked = json.loads(raw)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            hub.repos[repo] = {"private": asked.get("visibility") == "private", "files": {}}
            return self._answer(body={"url": f"{hub.url}/{repo}"})
        if path == "/api/validate-yaml":  # the front of a card
            return self._answer(body={"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **one,
                    "actions": {} if one["oid"] in hub.blobs else {"upload": {"href": f"{hub.url}/put/{one['oid']}"}},
                }
                for one in json.loads(raw)["objects"]
            ]
            return self._answer(body={"transfer": "basic", "objects": objects})
        repo, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
        if rest:
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if is_lfs(one["path"]) else "regular", "shouldIgnore": False}
                for one in json.loads(raw)["files"]
            ]
            return self._answer(body={"files": modes})
        repo = path.removeprefix("/api/models/").split("/commit/")[0]
        if hub.break_after is not None and len(hub.uploads) >= hub.break_after:
            return self._answer(403, {"error": "the line was cut"})
        hub.commit(repo, [json.loads(line) for line in raw.splitlines() if line.strip()])
        number = len(hub.uploads)
        return self._answer(body={"commitUrl": f"{hub.url}/{repo}/commit/{number}", "commitOid": f"{number:040x}"})
