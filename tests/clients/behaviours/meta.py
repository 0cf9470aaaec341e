"""Discovery, versions, OpenAPI, identity."""

import base64
import json
import re
import time

from api import JSON, claim, pod, same, within

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@claim("version: major is a digit, minor digits, gitVersion as kubectl wants it")
def _(k):
    v = k.get("/version").ok()
    assert re.fullmatch("[1-9]", v["major"]) and re.fullmatch(r"\d+\+?", v["minor"]), v
    same(v["minor"], "36")
    assert re.fullmatch(r"v\d\.\d+\.[\w.+-]+", v["gitVersion"]), v


@claim("discovery: /api, /apis, groups with and without a slash, preferred versions")
def _(k):
    same(k.get("/api").ok()["versions"], ["v1"])
    groups = k.get("/apis").ok()["groups"]
    names = {g["name"] for g in groups}
    wanted = "admissionregistration.k8s.io apiextensions.k8s.io apiregistration.k8s.io apps authentication.k8s.io " \
        "authorization.k8s.io autoscaling batch certificates.k8s.io coordination.k8s.io discovery.k8s.io events.k8s.io " \
        "networking.k8s.io node.k8s.io policy scheduling.k8s.io storage.k8s.io flowcontrol.apiserver.k8s.io " \
        "rbac.authorization.k8s.io resource.k8s.io"
    assert set(wanted.split()) <= names, set(wanted.split()) - names
    for group in groups:
        if group["name"].endswith("example.com"):
            continue
        for slash in ("", "/"):
            found = k.get(f"/apis/{group['name']}{slash}").ok()
            same(found["kind"], "APIGroup")
            assert found["preferredVersion"] in found["versions"], found
        for version in group["versions"]:
            for slash in ("", "/"):
                found = k.get(f"/apis/{version['groupVersion']}{slash}").ok()
                same((found["kind"], found["groupVersion"]), ("APIResourceList", version["groupVersion"]))
    for path in ("/api/", "/apis/", "/api/v1/"):
        k.get(path).ok()


@claim("discovery: the resources and subresources that tests look for")
def _(k):
    for path, names in [
        ("/api/v1", "namespaces/status namespaces/finalize nodes/status nodes/proxy pods/status pods/eviction pods/binding bindings "
            "pods/ephemeralcontainers pods/resize pods/log pods/exec pods/attach pods/portforward pods/proxy services/status services/proxy "
            "replicationcontrollers/status replicationcontrollers/scale resourcequotas/status persistentvolumes/status "
            "persistentvolumeclaims/status serviceaccounts/token events endpoints podtemplates limitranges"),
        ("/apis/apps/v1", "deployments/status deployments/scale replicasets/status replicasets/scale statefulsets/status statefulsets/scale "
            "daemonsets/status controllerrevisions"),
        ("/apis/batch/v1", "jobs/status cronjobs/status"),
        ("/apis/autoscaling/v1", "horizontalpodautoscalers horizontalpodautoscalers/status"),
        ("/apis/autoscaling/v2", "horizontalpodautoscalers horizontalpodautoscalers/status"),
        ("/apis/policy/v1", "poddisruptionbudgets poddisruptionbudgets/status"),
        ("/apis/networking.k8s.io/v1", "ingresses/status ingressclasses networkpolicies ipaddresses servicecidrs servicecidrs/status"),
        ("/apis/certificates.k8s.io/v1", "certificatesigningrequests/approval certificatesigningrequests/status"),
        ("/apis/flowcontrol.apiserver.k8s.io/v1", "flowschemas/status prioritylevelconfigurations/status"),
        ("/apis/apiregistration.k8s.io/v1", "apiservices apiservices/status"),
        ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions customresourcedefinitions/status"),
        ("/apis/admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations validatingwebhookconfigurations "
            "validatingadmissionpolicies validatingadmissionpolicies/status validatingadmissionpolicybindings"),
        ("/apis/storage.k8s.io/v1", "csinodes csidrivers csistoragecapacities storageclasses volumeattachments volumeattachments/status "
            "volumeattributesclasses"),
        ("/apis/resource.k8s.io/v1", "deviceclasses resourceclaims resourceclaims/status resourceclaimtemplates resourceslices"),
        ("/apis/authentication.k8s.io/v1", "tokenreviews selfsubjectreviews"),
        ("/apis/authorization.k8s.io/v1", "subjectaccessreviews localsubjectaccessreviews selfsubjectaccessreviews selfsubjectrulesreviews"),
        ("/apis/events.k8s.io/v1", "events"),
        ("/apis/coordination.k8s.io/v1", "leases"),
        ("/apis/discovery.k8s.io/v1", "endpointslices"),
        ("/apis/node.k8s.io/v1", "runtimeclasses"),
        ("/apis/scheduling.k8s.io/v1", "priorityclasses"),
    ]:
        found = {r["name"] for r in k.get(path).ok()["resources"]}
        assert set(names.split()) <= found, f"{path} lacks {sorted(set(names.split()) - found)}"


