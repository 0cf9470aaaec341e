"""Namespaces, service accounts, limits, quotas, priorities, runtime classes."""

import time

from api import MERGE, STRATEGIC, claim, pod, same, within


def namespace(ns):
    return f"/api/v1/namespaces/{ns}"


def limited(name, requests=None, limits=None, **spec):
    made = pod(name, **spec)
    made["spec"]["containers"][0]["resources"] = {"requests": requests or {}, "limits": limits or {}}
    return made


@claim("namespaces: label, finalizer, /finalize adds and removes others")
def _(k):
    ns = k.namespace("fin")
    made = k.get(namespace(ns)).ok()
    same(made["spec"]["finalizers"], ["kubernetes"])
    same(made["metadata"]["labels"]["kubernetes.io/metadata.name"], ns)
    made["spec"]["finalizers"].append("example.com/mine")
    same(k.put(f"{namespace(ns)}/finalize", made).ok()["spec"]["finalizers"], ["kubernetes", "example.com/mine"])
    k.delete(namespace(ns)).ok()
    k.until(namespace(ns), lambda a: a.json["spec"]["finalizers"] == ["example.com/mine"])
    last = k.get(namespace(ns)).ok()
    last["spec"]["finalizers"] = []
    k.put(f"{namespace(ns)}/finalize", last).ok()
    k.until(namespace(ns), lambda a: a.code == 404)


@claim("namespaces: pods go first; what blocks is told by conditions; nothing is created in one that goes")
def _(k):
    ns = k.namespace("gone")
    k.post(f"{namespace(ns)}/pods", {**pod("p"), "metadata": {"name": "p", "finalizers": ["example.com/held"]}}).ok(201)
    k.post(f"{namespace(ns)}/configmaps", {"metadata": {"name": "m"}}).ok(201)
    answer = k.delete(namespace(ns)).ok()
    same((answer["kind"], answer["status"]["phase"]), ("Namespace", "Terminating"))
    status = k.post(f"{namespace(ns)}/configmaps", {"metadata": {"name": "late"}}).no(403, "Forbidden", f"because it is being terminated")
    same(status["details"]["causes"][0]["reason"], "NamespaceTerminating")
    wanted = {"NamespaceDeletionContentFailure", "NamespaceContentRemaining", "NamespaceFinalizersRemaining"}
    found = k.until(namespace(ns), lambda a: wanted <= {c["type"] for c in a.json["status"]["conditions"] if c["status"] == "True"} or
                    {"NamespaceContentRemaining", "NamespaceFinalizersRemaining"} <= {c["type"] for c in a.json["status"]["conditions"] if c["status"] == "True"}).json
    types = {c["type"]: c for c in found["status"]["conditions"]}
    assert wanted <= set(types), f"conditions {sorted(types)}"
    assert "pods. has 1 resource instances" in types["NamespaceContentRemaining"]["message"], types["NamespaceContentRemaining"]
    assert "example.com/held in 1 resource instances" in types["NamespaceFinalizersRemaining"]["message"], types["NamespaceFinalizersRemaining"]
    same(k.get(f"{namespace(ns)}/configmaps/m").code, 200, "the ConfigMap while a pod blocks")
    assert k.get(f"{namespace(ns)}/pods/p").ok()["metadata"]["deletionTimestamp"]
    k.patch(f"{namespace(ns)}/pods/p", {"metadata": {"finalizers": None}}).ok()
    k.until(namespace(ns), lambda a: a.code == 404)


@claim("namespaces: an empty one is soon gone")
def _(k):
    ns = k.namespace("empty")
    k.delete(namespace(ns)).ok()
    k.until(namespace(ns), lambda a: a.code == 404, within=20)
    for protected in ("default", "kube-system", "kube-public"):
        k.delete(namespace(protected)).no(403, "Forbidden", "this namespace may not be deleted")


@claim("service accounts: default and the CA in every namespace, made again, repaired")
def _(k):
    ns = k.namespace("sa")
    ca = k.until(f"{namespace(ns)}/configmaps/kube-root-ca.crt", lambda a: a.code == 200).json["data"]["ca.crt"]
    k.patch(f"{namespace(ns)}/configmaps/kube-root-ca.crt", {"data": {"ca.crt": "other", "x": "y"}}).ok()
    k.until(f"{namespace(ns)}/configmaps/kube-root-ca.crt", lambda a: a.json["data"] == {"ca.crt": ca}, within=30)
    k.delete(f"{namespace(ns)}/configmaps/kube-root-ca.crt").ok()
    k.until(f"{namespace(ns)}/configmaps/kube-root-ca.crt", lambda a: a.code == 200, within=30)
    uid = k.get(f"{namespace(ns)}/serviceaccounts/default").ok()["metadata"]["uid"]
    k.delete(f"{namespace(ns)}/serviceaccounts/default").ok()
    k.until(f"{namespace(ns)}/serviceaccounts/default", lambda a: a.code == 200 and a.json["metadata"]["uid"] != uid, within=30)


