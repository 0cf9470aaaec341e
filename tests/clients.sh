#!/usr/bin/env bash
# Brings the oldest kubectl we promise to work with (Debian's, 1.20) beside the installed one, without installing it.
# Newer ones are used where the machine has them; tests say which are missing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=$root/.cache/kubectl-1.20
[ -x "$cache/usr/bin/kubectl" ] && exit 0
command -v apt-get >/dev/null 2>&1 || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if apt-get download -qq kubernetes-client >/dev/null 2>&1 || { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq kubernetes-client >/dev/null 2>&1; }; then
    mkdir -p "$cache"
    dpkg -x kubernetes-client_*.deb "$cache"
else
    echo "clients: no Debian package kubernetes-client here; tests of kubectl 1.20 will say so" >&2
fi
