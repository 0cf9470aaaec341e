#!/usr/bin/env bash
# Makes this machine ready to run minik8s: Docker Engine running, the tools the images are made of present.
# Does nothing where nothing is needed, leaves a running Docker alone, and installs only as root on Debian or Ubuntu.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# command → Debian package that has it
needs=(
    dockerd:docker.io iptables:iptables dig:bind9-dnsutils
    curl:curl diff:diffutils tar:tar
)

missing=()
for need in "${needs[@]}"; do
    # A running Engine of whatever make is enough; its daemon need not be on the PATH.
    [ "${need%%:*}" = dockerd ] && docker info >/dev/null 2>&1 && continue
    [ "${need%%:*}" = iptables ] && docker info >/dev/null 2>&1 && continue
    PATH="$PATH:/usr/sbin:/sbin" command -v "${need%%:*}" >/dev/null 2>&1 || missing+=("${need#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; } ||
            die "apt-get could not install: ${missing[*]}"
    else
        die "please install these first (on Debian: apt-get install ${missing[*]})"
    fi
fi

docker_up() { docker info >/dev/null 2>&1; }

if ! docker_up; then
    [ "$(id -u)" = 0 ] || die "the Docker Engine is not running or not yours to use; start it (systemctl start docker) and join the group docker"
    exec 9>/run/lock/minik8s-dockerd.lock
    flock -w 120 9 || die "another setup holds /run/lock/minik8s-dockerd.lock"
    if ! docker_up; then
        # A killed dockerd leaves its pid file behind; the number may belong to another program by now.
        for pidfile in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
            if [ -f "$pidfile" ] && ! grep -qs -e dockerd -e containerd "/proc/$(cat "$pidfile")/cmdline"; then
                rm -f "$pidfile"
            fi
        done
        say "starting dockerd (log: /var/log/minik8s-dockerd.log)"
        setsid dockerd >/var/log/minik8s-dockerd.log 2>&1 9>&- </dev/null &
        for _ in $(seq 150); do docker_up && break; sleep 0.2; done
        docker_up || { tail -n 20 /var/log/minik8s-dockerd.log >&2; die "dockerd did not come up"; }
    fi
fi
