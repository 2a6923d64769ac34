#!/bench/bin/busybox sh
# shellcheck shell=dash
# Starts the kernel's NFS server in the network namespace that this runs in, for the first time or again.
# Arguments: the server's name, and the directory that it exports as its root. Two servers of one name would be taken
# for one by the client (RFC 8881, trunking).
set -eu
PATH=/bench/bin
busybox hostname "$1"
# This mount is the server's life: when its last one goes, the kernel stops the threads.
nfsd=/bench/$1
if [ ! -d "$nfsd" ]; then
    busybox mkdir -p "$nfsd"
    busybox mount -t nfsd nfsd "$nfsd"
fi

echo -3 +4 +4.1 +4.2 >"$nfsd"/versions
# 10 s is the smallest allowed. The grace cannot be ended by hand: that takes a daemon that tracks clients.
echo 10 >"$nfsd"/nfsv4gracetime
echo 10 >"$nfsd"/nfsv4leasetime

# What exportfs and rpc.mountd would say when asked, said beforehand and for ever: any client on the link is "node",
# which may read the export with fsid 0: READONLY 1 | INSECURE_PORT 2 | NOSUBTREECHECK 0x400 | FSID 0x2000.
for_ever=2147483647
echo "nfsd 10.77.0.1 $for_ever node" >/proc/net/rpc/auth.unix.ip/channel
echo "node $2 $for_ever 9219 65534 65534 0" >/proc/net/rpc/nfsd.export/channel
echo "node 1 \\x00000000 $for_ever $2" >/proc/net/rpc/nfsd.fh/channel

echo tcp 2049 >"$nfsd"/portlist
echo 8 >"$nfsd"/threads
