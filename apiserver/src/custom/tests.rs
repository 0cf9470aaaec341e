//! The pure steps by table: what a schema makes of a value.

use super::{
    JsonPath, Schema, by_priority, defaults, prune, publish::publish, rules::Compiled, structural, validate,
};
use api::field::{Errors, Path};
use serde_json::{Value, json};

fn schema(value: Value) -> Schema {
    Schema::read(&value)
}

fn texts(errors: Errors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_not_declared_goes() {
    let declared = schema(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
            "any": {"type": "object", "additionalProperties": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                     "properties": {"known": {"type": "object", "properties": {"x": {"type": "string"}}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
                    "properties": {"spec": {"type": "object"}}},
            "opaque": {"x-kubernetes-int-or-string": true},
        }},
    }}));
    let mut value = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "a"}, "other": 1,
        "spec": {
            "a": "x", "b": {"c": 1}, "list": [{"x": 1, "y": 2}, {"y": 3}], "map": {"k": {"x": "1", "y": "2"}},
            "any": {"k": {"x": [{"y": 1}]}}, "free": {"z": {"y": 1}, "known": {"x": "1", "y": 2}},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {}}, "spec": {"y": 1}, "status": {}},
            "opaque": 5,
        },
    });
    let gone = prune::prune(&mut value, &declared, true);
    let expected = [
        "other",
        "spec.b",
        "spec.free.known.y",
        "spec.list[0].y",
        "spec.list[1].y",
        "spec.map.k.y",
        "spec.pod.spec.y",
        "spec.pod.status",
    ];
    assert_eq!(gone, expected);
    assert_eq!(value["spec"]["any"], json!({"k": {"x": [{"y": 1}]}}));
    assert_eq!(value["spec"]["free"]["z"], json!({"y": 1}));
    assert!(prune::prune(&mut value, &declared, true).is_empty());
}

