"""Lists, watches, selectors."""

import json
import threading
import time

from api import JSON, MERGE, claim, pod, same, seg, within

WATCH_LIST = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
END = "k8s.io/initial-events-end"


def maps(ns):
    return f"/api/v1/namespaces/{ns}/configmaps"


def config(name, labels=None, **data):
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


@claim("watch-list: what is there, a bookmark of the right kind, then what happens; for every form")
def _(k):
    ns = k.namespace("wl")
    for n in "abc":
        k.post(maps(ns), config(n)).ok(201)
    k.until(maps(ns), lambda a: len(a.json["items"]) == 4)  # with the CA's
    for accept, kind in [(JSON, "ConfigMap"), ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "PartialObjectMetadata")]:
        for rv in ("", "&resourceVersion=0", "&resourceVersion="):
            watch = k.watch(f"{maps(ns)}?{WATCH_LIST}{rv}", accept=accept)
            events = watch.take(5)
            same([e["type"] for e in events], ["ADDED"] * 4 + ["BOOKMARK"])
            mark = events[-1]["object"]
            same((mark["kind"], mark["metadata"]["annotations"][END]), (kind, "true"))
            assert int(mark["metadata"]["resourceVersion"]) > 0
            k.delete(f"{maps(ns)}/new")
            k.post(maps(ns), config("new")).ok(201)
            watch.until(lambda e: e["type"] == "ADDED" and e["object"]["metadata"]["name"] == "new")
            watch.close()
            k.delete(f"{maps(ns)}/new").ok()
    # As client-go's informers open it: all namespaces, with a selector.
    watch = k.watch(f"/api/v1/configmaps?{WATCH_LIST}&fieldSelector=metadata.name%3Dkube-root-ca.crt")
    watch.until(lambda e: e["type"] == "BOOKMARK" and END in e["object"]["metadata"]["annotations"])
    watch.close()
    k.get(f"{maps(ns)}?watch=true&sendInitialEvents=true").no(422, "Invalid", "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    k.get(f"{maps(ns)}?sendInitialEvents=true").no(422, "Invalid", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")


@claim("resourceVersion: decimal, no zero in front, larger after each change, the list's not smaller")
def _(k):
    ns = k.namespace("rv")
    seen = [k.post(maps(ns), config("a")).ok(201)]
    for n in range(3):
        seen.append(k.patch(f"{maps(ns)}/a", {"data": {"n": str(n)}}).ok())
    versions = [o["metadata"]["resourceVersion"] for o in seen]
    assert all(v.isdigit() and v[0] != "0" for v in versions), versions
    assert sorted(map(int, versions)) == list(map(int, versions)) and len(set(versions)) == 4, versions
    same(k.patch(f"{maps(ns)}/a", {"data": {"n": "2"}}).ok()["metadata"]["resourceVersion"], versions[-1], "a change of nothing")
    assert int(k.get(maps(ns)).ok()["metadata"]["resourceVersion"]) >= int(versions[-1])


@claim("field selectors: names everywhere; nodes, pods, events in both views, CSRs")
def _(k):
    ns = k.namespace("fs")
    k.get("/api/v1/nodes?fieldSelector=spec.unschedulable%3Dfalse").ok()
    name = f"n-{ns}"
    k.post("/api/v1/nodes", {"metadata": {"name": name}}).ok(201)
    names = lambda path: [i["metadata"]["name"] for i in k.get(path).ok()["items"]]
    assert name in names("/api/v1/nodes?fieldSelector=spec.unschedulable%3Dfalse")
    k.delete(f"/api/v1/nodes/{name}").ok()
    at = f"/api/v1/namespaces/{ns}/pods"
    k.post(at, pod("p")).ok(201)
    same(names(f"{at}?fieldSelector=spec.nodeName%3D,status.phase%3DPending"), ["p"])
    same(names(f"{at}?fieldSelector=status.phase!%3DPending"), [])
    same(names(f"/api/v1/pods?fieldSelector=metadata.namespace%3D{ns},metadata.name%3Dp"), ["p"])
    event = {
        "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": ns, "uid": "u"},
        "reason": "Why", "type": "Normal", "source": {"component": "me"}, "message": "m",
    }
    core = f"/api/v1/namespaces/{ns}/events"
    k.post(core, event).ok(201)
    for selector in ("involvedObject.kind=Pod", "involvedObject.name=p", "involvedObject.uid=u", f"involvedObject.namespace={ns}", "reason=Why", "type=Normal", "source=me"):
        assert "e" in names(f"{core}?fieldSelector={seg(selector)}"), selector
    new = {
        "metadata": {"name": "n"}, "regarding": {"kind": "Pod", "name": "p", "namespace": ns}, "reason": "Other", "type": "Normal",
        "reportingController": "ctl", "reportingInstance": "i", "action": "Act", "eventTime": "2026-11-23T01:00:00.000000Z", "note": "n",
    }
    events = f"/apis/events.k8s.io/v1/namespaces/{ns}/events"
    k.post(events, new).ok(201)
    same(names(f"{events}?fieldSelector=reportingController%3Dctl"), ["n"])
    same(names(f"{core}?fieldSelector=source%3Dctl"), ["n"], "source falls back to reportingController")
    same(names(f"{events}?fieldSelector=regarding.kind%3DPod,reason%3DOther"), ["n"])
    k.get("/apis/certificates.k8s.io/v1/certificatesigningrequests?fieldSelector=spec.signerName%3Da/b").ok()
    k.get(f"{at}?fieldSelector=spec.none%3Dx").no(400, "BadRequest", "field label not supported: spec.none")
    for kind in ("configmaps", "secrets", "services", "limitranges", "podtemplates"):
        k.get(f"/api/v1/namespaces/{ns}/{kind}?fieldSelector=metadata.name%3Dx,metadata.namespace%3D{ns}").ok()


