#!/bin/sh
# `make setup`: Debian packages, a virtual environment with the orioncache package, the native library.
# Does nothing where nothing changed.
set -eu
cd "$(dirname "$0")/.."

die() {
    printf 'orioncache: error: %s\n  mend: %s\n' "$1" "$2" >&2
    exit 1
}

packages=$(sed 's/#.*//' debian-packages.txt | xargs)

missing() {
    for package in $packages; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || printf '%s ' "$package"
    done
}

install_packages() {
    wanted=$(missing)
    [ -n "$wanted" ] || return 0
    command -v apt-get >/dev/null || die "not installed: $wanted" "install them: on Debian, apt-get install $wanted"
    [ "$(id -u)" = 0 ] || die "not installed: $wanted" "as root: apt-get install $wanted"
    echo "installing Debian packages (about 500 MB, a minute or two): $wanted"
    # Servers come along (nfs-ganesha); the bench starts its own, so keep Debian from starting any.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT INT TERM
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of words
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $wanted; } \
        >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "apt-get failed" "see above; is this Debian 12, and are its mirrors reached?"; }
    rm -f "$log"
    if [ -n "$(trap)" ]; then
        rm -f $policy
        trap - EXIT INT TERM
    fi
}

build_environment() {
    # Debian's own interpreter, because the initramfs carries it; a pyenv in PATH must not get in between.
    python=/usr/bin/python3
    [ -x $python ] || die "$python is missing" "install Python 3.11 or later"
    stamp=.venv/stamp
    now=$($python --version; cat pyproject.toml setup.py orioncache/native/build.py native/*.[ch] | sha256sum)
    [ "$(cat $stamp 2>/dev/null)" = "$now" ] && return 0
    echo "building .venv (about a minute)"
    $python -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[workbench,dev]'
    echo "$now" >$stamp
}

[ "$(uname -sm)" = "Linux x86_64" ] || die "this is $(uname -sm)" "the workbench runs on Linux x86_64"
install_packages
build_environment
