"""Creating, updating, patching, deleting."""

import json
import time

from api import APPLY, JSON, MERGE, PATCH, STRATEGIC, claim, pod, same, seg, within


def deployment(name, replicas=1, labels=None):
    labels = labels or {"app": name}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "x"}]}}},
    }


@claim("fieldValidation: Strict refuses with all faults in order, Warn warns, Ignore is silent")
def _(k):
    ns = k.namespace("fv")
    at = f"/apis/apps/v1/namespaces/{ns}/deployments"
    text = json.dumps(deployment("d"))
    text = text.replace('"replicas": 1', '"unknownField": "x", "replicas": 1, "replicas": 2')
    k.post(f"{at}?fieldValidation=Strict", text).no(400, "BadRequest", 'strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"')
    meta = text.replace('"name": "d"', '"name": "d", "unknownMeta": "y"', 1)
    status = k.post(f"{at}?fieldValidation=Strict", meta).no(400, "BadRequest", 'unknown field "metadata.unknownMeta"')
    assert status["message"].startswith('Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: '), status["message"]
    answer = k.post(f"{at}?fieldValidation=Warn&dryRun=All", text)
    answer.ok(201)
    same(answer.headers.get_all("Warning"), ['299 - "unknown field \\"spec.unknownField\\""', '299 - "duplicate field \\"spec.replicas\\""'])
    answer = k.post(f"{at}?fieldValidation=Ignore&dryRun=All", text)
    answer.ok(201)
    same(answer.headers.get_all("Warning"), None)
    same(answer.json["spec"]["replicas"], 2)
    answer = k.post(f"{at}?dryRun=All", text)
    assert answer.headers.get_all("Warning"), "Warn is what happens if nobody says anything"
    k.post(f"{at}?fieldValidation=Some", text).no(422, "Invalid", 'fieldValidation: Unsupported value: "Some": supported values: "", "Ignore", "Strict", "Warn"')
    k.post(at, deployment("d")).ok(201)
    k.patch(f"{at}/d?fieldValidation=Strict", '{"spec": {"unknownField": "x", "replicas": 1, "replicas": 2}}').no(422, "Invalid", 'strict decoding error: ', 'duplicate field "spec.replicas"', 'unknown field "spec.unknownField"')
    k.patch(f"{at}/d?fieldValidation=Strict", '{"spec": {"unknownField": "x", "replicas": 1, "replicas": 2}}', type=STRATEGIC).no(422, "Invalid", 'strict decoding error: ', 'unknown field "spec.unknownField"')
    yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\nspec:\n  unknownField: x\n  replicas: 1\n  replicas: 2\n"
    unknown = k.patch(f"{at}/d?fieldValidation=Strict&fieldManager=x&force=true", yaml, type=APPLY)
    same((unknown.code, unknown.json["message"]), (500, "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.unknownField: field not declared in schema"))
    yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\nspec:\n  replicas: 1\n  replicas: 2\n"
    repeated = 'line 7: key "replicas" already set in map'
    k.patch(f"{at}/d?fieldValidation=Strict&fieldManager=x&force=true", yaml, type=APPLY).no(400, "BadRequest", f"error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {repeated}")
    warned = k.patch(f"{at}/d?fieldManager=x&force=true&dryRun=All", yaml, type=APPLY)
    warned.ok()
    same(warned.headers.get_all("Warning"), [f'299 - "{repeated}"'.replace('key "replicas"', 'key \\"replicas\\"')])
    yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\nspec:\n  unknownField: x\n  replicas: 1\n  replicas: 2\n"
    k.post(f"{at}?fieldValidation=Strict", yaml, type="application/yaml").no(400, "BadRequest", 'strict decoding error: yaml: unmarshal errors:\n  line 8: key "replicas" already set in map, unknown field "spec.unknownField"')
    k.put(f"{at}/d?fieldValidation=Strict", text).no(400, "BadRequest", 'strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"')


