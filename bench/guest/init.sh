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

# shellcheck source=bench/guest/link.sh
. /bench/link.sh

# Shapes both directions of the card, where its other end is not ours to shape: what comes in goes through in0.
shape_card() {
    words=$(delays "$delay" "$jitter" "$loss")
    [ "$rate" = 0 ] || words="$words rate ${rate}mbit"
    [ -n "$words" ] || return 0
    ip link add in0 type ifb
    ip link set in0 up
    tc qdisc add dev eth0 ingress
    tc filter add dev eth0 parent ffff: matchall action mirred egress redirect dev in0
    # shellcheck disable=SC2086 # netem's words
    shape '' eth0 $words
    # shellcheck disable=SC2086
    shape '' in0 $words
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
    exported=/bench/root
    case $fault in corrupt:* | zeros:*) case +$copies+ in *+$number+*) exported=/bench/copy/$number ;; esac ;; esac
    start_server "$number" "$exported"
    # shellcheck disable=SC2046 # netem's words
    [ -z "$(delays "$delay" "$jitter" "$loss")" ] || shape_server "$number" $(delays "$delay" "$jitter" "$loss")
}

# A copy of what is exported, for a server that will change it or be another one: in RAM. Argument: its number.
copy() {
    there=/bench/copy/$1
    busybox mkdir -p "$there"
    busybox mount -t tmpfs -o size=100%,mode=755 copy "$there"
    busybox cp -a /bench/root/. "$there/"
    case $fault in divergent:*) ;; *) return 0 ;; esac
    other=/bench/other/tree
    [ ! -e "$there/manifest" ] || other=/bench/other/release
    # Bytes alone: mode and time stay, as a client would look at them.
    (cd $other && busybox find . -type f) | while read -r name; do
        if [ -e "$there/$name" ]; then
            busybox touch -r "$there/$name" /bench/time
            busybox cat "$other/$name" >"$there/$name"
            busybox touch -r /bench/time "$there/$name"
        else
            busybox cp "$other/$name" "$there/$name"
        fi
    done
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
    step='copying what servers export'
    for number in $(echo "$copies" | busybox tr + ' '); do copy "$number"; done
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

if [ -n "$fault" ]; then
    step='starting the referee'
    # Mounts of its own: those of /dev, /proc and /run/netns that are here now.
    busybox unshare -m guest referee </dev/null &
    tries=0
    until guest reached power-on; do
        tries=$((tries + 1))
        [ $tries -lt 100 ]
        busybox usleep 10000
    done
fi

step='handing over'
guest mark start
busybox umount /sys
busybox umount /proc
busybox umount -l /dev
# As the kernel would have started it.
exec busybox env -i HOME=/ TERM=linux /init
