#!/usr/bin/env bash
# Makes the images of the example and of the tests out of this machine's own Debian packages: no registry is needed.
#   images.sh [example|all]     (default: all)
# An image is made again only when this script, or what goes into it, has changed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
which=${1:-all}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Copies the shared libraries that a program needs, at the same paths.
add_libraries() { # rootfs program
    local lib
    for lib in $(ldd "$2" 2>/dev/null | grep -o '/[^ )]*' || true); do
        install -D -m 0755 "$lib" "$1$lib"
    done
}

# Copies programs with their libraries.
add_program() { # rootfs program...
    local fs=$1; shift
    local program
    for program in "$@"; do
        program=$(readlink -f "$(PATH="$PATH:/usr/sbin:/sbin" command -v "$program")")
        install -D -m 0755 "$program" "$fs$program"
        add_libraries "$fs" "$program"
    done
}

# Debian's dynamic busybox: the static one crashes when it resolves names, because its glibc wants another's plugins.
busybox=$root/.cache/busybox/bin/busybox
if [ ! -x "$busybox" ]; then
    (
        cd "$work"
        apt-get download -qq busybox >/dev/null 2>&1 || { apt-get update -qq && apt-get download -qq busybox >/dev/null; } ||
            { echo "images: cannot get Debian's package busybox (apt-get download busybox)" >&2; exit 1; }
        mkdir -p "$root/.cache/busybox"
        dpkg -x busybox_*.deb "$root/.cache/busybox"
    )
fi

busybox_rootfs() { # rootfs
    local fs=$1
    mkdir -p "$fs"/{bin,etc,proc,sys,dev,tmp,root,var/data,usr/bin,usr/sbin,sbin}
    chmod 1777 "$fs/tmp"
    install -m 0755 "$busybox" "$fs/bin/busybox"
    add_libraries "$fs" "$busybox"
    local applet
    for applet in $("$busybox" --list); do
        [ -e "$fs/bin/$applet" ] || ln -s busybox "$fs/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$fs/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$fs/etc/group"
    printf 'hosts: files dns\n' >"$fs/etc/nsswitch.conf"
}

import() { # rootfs image [docker import --change ...]
    local fs=$1 image=$2; shift 2
    local changes=()
    for change in "$@"; do changes+=(--change "$change"); done
    tar -C "$fs" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c . |
        docker import "${changes[@]}" --change "LABEL minik8s.io/inputs=$inputs" - "$image" >/dev/null
    printf 'images: made %s\n' "$image" >&2
}

# Fresh if the image carries the hash of what it is made of.
fresh() { # image input-file...
    local image=$1; shift
    inputs=$(cat "$0" "$@" | sha256sum | cut -c1-16)
    [ "$(docker image inspect -f '{{index .Config.Labels "minik8s.io/inputs"}}' "$image" 2>/dev/null)" = "$inputs" ]
}

path='ENV PATH=/bin:/usr/bin:/sbin:/usr/sbin'
cgi=$root/examples/kubia/image/index.cgi
for version in v1 v2; do
    if ! fresh "minik8s-example/kubia:$version" "$cgi"; then
        fs=$work/kubia-$version
        busybox_rootfs "$fs"
        install -D -m 0755 "$cgi" "$fs/www/cgi-bin/index.cgi"
        import "$fs" "minik8s-example/kubia:$version" "$path" "ENV KUBIA_VERSION=$version" 'EXPOSE 8080' \
            'CMD ["httpd","-f","-p","8080","-h","/www"]'
    fi
done
if ! fresh minik8s-example/dnsutils:latest; then
    fs=$work/dnsutils
    busybox_rootfs "$fs"
    rm -f "$fs/bin/nslookup"
    add_program "$fs" dig getent
    ln -s "$(readlink -f "$(command -v dig)")" "$fs/bin/dig" 2>/dev/null || true
    import "$fs" minik8s-example/dnsutils:latest "$path" 'CMD ["sh"]'
fi
[ "$which" = example ] && exit 0

if ! fresh minik8s-test/busybox:latest; then
    fs=$work/busybox
    busybox_rootfs "$fs"
    import "$fs" minik8s-test/busybox:latest "$path" 'CMD ["sh"]'
fi
if command -v node >/dev/null 2>&1 && ! fresh minik8s-test/node:latest; then
    fs=$work/node
    busybox_rootfs "$fs"
    add_program "$fs" node
    import "$fs" minik8s-test/node:latest "$path" 'CMD ["node"]'
fi
