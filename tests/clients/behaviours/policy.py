"""Disruption budgets, evictions, events, pods' rules, certificates, addresses."""

import base64
import subprocess

from api import APPLY, JSON, MERGE, PATCH, STRATEGIC, claim, pod, same, seg, within


def namespace(ns):
    return f"/api/v1/namespaces/{ns}"


def ready(k, at):
    status = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]}
    k.patch(f"{at}/status", {"status": status}, type=STRATEGIC).ok()


@claim("evictions: refused with 429 and its cause, allowed with a condition; the budget's status")
def _(k):
    ns = k.namespace("pdb")
    at, pods = f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets", f"{namespace(ns)}/pods"
    node = f"n-{ns}"
    k.post("/api/v1/nodes", {"metadata": {"name": node}}).ok(201)
    for n in "ab":
        k.post(pods, {**pod(n, nodeName=node), "metadata": {"name": n, "labels": {"of": "pdb"}}}).ok(201)
        ready(k, f"{pods}/{n}")
    k.post(at, {"metadata": {"name": "b"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"of": "pdb"}}}}).ok(201)
    k.until(f"{at}/b", lambda a: (lambda s: (s.get("observedGeneration"), s["currentHealthy"], s["expectedPods"], s["disruptionsAllowed"], s["desiredHealthy"]) == (1, 2, 2, 0, 2))(a.json["status"]))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a", "namespace": ns}}
    answer = k.post(f"{pods}/a/eviction", eviction)
    status = answer.no(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
    same(status["details"]["causes"], [{"reason": "DisruptionBudget", "message": "The disruption budget b needs 2 healthy pods and has 2 currently"}])
    patched = k.patch(f"{at}/b", {"spec": {"maxUnavailable": "60%", "minAvailable": None}}).ok()
    same((patched["spec"].get("minAvailable"), patched["spec"]["maxUnavailable"]), (None, "60%"))
    # Pods that nobody made have no number of which it could be a share: nothing is allowed.
    k.until(f"{at}/b", lambda a: a.json["status"]["disruptionsAllowed"] == 0 and a.json["status"]["observedGeneration"] == 2)
    k.patch(f"{at}/b", {"spec": {"maxUnavailable": None, "minAvailable": 1}}).ok()
    k.until(f"{at}/b", lambda a: a.json["status"]["disruptionsAllowed"] == 1 and a.json["status"]["observedGeneration"] == 3)
    k.post(f"{pods}/a/eviction?dryRun=All", eviction).ok(201)
    answer = k.post(f"{pods}/a/eviction", eviction)
    within({"kind": "Status", "status": "Success"}, answer.ok(201))
    gone = k.get(f"{pods}/a")
    if gone.code == 200:
        within({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}, next(c for c in gone.json["status"]["conditions"] if c["type"] == "DisruptionTarget"))
        assert "a" in (k.get(f"{at}/b").json["status"].get("disruptedPods") or {"a": 1})
    k.patch(f"{at}/b", {"spec": {"maxUnavailable": None, "minAvailable": "1%"}}).ok()
    k.post(at, {"metadata": {"name": "c"}, "spec": {"minAvailable": 1, "maxUnavailable": 1, "selector": {}}}).no(422, "Invalid", "minAvailable and maxUnavailable cannot be both set")
    k.post(f"{pods}/none/eviction", {**eviction, "metadata": {"name": "none"}}).no(404, "NotFound")
    k.delete(f"{pods}?gracePeriodSeconds=0").ok()
    k.delete(f"/api/v1/nodes/{node}").ok()


@claim("pods: syntax errors of sysctls name the bad ones only; empty keys; immutable data")
def _(k):
    ns = k.namespace("sys")
    sysctls = [{"name": n, "value": "1"} for n in ("foo-", "kernel.shmmax", "safe-and-unsafe", "bar..")]
    status = k.post(f"{namespace(ns)}/pods", pod("p", securityContext={"sysctls": sysctls})).no(422, "Invalid", 'Invalid value: "foo-"', 'Invalid value: "bar.."')
    for fine in ("kernel.shmmax", "safe-and-unsafe"):
        assert f'"{fine}"' not in status["message"], status["message"]
    for kind, data in (("configmaps", "x"), ("secrets", "eA==")):
        at = f"{namespace(ns)}/{kind}"
        k.post(at, {"metadata": {"name": "empty"}, "data": {"": data}}).no(422, "Invalid", "data[]: Invalid value: ")
        k.post(at, {"metadata": {"name": "i"}, "data": {"a": data}, "immutable": True}).ok(201)
        k.patch(f"{at}/i", {"data": {"a": data.replace("x", "y").replace("eA==", "eQ==")}}).no(422, "Invalid", "data: Forbidden: field is immutable when `immutable` is set")
        k.patch(f"{at}/i", {"immutable": False}).no(422, "Invalid", "immutable: Forbidden: field is immutable when `immutable` is set")
        k.patch(f"{at}/i", {"metadata": {"labels": {"a": "b"}}}).ok()


@claim("pods: what may be changed and what not; generation")
def _(k):
    ns = k.namespace("gen")
    at = f"{namespace(ns)}/pods"
    made = k.post(at, {**pod("p"), "metadata": {"name": "p", "generation": 77}}).ok(201)
    same(made["metadata"]["generation"], 1)
    same(made["status"]["qosClass"], "BestEffort")
    generation = lambda: k.get(f"{at}/p").ok()["metadata"]["generation"]
    k.patch(f"{at}/p", {"metadata": {"labels": {"x": "y"}, "annotations": {"a": "b"}}}).ok()
    k.patch(f"{at}/p/status", {"status": {"message": "m"}}).ok()
    same(generation(), 1)
    k.patch(f"{at}/p", {"spec": {"containers": [{"name": "c", "image": "other"}]}}, type=STRATEGIC).ok()
    same(generation(), 2)
    k.patch(f"{at}/p", {"spec": {"activeDeadlineSeconds": 1000}}).ok()
    same(generation(), 3)
    k.patch(f"{at}/p", {"spec": {"activeDeadlineSeconds": 500}}).ok()
    same(generation(), 4)
    k.patch(f"{at}/p", {"spec": {"activeDeadlineSeconds": 5000}}).no(422, "Invalid", "spec.activeDeadlineSeconds: Invalid value: 5000: must be less than or equal to previous value")
    tolerations = k.get(f"{at}/p").json["spec"]["tolerations"]
    k.patch(f"{at}/p", {"spec": {"tolerations": tolerations + [{"key": "k", "operator": "Exists"}]}}).ok()
    same(generation(), 5)
    k.patch(f"{at}/p", {"spec": {"tolerations": tolerations}}).no(422, "Invalid", "existing toleration can not be modified except its tolerationSeconds")
    current = k.get(f"{at}/p").json
    current["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1"}}
    k.put(f"{at}/p", current).no(422, "Invalid", "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)")
    k.delete(f"{at}/p?gracePeriodSeconds=0").ok()
    # A pod on a node goes only when its kubelet has seen its containers dead.
    node = f"n-{ns}"
    k.post("/api/v1/nodes", {"metadata": {"name": node}}).ok(201)
    k.post(at, {**pod("q", nodeName=node)}).ok(201)
    watch = k.watch(f"{at}?fieldSelector=metadata.name%3Dq")
    going = k.delete(f"{at}/q", {"gracePeriodSeconds": 20}).ok(200)
    same((going["kind"], going["metadata"]["deletionGracePeriodSeconds"], going["metadata"]["generation"]), ("Pod", 20, 2))
    assert going["metadata"]["deletionTimestamp"]
    same(k.get(f"{at}/q").code, 200)
    k.delete(f"{at}/q", {"gracePeriodSeconds": 0}).ok(200)
    gone = watch.until(lambda e: e["type"] == "DELETED")
    assert gone["object"]["metadata"]["deletionTimestamp"]
    same(k.get(f"{at}/q").code, 404)
    watch.close()
    k.delete(f"/api/v1/nodes/{node}").ok()


