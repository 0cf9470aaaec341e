#!/usr/bin/env bash
# Shows the StatefulSet example on a running server, starting one where none runs. Safe to repeat.
# make run calls it; KUBECTL names another kubectl, MINIK8S_DATA_DIR another data directory.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
minik8s=${MINIK8S:-$root/target/release/minik8s}
data=${MINIK8S_DATA_DIR:-$([ "$(id -u)" = 0 ] && echo /var/lib/minik8s || echo "${XDG_DATA_HOME:-$HOME/.local/share}/minik8s")}
export KUBECONFIG=$data/admin.kubeconfig
log=$root/.cache/minik8s.log
mkdir -p "$root/.cache"

step() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
kubectl=${KUBECTL:-$(command -v kubectl || true)}
if [ -z "$kubectl" ]; then
    "$root/tests/clients.sh"
    kubectl=$root/.cache/kubectl-1.20/usr/bin/kubectl
fi
kubectl() { printf '$ kubectl %s\n' "$*"; "$kubectl" "$@"; }

"$root/tests/images.sh" example

step 'A whole Kubernetes, in one process'
if [ -f "$KUBECONFIG" ] && "$kubectl" get --raw /readyz >/dev/null 2>&1; then
    echo "a server already runs on $data"
else
    setsid "$minik8s" server --data-dir "$data" "$@" >"$log" 2>&1 </dev/null &
    for _ in $(seq 300); do
        grep -q 'is ready' "$log" && break
        kill -0 $! 2>/dev/null || { cat "$log" >&2; exit 1; }
        sleep 0.1
    done
    grep -A1 'is ready' "$log" || { cat "$log" >&2; exit 1; }
fi
kubectl wait --for=condition=Ready node --all --timeout=60s
kubectl get nodes

step 'A StatefulSet with a headless service, a volume each, and a readiness probe'
kubectl apply -f "$root/examples/kubia/kubia.yaml"
kubectl rollout status statefulset/kubia --timeout=120s
kubectl get pods,pvc -l app=kubia

step 'Its members find each other by SRV records'
"$kubectl" delete pod srvlookup --ignore-not-found --wait >/dev/null 2>&1 || true
kubectl run -i srvlookup --image=minik8s-example/dnsutils --rm --restart=Never -- \
    dig +noall +answer +additional SRV kubia.default.svc.cluster.local </dev/null

step 'A pod is reached through the API server, as kubectl proxy does'
proxy_log=$(mktemp)
"$kubectl" proxy --port=0 >"$proxy_log" &
proxy=$!
trap 'kill $proxy 2>/dev/null || true; rm -f "$proxy_log"' EXIT
for _ in $(seq 100); do grep -q 'serve on' "$proxy_log" && break; sleep 0.1; done
url=http://$(sed -n 's/.*serve on //p' "$proxy_log")/api/v1/namespaces/default
show curl -sS -X POST -d "Hey there! This greeting was submitted to kubia-0." "$url/pods/kubia-0/proxy/"
show curl -sS "$url/pods/kubia-0/proxy/"

step 'Deleted, it comes back under its name, with its data'
kubectl delete pod kubia-0
kubectl rollout status statefulset/kubia --timeout=120s
show curl -sS "$url/services/kubia-public/proxy/"

step 'Now it is yours'
echo "export KUBECONFIG=$KUBECONFIG"
echo "Stop the server with: kill $(pgrep -f "$minik8s server" | head -n 1 || echo PID)   (pods keep running and are adopted at the next start)"
echo "Remove everything with: $minik8s reset --data-dir $data"
