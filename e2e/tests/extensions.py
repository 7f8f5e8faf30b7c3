"""A server beside the cluster: converts a custom kind, and answers for an aggregated API. Usage: KEY CERT PORT_FILE"""
import http.server
import json
import ssl
import sys

ROOT = "/apis/wardle.example.com/v1alpha1"
FLUNDERS = {}


def converted(thing, version):
    thing = dict(thing, apiVersion=version)
    if version.endswith("/v2") and "hostPort" in thing:
        thing["host"], thing["port"] = thing.pop("hostPort").split(":")
    if version.endswith("/v1") and "host" in thing:
        thing["hostPort"] = thing.pop("host") + ":" + thing.pop("port")
    return thing


class Handler(http.server.BaseHTTPRequestHandler):
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

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == ROOT:
            flunders = {"name": "flunders", "singularName": "flunder", "namespaced": True, "kind": "Flunder",
                        "verbs": ["create", "get", "list"], "shortNames": ["fl"]}
            return self.answer({"kind": "APIResourceList", "apiVersion": "v1",
                                "groupVersion": "wardle.example.com/v1alpha1", "resources": [flunders]})
        if path.endswith("/flunders"):
            return self.answer({"kind": "FlunderList", "apiVersion": "wardle.example.com/v1alpha1",
                                "metadata": {}, "items": list(FLUNDERS.values())})
        found = FLUNDERS.get(path.rsplit("/", 1)[-1])
        if found:
            return self.answer(found)
        self.answer({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

    def do_POST(self):
        asked = self.body()
        if self.path.startswith("/convert"):
            request = asked["request"]
            objects = [converted(o, request["desiredAPIVersion"]) for o in request["objects"]]
            response = {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects}
            return self.answer({"kind": asked["kind"], "apiVersion": asked["apiVersion"], "response": response})
        asked["metadata"]["annotations"] = {"made-by": self.headers["X-Remote-User"]}
        FLUNDERS[asked["metadata"]["name"]] = asked
        self.answer(asked, 201)


key, certificate, port_file = sys.argv[1:]
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
with open(port_file, "w") as file:
    file.write(str(server.server_port))
server.serve_forever()