@claim("service accounts: the token's volume, unless pod or account opts out; the pod wins")
def _(k):
    ns = k.namespace("sat")
    at = f"{namespace(ns)}/pods"
    for name, value in [("mount", True), ("nomount", False)]:
        k.post(f"{namespace(ns)}/serviceaccounts", {"metadata": {"name": name}, "automountServiceAccountToken": value}).ok(201)
    for n, (account, own, expected) in enumerate([
        ("default", None, True), ("mount", None, True), ("nomount", None, False),
        ("default", False, False), ("mount", False, False), ("nomount", False, False),
        ("default", True, True), ("mount", True, True), ("nomount", True, True),
    ]):
        spec = {"serviceAccountName": account}
        if own is not None:
            spec["automountServiceAccountToken"] = own
        made = k.post(at, pod(f"p{n}", **spec)).ok(201)
        mounts = [m["mountPath"] for m in made["spec"]["containers"][0].get("volumeMounts", [])]
        same("/var/run/secrets/kubernetes.io/serviceaccount" in mounts, expected, f"{account} {own}")
        if expected:
            sources = next(v for v in made["spec"]["volumes"] if v["name"].startswith("kube-api-access-"))["projected"]["sources"]
            same([next(iter(s)) for s in sources], ["serviceAccountToken", "configMap", "downwardAPI"])
    k.post(at, pod("none", serviceAccountName="none")).no(403, "Forbidden", f'pods "none" is forbidden: error looking up service account {ns}/none: serviceaccount "none" not found')


@claim("LimitRange: defaults by resource, request from limit, bounds, updates count soon, ephemeral-storage too")
def _(k):
    ns = k.namespace("lr")
    limit = {
        "type": "Container", "min": {"cpu": "50m", "memory": "100Mi", "ephemeral-storage": "100Gi"}, "max": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "default": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"}, "defaultRequest": {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"},
    }
    at = f"{namespace(ns)}/limitranges"
    k.post(at, {"metadata": {"name": "l"}, "spec": {"limits": [limit]}}).ok(201)
    pods = f"{namespace(ns)}/pods"
    found = k.post(pods, pod("none")).ok(201)["spec"]["containers"][0]["resources"]
    same(found, {"requests": limit["defaultRequest"], "limits": limit["default"]})
    partial = k.post(pods, limited("partial", {"cpu": "150m", "memory": "150Mi"})).ok(201)["spec"]["containers"][0]["resources"]
    same(partial, {"requests": {"cpu": "150m", "memory": "150Mi", "ephemeral-storage": "200Gi"}, "limits": limit["default"]})
    partial = k.post(pods, limited("limits", None, {"cpu": "300m"})).ok(201)["spec"]["containers"][0]["resources"]
    same((partial["requests"]["cpu"], partial["limits"]["cpu"]), ("300m", "300m"))
    k.post(pods, limited("small", {"cpu": "10m", "memory": "50Mi"})).no(403, "Forbidden", "minimum cpu usage per Container is 50m, but request is 10m", "minimum memory usage per Container is 100Mi, but request is 50Mi")
    k.post(pods, limited("big", {"cpu": "600m"}, {"cpu": "600m"})).no(403, "Forbidden", "maximum cpu usage per Container is 500m, but limit is 600m")
    limit["min"] = {"cpu": "9m", "memory": "10Mi"}
    k.put(f"{at}/l", {"metadata": {"name": "l"}, "spec": {"limits": [limit]}}).ok()
    k.post(pods, limited("small2", {"cpu": "10m", "memory": "50Mi"})).ok(201)


