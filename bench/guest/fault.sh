#!/bench/bin/busybox sh
# shellcheck shell=dash
# Begins or ends a fault at one server. Arguments: kind, begin or end, the server's number. Run by the referee.
set -eu
export PATH=/bench/bin
# shellcheck source=bench/guest/link.sh
. /bench/link.sh
kind=$1 what=$2 number=$3

# A round trip of this is the least that "slow" is 20 times of (µs in each direction).
SLOWEST_BASE=500
SLOWER=20

# What comes from a device is dropped, all of it or what the filters before let through. Arguments: namespace, device.
drop() {
    tc -n "$1" filter add dev "$2" ingress prio 9 matchall action drop
}

# Packets of a server that does not run any more while its kernel does: it accepts connections and acknowledges bytes,
# none of its packets has any. IP total length below 64: SYN-ACK, ACK, FIN. The shortest answer has 80 bytes.
mute() {
    tc -n lan qdisc add dev "server$number" clsact
    tc -n lan filter add dev "server$number" ingress prio 1 protocol ip u32 match u16 0 0xffc0 at 2 action pass
    tc -n lan filter add dev "server$number" ingress prio 2 protocol arp matchall action pass
    drop lan "server$number"
}

stop() {
    # Its sockets close, as those of a process that dies.
    echo 0 >"/bench/server$number/threads"
}

case $kind-$what in
kill-begin | full-restart-begin) stop ;;
# Bad disks, corrupt and zeros, are the referee's own work.
kill-end | full-restart-end) start_server "$number" /bench/root ;;
hang-begin) mute ;;
blackhole-begin | flap-begin)
    for end in "lan server$number" "server$number eth0"; do
        tc -n "${end% *}" qdisc add dev "${end#* }" clsact
        drop "${end% *}" "${end#* }"
    done
    ;;
hang-end) tc -n lan qdisc del dev "server$number" clsact ;;
blackhole-end | flap-end)
    tc -n lan qdisc del dev "server$number" clsact
    tc -n "server$number" qdisc del dev eth0 clsact
    ;;
reset-begin) busybox nsenter "--net=/run/netns/server$number" guest reset ;;
slow-begin)
    [ "$delay" -ge $SLOWEST_BASE ] || delay=$SLOWEST_BASE
    # shellcheck disable=SC2046 # netem's words
    shape_server "$number" $(delays $((delay * SLOWER)) "$jitter" "$loss")
    ;;
jitter-begin)
    # shellcheck disable=SC2046
    shape_server "$number" $(delays 50000 50000 "$loss")
    ;;
loss-begin)
    # shellcheck disable=SC2046
    shape_server "$number" $(delays "$delay" "$jitter" 10)
    ;;
slow-end | jitter-end | loss-end)
    # shellcheck disable=SC2046
    shape_server "$number" $(delays "$delay" "$jitter" "$loss")
    ;;
stale-begin | divergent-begin)
    # No handle of one file system is known to another. A start takes a second, in which the boot goes on.
    stop
    start_server "$number" "/bench/copy/$number" || guest fail "the bench could not start server $number again" &
    ;;
daemon-kill-begin) guest kill-daemon ;;
*) exit 2 ;;
esac