#[test]
fn defaults_fill_what_is_there() {
    let declared = schema(json!({"type": "object", "properties": {
        "a": {"type": "string", "default": "x"},
        "nullable": {"type": "string", "nullable": true, "default": "x"},
        "in": {"type": "object", "properties": {"b": {"type": "integer", "default": 0}}},
        "made": {"type": "object", "default": {}, "properties": {"b": {"type": "boolean", "default": false}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "string", "default": ""}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
    }}));
    for (value, expected) in [
        (json!({}), json!({"a": "x", "nullable": "x", "made": {"b": false}})),
        (
            json!({"a": null, "nullable": null, "in": {}, "list": [{}], "map": {"k": null}}),
            json!({"a": "x", "nullable": null, "in": {"b": 0}, "made": {"b": false}, "list": [{"c": ""}], "map": {}}),
        ),
    ] {
        let mut filled = value.clone();
        defaults::drop_nulls(&mut filled, Some(&declared));
        defaults::fill(&mut filled, &declared);
        assert_eq!(filled, expected, "{value}");
        defaults::fill(&mut filled, &declared);
        assert_eq!(filled, expected, "defaulting is idempotent");
    }
}

/// (schema of `f`, value of `f`, faults)
fn check(of: Value, value: Value, expected: &[&str]) {
    let declared = schema(json!({"type": "object", "properties": {"f": of}}));
    let faults = texts(validate::validate(&json!({"f": value}), None, &declared, ""));
    assert_eq!(faults, expected, "{of} {value}");
}

#[test]
fn values_are_judged_in_kubernetes_words() {
    let string = |more: Value| {
        let mut schema = json!({"type": "string"});
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    check(json!({"type": "integer"}), json!(3), &[]);
    check(json!({"type": "integer"}), json!(3.0), &[]);
    check(
        json!({"type": "integer"}),
        json!("3"),
        &["f: Invalid value: \"string\": f in body must be of type integer: \"string\""],
    );
    check(json!({"type": "number"}), json!(3), &[]);
    check(
        json!({"type": "boolean"}),
        Value::Null,
        &["f: Invalid value: \"null\": f in body must be of type boolean: \"null\""],
    );
    check(json!({"type": "boolean", "nullable": true}), Value::Null, &[]);
    check(json!({"x-kubernetes-int-or-string": true}), json!("5%"), &[]);
    check(
        json!({"x-kubernetes-int-or-string": true}),
        json!([]),
        &["f: Invalid value: \"array\": f in body must be of type integer,string: \"array\""],
    );
    check(string(json!({"maxLength": 2})), json!("äöü"), &["f: Too long: may not be more than 2 bytes"]);
    check(
        string(json!({"minLength": 2})),
        json!("x"),
        &["f: Invalid value: \"x\": f in body should be at least 2 chars long"],
    );
    check(
        string(json!({"pattern": "^a+$"})),
        json!("b"),
        &["f: Invalid value: \"b\": f in body should match '^a+$'"],
    );
    check(
        string(json!({"format": "date-time"})),
        json!("today"),
        &["f: Invalid value: \"today\": f in body must be of type date-time: \"today\""],
    );
    check(string(json!({"format": "date-time"})), json!("2026-11-22T18:20:00Z"), &[]);
    check(string(json!({"format": "ipv4"})), json!("1.2.3.4"), &[]);
    check(string(json!({"format": "my-own"})), json!("anything"), &[]);
    check(
        json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
        json!(1),
        &["f: Invalid value: 1: f in body should be greater than 1"],
    );
    check(
        json!({"type": "number", "multipleOf": 0.5}),
        json!(0.7),
        &["f: Invalid value: 0.7: f in body should be a multiple of 0.5"],
    );
    check(
        json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
        json!([1, "2"]),
        &[
            "f: Too many: 2: must have at most 1 items",
            "f[1]: Invalid value: \"string\": f[1] in body must be of type integer: \"string\"",
        ],
    );
    check(
        json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
        json!({}),
        &["f.a: Required value"],
    );
    check(
        json!({"type": "integer", "enum": [1, 2]}),
        json!(3),
        &["f: Unsupported value: 3: supported values: \"1\", \"2\""],
    );
    check(
        json!({"type": "integer", "oneOf": [{"minimum": 1}, {"minimum": 2}]}),
        json!(3),
        &[
            "<nil>: Invalid value: \"\": \"f\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ],
    );
    check(
        json!({"type": "integer", "anyOf": [{"minimum": 5}]}),
        json!(3),
        &[
            "<nil>: Invalid value: \"\": \"f\" must validate at least one schema (anyOf)",
            "f: Invalid value: 3: f in body should be greater than or equal to 5",
        ],
    );
    check(
        json!({"type": "integer", "not": {"minimum": 1}}),
        json!(3),
        &["<nil>: Invalid value: \"\": \"f\" must not validate the schema (not)"],
    );
}

#[test]
fn what_did_not_change_is_not_judged() {
    let declared = schema(json!({"type": "object", "properties": {
        "a": {"type": "integer", "maximum": 5}, "b": {"type": "string"},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                 "items": {"type": "object", "properties": {"k": {"type": "string"}, "n": {"type": "integer", "maximum": 5}}}},
    }}));
    let old = json!({"a": 9, "b": "x", "list": [{"k": "x", "n": 9}, {"k": "y", "n": 1}]});
    let mut new = old.clone();
    new["b"] = json!("y");
    new["list"] = json!([{"k": "new"}, {"k": "x", "n": 9}]);
    assert_eq!(texts(validate::validate(&new, Some(&old), &declared, "")), Vec::<String>::new());
    new["a"] = json!(10);
    assert_eq!(
        texts(validate::validate(&new, Some(&old), &declared, "")),
        ["a: Invalid value: 10: a in body should be less than or equal to 5"]
    );
}

#[test]
fn sets_and_maps_hold_each_element_once() {
    let declared = schema(json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "p"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "p": {"type": "string", "default": "TCP"}}}},
    }}));
    let value =
        json!({"set": ["a", "b", "a"], "map": [{"k": "x"}, {"k": "x", "p": "UDP"}, {"k": "x", "p": "TCP"}]});
    assert_eq!(
        texts(validate::unique_elements(&value, &declared, "")),
        ["map[2]: Duplicate value: {\"k\":\"x\",\"p\":\"TCP\"}", "set[2]: Duplicate value: \"a\""]
    );
}

/// The faults of the schema whose property `f` is `of`.
fn structure(of: Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"f": of}});
    texts(structural::check(&schema, false, &Path::new("s")))
}

