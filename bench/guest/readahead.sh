#!/bench/bin/busybox sh
# shellcheck shell=dash
# Sets the readahead of the NFS mounts to what bench.readahead= says (KiB). Runs once they are mounted.
set -eu
# shellcheck disable=SC2013 # words are meant
for word in $(/bench/bin/busybox cat /proc/cmdline); do
    case $word in
    bench.readahead=*) readahead=${word#*=} ;;
    esac
done
[ -n "${readahead:-}" ] || exit 0
while read -r _ _ device _ where _; do
    case $where in
    /run/orion/lower | /run/orion/server/*) echo "$readahead" >"/sys/class/bdi/$device/read_ahead_kb" ;;
    esac
done </proc/self/mountinfo
