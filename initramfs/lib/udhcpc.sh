#!/bin/sh
# busybox udhcpc runs this when it has a lease: $1 is the event, the lease is in the environment.
set -eu
# shellcheck disable=SC2154 # interface, ip, mask, router, dns, siaddr and hostname come from udhcpc
case $1 in
bound)
    ip addr add "$ip/$mask" broadcast "${broadcast:-+}" dev "$interface"
    for gateway in ${router:-}; do
        ip route add default via "$gateway" dev "$interface"
        break
    done
    for server in ${dns:-}; do echo "nameserver $server" >>/run/orion/resolv.conf; done
    [ -z "${hostname:-}" ] || echo "$hostname" >/proc/sys/kernel/hostname
    [ -z "${siaddr:-}" ] || echo "$siaddr" >/run/orion/boot-server
    ;;
esac
