"""Plain kinds: created, read, listed everywhere, patched, applied, updated, watched, deleted."""

from api import APPLY, MERGE, claim, same
from writes import COLLECTIONS


@claim("every kind: create, get, list of all namespaces, merge patch, apply, update, watch, delete")
def _(k):
    ns = k.namespace("crud")
    faults = []
    for template, body in COLLECTIONS.items():
        if body is None:
            continue
        at = template.format(f"namespaces/{ns}")
        name = f"crud-{ns}"
        try:
            import json
            body = json.loads(json.dumps(body).replace('"{}"', f'"{ns}"'))
            made = k.post(at, {**body, "metadata": {"name": name, "labels": {"of": ns}}}).ok(201)
            got = k.get(f"{at}/{name}").ok()
            same((got["kind"], got["metadata"]["uid"]), (made["kind"], made["metadata"]["uid"]))
            everywhere = template.replace("/{}", "")
            same([i["metadata"]["name"] for i in k.get(f"{everywhere}?labelSelector=of%3D{ns}").ok()["items"]], [name])
            watch = k.watch(f"{everywhere}?labelSelector=of%3D{ns}&resourceVersion={made['metadata']['resourceVersion']}")
            k.patch(f"{at}/{name}", {"metadata": {"annotations": {"patched": "yes"}}}).ok()
            applied = {"apiVersion": made["apiVersion"], "kind": made["kind"], "metadata": {"name": name, "annotations": {"applied": "yes"}}}
            k.patch(f"{at}/{name}?fieldManager=m&force=true", applied, type=APPLY).ok(200)
            for _ in range(5):
                whole = k.get(f"{at}/{name}").ok()
                whole["metadata"]["annotations"]["updated"] = "yes"
                answer = k.put(f"{at}/{name}", whole)
                if answer.code != 409:
                    break
            same({n: answer.ok()["metadata"]["annotations"].get(n) for n in ("patched", "applied", "updated")}, dict.fromkeys(("patched", "applied", "updated"), "yes"))
            watch.until(lambda e: e["type"] == "MODIFIED" and "updated" in e["object"]["metadata"].get("annotations", {}))
            k.delete(f"{at}/{name}?gracePeriodSeconds=0").ok()
            watch.until(lambda e: e["type"] == "DELETED")
            watch.close()
            same(k.get(f"{at}/{name}").code, 404)
        except Exception as error:
            faults.append(f"{at}: {error}")
            k.delete(f"{at}/{name}?gracePeriodSeconds=0")
    assert not faults, "\n          ".join([""] + faults)
