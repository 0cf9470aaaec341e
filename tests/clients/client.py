"""What programs written with Kubernetes' Python client do, against the cluster of $KUBECONFIG.

Names end in the first argument, so that several runs do not meet. Prints `ok` at its end; anything else is a failure."""

import sys

from kubernetes import client, config, dynamic, stream, watch

config.load_kube_config()
core, apps, suffix = client.CoreV1Api(), client.AppsV1Api(), sys.argv[1]
NS = "default"
WAIT = 100


def refused(status, reason, call, *args):
    try:
        call(*args)
    except client.ApiException as error:
        assert (error.status, error.reason) == (status, reason), error
        return error
    raise AssertionError(f"{call} was not refused")


def until(list_call, what, accept, **selection):
    """Watches until an object is what `accept` takes."""
    for event in watch.Watch().stream(list_call, NS, timeout_seconds=WAIT, **selection):
        if accept(event):
            return event["object"]
    raise AssertionError(f"no {what} within {WAIT} s")


# Create with a generated name, list, patch, watch, delete.
made = core.create_namespaced_config_map(
    NS, {"metadata": {"generateName": "py-", "labels": {"run": suffix}}, "data": {"a": "b"}}
)
name = made.metadata.name
assert name.startswith("py-") and len(name) == 8, name
patched = core.patch_namespaced_config_map(name, NS, {"data": {"c": "d"}})
assert patched.data == {"a": "b", "c": "d"}, patched.data
listed = core.list_namespaced_config_map(NS, label_selector=f"run={suffix}")
assert [item.metadata.name for item in listed.items] == [name]
core.patch_namespaced_config_map(name, NS, {"data": {"a": None}})
changed = until(
    core.list_namespaced_config_map,
    "MODIFIED event",
    lambda event: event["type"] == "MODIFIED",
    label_selector=f"run={suffix}",
    resource_version=listed.metadata.resource_version,
)
assert changed.data == {"c": "d"}, changed.data

# What is refused, and how.
refused(409, "Conflict", core.replace_namespaced_config_map, name, NS, made)
refused(409, "Conflict", core.create_namespaced_config_map, NS, {"metadata": {"name": name}})
core.delete_namespaced_config_map(name, NS)
assert '"reason":"NotFound"' in refused(404, "Not Found", core.read_namespaced_config_map, name, NS).body
refused(422, "Unprocessable Entity", core.create_namespaced_config_map, NS, {"metadata": {"name": "No_Name"}})

# A pod: until it runs, its log, and commands in it over a WebSocket.
pod = f"py-{suffix}"
shell = "echo hello; sleep 86400"
container = {
    "name": "main",
    "image": "minik8s-test/busybox",
    "imagePullPolicy": "IfNotPresent",
    "command": ["sh", "-c", shell],
}
spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
core.create_namespaced_pod(NS, {"metadata": {"name": pod}, "spec": spec})
until(
    core.list_namespaced_pod,
    "running pod",
    lambda event: event["object"].status.phase == "Running",
    field_selector=f"metadata.name={pod}",
)
for line in watch.Watch().stream(core.read_namespaced_pod_log, pod, NS):
    assert line == "hello", line
    break
assert core.read_namespaced_pod_log(pod, NS, tail_lines=1) == "hello\n"
run = dict(stderr=True, stdin=False, stdout=True, tty=False)
said = stream.stream(core.connect_get_namespaced_pod_exec, pod, NS, command=["hostname"], **run)
assert said == f"{pod}\n", said
session = stream.stream(
    core.connect_get_namespaced_pod_exec, pod, NS, command=["sh"], _preload_content=False, **{**run, "stdin": True}
)
session.write_stdin("echo heard; exit 7\n")
session.run_forever(timeout=WAIT)
assert (session.read_stdout(), session.returncode) == ("heard\n", 7), session.returncode
core.delete_namespaced_pod(pod, NS)

# Scaling.
labels = {"app": f"py-{suffix}"}
template = {"metadata": {"labels": labels}, "spec": spec}
body = {"metadata": {"name": f"py-{suffix}"}}
body["spec"] = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
apps.create_namespaced_deployment(NS, body)
assert apps.read_namespaced_deployment_scale(f"py-{suffix}", NS).spec.replicas == 0
assert apps.patch_namespaced_deployment_scale(f"py-{suffix}", NS, {"spec": {"replicas": 1}}).spec.replicas == 1
until(
    apps.list_namespaced_deployment,
    "available replica",
    lambda event: event["object"].status.available_replicas == 1,
    field_selector=f"metadata.name=py-{suffix}",
)
apps.delete_namespaced_deployment(f"py-{suffix}", NS)

# The client that asks discovery for everything.
pods = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="Pod")
assert pods.get(namespace=NS).kind == "PodList"
print("ok")