@claim("discovery: aggregated, with the content type's parameters, with ETag and 304")
def _(k):
    for path in ("/api", "/apis"):
        answer = k.get(path, accept=AGGREGATED)
        same(answer.ok()["kind"], "APIGroupDiscoveryList")
        same(answer.json["apiVersion"], "apidiscovery.k8s.io/v2")
        kind = answer.headers["Content-Type"]
        for part in ("g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"):
            assert part in kind, kind
        tag = answer.headers["ETag"]
        assert tag, "no ETag"
        same(k.get(path, accept=AGGREGATED, If_None_Match=tag).code, 304)
        # client-go's own list of what it takes
        both = k.get(path, accept=f"{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,{JSON}")
        same(both.json["kind"], "APIGroupDiscoveryList")
    plain = k.get("/apis", accept=JSON)
    same((plain.json["kind"], plain.headers["Content-Type"]), ("APIGroupList", "application/json"))


@claim("negotiation: a review as a Table only is 406; an object that no form fits is 406; an unknown body is 415")
def _(k):
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
    at = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    k.post(at, review, accept="application/json;as=Table;v=v1;g=meta.k8s.io").no(406, "NotAcceptable", "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf")
    k.get("/api/v1/pods", accept="text/html").no(406, "NotAcceptable", "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf")
    watch = k.get("/api/v1/pods?watch=true", accept="application/yaml")
    same((watch.code, watch.headers["Content-Type"]), (406, "application/yaml"))
    for part in ("\nreason: NotAcceptable\n", "application/json;stream=watch, ", "application/vnd.kubernetes.protobuf;stream=watch"):
        assert part in watch.text, watch.text
    for at in ("/api", "/apis", "/apis/apps", "/apis/apps/v1"):
        k.get(at, accept="text/html").no(406, "NotAcceptable", "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf")
        answer = k.get(at, accept="application/yaml")
        same((answer.code, answer.headers["Content-Type"]), (200, "application/yaml"))
        assert "kind: API" in answer.text, answer.text
        answer = k.get(at, accept="application/vnd.kubernetes.protobuf")
        same((answer.code, answer.headers["Content-Type"], answer.body[:4]), (200, "application/vnd.kubernetes.protobuf", b"k8s\0"))
    k.post("/api/v1/namespaces", "x", type="text/plain").no(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf")
    k.patch("/api/v1/namespaces/default", "{}", type="application/json").no(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml")


@claim("yaml: answers, of objects, lists and tables; and bodies")
def _(k):
    ns = k.namespace("yaml")
    at = f"/api/v1/namespaces/{ns}/configmaps"
    yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels:\n    on: \"yes\"\ndata:\n  n: \"1\"\n  text: |\n    one\n    two\n"
    answer = k.post(at, yaml, type="application/yaml", accept="application/yaml")
    same((answer.code, answer.headers["Content-Type"]), (201, "application/yaml"))
    for part in ("\nkind: ConfigMap\n", '\n  "n": "1"\n', "\n  text: |\n    one\n    two\n", "\nmetadata:\n", '"yes"'):
        assert part in answer.text, f"{part!r} is not in {answer.text}"
    got = k.get(f"{at}/a", accept="application/yaml")
    same(got.text, answer.text)
    stamp = k.get(f"{at}/a").ok()["metadata"]["creationTimestamp"]
    assert f'creationTimestamp: "{stamp}"' in got.text or f"creationTimestamp: '{stamp}'" in got.text, got.text
    listed = k.get(f"{at}?fieldSelector=metadata.name%3Da", accept="application/yaml")
    assert "\nitems:\n- " in listed.text and "\nkind: ConfigMapList\n" in listed.text, listed.text
    table = k.get(at, accept="application/yaml;as=Table;v=v1;g=meta.k8s.io")
    assert "\nkind: Table\n" in table.text, table.text
    same(k.put(f"{at}/a", got.body, type="application/yaml").ok()["data"], {"n": "1", "text": "one\ntwo\n"})


@claim("component statuses: the three of old, by name, as a table, with a warning")
def _(k):
    at = "/api/v1/componentstatuses"
    answer = k.get(at)
    found = answer.ok()
    same(found["kind"], "ComponentStatusList")
    same([(i["metadata"]["name"], i["conditions"][0]["type"], i["conditions"][0]["status"], i["conditions"][0]["message"]) for i in found["items"]],
         [(n, "Healthy", "True", "ok") for n in ("controller-manager", "etcd-0", "scheduler")])
    same(answer.headers.get_all("Warning"), ['299 - "v1 ComponentStatus is deprecated in v1.19+"'])
    one = k.get(f"{at}/scheduler").ok()
    same((one["kind"], one["apiVersion"], one["metadata"]["name"]), ("ComponentStatus", "v1", "scheduler"))
    k.get(f"{at}/none").no(404, "NotFound", 'componentstatus "none" not found')
    table = k.get(at, accept="application/json;as=Table;v=v1;g=meta.k8s.io").ok()
    same([c["name"] for c in table["columnDefinitions"]], ["Name", "Status", "Message", "Error"])
    same(table["rows"][0]["cells"], ["controller-manager", "Healthy", "ok", ""])
    same(k.get(f"{at}?labelSelector=a%3Db").ok()["items"], [])
    same(k.post(at, {}).code, 405)
    row = next(r for r in k.get("/api/v1").ok()["resources"] if r["name"] == "componentstatuses")
    same((row["shortNames"], row["verbs"], row["namespaced"]), (["cs"], ["get", "list"], False))


@claim("openapi: v3 index and documents, fieldValidation on PATCH, group-version-kinds; v2 too, as protobuf too")
def _(k):
    index = k.get("/openapi/v3").ok()["paths"]
    for path in ("api/v1", "apis/apps/v1", "apis/batch/v1"):
        url = index[path]["serverRelativeURL"]
        assert "hash=" in url, url
        answer = k.get(url)
        document = answer.ok()
        assert answer.headers["ETag"], "no ETag"
        patches = [p["patch"] for p in document["paths"].values() if p.get("patch", {}).get("x-kubernetes-action") == "patch"]
        assert patches and all("fieldValidation" in {a["name"] for a in p["parameters"]} for p in patches), path
        for schema in document["components"]["schemas"].values():
            for gvk in schema.get("x-kubernetes-group-version-kind", []):
                assert set(gvk) == {"group", "version", "kind"}, gvk
    document = k.get("/openapi/v2").ok()
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}"]["patch"]
    assert "fieldValidation" in {a["name"] for a in patch["parameters"]}
    proto = k.get("/openapi/v2", accept="application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
    assert proto.code == 200 and "proto" in proto.headers["Content-Type"], proto.headers["Content-Type"]


@claim("tables: rows carry a PartialObjectMetadata with labels; watch as Table; includeObject")
def _(k):
    as_table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    table = k.get("/api/v1/namespaces?fieldSelector=metadata.name=default", accept=as_table).ok()
    same((table["kind"], table["apiVersion"]), ("Table", "meta.k8s.io/v1"))
    row = table["rows"][0]["object"]
    same((row["kind"], row["metadata"]["labels"]["kubernetes.io/metadata.name"]), ("PartialObjectMetadata", "default"))
    assert "object" not in k.get("/api/v1/namespaces?includeObject=None", accept=as_table).ok()["rows"][0] \
        or k.get("/api/v1/namespaces?includeObject=None", accept=as_table).json["rows"][0]["object"] is None
    same(k.get("/api/v1/namespaces/default?includeObject=Object", accept=as_table).ok()["rows"][0]["object"]["kind"], "Namespace")
    watch = k.watch("/api/v1/namespaces", accept=as_table)
    first, second = watch.take(2)
    watch.close()
    assert first["object"]["columnDefinitions"] and not second["object"].get("columnDefinitions")
    partial = k.get("/api/v1/namespaces", accept="application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").ok()
    same((partial["kind"], partial["items"][0]["kind"] if "kind" in partial["items"][0] else "PartialObjectMetadata"), ("PartialObjectMetadataList", "PartialObjectMetadata"))


@claim("gzip: a long answer is compressed where the client takes it")
def _(k):
    answer = k.get("/openapi/v2", Accept_Encoding="gzip")
    same(answer.headers["Content-Encoding"], "gzip")


@claim("impersonation: user, groups, uid; and reviews answer as requests are")
def _(k):
    me = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    who = k.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", me, Impersonate_User="jane", Impersonate_Group="devs", Impersonate_Uid="7", Impersonate_Extra_Scopes="x").ok(201)["status"]["userInfo"]
    same((who["username"], who["uid"]), ("jane", "7"))
    same(sorted(who["groups"]), ["devs", "system:authenticated"])
    same(who["extra"]["scopes"], ["x"])
    ns = k.namespace("imp")
    role = {"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]}
    k.post(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles", role).ok()
    binding = {"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}}
    k.post(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings", binding).ok()
    k.until(f"/api/v1/namespaces/{ns}/configmaps", lambda a: k.get(f"/api/v1/namespaces/{ns}/configmaps", Impersonate_User="jane").code == 200)
    for verb, method, resource in [("list", "GET", "configmaps"), ("list", "GET", "secrets"), ("deletecollection", "DELETE", "configmaps")]:
        attributes = {"verb": verb, "resource": resource, "namespace": ns}
        spec = {"user": "jane", "groups": ["system:authenticated"], "resourceAttributes": attributes}
        sar = k.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec}).ok(201)["status"]["allowed"]
        local = k.post(f"/apis/authorization.k8s.io/v1/namespaces/{ns}/localsubjectaccessreviews", {"metadata": {"namespace": ns}, "spec": spec}).ok(201)["status"]["allowed"]
        own = k.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": {"resourceAttributes": attributes}}, Impersonate_User="jane").ok(201)["status"]["allowed"]
        answer = k.call(method, f"/api/v1/namespaces/{ns}/{resource}", Impersonate_User="jane")
        assert sar == local == own == (answer.code == 200), (verb, resource, sar, local, own, answer.code)
        if answer.code != 200:
            answer.no(403, "Forbidden", f'{resource} is forbidden: User "jane" cannot {verb} resource "{resource}" in API group "" in the namespace "{ns}"')


@claim("authorization: who may see one object by its name may list and watch it by that name")
def _(k):
    ns = k.namespace("names")
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}"
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["get", "list", "watch"]}]
    k.post(f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules}).ok(201)
    k.post(f"{rbac}/rolebindings", {"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}}).ok(201)
    at = f"/api/v1/namespaces/{ns}/configmaps"
    k.post(at, {"metadata": {"name": "mine"}}).ok(201)
    k.until(at, lambda _: k.get(f"{at}/mine", Impersonate_User="joe").code == 200)
    found = k.get(f"{at}?fieldSelector=metadata.name%3Dmine", Impersonate_User="joe").ok()
    same([i["metadata"]["name"] for i in found["items"]], ["mine"])
    same(k.get(f"{at}?fieldSelector=metadata.name%3Dmine&watch=true&timeoutSeconds=1", Impersonate_User="joe").code, 200)
    for query in ("", "?fieldSelector=metadata.name%3Dkube-root-ca.crt", "?fieldSelector=metadata.name!%3Dother", "?labelSelector=a"):
        k.get(f"{at}{query}", Impersonate_User="joe").no(403, "Forbidden", 'User "joe" cannot list resource "configmaps"')
    k.call("DELETE", f"{at}?fieldSelector=metadata.name%3Dmine", Impersonate_User="joe").no(403, "Forbidden", "cannot deletecollection")


def payload(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@claim("tokens: TokenRequest and TokenReview, groups, extra with pod and node, audiences")
def _(k):
    ns = k.namespace("tok")
    node = {"metadata": {"name": f"n-{ns}"}}
    node = k.post("/api/v1/nodes", node).ok(201)
    p = k.post(f"/api/v1/namespaces/{ns}/pods", pod("p", nodeName=node["metadata"]["name"])).ok(201)
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": p["metadata"]["uid"]}
    ask = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["mine"], "boundObjectRef": bound, "expirationSeconds": 600}}
    at = f"/api/v1/namespaces/{ns}/serviceaccounts/default/token"
    status = k.post(at, ask).ok(201)["status"]
    token = status["token"]
    inside = payload(token)
    same(inside["aud"], ["mine"])
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": ["mine", "other"]}}
    found = k.post("/apis/authentication.k8s.io/v1/tokenreviews", review).ok(201)["status"]
    same((found["authenticated"], found["audiences"]), (True, ["mine"]))
    user = found["user"]
    same(user["username"], f"system:serviceaccount:{ns}:default")
    same(sorted(user["groups"]), sorted(["system:serviceaccounts", f"system:serviceaccounts:{ns}", "system:authenticated"]))
    extra = user["extra"]
    prefix = "authentication.kubernetes.io/"
    same(extra[prefix + "pod-name"], ["p"])
    same(extra[prefix + "pod-uid"], [p["metadata"]["uid"]])
    same(extra[prefix + "node-name"], [node["metadata"]["name"]])
    same(extra[prefix + "node-uid"], [node["metadata"]["uid"]])
    same(extra[prefix + "credential-id"], [f"JTI={inside['jti']}"])
    # Another audience than the server's opens nothing; nobody's token neither.
    same(k.get("/api/v1/namespaces", token=token).code, 401)
    review["spec"]["audiences"] = ["other"]
    answer = k.post("/apis/authentication.k8s.io/v1/tokenreviews", review).ok(201)["status"]
    assert not answer.get("authenticated"), answer
    ask["spec"]["expirationSeconds"] = 5
    k.post(at, ask).no(422, "Invalid", "may not specify a duration less than 10 minutes")
    ask["spec"].update(expirationSeconds=600, boundObjectRef={**bound, "uid": "other"})
    k.post(at, ask).no(409, "Conflict")
    # A token lives as long as its pod.
    k.delete(f"/api/v1/namespaces/{ns}/pods/p?gracePeriodSeconds=0").ok()
    review["spec"]["audiences"] = ["mine"]
    end = time.monotonic() + 30
    while k.post("/apis/authentication.k8s.io/v1/tokenreviews", review).ok(201)["status"].get("authenticated"):
        assert time.monotonic() < end, "a dead pod's token is still good"
        time.sleep(0.2)
    k.delete(f"/api/v1/nodes/{node['metadata']['name']}").ok()


@claim("OIDC: documents that a service account reads, issuer as in tokens, keys")
def _(k):
    ns = k.namespace("oidc")
    ask = {"spec": {}}
    token = k.post(f"/api/v1/namespaces/{ns}/serviceaccounts/default/token", ask).ok(201)["status"]["token"]
    found = k.get("/.well-known/openid-configuration", token=token).ok()
    same(found["issuer"], payload(token)["iss"])
    for key in ("jwks_uri", "response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported"):
        assert found[key], key
    answer = k.get("/openid/v1/jwks", token=token)
    keys = answer.ok()["keys"]
    same(answer.headers["Content-Type"], "application/jwk-set+json")
    assert all(key["kty"] in ("RSA", "EC") and key["use"] == "sig" and key["kid"] for key in keys), keys
    same(k.get("/openid/v1/jwks", token="").code, 403)


@claim("anonymous: health and version only; a bad token is 401")
def _(k):
    for path in ("/healthz", "/livez", "/readyz", "/version"):
        same(k.get(path, token="").code, 200, path)
    k.get("/api/v1/namespaces", token="").no(403, "Forbidden", 'User "system:anonymous" cannot list resource "namespaces"')
    k.get("/api/v1/namespaces", token="rubbish").no(401, "Unauthorized", "Unauthorized")
