"""Custom resources."""

import copy
import json
import time

from api import APPLY, JSON, MERGE, PATCH, STRATEGIC, claim, same, seg, within

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
COUNT = [0]


def define(k, schema, scope="Namespaced", established=True, **version):
    COUNT[0] += 1
    group = f"g{COUNT[0]}-{int(time.time())}.example.com"
    spec = {
        "group": group, "scope": scope, "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **version}],
    }
    answer = k.post(DEFINITIONS, {"metadata": {"name": f"foos.{group}"}, "spec": spec})
    if not established:
        return group, answer
    answer.ok(201)
    k.until(f"{DEFINITIONS}/foos.{group}", lambda a: any(c["type"] == "Established" and c["status"] == "True" for c in a.json["status"]["conditions"]), within=5)
    return group, f"/apis/{group}/v1/" + ("namespaces/default/foos" if scope == "Namespaced" else "foos")


def foo(group, name="x", **body):
    return {"apiVersion": f"{group}/v1", "kind": "Foo", "metadata": {"name": name}, **body}


def undefine(k, group):
    k.delete(f"{DEFINITIONS}/foos.{group}").ok()
    k.until(f"{DEFINITIONS}/foos.{group}", lambda a: a.code == 404)


SIMPLE = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
    "knownField1": {"type": "string"}, "replicas": {"type": "integer", "minimum": 1, "maximum": 10}, "ratio": {"type": "number", "minimum": 0.5},
    "ports": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
}}, "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}


@claim("custom: live in discovery and watch within a second, deletion removes the objects")
def _(k):
    began = time.monotonic()
    group, at = define(k, SIMPLE)
    k.get(f"/apis/{group}/v1").ok()
    assert group in {g["name"] for g in k.get("/apis").ok()["groups"]}
    aggregated = k.get("/apis", accept="application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").text
    assert group in aggregated
    watch = k.watch(at)
    assert time.monotonic() - began < 3, time.monotonic() - began
    k.post(at, foo(group)).ok(201)
    watch.take(1)
    assert f"apis/{group}/v1" in k.get("/openapi/v3").ok()["paths"]
    k.delete(f"{DEFINITIONS}/foos.{group}").ok()
    watch.until(lambda e: e["type"] == "DELETED")
    k.until(f"{DEFINITIONS}/foos.{group}", lambda a: a.code == 404)
    k.until(at, lambda a: a.code == 404, within=5)


@claim("custom: messages of values that are not allowed")
def _(k):
    group, at = define(k, SIMPLE)
    make = lambda **spec: k.post(at, foo(group, spec=spec))
    make(replicas=0).no(422, "Invalid", f'Foo.{group} "x" is invalid: spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1')
    make(replicas=11).no(422, "Invalid", "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10")
    make(ratio=0.25).no(422, "Invalid", "spec.ratio: Invalid value: 0.25: spec.ratio in body should be greater than or equal to 0.5")
    status = make(replicas="x").no(422, "Invalid", 'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"')
    within({"reason": "FieldValueTypeInvalid", "field": "spec.replicas"}, status["details"]["causes"][0])
    undefine(k, group)


