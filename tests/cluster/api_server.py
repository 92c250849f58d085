#!/usr/bin/python3
"""What kubectl needs of an API server to list pods and to run programs in them: plain HTTP, nothing else.

api_server.py PORT FILE: listens on loopback. FILE is read for each request:
{"namespace": "iocast", "labels": {}, "pods": [{"name", "node", "state", "entry": [words before a program], "forbidden"}], "forbidden": []}
`state` is the container's, as in a pod's status; `forbidden` names what 403 answers: "list", "exec".
"""

import base64
import hashlib
import json
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

RESOURCES = {
    "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1",
    "resources": [
        {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "shortNames": ["po"],
         "verbs": ["get", "list"]},
        {"name": "pods/exec", "singularName": "", "namespaced": True, "kind": "PodExecOptions",
         "verbs": ["create", "get"]},
    ],
}
# WebSocket: RFC 6455; channels of v5.channel.k8s.io: kubernetes/apimachinery, pkg/util/remotecommand.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10
STDOUT, STDERR, ERROR = 1, 2, 3


def world():
    with open(sys.argv[2]) as file:
        return json.load(file)


def pod(known, namespace, labels):
    state = known["state"]
    return {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": known["name"], "namespace": namespace, "labels": labels},
        "spec": {"nodeName": known["node"], "containers": [{"name": "iocast"}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "iocast", "ready": "running" in state, "restartCount": 0, "state": state}]},
    }


def status(code, reason, message):
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": reason, "message": message}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, code=200):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def forbid(self, what, verb):
        self.answer(status(403, "Forbidden", f'{what} is forbidden: User "me" cannot {verb} in the namespace "iocast"'), 403)

    def do_GET(self):
        url = urlsplit(self.path)
        known, query = world(), parse_qs(url.query)
        pods = f"/api/v1/namespaces/{known['namespace']}/pods"
        fixed = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": RESOURCES,
        }
        if url.path in fixed:
            return self.answer(fixed[url.path])
        if url.path == pods:
            if "list" in known["forbidden"]:
                return self.forbid("pods", 'list resource "pods" in API group ""')
            wanted = query.get("labelSelector", [""])[0]
            fits = wanted == ",".join(f"{key}={value}" for key, value in known["labels"].items())
            items = [pod(one, known["namespace"], known["labels"]) for one in known["pods"]] if fits else []
            return self.answer({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
        name, _, rest = url.path.removeprefix(pods + "/").partition("/")
        one = next((one for one in known["pods"] if one["name"] == name), None)
        if one is None or rest not in ("", "exec"):
            return self.answer(status(404, "NotFound", f'pods "{name}" not found'), 404)
        if rest == "":
            return self.answer(pod(one, known["namespace"], known["labels"]))
        if "exec" in known["forbidden"] or one.get("forbidden"):
            return self.forbid(f'pods "{name}"', 'create resource "pods/exec" in API group ""')
        self.execute(one, query["command"])

    do_POST = do_GET

    def execute(self, one, command):
        key = self.headers.get("Sec-WebSocket-Key")
        if self.headers.get("Upgrade", "").lower() != "websocket" or key is None:
            return self.answer(status(400, "BadRequest", "only WebSockets are spoken here"), 400)
        accept = base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()
        self.send_response(101)
        for name, value in [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept),
                            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io")]:
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        self.lock = threading.Lock()
        child = subprocess.Popen(one["entry"] + command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        pipes = [(child.stdout, STDOUT), (child.stderr, STDERR)]
        threads = [threading.Thread(target=self.forward, args=pipe) for pipe in pipes]
        threading.Thread(target=self.listen, args=pipes, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        code = child.wait()
        outcome = {"metadata": {}, "status": "Success"}
        if code != 0:
            outcome = {**status(500, "NonZeroExitCode", f"command terminated with non-zero exit code: {code}"),
                       "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}
        try:
            self.frame(BINARY, bytes([ERROR]) + json.dumps(outcome).encode())
            self.frame(CLOSE, struct.pack(">H", 1000))
        except OSError:
            pass

    def forward(self, pipe, channel):
        """What a program prints; when nobody listens any more, its pipes are closed, as a runtime does it."""
        try:
            while data := pipe.read1(65536):
                self.frame(BINARY, bytes([channel]) + data)
        except (OSError, ValueError):
            pass
        pipe.close()

    def frame(self, kind, payload):
        length = len(payload)
        size = bytes([length]) if length < 126 else b"\x7e" + struct.pack(">H", length) if length < 65536 \
            else b"\x7f" + struct.pack(">Q", length)
        with self.lock:
            self.wfile.write(bytes([0x80 | kind]) + size + payload)
            self.wfile.flush()

    def listen(self, *pipes):
        """The client's frames: pings, and its end."""
        try:
            while head := self.rfile.read(2):
                length = head[1] & 0x7f
                if length >= 126:
                    length = int.from_bytes(self.rfile.read(2 if length == 126 else 8), "big")
                mask = self.rfile.read(4)
                payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(length)))
                if head[0] & 0xf == PING:
                    self.frame(PONG, payload)
                elif head[0] & 0xf == CLOSE:
                    break
        except (OSError, ValueError, IndexError):
            pass
        self.connection.close()


class Server(ThreadingHTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
print("the API server is there", flush=True)
server.serve_forever()
