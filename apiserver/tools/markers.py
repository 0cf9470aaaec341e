#!/usr/bin/env python3
"""Prints apiserver/src/openapi/markers.txt: how lists, maps and structs of the API merge.

The type graph comes from the schemas of the k8s-openapi release that the workspace uses, the markers (merge keys, list
types, defaults) from the doc comments of crate k8s-pb 0.9, the only published source that carries them as plain text.
Neither needs to be a dependency: fetch both once (`cargo fetch` in a scratch project), then run
    tools/markers.py ~/.cargo/registry/src/*/k8s-openapi-0.29.0/src/v1_36 ~/.cargo/registry/src/*/k8s-pb-0.9.0/src \
        > src/openapi/markers.txt
"""
import json, os, re, subprocess, sys, tempfile

REF = "#/components/schemas/"
INLINED = {"ephemeralcontainer": "ephemeralcontainercommon", "rulewithoperations": "rule",
           "namedrulewithoperations": "rule", "persistentvolumespec": "persistentvolumesource", "volume": "volumesource",
           "probe": "probehandler", "ingressrule": "ingressrulevalue"}
OPAQUE = ("FieldsV1", "RawExtension", "JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool",
          "JSONSchemaPropsOrStringArray", "CustomResourceSubresourceStatus")


def definitions(openapi_src):
    """All schema definitions reachable from the kinds of stable API versions."""
    roots = ["apimachinery::pkg::apis::meta::v1::DeleteOptions"]
    for folder, _, files in os.walk(openapi_src):
        for f in files:
            text = open(os.path.join(folder, f)).read()
            found = re.search(r"impl crate::Resource for (\w+)", text)
            if found and "JsonSchema for " + found[1] in text and not re.search("alpha|beta", folder):
                roots.append(os.path.relpath(folder, openapi_src).replace("/", "::") + "::" + found[1])
    version = re.search(r"k8s-openapi-([\d.]+)", openapi_src)[1]
    with tempfile.TemporaryDirectory() as d:
        os.mkdir(d + "/src")
        feature = os.path.basename(os.path.normpath(openapi_src))
        open(d + "/Cargo.toml", "w").write(f"""[package]\nname = "dump"\nversion = "0.0.0"\nedition = "2024"\n
[dependencies]\nschemars = "1"\nserde_json = "1"
k8s-openapi = {{ version = "={version}", features = ["{feature}", "schemars"] }}\n""")
        body = "\n".join(f"g.subschema_for::<k8s_openapi::{r}>();" for r in sorted(roots))
        open(d + "/src/main.rs", "w").write(
            "fn main() { let mut g = schemars::generate::SchemaSettings::openapi3().into_generator();\n" + body +
            '\nprintln!("{}", serde_json::to_string(&g.take_definitions(true)).unwrap()); }')
        return json.loads(subprocess.check_output(["cargo", "run", "-q"], cwd=d))


def markers(pb_src):
    """{(package, type, field)}, all lower case without underscores, to a list of (marker, value); field "" is the type."""
    facts = {}
    for folder, _, files in os.walk(pb_src):
        for f in files:
            package = os.path.relpath(folder, pb_src).replace("/", ".").replace("_", "-")
            docs, struct, closed = [], None, True
            for line in open(os.path.join(folder, f)):
                line = line.strip()
                if line.startswith("///"):
                    found = re.match(r"/// \+(?:k8s:)?([A-Za-z]+)(?:=(.*))?$", line)
                    if found:
                        docs.append((found[1], (found[2] or "").strip()))
                elif found := re.match(r"pub struct (\w+)", line):
                    struct, closed = found[1].lower(), False
                    facts[package, struct, ""], docs = docs, []
                elif line == "}":
                    docs, closed = [], True
                elif not closed and (found := re.match(r"pub (?:r#)?(\w+):", line)):
                    facts[package, struct, found[1].replace("_", "").lower()], docs = docs, []
    return facts


def short(name):
    for prefix, by in (("io.k8s.api.", ""), ("io.k8s.apimachinery.pkg.apis.meta.", "meta.")):
        if name.startswith(prefix):
            return by + name[len(prefix):]
    return name


def lookup(facts, package, struct, field):
    """Types that are inlined in Go have their markers elsewhere; a new v1 has those of its beta until the next release."""
    for p in (package, package + "beta1"):
        for t in (struct, INLINED.get(struct, "")):
            if (p, t, field) in facts:
                return facts[p, t, field]
    return None


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


def words(facts, kind):
    get = lambda name: [v for k, v in facts if k == name]
    out = []
    strategies = ",".join(get("patchStrategy")).split(",")
    if "merge" in strategies:
        out.append("merge" + "".join("=" + k for k in get("patchMergeKey")[:1]))
    if "replace" in strategies:
        out.append("replace")
    if "retainKeys" in strategies:
        out.append("retainKeys")
    for list_type in get("listType")[:1]:
        out.append("map=" + ",".join(dict.fromkeys(get("listMapKey"))) if list_type == "map" else list_type)
    if "atomic" in get("structType") + get("mapType") and "atomic" not in out:
        out.append("atomic")
    for default in get("default")[:1]:
        if not default.startswith("ref("):
            out.append("default=" + json.dumps(json.loads(default), separators=(",", ":")))
    return out


def main():
    defs, facts = definitions(sys.argv[1]), markers(sys.argv[2])
    print("# How the API's lists, maps and structs merge. Written by apiserver/tools/markers.py; format: see markers.rs.")
    missing = []
    for name in sorted(defs, key=short):
        if "properties" not in defs[name]:
            continue
        package, struct = name[len("io.k8s."):].rsplit(".", 1)
        of = lambda field: lookup(facts, package, struct.lower(), field.lower().replace("-", ""))
        lines = []
        for field, schema in sorted(defs[name]["properties"].items()):
            kind, found = shape(schema, defs), of(field)
            if found is None and "[" in kind and "metadata" != field:
                missing.append(f"{name}.{field}")
            line = " ".join([field, kind] + words(found or [], kind))
            if kind != "-" or "default=" in line:
                lines.append(" " + line)
        print(" ".join([short(name)] + words(of("") or [], "")))
        if lines:
            print("\n".join(lines))
    print("\n".join(["lists newer than the markers, or not in them (check by hand):"] + missing), file=sys.stderr)


main()
