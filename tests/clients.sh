#!/usr/bin/env bash
# Brings the clients that the suite drives beside the sources, below .cache, without installing anything: the oldest kubectl
# we promise to work with (Debian's, 1.20), and the Python and Node.js client libraries. Newer kubectls are used where
# the machine has them. What cannot be had is told here and in .cache/NAME.missing, and its test says so.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=$root/.cache
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

missing() {
    echo "$2" >"$cache/$1.missing"
    echo "clients: $2; the test of it will say so" >&2
}

kubectl() {
    [ -x "$cache/kubectl-1.20/usr/bin/kubectl" ] && return
    command -v apt-get >/dev/null 2>&1 || return 0
    cd "$work"
    if apt-get download -qq kubernetes-client >/dev/null 2>&1 || { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq kubernetes-client >/dev/null 2>&1; }; then
        mkdir -p "$cache/kubectl-1.20"
        dpkg -x kubernetes-client_*.deb "$cache/kubectl-1.20"
    else
        echo "clients: no Debian package kubernetes-client here; tests of kubectl 1.20 will say so" >&2
    fi
}

python() {
    local wanted=$root/tests/clients/requirements.txt at=$cache/python
    cmp -s "$wanted" "$at/requirements.txt" && return
    rm -rf "$at" "$cache/python.missing"
    if python3 -m venv "$at" >"$work/python" 2>&1 && "$at/bin/pip" install -q -r "$wanted" >>"$work/python" 2>&1; then
        cp "$wanted" "$at/requirements.txt"
    else
        missing python "the Python client cannot be had (python3 with venv, and a package index): $(tail -1 "$work/python")"
    fi
}

node() {
    local wanted=$root/tests/clients/package.json at=$cache/node
    cmp -s "$wanted" "$at/installed.json" && return
    rm -rf "$at" "$cache/node.missing"
    mkdir -p "$at"
    cp "$wanted" "$at/package.json"
    if npm install --prefix "$at" --no-audit --no-fund --silent >"$work/node" 2>&1; then
        cp "$wanted" "$at/installed.json"
    else
        missing node "the Node.js client cannot be had (node 18 or newer with npm, and a registry): $(tail -1 "$work/node")"
    fi
}

kubectl
python
node
