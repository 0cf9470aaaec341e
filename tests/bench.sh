#!/usr/bin/env bash
# Figures of this machine, now: how fast a server is ready, what it costs when idle, and the crates' own benches.
# Compare only with figures of the same run; MINIK8S names another binary.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
minik8s=${MINIK8S:-$root/target/release/minik8s}
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

start() { # data directory: starts a control plane on an empty store and waits for its ready line
    "$minik8s" server --data-dir "$1" --port 21999 --disable kubelet,dns,proxy 2>"$1.log" &
    server=$!
    for _ in $(seq 1000); do grep -q 'is ready' "$1.log" && return; kill -0 "$server"; sleep 0.01; done
    cat "$1.log" >&2
    return 1
}

echo "binary: $(stat -c %s "$minik8s") bytes"
for i in 1 2 3 4 5; do
    start "$work/$i"
    sed -n 's/^minik8s is ready in \(.*\): .*/exec to readyz, empty store: \1/p' "$work/$i.log"
    kill "$server"; wait "$server" || true
done
start "$work/idle"
sleep 5     # lets start-up's own work end: what follows is the idle state
ticks() { awk '{print $14 + $15}' "/proc/$server/stat"; }
before=$(ticks)
sleep 20
echo "idle: $(awk '/^VmRSS/ {print $2 / 1024 " MB"}' "/proc/$server/status") resident, $(( $(ticks) - before )) ticks of $(getconf CLK_TCK)/s in 20 s"
kill "$server"; wait "$server" || true
server=

cd "$root"
cargo bench --workspace --benches