@claim("dryRun: create, update, patch, delete change nothing; other values are refused")
def _(k):
    ns = k.namespace("dry")
    at = f"/api/v1/namespaces/{ns}/configmaps"
    k.post(f"{at}?dryRun=All", {"metadata": {"name": "a"}}).ok(201)
    same(k.get(f"{at}/a").code, 404)
    made = k.post(at, {"metadata": {"name": "a"}}).ok(201)
    k.patch(f"{at}/a?dryRun=All", {"data": {"a": "b"}}).ok()
    k.put(f"{at}/a?dryRun=All", {**made, "data": {"a": "b"}}).ok()
    k.delete(f"{at}/a?dryRun=All").ok()
    k.delete(f"{at}/a", {"dryRun": ["All"]}).ok()
    k.delete(f"{at}?dryRun=All").ok()
    same(k.get(f"{at}/a").ok()["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"])
    k.post(f"{at}?dryRun=Some", {"metadata": {"name": "b"}}).no(422, "Invalid", 'CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All"')


@claim("patches: JSON, merge, strategic by key; ownerReferences merge by uid")
def _(k):
    ns = k.namespace("patch")
    at = f"/apis/apps/v1/namespaces/{ns}/deployments/d"
    k.post(at.rsplit("/", 1)[0], deployment("d", 0)).ok(201)
    k.patch(at, [{"op": "test", "path": "/spec/replicas", "value": 0}, {"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}], type=PATCH).ok()
    k.patch(at, [{"op": "test", "path": "/spec/replicas", "value": 5}], type=PATCH).no(422, "Invalid")
    two = k.patch(at, {"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "y"}]}}}}, type=STRATEGIC).ok()
    same(sorted(c["name"] for c in two["spec"]["template"]["spec"]["containers"]), ["a", "b"])
    one = k.patch(at, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "y"}]}}}}, type=MERGE).ok()
    same([c["name"] for c in one["spec"]["template"]["spec"]["containers"]], ["c"])
    owner = lambda n: {"apiVersion": "v1", "kind": "ConfigMap", "name": n, "uid": f"uid-{n}"}
    maps = f"/api/v1/namespaces/{ns}/configmaps"
    k.post(maps, {"metadata": {"name": "m", "finalizers": ["example.com/x"], "ownerReferences": [owner("a")]}}).ok(201)
    both = k.patch(f"{maps}/m", {"metadata": {"ownerReferences": [owner("b")]}}, type=STRATEGIC).ok()
    same(sorted(o["name"] for o in both["metadata"]["ownerReferences"]), ["a", "b"])
    k.patch(f"{maps}/m", {"metadata": {"finalizers": None}}, type=MERGE).ok()


@claim("apply: creates and merges, needs a fieldManager, conflicts are told, force takes over, managedFields are kept")
def _(k):
    ns = k.namespace("apply")
    at = f"/api/v1/namespaces/{ns}/configmaps/a"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "1"}}
    k.patch(at, body, type=APPLY).no(422, "Invalid", "fieldManager: Required value: is required for apply patch")
    made = k.patch(f"{at}?fieldManager=one", body, type=APPLY)
    made.ok(201)
    same([(m["manager"], m["operation"]) for m in made.json["metadata"]["managedFields"]], [("one", "Apply")])
    body["data"]["k"] = "2"
    status = k.patch(f"{at}?fieldManager=two", body, type=APPLY).no(409, "Conflict", 'Apply failed with 1 conflict: conflict with "one": .data.k')
    same(status["details"]["causes"], [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.k"}])
    taken = k.patch(f"{at}?fieldManager=two&force=true", body, type=APPLY).ok(200)
    # The first owns nothing any more, and goes.
    same([m["manager"] for m in taken["metadata"]["managedFields"]], ["two"])
    gone = k.patch(f"{at}?fieldManager=two", {**body, "data": {}}, type=APPLY).ok()
    assert not gone.get("data"), gone


@claim("apply and update: who may not create makes nothing by them")
def _(k):
    ns = k.namespace("may")
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}"
    rules = [{"apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"], "verbs": ["get", "patch", "update"]}]
    k.post(f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules}).ok(201)
    k.post(f"{rbac}/rolebindings", {"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "jim", "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}}).ok(201)
    maps, leases = f"/api/v1/namespaces/{ns}/configmaps", f"/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
    k.until(maps, lambda _: k.get(f"{maps}/none", Impersonate_User="jim").code == 404)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "1"}}
    k.patch(f"{maps}/a?fieldManager=m", body, type=APPLY, Impersonate_User="jim").no(403, "Forbidden", 'User "jim" cannot create resource "configmaps" in API group "" in the namespace')
    k.put(f"{leases}/a", {"metadata": {"name": "a"}, "spec": {}}, Impersonate_User="jim").no(403, "Forbidden", 'User "jim" cannot create resource "leases" in API group "coordination.k8s.io" in the namespace')
    k.patch(f"{maps}/a?fieldManager=m", body, type=APPLY).ok(201)
    lease = k.put(f"{leases}/a", {"metadata": {"name": "a"}, "spec": {}}).ok(201)
    k.patch(f"{maps}/a?fieldManager=m", {**body, "data": {"k": "2"}}, type=APPLY, Impersonate_User="jim").ok(200)
    k.put(f"{leases}/a", {**lease, "spec": {"holderIdentity": "h"}}, Impersonate_User="jim").ok(200)


