#!/bench/bin/busybox sh
# shellcheck shell=dash
# The bench's part of a boot: ends the phase "kernel", builds the scene (servers and links, not counted), then lets
# the node's own /init begin. Reads bench.* from the kernel command line.
set -eu
export PATH=/bench/bin

# Devices first: the time stamp leaves by one of them.
busybox mount -t devtmpfs dev /dev
guest mark kernel
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
step='reading the command line'
# Only left by exec if all went well.
trap 'guest fail "the bench could not set its scene: $step"' EXIT

clock=virtual servers=0 delay=0 jitter=0 loss=0 rate=0 tmpfs=0 server=server.sh
# shellcheck disable=SC2013 # words are meant
for word in $(busybox cat /proc/cmdline); do
    case $word in
    bench.clock=*) clock=${word#*=} ;;
    bench.servers=*) servers=${word#*=} ;;
    bench.delay=*) delay=${word#*=} ;;   # µs in each direction
    bench.jitter=*) jitter=${word#*=} ;; # µs around it
    bench.loss=*) loss=${word#*=} ;;     # percent
    bench.rate=*) rate=${word#*=} ;;     # Mbit/s, 0: not limited
    bench.nbd=*) server=nbd-server.sh ;; # the root is a block device's
    bench.tmpfs=*) tmpfs=${word#*=} ;;   # 1: the root is copied into RAM
    esac
done

delays=''
[ "$delay" = 0 ] && [ "$jitter" = 0 ] || delays="delay ${delay}us ${jitter}us"
[ "$loss" = 0 ] || delays="$delays loss ${loss}%"

# iproute2 with its own libraries and under its own name: busybox's shell would take its applet, and the node's
# image must not be helped out with libraries that it lacks.
ip() { ld.so --library-path /bench/lib /bench/bin/ip.elf "$@"; }
tc() { ld.so --library-path /bench/lib /bench/bin/tc.elf "$@"; }

# Shapes what leaves through a device. Arguments: namespace, or '' for this one; device; netem's words.
shape() {
    ns=$1 device=$2
    shift 2
    [ $# = 0 ] || tc ${ns:+-n "$ns"} qdisc add dev "$device" root netem limit 100000 "$@"
}

# Shapes both directions of the card, where its other end is not ours to shape: what comes in goes through in0.
shape_card() {
    [ "$rate" = 0 ] || delays="$delays rate ${rate}mbit"
    [ -n "$delays" ] || return 0
    ip link add in0 type ifb
    ip link set in0 up
    tc qdisc add dev eth0 ingress
    tc filter add dev eth0 parent ffff: matchall action mirred egress redirect dev in0
    # shellcheck disable=SC2086 # netem's words
    shape '' eth0 $delays
    # shellcheck disable=SC2086
    shape '' in0 $delays
}

link() {
    ip netns add lan
    # The node's side stays in the first namespace; its address is the node's own business (orion.ip=).
    ip link add eth0 type veth peer name node netns lan
    ip link add lan netns lan type bridge
    ip -n lan link set lan up
    ip -n lan link set node master lan up
}

serve() {
    number=$1
    ns=server$number
    ip netns add "$ns"
    ip -n "$ns" link add eth0 type veth peer name "$ns" netns lan
    ip -n lan link set "$ns" master lan up
    ip -n "$ns" link set lo up
    ip -n "$ns" addr add "10.77.0.$((10 + number))/24" dev eth0
    ip -n "$ns" link set eth0 up
    # Not `ip netns exec`, whose mount namespace would take the server with it when the script ends.
    busybox nsenter "--net=/run/netns/$ns" busybox unshare --uts "/bench/$server" "$ns"
    # shellcheck disable=SC2086 # netem's words
    shape "$ns" eth0 $delays
    # shellcheck disable=SC2086
    shape lan "$ns" $delays
}

root=/dev/pmem0
if [ -e $root ]; then
    step='mounting the root image'
    busybox mkdir -p /bench/root
    busybox mount -t ext4 -o ro,noload $root /bench/root
fi
if [ "$tmpfs" = 1 ]; then
    step='copying the root into RAM'
    busybox mkdir -p /bench/tmpfs
    busybox mount -t tmpfs -o size=100%,mode=755 root /bench/tmpfs
    busybox cp -a /bench/root/. /bench/tmpfs/
    busybox umount /bench/root
fi
if [ "$clock" = virtual ] && [ "$servers" -gt 0 ]; then
    step="warming the servers' page cache"
    # As a server's is that boots a room of nodes. Cold, the default root's 27 MB cost 0.06 s more.
    busybox find /bench/root -xdev -type f -exec busybox cat {} + >/dev/null
    step='making the link'
    link
    number=1
    while [ $number -le "$servers" ]; do
        step="starting server $number"
        serve $number
        number=$((number + 1))
    done
    if [ $server = server.sh ]; then
        step='waiting for the end of the grace period'
        number=1
        while [ $number -le "$servers" ]; do
            # A sleep costs nothing here: the virtual clock leaps over it.
            until [ "$(busybox cat "/bench/server$number/v4_end_grace")" = Y ]; do
                busybox sleep 1
            done
            number=$((number + 1))
        done
    else
        # As long as that period: in a kernel's first seconds the first connection over a new link takes 1 to 6 s.
        busybox sleep 12
    fi
    if [ "$rate" != 0 ]; then
        step='limiting the rate'
        shape '' eth0 rate "${rate}mbit"
        shape lan node rate "${rate}mbit"
    fi
elif [ -e /sys/class/net/eth0 ]; then
    step='shaping the link'
    shape_card
fi

step='handing over'
guest mark start
busybox umount /sys
busybox umount /proc
busybox umount -l /dev
# As the kernel would have started it.
exec busybox env -i HOME=/ TERM=linux /init
