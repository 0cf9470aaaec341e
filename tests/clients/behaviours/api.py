"""The API of the cluster of $KUBECONFIG by plain HTTP, and the table of claims."""

import base64
import http.client
import json
import os
import re
import ssl
import tempfile
import time
import traceback
from urllib.parse import quote, urlsplit

WAIT = 60
CLAIMS = []
JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


def claim(text):
    def note(function):
        CLAIMS.append((text, function))
        return function

    return note


class Answer:
    def __init__(self, response, body):
        self.code, self.headers, self.body = response.status, response.headers, body

    @property
    def text(self):
        return self.body.decode(errors="replace")

    @property
    def json(self):
        return json.loads(self.body)

    def ok(self, code=None):
        good = self.code == code if code else 200 <= self.code < 300
        assert good, f"{self.code}, expected {code or '2xx'}: {self.text[:600]}"
        return self.json

    def no(self, code, reason, *parts):
        """A refusal with this code and reason, whose message has all these parts."""
        assert self.code == code, f"{self.code}, expected {code}: {self.text[:600]}"
        status = self.json
        assert status["kind"] == "Status" and status["status"] == "Failure", status
        assert status["reason"] == reason, f"reason {status['reason']}, expected {reason}: {status['message']}"
        for part in parts:
            assert part in status["message"], f"{part!r} is not in {status['message']!r}"
        return status


class Api:
    def __init__(self, kubeconfig):
        text = open(kubeconfig).read()
        self.server = urlsplit(re.search(r"server: (\S+)", text)[1])
        data = {k: re.search(rf"{k}: (\S+)", text)[1] for k in ("certificate-authority-data", "client-certificate-data", "client-key-data")}
        self.ca = base64.b64decode(data["certificate-authority-data"]).decode()
        self.anonymous = ssl.create_default_context(cadata=self.ca)
        self.admin = ssl.create_default_context(cadata=self.ca)
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(data["client-certificate-data"]) + base64.b64decode(data["client-key-data"]))
            pair.flush()
            self.admin.load_cert_chain(pair.name)
        self.kept = None

    def connection(self, token=None, timeout=WAIT):
        context = self.admin if token is None else self.anonymous
        return http.client.HTTPSConnection(self.server.hostname, self.server.port, context=context, timeout=timeout)

    def call(self, method, path, body=None, type=JSON, accept=JSON, token=None, **headers):
        """`token=""` is nobody."""
        connection = self.connection(token)
        head = {"Accept": accept, **{k.replace("_", "-"): v for k, v in headers.items()}}
        if token:
            head["Authorization"] = f"Bearer {token}"
        if body is not None:
            head["Content-Type"] = type
            body = body if isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method, path, body, head)
        response = connection.getresponse()
        answer = Answer(response, response.read())
        connection.close()
        return answer

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def post(self, path, body, **more):
        return self.call("POST", path, body, **more)

    def put(self, path, body, **more):
        return self.call("PUT", path, body, **more)

    def patch(self, path, body, type=MERGE, **more):
        return self.call("PATCH", path, body, type=type, **more)

    def delete(self, path, body=None, **more):
        return self.call("DELETE", path, body, **more)

    def watch(self, path, **more):
        return Watch(self, path, **more)

    def until(self, path, accept, within=WAIT):
        """Asks until `accept` takes the answer; an exception is a no."""
        end = time.monotonic() + within
        while True:
            answer = self.get(path)
            try:
                if accept(answer):
                    return answer
            except (KeyError, TypeError, ValueError, IndexError):
                pass
            assert time.monotonic() < end, f"{path} after {within} s: {answer.code} {answer.text[:900]}"
            time.sleep(0.1)

    def namespace(self, name, labels=None):
        made = self.post("/api/v1/namespaces", {"metadata": {"generateName": f"{name}-", "labels": labels or {}}}).ok(201)
        name = made["metadata"]["name"]
        self.until(f"/api/v1/namespaces/{name}/serviceaccounts/default", lambda a: a.code == 200)
        return name


class Watch:
    """Lines of a watch. The stream ends when its deadline does."""

    def __init__(self, api, path, seconds=30, accept=JSON):
        self.connection = api.connection(timeout=seconds + 10)
        joiner = "&" if "?" in path else "?"
        more = "" if "timeoutSeconds" in path else f"&timeoutSeconds={seconds}"
        self.connection.request("GET", f"{path}{joiner}watch=true{more}", headers={"Accept": accept})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, f"{self.response.status} {self.response.read()}"

    def next(self):
        line = self.response.readline()
        return json.loads(line) if line.strip() else None

    def take(self, count):
        found = []
        while len(found) < count:
            event = self.next()
            assert event, f"the watch ended after {[(e['type'], e['object']['metadata'].get('name')) for e in found]}"
            found.append(event)
        return found

    def until(self, accept):
        while event := self.next():
            if accept(event):
                return event
        raise AssertionError("the watch ended")

    def close(self):
        self.connection.close()


def same(actual, expected, what=""):
    assert actual == expected, f"{what}{' is ' if what else ''}{json.dumps(actual)[:700]}, expected {json.dumps(expected)[:700]}"


def within(part, whole, path=""):
    """Every field of `part` is in `whole`."""
    for key, value in part.items():
        found = whole.get(key) if isinstance(whole, dict) else None
        if isinstance(value, dict):
            within(value, found or {}, f"{path}.{key}")
        else:
            assert found == value, f"{path}.{key} is {found!r}, expected {value!r}"


def seg(text):
    return quote(text, safe="")


def pod(name, **spec):
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}], **spec},
    }


def run(api, only):
    failed = done = 0
    for text, function in CLAIMS:
        if only and not any(word in text for word in only):
            continue
        done += 1
        try:
            function(api)
            print(f"OK      {text}", flush=True)
        except Exception as error:  # noqa: BLE001: whatever differs is told
            failed += 1
            line = traceback.extract_tb(error.__traceback__)
            where = next((f.lineno for f in line if "behaviours" in f.filename and not f.filename.endswith("api.py")), 0)
            print(f"DIFFERS {text}\n        line {where}: {type(error).__name__} {error}", flush=True)
    print(f"{done} claims, {failed} differ")
    return failed