@claim("lists: 400 templates by pages, one revision, remainingItemCount, in order of names")
def _(k):
    ns = k.namespace("pages")
    at = f"/api/v1/namespaces/{ns}/podtemplates"
    for n in range(400):
        k.post(at, {"metadata": {"name": f"template-{n:04}"}, "template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}).ok(201)
    found, token, revision = [], "", None
    while True:
        answer = k.get(f"{at}?limit=37&continue={seg(token)}").ok()
        meta = answer["metadata"]
        revision = revision or meta["resourceVersion"]
        same(meta["resourceVersion"], revision)
        found += [i["metadata"]["name"] for i in answer["items"]]
        token = meta.get("continue", "")
        if not token:
            assert not meta.get("remainingItemCount"), meta
            break
        same(meta["remainingItemCount"], 400 - len(found))
    same(found, [f"template-{n:04}" for n in range(400)])
    # With a selector nobody knows how many remain.
    meta = k.get(f"{at}?limit=10&labelSelector=%21x").ok()["metadata"]
    assert meta["continue"] and "remainingItemCount" not in meta, meta
    k.delete(at).ok()


@claim("lists: resourceVersion=0 and the rules of resourceVersionMatch")
def _(k):
    ns = k.namespace("rvm")
    at = maps(ns)
    rv = k.get(at).ok()["metadata"]["resourceVersion"]
    k.get(f"{at}?resourceVersion=0").ok()
    k.get(f"{at}?resourceVersion=0&resourceVersionMatch=NotOlderThan").ok()
    k.post(at, config("later")).ok(201)
    exact = k.get(f"{at}?resourceVersion={rv}&resourceVersionMatch=Exact").ok()
    same(exact["metadata"]["resourceVersion"], rv)
    assert "later" not in [i["metadata"]["name"] for i in exact["items"]]
    k.get(f"{at}?resourceVersionMatch=Exact").no(422, "Invalid", "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")
    k.get(f"{at}?resourceVersion=0&resourceVersionMatch=Exact").no(422, "Invalid", 'resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    k.get(f"{at}?resourceVersion=1&resourceVersionMatch=Some").no(422, "Invalid", 'resourceVersionMatch: Unsupported value: "Some"')
    token = k.get(f"{at}?limit=1").ok()["metadata"]["continue"]
    k.get(f"{at}?limit=1&continue={seg(token)}&resourceVersion=5").no(400, "BadRequest", "specifying resource version is not allowed when using continue")
    k.get(f"{at}?limit=1&continue=rubbish").no(400, "BadRequest", "continue key is not valid")
    answer = k.get(f"{at}?resourceVersion=999999999")
    answer.no(504, "Timeout", "Too large resource version: 999999999, current: ")
    causes = answer.json["details"]["causes"]
    same(causes[0]["reason"], "ResourceVersionTooLarge")


@claim("lists: a token older than the history is 410 with a fresh one, which goes on at a new revision; so are watches")
def _(k):
    ns, other = k.namespace("old"), k.namespace("big")
    at = f"/api/v1/namespaces/{ns}/podtemplates"
    make = lambda n: k.post(at, {"metadata": {"name": f"t{n}"}, "template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}).ok(201)
    for n in range(5):
        make(n)
    first = k.get(f"{at}?limit=2").ok()["metadata"]
    make(9)
    # More than is remembered.
    k.post(maps(other), config("big")).ok(201)
    for n in range(60):
        k.patch(f"{maps(other)}/big", {"data": {"text": "x" * 900_000, "n": str(n)}}).ok()
        answer = k.get(f"{at}?limit=2&continue={seg(first['continue'])}")
        if answer.code != 200:
            break
    status = answer.no(410, "Expired", "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response")
    second = k.get(f"{at}?limit=2&continue={seg(status['metadata']['continue'])}").ok()
    same([i["metadata"]["name"] for i in second["items"]], ["t2", "t3"])
    assert int(second["metadata"]["resourceVersion"]) > int(first["resourceVersion"]), second["metadata"]
    same(second["metadata"]["remainingItemCount"], 2)
    third = k.get(f"{at}?limit=2&continue={seg(second['metadata']['continue'])}").ok()
    same([i["metadata"]["name"] for i in third["items"]], ["t4", "t9"])
    same(third["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"])
    old = first["resourceVersion"]
    k.get(f"{at}?resourceVersion={old}&resourceVersionMatch=Exact").no(410, "Expired", "The resourceVersion for the provided list is too old.")
    k.get(f"{at}?resourceVersion={old}").ok()
    watch = k.watch(f"{at}?resourceVersion={old}")
    event = watch.next()
    same(event["type"], "ERROR")
    within({"kind": "Status", "code": 410, "reason": "Expired", "status": "Failure"}, event["object"])
    assert event["object"]["message"].startswith(f"too old resource version: {old} ("), event
    same(watch.next(), None, "what follows the error")
    watch.close()


@claim("watch: what cannot be watched is told by a Status before the stream begins")
def _(k):
    at = "/api/v1/configmaps?watch=true"
    k.get(f"{at}&fieldSelector=spec.none%3Dx").no(400, "BadRequest", '"spec.none" is not a known field selector: only "metadata.name", "metadata.namespace"')
    k.get(f"{at}&labelSelector=a%20b").no(400, "BadRequest", "unable to parse requirement")
    k.get(f"{at}&timeoutSeconds=soon").no(400, "BadRequest")
    k.get(f"{at}&resourceVersionMatch=NotOlderThan").no(422, "Invalid", "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
    k.get(f"{at}&sendInitialEvents=true&resourceVersionMatch=Exact").no(422, "Invalid", "resourceVersionMatch")
    k.get("/api/v1/nothings?watch=true").no(404, "NotFound", "the server could not find the requested resource")
    k.get("/apis/none.example.com/v1/things?watch=true").no(404, "NotFound", "the server could not find the requested resource")
    k.get("/api/v1/secrets?watch=true", Impersonate_User="nobody").no(403, "Forbidden", 'User "nobody" cannot watch resource "secrets"')


@claim("watch: empty version begins with what is there; from a version only what came after; DELETED has the last state and a newer version")
def _(k):
    ns = k.namespace("w")
    at = maps(ns)
    made = k.post(at, config("a", x="1")).ok(201)
    k.until(at, lambda a: len(a.json["items"]) == 2)
    watch = k.watch(at)
    same(sorted(e["object"]["metadata"]["name"] for e in watch.take(2)), ["a", "kube-root-ca.crt"])
    watch.close()
    watch = k.watch(f"{at}?resourceVersion={made['metadata']['resourceVersion']}&fieldSelector=metadata.name%3Da")
    k.patch(f"{at}/a", {"data": {"x": "2"}}).ok()
    last = k.patch(f"{at}/a", {"data": {"x": "3"}}).ok()
    k.delete(f"{at}/a").ok()
    events = watch.take(3)
    same([(e["type"], e["object"]["data"]["x"]) for e in events], [("MODIFIED", "2"), ("MODIFIED", "3"), ("DELETED", "3")])
    assert int(events[2]["object"]["metadata"]["resourceVersion"]) > int(last["metadata"]["resourceVersion"])
    watch.close()
    # One object by its path, the old way, too.
    old = k.watch(f"/api/v1/watch/namespaces/{ns}/configmaps")
    old.take(1)
    old.close()


@claim("watch: selectors turn MODIFIED into ADDED and DELETED, for labels and fields")
def _(k):
    ns = k.namespace("ws")
    at = maps(ns)
    rv = k.get(at).ok()["metadata"]["resourceVersion"]
    watch = k.watch(f"{at}?resourceVersion={rv}&labelSelector=l%3Dx")
    k.post(at, config("a", {"l": "x"}, v="1")).ok(201)
    k.patch(f"{at}/a", {"metadata": {"labels": {"l": "y"}}, "data": {"v": "2"}}).ok()
    k.patch(f"{at}/a", {"data": {"v": "3"}}).ok()
    k.patch(f"{at}/a", {"metadata": {"labels": {"l": "x"}}}).ok()
    k.delete(f"{at}/a").ok()
    events = watch.take(4)
    same([e["type"] for e in events], ["ADDED", "DELETED", "ADDED", "DELETED"])
    same([e["object"]["data"]["v"] for e in events], ["1", "1", "3", "3"], "the states")
    watch.close()
    pods = f"/api/v1/namespaces/{ns}/pods"
    rv = k.get(pods).ok()["metadata"]["resourceVersion"]
    watch = k.watch(f"{pods}?resourceVersion={rv}&fieldSelector=status.phase%3DRunning")
    k.post(pods, pod("p")).ok(201)
    k.patch(f"{pods}/p/status", {"status": {"phase": "Running"}}).ok()
    k.patch(f"{pods}/p/status", {"status": {"phase": "Failed"}}).ok()
    same([e["type"] for e in watch.take(2)], ["ADDED", "DELETED"])
    watch.close()


@claim("watch: one order for 100 watchers; timeoutSeconds ends; bookmarks only if asked")
def _(k):
    ns = k.namespace("w100")
    at = maps(ns)
    rv = k.until(at, lambda a: a.json["items"]).json["metadata"]["resourceVersion"]
    watches = [k.watch(f"{at}?resourceVersion={rv}") for _ in range(100)]
    for n in range(10):
        k.post(at, config(f"m{n}")).ok(201)
        k.patch(f"{at}/m{n}", {"data": {"a": "b"}}).ok()
        k.delete(f"{at}/m{n}").ok()
    orders = {tuple((e["type"], e["object"]["metadata"]["resourceVersion"]) for e in w.take(30)) for w in watches}
    same(len(orders), 1)
    for w in watches:
        w.close()
    began = time.monotonic()
    watch = k.watch(f"{at}?resourceVersion={rv}&timeoutSeconds=2")
    while event := watch.next():
        assert event["type"] != "BOOKMARK"
    assert 1 < time.monotonic() - began < 10
    watch.close()
    watch = k.watch(f"{at}?allowWatchBookmarks=true&timeoutSeconds=3")
    watch.until(lambda e: e["type"] == "BOOKMARK")
    watch.close()


@claim("watch: a version that is none is 400; a future one waits or is refused as Kubernetes does")
def _(k):
    k.get("/api/v1/configmaps?watch=true&resourceVersion=x").no(400, "BadRequest")
    answer = k.get("/api/v1/configmaps?watch=true&resourceVersion=999999999&timeoutSeconds=1")
    assert answer.code in (200, 504), answer.text


@claim("RC life cycle: ADDED, MODIFIED x4, DELETED")
def _(k):
    ns = k.namespace("rc")
    at = f"/api/v1/namespaces/{ns}/replicationcontrollers"
    rv = k.get(at).ok()["metadata"]["resourceVersion"]
    watch = k.watch(f"{at}?resourceVersion={rv}&labelSelector=test-rc-static%3Dtrue")
    rc = {
        "metadata": {"name": "rc-test", "labels": {"test-rc-static": "true"}},
        "spec": {"replicas": 1, "selector": {"test-rc-static": "true"}, "template": {
            "metadata": {"name": "x", "labels": {"test-rc-static": "true"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}},
    }
    k.post(at, rc).ok(201)
    watch.until(lambda e: e["type"] == "ADDED")
    k.patch(f"{at}/rc-test", {"metadata": {"labels": {"test-rc": "patched"}}, "spec": {"template": {"metadata": {"labels": {"test-rc": "patched"}}}}}, type="application/strategic-merge-patch+json").ok()
    watch.until(lambda e: e["type"] == "MODIFIED" and e["object"]["metadata"]["labels"].get("test-rc") == "patched")
    status = k.patch(f"{at}/rc-test/status", {"status": {"readyReplicas": 0, "availableReplicas": 0}, "metadata": {"annotations": {"a": "b"}}}).ok()
    same((status["kind"], status["metadata"]["annotations"]), ("ReplicationController", {"a": "b"}))
    same(k.get(f"{at}/rc-test/status").ok()["kind"], "ReplicationController")
    scale = k.get(f"{at}/rc-test/scale").ok()
    same((scale["kind"], scale["apiVersion"]), ("Scale", "autoscaling/v1"))
    k.patch(f"{at}/rc-test/scale", {"spec": {"replicas": 2}}, type="application/strategic-merge-patch+json").ok()
    watch.until(lambda e: e["type"] == "MODIFIED" and e["object"]["spec"]["replicas"] == 2)
    k.delete(f"{at}?labelSelector=test-rc-static%3Dtrue").ok()
    watch.until(lambda e: e["type"] == "DELETED")
    watch.close()