@claim("ResourceQuota: counted kinds, refusals leave usage, usage drops after deletion, status.hard is put back")
def _(k):
    ns = k.namespace("rq")
    at = f"{namespace(ns)}/resourcequotas"
    hard = {
        "pods": "5", "services": "10", "services.nodeports": "2", "services.loadbalancers": "1", "replicationcontrollers": "10", "resourcequotas": "1",
        "secrets": "10", "configmaps": "10", "persistentvolumeclaims": "10", "requests.storage": "10Gi", "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi",
        "requests.example.com/dongle": "3", "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "10", "gold.storageclass.storage.k8s.io/requests.storage": "10Gi",
        "count/replicasets.apps": "5",
    }
    k.post(at, {"metadata": {"name": "q"}, "spec": {"hard": hard}}).ok(201)
    start = k.until(f"{at}/q", lambda a: a.json["status"]["hard"] == hard and a.json["status"]["used"]["resourcequotas"] == "1" and a.json["status"]["used"]["configmaps"] == "1").json["status"]["used"]
    within({"pods": "0", "services": "0", "cpu": "0", "secrets": "0"}, start)

    def used(**expected):
        wanted = {name.replace("__", "/").replace("_", "."): v for name, v in expected.items()}
        k.until(f"{at}/q", lambda a: all(a.json["status"]["used"].get(n, a.json["status"]["used"].get(n.replace(".", "-"))) == v for n, v in wanted.items()))

    services = f"{namespace(ns)}/services"
    k.post(services, {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}).ok(201)
    k.post(services, {"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}).ok(201)
    k.post(services, {"metadata": {"name": "c"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}).ok(201)
    k.until(f"{at}/q", lambda a: (a.json["status"]["used"]["services"], a.json["status"]["used"]["services.nodeports"], a.json["status"]["used"]["services.loadbalancers"]) == ("3", "2", "1"))
    k.post(services, {"metadata": {"name": "d"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}).no(403, "Forbidden", "exceeded quota: q, requested: services.loadbalancers=1", "used: services.loadbalancers=1", "limited: services.loadbalancers=1")
    k.post(services, {"metadata": {"name": "d"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}).no(403, "Forbidden", "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=2, limited: services.nodeports=2")
    pods = f"{namespace(ns)}/pods"
    k.post(pods, pod("nothing")).no(403, "Forbidden", "failed quota: q: must specify cpu for: c; memory for: c")
    full = limited("p", {"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"}, {"example.com/dongle": "2"})
    k.post(pods, full).ok(201)
    k.until(f"{at}/q", lambda a: (a.json["status"]["used"]["pods"], a.json["status"]["used"]["cpu"], a.json["status"]["used"]["requests.example.com/dongle"]) == ("1", "500m", "2"))
    k.post(pods, limited("over", {"cpu": "600m", "memory": "100Mi", "ephemeral-storage": "1Gi"})).no(403, "Forbidden", "exceeded quota: q, requested: cpu=600m, used: cpu=500m, limited: cpu=1")
    k.post(pods, limited("dongle", {"cpu": "100m", "memory": "100Mi", "ephemeral-storage": "1Gi", "example.com/dongle": "2"}, {"example.com/dongle": "2"})).no(403, "Forbidden", "requested: requests.example.com/dongle=2, used: requests.example.com/dongle=2, limited: requests.example.com/dongle=3")
    same(k.get(f"{at}/q").json["status"]["used"]["cpu"], "500m", "usage after refusals")
    k.post(f"/apis/apps/v1/namespaces/{ns}/replicasets", {"metadata": {"name": "r"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}}).ok(201)
    claim_ = {"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}
    k.post(f"{namespace(ns)}/persistentvolumeclaims", claim_).ok(201)
    k.until(f"{at}/q", lambda a: (a.json["status"]["used"]["count/replicasets.apps"], a.json["status"]["used"]["requests.storage"], a.json["status"]["used"]["gold.storageclass.storage.k8s.io/requests.storage"], a.json["status"]["used"]["gold.storageclass.storage.k8s.io/persistentvolumeclaims"]) == ("1", "1Gi", "1Gi", "1"))
    k.delete(f"{pods}/p?gracePeriodSeconds=0").ok()
    k.delete(f"/apis/apps/v1/namespaces/{ns}/replicasets/r").ok()
    k.delete(f"{services}/c").ok()
    k.until(f"{at}/q", lambda a: (a.json["status"]["used"]["pods"], a.json["status"]["used"]["cpu"], a.json["status"]["used"]["count/replicasets.apps"], a.json["status"]["used"]["services.nodeports"]) == ("0", "0", "0", "1"))
    k.patch(f"{at}/q", {"spec": {"hard": {"pods": "7"}}}).ok()
    k.until(f"{at}/q", lambda a: a.json["status"]["hard"]["pods"] == "7")
    k.patch(f"{at}/q/status", {"status": {"hard": {"pods": "99"}}}).ok()
    k.until(f"{at}/q", lambda a: a.json["status"]["hard"]["pods"] == "7", within=360)


@claim("ResourceQuota: scopes")
def _(k):
    ns = k.namespace("rqs")
    at = f"{namespace(ns)}/resourcequotas"
    for name, scope in [("term", "Terminating"), ("notterm", "NotTerminating"), ("be", "BestEffort"), ("notbe", "NotBestEffort")]:
        k.post(at, {"metadata": {"name": name}, "spec": {"hard": {"pods": "5"}, "scopes": [scope]}}).ok(201)
    pods = f"{namespace(ns)}/pods"
    used = lambda **want: k.until(at, lambda a: {i["metadata"]["name"]: i["status"]["used"]["pods"] for i in a.json["items"]} == want)
    used(term="0", notterm="0", be="0", notbe="0")
    k.post(pods, pod("a")).ok(201)
    used(term="0", notterm="1", be="1", notbe="0")
    k.post(pods, limited("b", {"cpu": "1"}, activeDeadlineSeconds=3600)).ok(201)
    used(term="1", notterm="1", be="1", notbe="1")
    for name in "ab":
        k.delete(f"{pods}/{name}?gracePeriodSeconds=0").ok()
    used(term="0", notterm="0", be="0", notbe="0")
    k.post(at, {"metadata": {"name": "bad"}, "spec": {"hard": {"cpu": "5"}, "scopes": ["BestEffort"]}}).no(422, "Invalid", "unsupported scope applied to resource")
    classes = {"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [{"operator": "In", "scopeName": "PriorityClass", "values": ["system-cluster-critical"]}]}}
    k.post(at, {"metadata": {"name": "prio"}, "spec": classes}).ok(201)


@claim("priority: system classes exist, values are immutable, unknown ones are refused")
def _(k):
    at = "/apis/scheduling.k8s.io/v1/priorityclasses"
    same(k.get(f"{at}/system-cluster-critical").ok()["value"], 2000000000)
    same(k.get(f"{at}/system-node-critical").ok()["value"], 2000001000)
    ns = k.namespace("prio")
    name = f"p-{ns}"
    k.post(at, {"metadata": {"name": name}, "value": 10}).ok(201)
    for system in ("system-cluster-critical", "system-node-critical"):
        k.delete(f"{at}/{system}").no(403, "Forbidden", f'priorityclasses.scheduling.k8s.io "{system}" is forbidden: this is a system priority class and cannot be deleted')
    k.patch(f"{at}/{name}", {"value": 11}).no(422, "Invalid", "value: Forbidden: may not be changed in an update.")
    k.patch(f"{at}/{name}", {"description": "d"}).ok()
    made = k.post(f"{namespace(ns)}/pods", pod("p", priorityClassName=name)).ok(201)
    same((made["spec"]["priority"], made["spec"]["preemptionPolicy"]), (10, "PreemptLowerPriority"))
    k.post(f"{namespace(ns)}/pods", pod("q", priorityClassName="none")).no(403, "Forbidden", "no PriorityClass with name none was found")
    k.post(f"{namespace(ns)}/pods", pod("r", priority=5)).no(403, "Forbidden", "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name")
    k.delete(f"{at}/{name}").ok()


@claim("runtime classes: unknown and deleted are 403, also dry; overhead is copied and must match")
def _(k):
    ns = k.namespace("rtc")
    at, pods = "/apis/node.k8s.io/v1/runtimeclasses", f"{namespace(ns)}/pods"
    name = f"rc-{ns}"
    k.post(f"{pods}?dryRun=All", pod("p", runtimeClassName="none")).no(403, "Forbidden", 'pod rejected: RuntimeClass "none" not found')
    k.post(at, {"metadata": {"name": name}, "handler": "h", "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}}}).ok(201)
    made = k.post(f"{pods}", pod("p", runtimeClassName=name)).ok(201)
    same(made["spec"]["overhead"], {"cpu": "10m", "memory": "1Mi"})
    k.post(pods, pod("q", runtimeClassName=name, overhead={"cpu": "1"})).no(403, "Forbidden", "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
    k.delete(f"{at}/{name}").ok()
    k.post(f"{pods}", pod("s", runtimeClassName=name)).no(403, "Forbidden")


@claim("PodSecurity: enforce refuses, warn warns")
def _(k):
    ns = k.namespace("psa", {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"})
    at = f"{namespace(ns)}/pods"
    k.post(at, pod("p", hostNetwork=True)).no(403, "Forbidden", 'violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)')
    answer = k.post(at, pod("p"))
    answer.ok(201)
    assert 'would violate PodSecurity \\"restricted:latest\\": allowPrivilegeEscalation != false' in (answer.headers["Warning"] or ""), answer.headers["Warning"]