#[test]
fn schemas_are_structural() {
    let int_or_string = json!([{"type": "integer"}, {"type": "string"}]);
    for fine in [
        json!({"type": "string", "default": "x"}),
        json!({"x-kubernetes-int-or-string": true, "anyOf": int_or_string}),
        json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": int_or_string}, {"pattern": "x"}]}),
        json!({"x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
    ] {
        assert_eq!(structure(fine.clone()), Vec::<String>::new(), "{fine}");
    }
    for (of, fault) in [
        (json!({}), "s.properties[f].type: Required value: must not be empty for specified object fields"),
        (json!({"type": "array"}), "s.properties[f].items: Required value: must be specified"),
        (
            json!({"type": "text"}),
            "s.properties[f].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \
             \"number\", \"object\", \"string\"",
        ),
        (json!({"type": "string", "$ref": "x"}), "s.properties[f].$ref: Forbidden: $ref is not supported"),
        (
            json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
            "s.properties[f].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity \
             becomes quadratic",
        ),
        (
            json!({"type": "string", "oneOf": [{"type": "string"}]}),
            "s.properties[f].oneOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"x": {"minimum": 1}}}]}),
            "s.properties[f].properties[x]: Required value: because it is defined in \
             s.properties[f].anyOf[0].properties[x]",
        ),
        (
            json!({"type": "integer", "default": "x"}),
            "s.properties[f].default: Invalid value: \"string\": s.properties[f].default in body must be of type integer: \
             \"string\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "default": {"b": 1}}),
            "s.properties[f].default: Invalid value: {\"b\":1}: must not have unknown fields",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                   "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            "s.properties[f].items.properties[k].default: Required value: this property is in \
             x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.size( > 3"}]}),
            "s.properties[f].x-kubernetes-validations[0].rule: Invalid value: \"self.size( > 3\": compilation failed: ERROR: \
             <input>:1:12: Syntax error: ",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer"}},
                   "x-kubernetes-validations": [{"rule": "self.b > 3"}]}),
            "s.properties[f].x-kubernetes-validations[0].rule: Invalid value: \"self.b > 3\": compilation failed: ERROR: \
             <input>:1:1: undefined field 'b'",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer"}},
                   "x-kubernetes-validations": [{"rule": "self.a == 'x'"}]}),
            "s.properties[f].x-kubernetes-validations[0].rule: Invalid value: \"self.a == 'x'\": compilation failed: ERROR: \
             <input>:1:1: found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self + 1"}, {"rule": "other > 1"}]}),
            "s.properties[f].x-kubernetes-validations[1].rule: Invalid value: \"other > 1\": compilation failed: ERROR: \
             <input>:1:1: undeclared reference to 'other' (in container '')",
        ),
        (
            json!({"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}),
            "s.properties[f].items.x-kubernetes-validations[0].rule: Invalid value: \"self >= oldSelf\": oldSelf cannot \
             be used on the uncorrelatable portion of the schema within s.properties[f]",
        ),
    ] {
        let faults = structure(of.clone());
        assert!(faults.iter().any(|f| f.starts_with(fault)), "{of}: {faults:#?}");
    }
}

/// The rules of the schema against a value.
fn judge(schema_of: &Value, value: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema(schema_of.clone());
    texts(Compiled::of(&schema).evaluate(value, old, &schema, ""))
}

#[test]
fn rules_judge_values_and_transitions() {
    let rules = json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min may not be more than max", "fieldPath": ".min"},
            {"rule": "self.names.all(n, n.startsWith('x'))",
             "messageExpression": "'names need an x: ' + self.names.filter(n, !n.startsWith('x'))[0]"},
            {"rule": "!has(self.end) || self.end > timestamp('2026-01-01T00:00:00Z')", "reason": "FieldValueForbidden"},
            {"rule": "self.a__dash__b == oldSelf.a__dash__b", "message": "a-b may not change"},
        ],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"}, "a-b": {"type": "string"},
            "names": {"type": "array", "items": {"type": "string"}},
            "end": {"type": "string", "format": "date-time"},
            "once": {"type": "string", "x-kubernetes-validations": [
                {"rule": "!oldSelf.hasValue() || self == oldSelf.value()", "optionalOldSelf": true}]},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "x-kubernetes-validations": [
                {"rule": "self.size() < 3"}]}},
        },
    }}});
    let good = json!({"spec": {"min": 1, "max": 2, "names": ["x1"], "a-b": "c", "labels": {"k": "v"}}});
    let changed = |path: &str, value: Value| {
        let mut new = good.clone();
        new["spec"][path] = value;
        new
    };
    let none = Vec::<String>::new();
    assert_eq!(judge(&rules, &good, None), none);
    assert_eq!(judge(&rules, &good, Some(&good)), none);
    for (new, fault) in [
        (changed("min", json!(3)), "spec.min: Invalid value: min may not be more than max"),
        (changed("names", json!(["x", "y"])), "spec: Invalid value: names need an x: y"),
        (
            changed("end", json!("2025-01-01T00:00:00Z")),
            "spec: Forbidden: failed rule: !has(self.end) || self.end > timestamp('2026-01-01T00:00:00Z')",
        ),
        (changed("a-b", json!("d")), "spec: Invalid value: a-b may not change"),
        (
            changed("labels", json!({"k": "long"})),
            "spec.labels.k: Invalid value: \"long\": failed rule: self.size() < 3",
        ),
    ] {
        assert_eq!(judge(&rules, &new, Some(&good)), [fault]);
    }
    let once = changed("once", json!("a"));
    assert_eq!(judge(&rules, &once, Some(&good)), none);
    let twice = changed("once", json!("b"));
    assert_eq!(judge(&rules, &twice, Some(&once)).len(), 1);
}