@claim("updates: without a version unconditional, with an old one 409; another UID is 409; create twice is 409; generateName")
def _(k):
    ns = k.namespace("upd")
    at = f"/api/v1/namespaces/{ns}/configmaps"
    first = k.post(at, {"metadata": {"name": "a"}}).ok(201)
    k.post(at, {"metadata": {"name": "a"}}).no(409, "AlreadyExists", 'configmaps "a" already exists')
    k.put(f"{at}/a", {"metadata": {"name": "a"}, "data": {"x": "1"}}).ok(200)
    k.put(f"{at}/a", {**first, "data": {"x": "2"}}).no(409, "Conflict", 'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again')
    k.patch(f"{at}/a", {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"x": "3"}}).no(409, "Conflict")
    k.put(f"{at}/a", {"metadata": {"name": "a", "uid": "other"}}).no(409, "Conflict", "Precondition failed: UID in precondition: other, UID in object meta: ")
    k.delete(f"{at}/a", {"preconditions": {"uid": "other"}}).no(409, "Conflict", "the UID in the precondition (other) does not match the UID in record")
    k.delete(f"{at}/a", {"preconditions": {"resourceVersion": "1"}}).no(409, "Conflict", "the ResourceVersion in the precondition (1) does not match")
    deleted = k.delete(f"{at}/a", {"preconditions": {"uid": first["metadata"]["uid"]}}).ok()
    within({"kind": "Status", "status": "Success", "details": {"name": "a", "kind": "configmaps", "uid": first["metadata"]["uid"]}}, deleted)
    named = k.post(at, {"metadata": {"generateName": "gen-"}}).ok(201)["metadata"]["name"]
    assert named.startswith("gen-") and len(named) == 9, named
    k.put(f"{at}/none", {"metadata": {"name": "none"}}).no(404, "NotFound", 'configmaps "none" not found')
    k.put(f"{at}/none", {"metadata": {"name": "none", "resourceVersion": "1"}}).no(404, "NotFound")
    k.post(at, {"metadata": {"name": "x", "namespace": "other"}}).no(400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request")
    k.post(f"/api/v1/namespaces/{ns}/events", {"metadata": {"name": "e"}, "involvedObject": {"namespace": ns}}).ok(201)
    k.put(f"/api/v1/namespaces/{ns}/events/e", {"metadata": {"name": "e"}, "involvedObject": {"namespace": ns}, "count": 2}).ok(200)


COLLECTIONS = {
    "/api/v1/{}/pods": pod("x"),
    "/api/v1/{}/services": {"spec": {"ports": [{"port": 80}]}},
    "/api/v1/{}/endpoints": {},
    "/apis/discovery.k8s.io/v1/{}/endpointslices": {"addressType": "IPv4", "endpoints": []},
    "/api/v1/{}/events": {"involvedObject": {"namespace": "{}"}},
    "/apis/events.k8s.io/v1/{}/events": {"eventTime": "2026-11-23T01:00:00.000000Z", "reportingController": "a.b/c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal", "regarding": {"namespace": "{}"}},
    "/apis/coordination.k8s.io/v1/{}/leases": {"spec": {}},
    "/api/v1/{}/podtemplates": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}},
    "/apis/apps/v1/{}/controllerrevisions": {"revision": 1, "data": {}},
    "/api/v1/{}/replicationcontrollers": {"spec": {"replicas": 0, "selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}},
    "/apis/apps/v1/{}/replicasets": {"spec": deployment("x", 0)["spec"]},
    "/apis/apps/v1/{}/deployments": {"spec": deployment("x", 0)["spec"]},
    "/apis/apps/v1/{}/statefulsets": {"spec": {**deployment("x", 0)["spec"], "serviceName": "s"}},
    "/apis/apps/v1/{}/daemonsets": {"spec": {k: v for k, v in deployment("x")["spec"].items() if k != "replicas"}},
    "/apis/batch/v1/{}/jobs": {"spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}},
    "/apis/batch/v1/{}/cronjobs": {"spec": {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}}}},
    "/apis/policy/v1/{}/poddisruptionbudgets": {"spec": {"minAvailable": 1, "selector": {"matchLabels": {"q": "r"}}}},
    "/api/v1/{}/limitranges": {"spec": {"limits": [{"type": "Pod"}]}},
    "/api/v1/{}/resourcequotas": {"spec": {"hard": {"pods": "100"}}},
    "/api/v1/{}/serviceaccounts": {},
    "/api/v1/{}/secrets": {},
    "/api/v1/{}/configmaps": {},
    "/apis/networking.k8s.io/v1/{}/ingresses": {"spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}},
    "/apis/networking.k8s.io/v1/{}/networkpolicies": {"spec": {"podSelector": {}}},
    "/apis/networking.k8s.io/v1/ingressclasses": {"spec": {"controller": "a.b/c"}},
    "/apis/certificates.k8s.io/v1/certificatesigningrequests": None,
    "/api/v1/{}/persistentvolumeclaims": {"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}},
    "/api/v1/persistentvolumes": {"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "none", "hostPath": {"path": "/nowhere"}}},
    "/apis/storage.k8s.io/v1/storageclasses": {"provisioner": "a.b/c"},
    "/apis/storage.k8s.io/v1/volumeattributesclasses": {"driverName": "a.b", "parameters": {"a": "b"}},
    "/apis/storage.k8s.io/v1/csidrivers": {"spec": {}},
    "/apis/storage.k8s.io/v1/csinodes": {"spec": {"drivers": []}},
    "/apis/storage.k8s.io/v1/{}/csistoragecapacities": {"storageClassName": "a"},
    "/apis/storage.k8s.io/v1/volumeattachments": {"spec": {"attacher": "a.b", "nodeName": "n", "source": {"persistentVolumeName": "p"}}},
    "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas": {"spec": {"priorityLevelConfiguration": {"name": "global-default"}, "matchingPrecedence": 9000, "rules": [{"subjects": [{"kind": "User", "user": {"name": "x"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}},
    "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations": {"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}},
    "/apis/resource.k8s.io/v1/{}/resourceclaims": {"spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "d.e"}}]}}},
    "/apis/resource.k8s.io/v1/{}/resourceclaimtemplates": {"spec": {"spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "d.e"}}]}}}},
    "/apis/resource.k8s.io/v1/deviceclasses": {"spec": {"selectors": [{"cel": {"expression": "true"}}]}},
    "/apis/resource.k8s.io/v1/resourceslices": {"spec": {"driver": "a.b", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": []}},
    "/apis/node.k8s.io/v1/runtimeclasses": {"handler": "h"},
    "/apis/scheduling.k8s.io/v1/priorityclasses": {"value": 5},
    "/apis/autoscaling/v2/{}/horizontalpodautoscalers": {"spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"}}},
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies": {"spec": {"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nothings"]}]}, "validations": [{"expression": "true"}]}},
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations": {"webhooks": []},
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations": {"webhooks": []},
    "/apis/rbac.authorization.k8s.io/v1/{}/roles": {"rules": []},
    "/apis/rbac.authorization.k8s.io/v1/{}/rolebindings": {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "x"}},
    "/apis/rbac.authorization.k8s.io/v1/clusterroles": {"rules": []},
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings": {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "x"}},
}


@claim("deletecollection: by labels and by fields, of every kind")
def _(k):
    ns = k.namespace("dc")
    faults = []
    for template, body in COLLECTIONS.items():
        if body is None:
            continue
        at = template.format(f"namespaces/{ns}")
        body = json.loads(json.dumps(body).replace('"{}"', f'"{ns}"'))
        names = []
        for label in ("by-label", "by-field", "stays"):
            name = f"{ns}-{label}"
            made = k.post(at, {**body, "metadata": {"name": name, "labels": {"how": label, "of": ns}}})
            if made.code != 201:
                faults.append(f"{at}: create {made.code} {made.text[:300]}")
                break
            names.append(name)
        else:
            one = k.delete(f"{at}?labelSelector=how%3Dby-label,of%3D{ns}&gracePeriodSeconds=0")
            two = k.delete(f"{at}?fieldSelector=metadata.name%3D{ns}-by-field&gracePeriodSeconds=0")
            if (one.code, two.code) != (200, 200):
                faults.append(f"{at}: {one.code} {two.code} {one.text[:200]} {two.text[:200]}")
            if not one.json.get("kind", "").endswith("List"):
                faults.append(f"{at}: answers {one.json.get('kind')}")
            for _ in range(100):
                left = [i["metadata"]["name"] for i in k.get(f"{at}?labelSelector=of%3D{ns}").ok()["items"]]
                if left == [f"{ns}-stays"]:
                    break
                time.sleep(0.1)
            if left != [f"{ns}-stays"]:
                faults.append(f"{at}: {left} are left")
            k.delete(f"{at}?labelSelector=of%3D{ns}&gracePeriodSeconds=0").ok()
    assert not faults, "\n          ".join([""] + faults)


STATUSES = {
    "/api/v1/namespaces": ({}, {"phase": "Active"}),
    "/api/v1/nodes": ({}, {"capacity": {"cpu": "3"}}),
    "/api/v1/{}/pods": (pod("x"), {"message": "m"}),
    "/api/v1/{}/services": ({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}, {"loadBalancer": {"ingress": [{"ip": "1.2.3.4", "ipMode": "VIP"}]}}),
    "/api/v1/{}/resourcequotas": ({"spec": {"hard": {"pods": "5"}}}, {}),
    "/api/v1/persistentvolumes": (COLLECTIONS["/api/v1/persistentvolumes"], {"message": "m"}),
    "/api/v1/{}/persistentvolumeclaims": (COLLECTIONS["/api/v1/{}/persistentvolumeclaims"], {"conditions": [{"type": "X", "status": "True"}]}),
    "/apis/networking.k8s.io/v1/{}/ingresses": (COLLECTIONS["/apis/networking.k8s.io/v1/{}/ingresses"], {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
    "/apis/networking.k8s.io/v1/servicecidrs": ({"spec": {"cidrs": ["10.99.0.0/24"]}}, {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-11-23T01:00:00Z"}]}),
    "/apis/storage.k8s.io/v1/volumeattachments": (COLLECTIONS["/apis/storage.k8s.io/v1/volumeattachments"], {"attached": True}),
    "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas": (COLLECTIONS["/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"], {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-11-23T01:00:00Z"}]}),
    "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations": (COLLECTIONS["/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations"], {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-11-23T01:00:00Z"}]}),
    "/apis/policy/v1/{}/poddisruptionbudgets": (COLLECTIONS["/apis/policy/v1/{}/poddisruptionbudgets"], {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-11-23T01:00:00Z"}]}),
    "/apis/batch/v1/{}/cronjobs": (COLLECTIONS["/apis/batch/v1/{}/cronjobs"], {"lastScheduleTime": "2026-11-23T01:00:00Z"}),
    "/apis/batch/v1/{}/jobs": (COLLECTIONS["/apis/batch/v1/{}/jobs"], {"conditions": [{"type": "X", "status": "True"}]}),
    "/apis/apps/v1/{}/deployments": (COLLECTIONS["/apis/apps/v1/{}/deployments"], {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m"}]}),
    "/apis/apps/v1/{}/replicasets": (COLLECTIONS["/apis/apps/v1/{}/replicasets"], {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m"}]}),
    "/apis/apps/v1/{}/statefulsets": (COLLECTIONS["/apis/apps/v1/{}/statefulsets"], {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m"}]}),
    "/apis/apps/v1/{}/daemonsets": (COLLECTIONS["/apis/apps/v1/{}/daemonsets"], {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m"}]}),
    "/api/v1/{}/replicationcontrollers": (COLLECTIONS["/api/v1/{}/replicationcontrollers"], {"conditions": [{"type": "X", "status": "True"}]}),
    "/apis/apiregistration.k8s.io/v1/apiservices": ({"spec": {"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200, "insecureSkipTLSVerify": True, "service": {"name": "s", "namespace": "default"}}}, {"conditions": [{"type": "X", "status": "True"}]}),
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies": (COLLECTIONS["/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"], {"conditions": [{"type": "X", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-11-23T01:00:00Z"}]}),
    "/apis/resource.k8s.io/v1/{}/resourceclaims": (COLLECTIONS["/apis/resource.k8s.io/v1/{}/resourceclaims"], {}),
    "/apis/autoscaling/v2/{}/horizontalpodautoscalers": (COLLECTIONS["/apis/autoscaling/v2/{}/horizontalpodautoscalers"], {"desiredReplicas": 1}),
}

# Whose status says nothing about metadata: kube-apiserver keeps the old.
KEEP_METADATA = ("servicecidrs", "volumeattachments", "flowschemas", "prioritylevelconfigurations", "apiservices", "validatingadmissionpolicies", "resourceclaims")


@claim("status: GET, PUT, PATCH; annotations stick where they do in Kubernetes, spec stays; the whole object with its kind and UID")
def _(k):
    ns = k.namespace("st")
    faults = []
    for template, (body, status) in STATUSES.items():
        at = template.format(f"namespaces/{ns}")
        name = "v1alpha1.wardle.example.com" if "apiservices" in at else f"st-{ns}"
        try:
            made = k.post(at, {**body, "metadata": {"name": name, "labels": {"app": "x"}}}).ok(201)
            got = k.get(f"{at}/{name}/status").ok()
            same((got["kind"], got["metadata"]["uid"]), (made["kind"], made["metadata"]["uid"]))
            patched = k.patch(f"{at}/{name}/status", {"metadata": {"annotations": {"patched": "yes"}, "labels": {"also": "yes"}}, "spec": {"unknown": "x"}, "status": status}).ok()
            stuck = None if at.rsplit("/", 1)[1] in KEEP_METADATA else "yes"
            annotation = lambda answer, name: answer["metadata"].get("annotations", {}).get(name)
            same((patched["kind"], patched["metadata"]["uid"]), (made["kind"], made["metadata"]["uid"]))
            same(annotation(patched, "patched"), stuck, "the annotation")
            for key, value in status.items():
                if key != "conditions":
                    same(patched["status"].get(key), value, key)
                else:
                    assert "X" in [c["type"] for c in patched["status"]["conditions"]], patched["status"]
            whole = k.get(f"{at}/{name}").ok()
            same(annotation(whole, "patched"), stuck, "the annotation afterwards")
            for _ in range(5):
                whole = k.get(f"{at}/{name}/status").ok()
                whole["metadata"].setdefault("annotations", {})["put"] = "yes"
                answer = k.put(f"{at}/{name}/status", whole)
                if answer.code != 409:
                    break
            same(annotation(answer.ok(), "put"), stuck, "the annotation of a PUT")
        except Exception as error:
            faults.append(f"{at}: {error}")
        k.delete(f"{at}/{name}?gracePeriodSeconds=0")
    assert not faults, "\n          ".join([""] + faults)


@claim("scale: GET, PUT without a version, PATCH, of all that have one; selector and replicas")
def _(k):
    ns = k.namespace("sc")
    for template in ("/api/v1/{}/replicationcontrollers", "/apis/apps/v1/{}/replicasets", "/apis/apps/v1/{}/deployments", "/apis/apps/v1/{}/statefulsets"):
        at = template.format(f"namespaces/{ns}")
        k.post(at, {**COLLECTIONS[template], "metadata": {"name": "x"}}).ok(201)
        got = k.get(f"{at}/x/scale").ok()
        same((got["kind"], got["apiVersion"], got["spec"].get("replicas", 0), got["status"]["replicas"]), ("Scale", "autoscaling/v1", 0, 0))
        assert got["status"]["selector"] in ("app=x", "a=b"), got
        got["metadata"].pop("resourceVersion")
        got["spec"]["replicas"] = 2
        same(k.put(f"{at}/x/scale", got).ok()["spec"]["replicas"], 2)
        same(k.get(f"{at}/x").ok()["spec"]["replicas"], 2)
        same(k.patch(f"{at}/x/scale", {"spec": {"replicas": 4}}).ok()["spec"]["replicas"], 4)
        same(k.patch(f"{at}/x/scale", {"spec": {"replicas": 3}}, type=STRATEGIC).ok()["spec"]["replicas"], 3)
        same(k.patch(f"{at}/x/scale", [{"op": "replace", "path": "/spec/replicas", "value": 1}], type=PATCH).ok()["spec"]["replicas"], 1)
        scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "x"}, "spec": {"replicas": 5}}
        k.patch(f"{at}/x/scale", scale, type=APPLY).no(422, "Invalid", "fieldManager: Required value: is required for apply patch")
        forced = k.patch(f"{at}/x/scale?fieldManager=scaler&force=true", scale, type=APPLY).ok()
        same((forced["kind"], forced["spec"]["replicas"]), ("Scale", 5))
        entry = next(m for m in k.get(f"{at}/x").ok()["metadata"]["managedFields"] if m["manager"] == "scaler")
        same((entry["operation"], entry["subresource"], entry["fieldsV1"]), ("Apply", "scale", {"f:spec": {"f:replicas": {}}}))
        scale["spec"]["replicas"] = 6
        status = k.patch(f"{at}/x/scale?fieldManager=other", scale, type=APPLY).no(409, "Conflict", 'Apply failed with 1 conflict: conflict with "scaler" with subresource "scale": .spec.replicas')
        same(status["details"]["causes"][0]["field"], ".spec.replicas")
        same(k.patch(f"{at}/x/scale?fieldManager=scaler", scale, type=APPLY).ok()["spec"]["replicas"], 6)
        k.patch(f"{at}/none/scale?fieldManager=scaler", {**scale, "metadata": {"name": "none"}}, type=APPLY).no(404, "NotFound")


@claim("MicroTime: year 0001 and microseconds come back as they went")
def _(k):
    ns = k.namespace("micro")
    at = f"/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
    for n, text in enumerate(["0001-01-01T00:00:02.000000Z", "0001-01-01T00:00:01.000000Z", "2026-11-23T01:00:00.123456Z"]):
        spec = {"holderIdentity": "h", "leaseDurationSeconds": 30, "acquireTime": text, "renewTime": text, "leaseTransitions": 0}
        made = k.post(at, {"metadata": {"name": f"l{n}"}, "spec": spec}).ok(201)
        same(made["spec"], spec)
        same(k.get(f"{at}/l{n}").ok()["spec"], spec)


@claim("protobuf: a body as generated clients send it, answered as they take it")
def _(k):
    ns = k.namespace("pb")
    text = lambda number, value: bytes([number << 3 | 2, len(value)]) + value
    meta = text(1, b"pb") + text(11, text(1, b"l") + text(2, b"v"))
    config = text(1, meta) + text(2, text(1, b"key") + text(2, b"value"))
    unknown = text(1, text(1, b"v1") + text(2, b"ConfigMap")) + text(2, config)
    at = f"/api/v1/namespaces/{ns}/configmaps"
    proto = "application/vnd.kubernetes.protobuf"
    answer = k.post(at, b"k8s\0" + unknown, type=proto, accept=f"{proto},application/json")
    same((answer.code, answer.headers["Content-Type"]), (201, proto))
    assert answer.body.startswith(b"k8s\0") and b"value" in answer.body
    same(k.get(f"{at}/pb").ok()["data"], {"key": "value"})
    assert k.get(at, accept=proto).body.startswith(b"k8s\0")


@claim("deletion: defaults of propagation by group, orphanDependents, options in body and query")
def _(k):
    ns = k.namespace("prop")
    rc = f"/api/v1/namespaces/{ns}/replicationcontrollers"
    job = f"/apis/batch/v1/namespaces/{ns}/jobs"
    rs = f"/apis/apps/v1/namespaces/{ns}/replicasets"

    def dependent(owner, name):
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "blockOwnerDeletion": True}
        k.post(f"/api/v1/namespaces/{ns}/configmaps", {"metadata": {"name": name, "ownerReferences": [reference]}}).ok(201)

    def fate(name):
        def over(a):
            return a.code == 404 or not a.json["metadata"].get("ownerReferences")
        return "gone" if k.until(f"/api/v1/namespaces/{ns}/configmaps/{name}", over).code == 404 else "orphan"

    for n, (at, template, options, expected) in enumerate([
        (rc, "/api/v1/{}/replicationcontrollers", None, "orphan"),
        (job, "/apis/batch/v1/{}/jobs", None, "orphan"),
        (rs, "/apis/apps/v1/{}/replicasets", None, "gone"),
        (rc, "/api/v1/{}/replicationcontrollers", {"orphanDependents": False}, "gone"),
        (rs, "/apis/apps/v1/{}/replicasets", {"orphanDependents": True}, "orphan"),
        (rs, "/apis/apps/v1/{}/replicasets", {"propagationPolicy": "Orphan"}, "orphan"),
        (rc, "/api/v1/{}/replicationcontrollers", {"propagationPolicy": "Foreground"}, "gone"),
        (job, "/apis/batch/v1/{}/jobs", {"propagationPolicy": "Background"}, "gone"),
    ]):
        owner = k.post(at, {**COLLECTIONS[template], "metadata": {"name": f"o{n}"}}).ok(201)
        dependent(owner, f"d{n}")
        k.delete(f"{at}/o{n}", options).ok()
        same(fate(f"d{n}"), expected, f"{n}: dependents of {at} deleted with {options}")
        k.until(f"{at}/o{n}", lambda a: a.code == 404)
    k.delete(f"{rs}/none", {"propagationPolicy": "Foreground", "orphanDependents": True}).no(422, "Invalid", "orphanDependents and deletionPropagation cannot be both set")
    k.delete(f"{rs}/none", {"propagationPolicy": "Some"}).no(422, "Invalid", 'propagationPolicy: Unsupported value: "Some"')


@claim("garbage: an owner waits for those that block it; another live owner keeps; circles do not deadlock")
def _(k):
    ns = k.namespace("gc")
    at = f"/api/v1/namespaces/{ns}/configmaps"
    reference = lambda o: {"apiVersion": "v1", "kind": "ConfigMap", "name": o["metadata"]["name"], "uid": o["metadata"]["uid"], "blockOwnerDeletion": True}
    make = lambda name, *owners, **meta: k.post(at, {"metadata": {"name": name, "ownerReferences": [reference(o) for o in owners], **meta}}).ok(201)
    a, b = make("a"), make("b")
    make("both", a, b)
    make("held", a, finalizers=["example.com/held"])
    going = k.delete(f"{at}/a", {"propagationPolicy": "Foreground"}).ok()
    same(going["metadata"]["finalizers"], ["foregroundDeletion"])
    k.until(f"{at}/both", lambda x: [o["name"] for o in x.json["metadata"]["ownerReferences"]] == ["b"])
    k.until(f"{at}/held", lambda x: x.json["metadata"].get("deletionTimestamp"))
    same(k.get(f"{at}/a").code, 200)
    k.patch(f"{at}/held", {"metadata": {"finalizers": None}}).ok()
    k.until(f"{at}/a", lambda x: x.code == 404)
    x = make("x")
    y = make("y", x)
    z = make("z", y)
    k.patch(f"{at}/x", {"metadata": {"ownerReferences": [reference(z)]}}).ok()
    k.delete(f"{at}/x", {"propagationPolicy": "Foreground"}).ok()
    k.until(at, lambda l: not {"x", "y", "z"} & {i["metadata"]["name"] for i in l.json["items"]}, within=90)