@claim("nodes made by hand break nothing; pods without one are told why")
def _(k):
    ns = k.namespace("sched")
    node = f"hand-{ns}"
    k.post("/api/v1/nodes", {"metadata": {"name": node}, "spec": {"unschedulable": True}}).ok(201)
    at = f"{namespace(ns)}/pods"
    k.post(at, pod("p", nodeSelector={"no": "where"})).ok(201)
    k.until(f"{at}/p", lambda a: any(c["type"] == "PodScheduled" and c["status"] == "False" and c["reason"] == "Unschedulable" for c in a.json["status"]["conditions"]))
    k.until(f"{namespace(ns)}/events?fieldSelector=reason%3DFailedScheduling", lambda a: a.json["items"][0]["metadata"]["name"].startswith("p.") and a.json["items"][0]["type"] == "Warning")
    k.delete(f"/api/v1/nodes/{node}").ok()


@claim("CSR: foreign conditions stay, approval by PATCH, expirationSeconds kept, both selectors")
def _(k):
    ns = k.namespace("csr")
    made = subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=test"], capture_output=True, check=True).stdout
    at = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    spec = {"request": base64.b64encode(made).decode(), "signerName": f"example.com/{ns}", "usages": ["client auth"], "expirationSeconds": 3600}
    names = [f"{ns}-{n}" for n in range(3)]
    for name in names:
        csr = k.post(at, {"metadata": {"name": name, "labels": {"of": ns}}, "spec": spec}).ok(201)
        same(csr["spec"]["expirationSeconds"], 3600)
        assert csr["spec"]["username"], csr["spec"]
    name = names[0]
    x = {"type": "ApprovalPatch", "status": "True", "reason": "FromTest", "message": "m"}
    got = k.patch(f"{at}/{name}/approval", {"metadata": {"annotations": {"patchedapproval": "true"}}, "status": {"conditions": [x]}}).ok()
    same((got["status"]["conditions"][0]["type"], got["metadata"]["annotations"]["patchedapproval"]), ("ApprovalPatch", "true"))
    got = k.get(f"{at}/{name}/approval").ok()
    got["status"]["conditions"].append({"type": "Approved", "status": "True", "reason": "E2E", "message": "Set from an e2e test"})
    got = k.put(f"{at}/{name}/approval", got).ok()
    same([c["type"] for c in got["status"]["conditions"]], ["ApprovalPatch", "Approved"])
    k.patch(f"{at}/{name}/status", {"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": base64.b64encode(b"").decode()}}).ok()
    got = k.get(f"{at}/{name}/status").ok()
    got["status"]["conditions"].append({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from an e2e test"})
    got = k.put(f"{at}/{name}/status", got).ok()
    same(sorted(c["type"] for c in got["status"]["conditions"]), ["ApprovalPatch", "Approved", "StatusUpdate"])
    same([i["metadata"]["name"] for i in k.get(f"{at}?fieldSelector={seg('spec.signerName=example.com/' + ns)}").ok()["items"]], names)
    k.delete(f"{at}/{name}").ok()
    k.delete(f"{at}?labelSelector=of%3D{ns}&fieldSelector=metadata.name%3D{names[1]}").ok()
    k.delete(f"{at}?fieldSelector={seg('spec.signerName=example.com/' + ns)}").ok()
    same(k.get(f"{at}?labelSelector=of%3D{ns}").ok()["items"], [])


@claim("IPAddress names are canonical addresses; ServiceCIDR kubernetes exists")
def _(k):
    cidr = k.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").ok()
    assert any(c["type"] == "Ready" and c["status"] == "True" for c in cidr["status"]["conditions"]), cidr["status"]
    at = "/apis/networking.k8s.io/v1/ipaddresses"
    spec = {"parentRef": {"group": "", "resource": "services", "name": "s", "namespace": "default"}}
    for name in ("192.168.17.2", "2001:db8:1::17"):
        k.post(at, {"metadata": {"name": name}, "spec": spec}).ok(201)
        k.delete(f"{at}/{seg(name)}").ok()
    for n in range(3):
        k.post(at, {"metadata": {"name": f"192.168.18.{n}", "labels": {"n": str(n), "of": "collection"}}, "spec": spec}).ok(201)
    k.delete(f"{at}?labelSelector=n%3D0,of%3Dcollection").ok()
    k.delete(f"{at}?fieldSelector=metadata.name%3D192.168.18.1").ok()
    same([i["metadata"]["name"] for i in k.get(f"{at}?labelSelector=of%3Dcollection").ok()["items"]], ["192.168.18.2"])
    k.delete(f"{at}?labelSelector=of%3Dcollection").ok()
    for name in ("192.168.017.2", "2001:DB8:1::17", "text"):
        k.post(at, {"metadata": {"name": name}, "spec": spec}).no(422, "Invalid", "metadata.name: Invalid value: ")
    k.post(at, {"metadata": {"name": "192.168.17.3"}, "spec": {}}).no(422, "Invalid", "spec.parentRef")


@claim("events: one store, two views; without a name of the object; a series is kept as it was sent")
def _(k):
    ns = k.namespace("ev")
    new, core = f"/apis/events.k8s.io/v1/namespaces/{ns}/events", f"{namespace(ns)}/events"
    event = {
        "metadata": {"name": "e", "labels": {"l": "x"}}, "regarding": {"kind": "Node", "namespace": ns}, "action": "Do", "reason": "Test", "type": "Normal",
        "reportingController": "test-controller", "reportingInstance": "test-node", "eventTime": "2026-11-23T01:00:00.123456Z", "note": "This is",
    }
    made = k.post(new, event).ok(201)
    other = k.get(f"{core}/e").ok()
    within({"message": "This is", "reportingComponent": "test-controller", "reportingInstance": "test-node", "involvedObject": {"kind": "Node"}, "eventTime": event["eventTime"]}, other)
    made["series"] = {"count": 2, "lastObservedTime": "2026-11-23T01:00:01.000000Z"}
    k.put(f"{new}/e", made).ok()
    read = k.get(f"{new}/e").ok()
    made["metadata"], read["metadata"] = {}, {}
    same(read, made, "what was read back")
    patched = k.patch(f"{new}/e", {"series": {"count": 4, "lastObservedTime": "2026-11-23T01:00:02.000000Z"}}, type=STRATEGIC).ok()
    same(patched["series"]["count"], 4)
    old = {"metadata": {"name": "o"}, "involvedObject": {"namespace": ns}, "message": "m", "source": {"component": "c"}, "type": "Normal", "reason": "R", "count": 3, "firstTimestamp": "2026-11-23T01:00:00Z", "lastTimestamp": "2026-11-23T01:00:00Z"}
    k.post(core, old).ok(201)
    within({"note": "m", "deprecatedSource": {"component": "c"}, "deprecatedCount": 3, "regarding": {"namespace": ns}}, k.get(f"{new}/o").ok())
    same(len(k.get("/api/v1/events?fieldSelector=metadata.name%3Do,metadata.namespace%3D" + ns).ok()["items"]), 1)
    k.delete(f"{new}?labelSelector=l%3Dx").ok()
    same(k.get(f"{core}/e").code, 404)