@claim("custom: strict validation texts, JSON and YAML, root and metadata and embedded")
def _(k):
    schema = copy.deepcopy(SIMPLE)
    schema["properties"]["spec"]["properties"]["template"] = {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True, "properties": {"spec": {"type": "object", "properties": {"known": {"type": "string"}}}}}
    group, at = define(k, schema)
    text = '{"apiVersion":"%s/v1","kind":"Foo","metadata":{"name":"x","unknownMeta":"a"},"unknownRoot":1,"spec":{"knownField1":"a","knownField1":"b","unknownField":"c","ports":[{"name":"a","other":1}]}}' % group
    status = k.post(f"{at}?fieldValidation=Strict", text).no(400, "BadRequest", 'strict decoding error: duplicate field "spec.knownField1", unknown field "metadata.unknownMeta", unknown field "spec.ports[0].other", unknown field "spec.unknownField", unknown field "unknownRoot"')
    assert status["message"].startswith('Foo in version "v1" cannot be handled as a Foo: '), status["message"]
    yaml = f"apiVersion: {group}/v1\nkind: Foo\nmetadata:\n  name: x\nspec:\n  knownField1: a\n  foo: 1\n  foo: 2\n"
    k.post(f"{at}?fieldValidation=Strict", yaml, type="application/yaml").no(400, "BadRequest", 'line 8: key "foo" already set in map', 'unknown field "spec.foo"')
    yaml = f"apiVersion: {group}/v1\nkind: Foo\nmetadata:\n  name: x\nspec:\n  foo: 1\n"
    answer = k.patch(f"{at}/x?fieldManager=m&fieldValidation=Strict", yaml, type=APPLY)
    same(answer.code, 500)
    same(answer.json["message"], f"failed to create typed patch object (/x; {group}/v1, Kind=Foo): .spec.foo: field not declared in schema")
    embedded = foo(group, spec={"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "unknownSub": 1}, "spec": {"other": 1}}})
    k.post(f"{at}?fieldValidation=Strict", embedded).no(400, "BadRequest", 'unknown field "spec.template.metadata.unknownSub"', 'unknown field "spec.template.spec.other"')
    answer = k.post(f"{at}?fieldValidation=Warn", text)
    answer.ok(201)
    same(len(answer.headers.get_all("Warning")), 5)
    undefine(k, group)


@claim("custom: metadata of embedded objects is coerced and checked")
def _(k):
    schema = {"type": "object", "properties": {"template": {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True}}}
    group, at = define(k, schema)
    make = lambda **template: k.post(at, foo(group, template=template))
    make().no(422, "Invalid", "template.apiVersion: Required value", "template.kind: Required value")
    make(apiVersion="v1", kind="Pod", metadata={"name": ".."}).no(422, "Invalid", 'template.metadata.name: Invalid value: ".."')
    make(apiVersion="v1", kind="Pod", metadata={"name": "p", "labels": {"a b": "c"}}).no(422, "Invalid", 'template.metadata.labels: Invalid value: "a b"')
    make(apiVersion="a/b/c", kind="Pod").no(422, "Invalid", "template.apiVersion: Invalid value: \"a/b/c\"")
    make(apiVersion="v1", kind="1 x").no(422, "Invalid", "template.kind: Invalid value: \"1 x\"")
    made = k.post(at, foo(group, template={"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "unknown": 1}})).ok(201)
    same(made["template"]["metadata"], {"name": "p"})
    undefine(k, group)


@claim("custom: rules in CEL with their messages; transition rules; messageExpression; oldSelf")
def _(k):
    schema = copy.deepcopy(SIMPLE)
    spec = schema["properties"]["spec"]
    spec["properties"]["max"] = {"type": "integer"}
    spec["x-kubernetes-validations"] = [
        {"rule": "!has(self.replicas) || !has(self.max) || self.replicas <= self.max", "message": "too many replicas"},
        {"rule": "!has(self.max) || self.max < 100", "messageExpression": "'max is ' + string(self.max)"},
    ]
    spec["properties"]["knownField1"]["x-kubernetes-validations"] = [{"rule": "self == oldSelf", "message": "is immutable", "reason": "FieldValueForbidden"}]
    group, at = define(k, schema)
    k.post(at, foo(group, spec={"replicas": 5, "max": 3})).no(422, "Invalid", 'spec: Invalid value: too many replicas')
    k.post(at, foo(group, spec={"max": 300})).no(422, "Invalid", 'spec: Invalid value: max is 300')
    k.post(at, foo(group, spec={"knownField1": "a"})).ok(201)
    k.patch(f"{at}/x", {"spec": {"knownField1": "b"}}).no(422, "Invalid", "spec.knownField1: Forbidden: is immutable")
    undefine(k, group)


@claim("custom: rules that cost too much, or do not compile, are refused with the definition")
def _(k):
    def refused(schema, *parts):
        _, answer = define(k, {"type": "object", "properties": {"spec": schema}}, established=False)
        answer.no(422, "Invalid", *parts)
    at = "spec.versions[0].schema.openAPIV3Schema.properties[spec]"
    refused({"type": "object", "x-kubernetes-validations": [{"rule": "self.none == 1"}]}, "compilation failed: ERROR: <input>:1:1: undefined field 'none'")
    items = {"type": "array", "items": {"type": "string"}}
    refused({**items, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}, "Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)")
    group, answer = define(k, {"type": "object", "properties": {"spec": {**items, "maxItems": 10, "items": {"type": "string", "maxLength": 10}, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}}}, established=False)
    answer.ok(201)
    undefine(k, group)


@claim("custom: status and scale; absent replicas; selector")
def _(k):
    schema = copy.deepcopy(SIMPLE)
    schema["properties"]["status"]["properties"]["selector"] = {"type": "string"}
    group, at = define(k, schema, subresources={"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}})
    made = k.post(at, foo(group, spec={"knownField1": "a"}, status={"replicas": 7})).ok(201)
    assert "status" not in made and made["metadata"]["generation"] == 1
    answer = k.get(f"{at}/x/scale")
    answer.no(500, "InternalError", "the spec replicas field \".spec.replicas\" does not exist")
    k.patch(f"{at}/x", {"spec": {"replicas": 2}}).ok()
    patched = k.patch(f"{at}/x/status", {"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 9}, "status": {"replicas": 2, "selector": "a=b"}}).ok()
    same((patched["spec"]["replicas"], patched["metadata"].get("annotations"), patched["metadata"]["generation"]), (2, None, 2))
    scale = k.get(f"{at}/x/scale").ok()
    same((scale["spec"], scale["status"]), ({"replicas": 2}, {"replicas": 2, "selector": "a=b"}))
    same(k.put(f"{at}/x/scale", {**scale, "metadata": {"name": "x", "namespace": "default"}, "spec": {"replicas": 4}}).ok()["spec"]["replicas"], 4)
    same(k.patch(f"{at}/x/scale", {"spec": {"replicas": 5}}).ok()["spec"]["replicas"], 5)
    applied = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "x"}, "spec": {"replicas": 6}}
    same(k.patch(f"{at}/x/scale?fieldManager=m&force=true", applied, type=APPLY).ok()["spec"]["replicas"], 6)
    entry = next(m for m in k.get(f"{at}/x").ok()["metadata"]["managedFields"] if m["manager"] == "m")
    same((entry["subresource"], entry["fieldsV1"]), ("scale", {"f:spec": {"f:replicas": {}}}))
    undefine(k, group)


@claim("custom: openapi v2 and v3 have the schema as it was given; preserved fields too")
def _(k):
    schema = {"description": "Foo CRD for Testing", "type": "object", "properties": {
        "spec": {"type": "object", "description": "Specification of Foo", "properties": {"bars": {"description": "List of Bars and their specs.", "type": "array", "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"description": "Name of Bar.", "type": "string"}, "age": {"description": "Age of Bar.", "type": "string"}, "feeling": {"type": "string", "enum": ["Great", "Down"]},
            "bazs": {"description": "List of Bazs.", "type": "array", "items": {"type": "string"}}}}}}},
        "status": {"description": "Status of Foo", "type": "object", "properties": {"bars": {"type": "array", "items": {"type": "object", "properties": {"availableTime": {"type": "string", "format": "date-time"}}}}}}}}
    group, _ = define(k, schema)
    name = ".".join(reversed(group.split("."))) + ".v1.Foo"
    found = k.until("/openapi/v2", lambda a: name in a.json["definitions"], within=10).json["definitions"][name]
    gvk = found.pop("x-kubernetes-group-version-kind")
    same(gvk, [{"group": group, "version": "v1", "kind": "Foo"}])
    for key in ("apiVersion", "kind", "metadata"):
        found["properties"].pop(key)
    same(found, schema, "the definition in v2")
    v3 = k.get(f"/openapi/v3/apis/{group}/v1").ok()["components"]["schemas"][name]
    for key in ("apiVersion", "kind", "metadata"):
        v3["properties"].pop(key)
    v3.pop("x-kubernetes-group-version-kind")
    same(v3, schema, "the schema in v3")
    undefine(k, group)
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    group, _ = define(k, free)
    name = ".".join(reversed(group.split("."))) + ".v1.Foo"
    found = k.until("/openapi/v2", lambda a: name in a.json["definitions"], within=10).json["definitions"][name]
    found.pop("x-kubernetes-group-version-kind")
    undefine(k, group)
    nested = {"type": "object", "description": "preserve-unknown-properties in nested field for Testing", "properties": {
        "spec": {"type": "object", "description": "Specification of Waldo", "properties": {"dummy": {"description": "Dummy property.", "type": "string"}}, "x-kubernetes-preserve-unknown-fields": True},
        "status": {"type": "object", "description": "Status of Waldo", "properties": {"bars": {"description": "List of Bars and their statuses.", "type": "array", "items": {"type": "object"}}}}}}
    group, _ = define(k, nested)
    name = ".".join(reversed(group.split("."))) + ".v1.Foo"
    k.until("/openapi/v2", lambda a: name in a.json["definitions"], within=10)
    undefine(k, group)


@claim("custom: defaults on the way in and on reading; ratcheting")
def _(k):
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}}}
    group, at = define(k, schema)
    k.post(at, foo(group, n=50)).ok(201)
    path = f"{DEFINITIONS}/foos.{group}"
    k.patch(path, [{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/a/default", "value": "A"}, {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/n/maximum", "value": 10}], type=PATCH).ok()
    k.until(f"{at}/x", lambda a: a.json.get("a") == "A", within=10)
    k.patch(f"{at}/x", {"metadata": {"labels": {"l": "x"}}}).ok()
    k.patch(f"{at}/x", {"n": 51}).no(422, "Invalid", "n: Invalid value: 51: n in body should be less than or equal to 10")
    same(k.post(at, foo(group, "y")).ok(201)["a"], "A")
    undefine(k, group)


@claim("custom: count/ quotas, selectable fields, columns, several versions, deletecollection")
def _(k):
    group, at = define(k, SIMPLE, selectableFields=[{"jsonPath": ".spec.knownField1"}], additionalPrinterColumns=[{"name": "Known", "type": "string", "jsonPath": ".spec.knownField1"}])
    ns = k.namespace("cq")
    at = f"/apis/{group}/v1/namespaces/{ns}/foos"
    quota = f"/api/v1/namespaces/{ns}/resourcequotas"
    k.post(quota, {"metadata": {"name": "q"}, "spec": {"hard": {f"count/foos.{group}": "2"}}}).ok(201)
    k.until(f"{quota}/q", lambda a: a.json["status"]["used"][f"count/foos.{group}"] == "0")
    k.post(at, foo(group, "a", spec={"knownField1": "one"})).ok(201)
    k.post(at, foo(group, "b", spec={"knownField1": "two"})).ok(201)
    k.post(at, foo(group, "c")).no(403, "Forbidden", f"exceeded quota: q, requested: count/foos.{group}=1, used: count/foos.{group}=2, limited: count/foos.{group}=2")
    same([i["metadata"]["name"] for i in k.get(f"{at}?fieldSelector=spec.knownField1%3Dtwo").ok()["items"]], ["b"])
    table = k.get(at, accept="application/json;as=Table;v=v1;g=meta.k8s.io").ok()
    same([c["name"] for c in table["columnDefinitions"]], ["Name", "Known"])
    same(table["rows"][0]["cells"], ["a", "one"])
    k.delete(f"{at}?fieldSelector=spec.knownField1%3Dtwo").ok()
    k.until(f"{quota}/q", lambda a: a.json["status"]["used"][f"count/foos.{group}"] == "1")
    undefine(k, group)


@claim("custom: definitions' own status by GET, PUT, PATCH; conditions of others stay")
def _(k):
    group, _ = define(k, SIMPLE)
    at = f"{DEFINITIONS}/foos.{group}"
    got = k.get(f"{at}/status").ok()
    got["status"]["conditions"].append({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from an e2e test"})
    put = k.put(f"{at}/status", got).ok()
    assert "StatusUpdate" in [c["type"] for c in put["status"]["conditions"]]
    patched = k.patch(f"{at}/status", [{"op": "add", "path": "/status/conditions", "value": put["status"]["conditions"] + [{"type": "StatusPatched", "status": "True", "reason": "E2E"}]}], type=PATCH).ok()
    time.sleep(0.3)
    assert {"StatusUpdate", "StatusPatched"} <= {c["type"] for c in k.get(at).ok()["status"]["conditions"]}
    undefine(k, group)
