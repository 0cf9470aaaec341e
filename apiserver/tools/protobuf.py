#!/usr/bin/env python3
"""Prints apiserver/src/protobuf/wire.txt: the wire form of the API's built-in types, as facts.

For each message type its fields: tag, JSON name, wire sort. Taken from the struct tags of Kubernetes' published Go types,
the one place that says which scalar fields are pointers (an explicit zero counts) and which are not (zero means unset).
    apiserver/tools/protobuf.py GIT_DIR PREFIX > apiserver/src/protobuf/wire.txt
where GIT_DIR is a bare copy of a repository that vendors k8s.io/api and k8s.io/apimachinery below PREFIX.

Format: `core.v1.Pod` starts a type; ` 1 metadata meta.v1.ObjectMeta` is a field. Before the sort: `[]` repeated, `{}` map from
strings, `?` zero means unset. Sorts: s string, y bytes, b bool, i integer, d double, else a type. `-` as JSON name: inlined.
"""
import re, subprocess, sys

git_dir, prefix = sys.argv[1], sys.argv[2].rstrip("/")
git = lambda *a: subprocess.check_output(["git", "--git-dir=" + git_dir, *a], text=True)
files = [f for f in git("ls-tree", "-r", "--name-only", "HEAD", prefix).split()
         if re.search(r"/k8s\.io/api/[a-z]+/v[12]/types\.go$", f) and "/admission/" not in f and "apidiscovery" not in f
         or f.endswith("apimachinery/pkg/apis/meta/v1/types.go")
         or re.search(r"apiextensions-apiserver/pkg/apis/apiextensions/v1/types(_jsonschema)?\.go$", f)]
IMPORTS = {"metav1": "meta.v1", "v1": "core.v1", "corev1": "core.v1"}
SPECIAL = {"metav1.Time": "!time", "Time": "!time", "metav1.MicroTime": "!microtime", "MicroTime": "!microtime",
           "resource.Quantity": "!quantity", "intstr.IntOrString": "!intorstring", "runtime.RawExtension": "!raw",
           "FieldsV1": "!raw", "metav1.FieldsV1": "!raw", "JSON": "!raw", "JSONSchemaPropsOrArray": "!schemaorarray",
           "JSONSchemaPropsOrBool": "!schemaorbool", "JSONSchemaPropsOrStringArray": "!schemaorstrings",
           "metav1.Duration": "!duration", "types.UID": "s"}
structs, aliases, package_imports = {}, {}, {}
for f in files:
    package = "meta.v1" if "apimachinery" in f else ".".join(f.split("/")[-3:-1])
    text = git("show", "HEAD:" + f)
    package_imports[package] = dict(IMPORTS, **{m[0]: m[1].replace("/", ".") for m in
                                               re.findall(r'(\w+) "k8s\.io/api/(\w+/v\d)"', text)})
    current = None
    for line in text.splitlines():
        line = line.strip()
        if m := re.match(r"type (\w+) struct ?\{", line):
            current = structs.setdefault(f"{package}.{m[1]}", [])
        elif m := re.match(r"type (\w+) ([\w.\[\]*]+)$", line):
            aliases[f"{package}.{m[1]}"] = (package, m[2])
        elif line == "}":
            current = None
        elif current is not None and not line.startswith("//"):
            m = re.match(r"(?:(\w+)\s+)?([\w.\[\]*]+)\s+`(.*)`", line)
            wire = m and re.search(r'protobuf:"\w+,(\d+),(opt|rep)[^"]*name=(\w+)', m[3])
            if wire:
                name = (re.search(r'json:"([^"]*)"', m[3]) or ["", wire[3]])[1]
                current.append((package, int(wire[1]), name, wire[2], m[2]))


def sort(package, label, go):
    """(prefix, sort) of a Go type and the label of its field."""
    mark = ""
    while True:
        if go in SPECIAL:
            return mark, SPECIAL[go]
        if go.startswith("*"):
            go = go[1:]
        elif go == "[]byte":
            return mark, "y"
        elif go.startswith("[]"):
            mark, go = "[]" + mark, go[2:]
        elif m := re.match(r"map\[[\w.]+\](.*)", go):
            mark, go = "{}" + mark, m[1]
        elif go in ("string", "bool", "float64") or re.match(r"u?int(8|16|32|64)?$", go):
            return mark, {"string": "s", "bool": "b", "float64": "d"}.get(go, "i")
        else:
            head, _, tail = go.rpartition(".")
            full = f"{package_imports[package].get(head, head)}.{tail}" if head else f"{package}.{tail}"
            if full in structs:
                return mark, full
            if full not in aliases:
                sys.exit(f"unknown type {go} in {package}")
            package, target = aliases[full]
            # A named list that is nullable is a message of its own on the wire: {repeated items = 1}.
            if target.startswith("[]") and (mark or label == "opt"):
                return mark, "!list"
            go = target


for name in sorted(structs):
    if name.startswith("apiextensions.") and name.split(".")[-1] in SPECIAL or not structs[name] and not name.endswith("SubresourceStatus"):
        continue
    print(name)
    for package, tag, json, label, go in sorted(structs[name], key=lambda f: f[1]):
        key, *options = json.split(",")
        mark, kind = sort(package, label, go)
        inline = not key and ("inline" in options or True)
        unset = "?" if not mark and not go.startswith("*") and kind in ("s", "b", "i", "d") and "omitempty" in options else ""
        print(f" {tag} {'-' if inline else key} {mark}{unset}{kind}")
