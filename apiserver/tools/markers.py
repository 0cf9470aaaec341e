#!/usr/bin/env python3
"""Prints apiserver/src/openapi/markers.txt: what the API's fields hold, how they merge, and which values they take.

The facts are what a kube-apiserver of the release that the workspace's k8s-openapi describes publishes (the OpenAPI files
in Kubernetes' repository lack the values of enumerations):
    KUBECONFIG=... tools/markers.py > src/openapi/markers.txt
"""
import json, re, subprocess

REF = "#/components/schemas/"
# Any JSON, however it is described.
OPAQUE = ("FieldsV1", "RawExtension", "JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool",
          "JSONSchemaPropsOrStringArray", "CustomResourceSubresourceStatus")


def ask(path):
    return json.loads(subprocess.check_output(["kubectl", "get", "--raw", path]))


def definitions():
    """The schemas of the documents of stable versions."""
    schemas = {}
    for group_version in ask("/openapi/v3")["paths"]:
        if re.fullmatch(r"api/v1|apis/([a-z]+|[a-z.]+\.k8s\.io)/v\d+", group_version):
            schemas.update(ask("/openapi/v3/" + group_version)["components"]["schemas"])
    return schemas


def short(name):
    for prefix, by in (("io.k8s.api.", ""), ("io.k8s.apimachinery.pkg.apis.meta.", "meta.")):
        if name.startswith(prefix):
            return by + name[len(prefix):]
    return name


def shape(schema, defs):
    ref = schema.get("$ref") or (schema.get("allOf") or [{}])[0].get("$ref")
    if ref:
        name = ref[len(REF):]
        if name.rsplit(".", 1)[1] in OPAQUE:
            return "*"
        return short(name) if "properties" in defs[name] else "-"
    if schema.get("type") == "array":
        return "[]" + shape(schema["items"], defs)
    if schema.get("type") == "object":
        return "{}" + shape(schema.get("additionalProperties") or {}, defs)
    return "-"


def words(schema):
    get = lambda marker: schema.get("x-kubernetes-" + marker)
    strategies = (get("patch-strategy") or "").split(",")
    out = []
    if "merge" in strategies:
        out.append("merge" + ("=" + get("patch-merge-key") if get("patch-merge-key") else ""))
    out += [s for s in ("replace", "retainKeys") if s in strategies]
    if get("list-type") == "map":
        out.append("map=" + ",".join(dict.fromkeys(get("list-map-keys"))))
    elif get("list-type"):
        out.append(get("list-type"))
    if get("map-type"):
        out.append(get("map-type"))
    of = schema.get("items") or {}
    for enum in (schema.get("enum"), of.get("enum")):
        if enum:
            out.append("enum=" + ",".join(enum).replace(" ", "%20"))
    if "default" in schema:
        out.append("default=" + json.dumps(schema["default"], separators=(",", ":")))
    return out


def main():
    defs = definitions()
    print("# What the API's fields hold, how they merge, which values they take. Written by apiserver/tools/markers.py;")
    print("# format: see markers.rs.")
    for name in sorted(defs, key=short):
        fields = defs[name].get("properties", {})
        if not fields or (name.endswith("List") and "items" in fields and "metadata" in fields):
            continue
        print(" ".join([short(name)] + words(defs[name])))
        for field, schema in sorted(fields.items()):
            line = [field, shape(schema, defs)] + words(schema)
            if line[1] != "-" or len(line) > 2:
                print(" " + " ".join(line))


main()
