use super::*;
use serde_json::{Value, json};

fn service(name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some("n".to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn object(name: &str, of: &str, managed: bool, finalizers: Value) -> IPAddress {
    let labels: BTreeMap<_, _> = if managed { LABELS.into() } else { BTreeMap::new() };
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels, "finalizers": finalizers},
        "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": of}}}))
    .unwrap()
}

/// Services by address, and objects (revision 7), to what is wrong.
fn faults(held: &[(&str, &str)], objects: &[IPAddress]) -> Vec<(String, bool, Option<String>)> {
    let services: Vec<_> = held.iter().map(|(ip, name)| (ip.parse().unwrap(), service(name))).collect();
    let objects = objects.iter().map(|o| (name_of(o).parse().unwrap(), Revision(7), o));
    let mut faults: Vec<_> = plan(services.iter().map(|(ip, s)| (*ip, s)), objects)
        .into_iter()
        .map(|f| (f.address.to_string(), f.remove == Some(Revision(7)), f.holder.map(|(_, name)| name)))
        .collect();
    faults.sort();
    faults
}

#[test]
fn every_address_has_one_object_and_every_object_its_service() {
    let ip = "10.96.0.20";
    let make = |remove: bool, holder: Option<&str>| vec![(ip.to_owned(), remove, holder.map(str::to_owned))];
    let none = json!([]);
    for (what, held, objects, wanted) in [
        ("right", vec![(ip, "a")], vec![object(ip, "a", true, none.clone())], vec![]),
        ("missing", vec![(ip, "a")], vec![], make(false, Some("a"))),
        ("another's", vec![(ip, "a")], vec![object(ip, "b", true, none.clone())], make(true, Some("a"))),
        (
            "without labels",
            vec![(ip, "a")],
            vec![object(ip, "a", false, none.clone())],
            make(true, Some("a")),
        ),
        ("leaked", vec![], vec![object(ip, "a", true, none.clone())], make(true, None)),
        ("made by hand", vec![], vec![object(ip, "a", false, none.clone())], vec![]),
        ("kept by a finalizer", vec![(ip, "a")], vec![object(ip, "b", true, json!(["x/y"]))], vec![]),
        ("held twice", vec![(ip, "a"), (ip, "b")], vec![object(ip, "b", true, none.clone())], vec![]),
        ("held twice, no object", vec![(ip, "a"), (ip, "b")], vec![], make(false, Some("a"))),
    ] {
        assert_eq!(faults(&held, &objects), wanted, "{what}");
    }
}
