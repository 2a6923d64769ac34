# shellcheck shell=sh
# The network, as IP_* of cmdline.sh ask for it. The kernel's own set-up (ip= with CONFIG_IP_PNP) is used where it did
# the work. A function that fails sets WRONG and MEND, and returns 1.
# shellcheck disable=SC2034 # WRONG and MEND are read by init

# Seconds to wait for an interface and its link, and for an address.
LINK_DEADLINE=10
ADDRESS_DEADLINE=20
RESOLV_CONF=/run/orion/resolv.conf # /etc/resolv.conf points there; the node finds it there as well
BOOT_SERVER=/run/orion/boot-server

network_up() {
    if [ -n "$IPS_OURS" ] || asks_for_ip6 || ! has_ip4; then
        for word in ${IPS:-dhcp}; do
            parse_ip "$word" && configure "$word" || return 1
        done
    fi
    name_servers
}

asks_for_ip6() {
    case "$IPS " in
    *\[* | *6\ * | *6:*) return 0 ;;
    *) return 1 ;;
    esac
}

# Whether any interface has an IPv4 network.
has_ip4() {
    while read -r interface _; do
        [ "$interface" = Iface ] || return 0
    done </proc/net/route
    return 1
}

# Whether the interface has an IPv6 address beyond the link's own (scope 20) that is not tentative any more.
has_ip6() {
    while read -r _ _ _ scope flags name; do
        if [ "$name" = "$1" ] && [ "$scope" != 20 ] && [ $((0x$flags & 0x40)) = 0 ]; then return 0; fi
    done </proc/net/if_inet6
    return 1
}

# until_true SECONDS COMMAND…: tries 50 times a second
until_true() {
    tries=$(($1 * 50))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        usleep 20000
    done
}

# set_up COMMAND…: an error of it is told with the word that is being acted on
set_up() {
    "$@" || wrong "ip=$word: '$*' failed" "the line above says why"
}

configure() {
    [ "$IP_METHOD" != none ] || return 0
    [ -z "$IP_HOST" ] || echo "$IP_HOST" >/proc/sys/kernel/hostname
    until_true $LINK_DEADLINE find_interfaces || {
        wrong "ip=$1: this machine has no network interface${IP_IFACE:+ $IP_IFACE}" \
            "check the name, and that the kernel has the card's driver"
        return 1
    }
    for interface in $interfaces; do
        [ -z "$IP_MAC" ] || set_up ip link set dev "$interface" address "$IP_MAC" || return 1
        [ -z "$IP_MTU" ] || set_up ip link set dev "$interface" mtu "$IP_MTU" || return 1
        set_up ip link set dev "$interface" up || return 1
    done
    until_true $LINK_DEADLINE find_linked || {
        wrong "no link on $interfaces after $LINK_DEADLINE s" "check the cable and the switch's port"
        return 1
    }
    case $IP_METHOD in
    static) configure_static ;;
    dhcp) configure_dhcp ;;
    auto6 | either6) configure_auto6 ;;
    dhcp6) wrong "ip=$1: this initramfs has no DHCPv6 client" "use auto6, or a static address in []" ;;
    esac
}

# Sets interfaces to those that are asked for and there: IP_IFACE, or BOOTIF=, or every Ethernet card.
find_interfaces() {
    interfaces=''
    for path in /sys/class/net/*; do
        [ -e "$path/type" ] || continue
        read -r type <"$path/type"
        read -r address <"$path/address"
        [ "$type" = 1 ] || continue
        if [ -n "$IP_IFACE" ]; then
            [ "${path##*/}" = "$IP_IFACE" ] || continue
        elif [ -n "$BOOTIF" ]; then
            is_bootif "$address" || continue
        else
            [ -e "$path/device" ] || continue
        fi
        interfaces="$interfaces ${path##*/}"
    done
    [ -n "$interfaces" ]
}

# BOOTIF=01-52-54-00-12-34-56, as pxelinux and iPXE write it
is_bootif() {
    rest=$1 dashed=''
    while [ -n "$rest" ]; do
        dashed=$dashed-${rest%%:*}
        case $rest in *:*) rest=${rest#*:} ;; *) rest='' ;; esac
    done
    case $BOOTIF in *"$dashed") return 0 ;; *) return 1 ;; esac
}

# Sets linked to the interfaces that have a carrier.
find_linked() {
    linked=''
    for interface in $interfaces; do
        carrier=0
        read -r carrier <"/sys/class/net/$interface/carrier" || :
        [ "$carrier" != 1 ] || linked="$linked $interface"
    done
    [ -n "$linked" ]
}

configure_static() {
    interface=${linked# } interface=${interface%% *}
    case $IP_CLIENT in
    *:*)
        # No duplicate address detection: it would cost a second, and the address is the administrator's choice.
        echo 0 >"/proc/sys/net/ipv6/conf/$interface/accept_dad"
        set_up ip -6 addr add "$IP_CLIENT/$IP_PREFIX" dev "$interface" || return 1
        ;;
    *) set_up ip addr add "$IP_CLIENT/$IP_PREFIX" ${IP_PEER:+peer "$IP_PEER"} broadcast + dev "$interface" || return 1 ;;
    esac
    case $IP_GATEWAY in
    '') ;;
    *:*) set_up ip -6 route add default via "$IP_GATEWAY" dev "$interface" || return 1 ;;
    *) set_up ip route add default via "$IP_GATEWAY" dev "$interface" || return 1 ;;
    esac
    for server in $IP_DNS; do echo "nameserver $server" >>$RESOLV_CONF; done
}

configure_dhcp() {
    for interface in $linked; do
        # -q ends with the lease, -n without one; the root's own network service renews it.
        if udhcpc -i "$interface" -f -q -n -t 5 -T 2 -s /lib/orion/udhcpc.sh ${IP_HOST:+-x "hostname:$IP_HOST"} \
            >/run/orion/udhcpc.log 2>&1; then
            return 0
        fi
    done
    wrong "no DHCP server answers on$linked" "check the DHCP server, or give a static ip="
}

configure_auto6() {
    interface=${linked# } interface=${interface%% *}
    until_true $ADDRESS_DEADLINE has_ip6 "$interface" ||
        wrong "no IPv6 address on $interface after $ADDRESS_DEADLINE s" "check that a router announces a prefix there"
}

# /etc/resolv.conf from the kernel's DHCP, the lease, ip= and nameserver=.
name_servers() {
    if [ -e /proc/net/pnp ]; then
        while read -r key value; do
            case $key in
            nameserver) echo "nameserver $value" >>$RESOLV_CONF ;;
            bootserver) [ "$value" = 0.0.0.0 ] || [ -e $BOOT_SERVER ] || echo "$value" >$BOOT_SERVER ;;
            esac
        done </proc/net/pnp
    fi
    for server in $NAMESERVERS; do echo "nameserver $server" >>$RESOLV_CONF; done
}
