# shellcheck shell=dash
# What the kernel command line says of servers and links (bench.*), and how a link is shaped so. Sourced.
# shellcheck disable=SC2034 # those who source it read the variables

clock=virtual servers=0 delay=0 jitter=0 loss=0 rate=0 tmpfs=0 server=server.sh fault='' copies=''
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
    bench.fault=*) fault=${word#*=} ;;   # referee.c has the format
    bench.copies=*) copies=${word#*=} ;; # servers that need a copy of their own of what they export: 1+2
    esac
done

# delays DELAY JITTER LOSS: netem's words, none if there is nothing to do
delays() {
    [ "$1" = 0 ] && [ "$2" = 0 ] || echo "delay ${1}us ${2}us"
    [ "$3" = 0 ] || echo "loss ${3}%"
}

# iproute2 with its own libraries and under its own name: busybox's shell would take its applet, and the node's
# image must not be helped out with libraries that it lacks.
ip() { ld.so --library-path /bench/lib /bench/bin/ip.elf "$@"; }
tc() { ld.so --library-path /bench/lib /bench/bin/tc.elf "$@"; }

# Shapes what leaves through a device. Arguments: namespace, or '' for this one; device; netem's words.
shape() {
    ns=$1 device=$2
    shift 2
    if [ $# = 0 ]; then
        tc ${ns:+-n "$ns"} qdisc del dev "$device" root 2>/dev/null || :
    else
        tc ${ns:+-n "$ns"} qdisc replace dev "$device" root netem limit 100000 "$@"
    fi
}

# Shapes both ends of a server's link. Arguments: its number; netem's words.
shape_server() {
    number=$1
    shift
    shape "server$number" eth0 "$@"
    shape lan "server$number" "$@"
}

# start_server NUMBER DIRECTORY: what it exports
start_server() {
    # Not `ip netns exec`, whose mount namespace would take the server with it when the script ends.
    busybox nsenter "--net=/run/netns/server$1" busybox unshare --uts "/bench/$server" "server$1" "$2"
}