#[test]
fn a_rule_that_would_take_too_long_does_not_run() {
    let rules = json!({"type": "object", "properties": {"list": {"type": "array", "items": {"type": "integer"}}},
        "x-kubernetes-validations": [{"rule": "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))"}]});
    let value = json!({"list": vec![1; 10_000]});
    let faults = judge(&rules, &value, None);
    assert!(
        faults[0].ends_with("running out of cost budget, no further validation rules will be run"),
        "{faults:?}"
    );
}

#[test]
fn json_paths() {
    let value = json!({"a": {"b.c": 1, "l": [{"t": "x", "v": 1}, {"t": "y", "v": 2}]}});
    for (path, expected) in [
        (".a.l[0].v", json!([1])),
        ("{.a.l[*].v}", json!([1, 2])),
        (".a['b.c']", json!([1])),
        (r".a.b\.c", json!([1])),
        (r#".a.l[?(@.t=="y")].v"#, json!([2])),
        (".a.l[-1].v", json!([2])),
        (".a.none", json!([])),
    ] {
        let found: Vec<Value> = JsonPath::parse(path).unwrap().all(&value).into_iter().cloned().collect();
        assert_eq!(json!(found), expected, "{path}");
    }
    for bad in [".a[", ".a[x]", "..", ".a[?(b)]"] {
        assert!(JsonPath::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn versions_in_kubernetes_order() {
    let mut versions =
        vec!["foo10", "v1alpha1", "v10", "v1", "foo1", "v1beta2", "v2", "v1beta1", "v11alpha2"];
    versions.sort_by(|a, b| by_priority(a, b));
    assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v11alpha2", "v1alpha1", "foo1", "foo10"]);
}

#[test]
fn what_is_published_says_what_a_definition_need_not() {
    let written = json!({"type": "object", "properties": {
        "port": {"x-kubernetes-int-or-string": true},
        "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "required": ["spec"],
                "properties": {"spec": {"type": "object"}}},
        "free": {"type": "object", "x-kubernetes-embedded-resource": true,
                 "x-kubernetes-preserve-unknown-fields": true},
    }});
    let names = |schema: &Value, at: &str| -> Vec<String> {
        let map = schema.pointer(at).and_then(Value::as_object);
        map.into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let objects = ["apiVersion", "kind", "metadata"];
    for v2 in [false, true] {
        let schema = publish(&written, v2);
        assert_eq!(names(&schema, "/properties"), ["apiVersion", "free", "kind", "metadata", "pod", "port"]);
        assert_eq!(schema["properties"]["pod"]["required"], json!(["spec", "kind", "apiVersion"]));
        assert_eq!(names(&schema, "/properties/pod/properties"), ["apiVersion", "kind", "metadata", "spec"]);
        let free = names(&schema, "/properties/free/properties");
        assert_eq!(free, if v2 { &[][..] } else { &objects[..] }, "v2: {v2}");
        let alternatives = json!([{"type": "integer"}, {"type": "string"}]);
        assert_eq!(schema["properties"]["port"].get("anyOf"), (!v2).then_some(&alternatives));
    }
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    for nothing in [&open, &Value::Null] {
        assert_eq!(publish(nothing, true), json!({"type": "object"}), "kubectl is to refuse no field");
    }
    assert_eq!(names(&publish(&open, false), "/properties"), objects);
}
