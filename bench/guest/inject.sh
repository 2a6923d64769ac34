#!/bench/bin/busybox sh
# shellcheck shell=dash
# Adds the workload and what starts it to the node's root, that is to the overlay's upper layer: $SYSROOT is written
# to, the root below is not. Runs in the initramfs before the root's init takes over; bench/workload.py decided on
# the workbench what goes where and says so in /bench/inject.list, in lines of mode and path.
set -eu
busybox=${BENCH:-/bench}/bin/busybox
cd "${BENCH:-/bench}"

"$busybox" mkdir -p "$SYSROOT/.orion-bench"
"$busybox" cp bin/guest bin/busybox "$SYSROOT/.orion-bench/"
while read -r mode path; do
    # A directory keeps its time: runsvdir sleeps for a second if its directory has just changed.
    there=$SYSROOT/${path%/*}
    while [ ! -d "$there" ]; do there=${there%/*}; done
    "$busybox" touch -r "$there" time
    "$busybox" mkdir -p "$SYSROOT/${path%/*}"
    # Not written through a link that the root has in its place.
    "$busybox" rm -f "$SYSROOT/$path"
    "$busybox" cp "inject/$path" "$SYSROOT/$path"
    "$busybox" chmod "$mode" "$SYSROOT/$path"
    "$busybox" touch -r time "$there"
done <inject.list
