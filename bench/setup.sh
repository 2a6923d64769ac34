#!/bin/sh
# `make setup`: Debian packages, a virtual environment with the orioncache package, the native library.
# Does nothing where nothing changed.
set -eu
cd "$(dirname "$0")/.."

POLICY=/usr/sbin/policy-rc.d
log=$(mktemp)
policy_is_ours=

clean_up() {
    rm -f "$log"
    [ -z "$policy_is_ours" ] || rm -f $POLICY
}
trap clean_up EXIT
trap 'exit 130' INT TERM

die() {
    printf 'orioncache: error: %s\n  mend: %s\n' "$1" "$2" >&2
    exit 1
}

# quietly WHAT MEND COMMAND…: shows the command's output only if it fails
quietly() {
    what=$1 mend=$2
    shift 2
    "$@" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "$what failed (see above)" "$mend"
    }
}

missing_packages() {
    while read -r package _; do
        case $package in '' | '#'*) continue ;; esac
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || printf '%s ' "$package"
    done <debian-packages.txt
}

install_packages() {
    command -v dpkg-query >/dev/null ||
        die "this is no Debian system" "install what debian-packages.txt lists by your own means; Debian 12 is what we test"
    wanted=$(missing_packages)
    [ -n "$wanted" ] || return 0
    [ "$(id -u)" = 0 ] || die "not installed: $wanted" "run make setup as root, or as root: apt-get install $wanted"
    echo "installing Debian packages (all of them are 450 MB of downloads, one to three minutes): $wanted"
    # Servers come along (nfs-ganesha); the bench starts its own, so keep Debian from starting any.
    if [ ! -e $POLICY ]; then
        policy_is_ours=yes
        printf '#!/bin/sh\nexit 101\n' >$POLICY
        chmod +x $POLICY
    fi
    export DEBIAN_FRONTEND=noninteractive
    quietly "apt-get update" "are Debian's mirrors reached?" apt-get update -q
    # shellcheck disable=SC2086 # a list of words
    quietly "apt-get install" "is this Debian 12 with its security updates in the sources?" \
        apt-get install -qy --no-install-recommends $wanted
}

build_environment() {
    # Debian's own interpreter, because the initramfs carries it; a pyenv in PATH must not get in between.
    python=/usr/bin/python3
    [ -x $python ] || die "$python is missing" "install Python 3.11 or later"
    now=$($python --version; pwd; cat pyproject.toml setup.py orioncache/native/build.py native/*.[ch] native/*.cdef | sha256sum)
    [ "$(cat .venv/stamp 2>/dev/null)" != "$now" ] || return 0
    echo "building .venv with the native library (half a minute)"
    [ "$(.venv/bin/python --version 2>/dev/null)" = "$($python --version)" ] ||
        quietly "python3 -m venv" "is there room on the disk?" $python -m venv --clear .venv
    quietly "pip install" "is PyPI reached?" .venv/bin/python -m pip install --disable-pip-version-check --upgrade pip
    quietly "pip install" "is PyPI reached? is pyproject.toml in order?" \
        .venv/bin/python -m pip install --disable-pip-version-check --editable '.[workbench,dev]'
    echo "$now" >.venv/stamp
}

[ "$(uname -sm)" = "Linux x86_64" ] || die "this is $(uname -sm)" "the workbench runs on Linux x86_64"
install_packages
build_environment
