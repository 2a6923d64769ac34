#!/bench/bin/busybox sh
# shellcheck shell=dash
# Starts nbd-server in the network namespace that this runs in. The image and the programs come from /bench/root
# (bench/squashed.py). Argument: the server's name.
set -eu
busybox cat >"/bench/$1.conf" <<EOF
[generic]
[root]
exportname = /bench/root/root.squashfs
readonly = true
EOF
# It goes into the background once it listens.
ld.so --library-path /bench/root/lib /bench/root/bin/nbd-server -C "/bench/$1.conf" -p "/bench/$1.pid"
