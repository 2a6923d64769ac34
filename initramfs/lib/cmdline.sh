# shellcheck shell=sh
# The kernel command line: words in, variables out. Touches nothing but variables, so that it is tested as a table;
# docs/boot-options.md has the grammar. A function that meets a wrong word puts what is wrong into WRONG and what to
# write instead into MEND, and returns 1.
# shellcheck disable=SC2034 # most of the variables are read by init and by network.sh

POINTS='cmdline network mount cache overlay switch'

# wrong WHAT MEND; the first one is kept
wrong() {
    [ -n "$WRONG" ] || WRONG=$1 MEND=$2
    return 1
}

# parse_cmdline LINE sets
#   ROOT_KIND    nfs, orion or dir
#   SERVERS      words SERVER:/PATH, the preferred one first; IPv6 literals in []; ":/PATH" means DHCP's boot server
#   ROOT_DIR     the directory of root=dir:
#   NFS_OPTIONS  mount options of the user's, comma first
#   IPS          the words of orion.ip=, or else of ip=
#   IPS_OURS     not empty if they came from orion.ip=, which the kernel does not act on
#   NAMESERVERS, BOOTIF, INIT, OVERLAY_SIZE, SHELL_AT, ON_FAILURE, MOUNT_TIMEOUT (seconds)
#   UNKNOWN      orion.* words that nobody knows
parse_cmdline() {
    ROOT_KIND='' SERVERS='' ROOT_DIR='' NFS_OPTIONS='' IPS='' IPS_OURS='' NAMESERVERS='' BOOTIF='' INIT=''
    OVERLAY_SIZE=50% SHELL_AT='' ON_FAILURE=shell MOUNT_TIMEOUT=15 UNKNOWN='' WRONG='' MEND=''
    root='' nfsroot='' servers='' quoted=''
    set -f
    # shellcheck disable=SC2086 # split into words on purpose, with globbing off
    set -- $1
    set +f
    for piece; do
        # As in the kernel, blanks within "" do not end a word.
        if [ -n "$quoted" ]; then
            word="$quoted $piece"
        else
            word=$piece
        fi
        quoted=''
        case $word in
        *\"*\"*) word=${word%%\"*}${word#*\"} word=${word%%\"*}${word#*\"} ;;
        *\"*) quoted=$word && continue ;;
        --) break ;; # what follows is for the root's init
        esac
        # All words are read even so: the failure has to know orion.on_failure=.
        parse_word "$word" || :
    done
    [ -n "$WRONG" ] || parse_root "$root" || :
    [ -z "$WRONG" ]
}

parse_word() {
    value=${1#*=}
    case $1 in
    root=*) root=$value ;;
    nfsroot=*) nfsroot=$value ;;
    init=/*) INIT=$value ;;
    init=*) wrong "$1 is no absolute path" "write init=/sbin/init" ;;
    ip=*) [ -n "$IPS_OURS" ] || IPS="$IPS $value" ;;
    orion.ip=*)
        [ -n "$IPS_OURS" ] || IPS=''
        IPS="$IPS $value" IPS_OURS=yes
        ;;
    nameserver=*) NAMESERVERS="$NAMESERVERS $value" ;;
    BOOTIF=*) BOOTIF=$value ;;
    orion.servers=*) servers=$value ;;
    orion.nfsopts=*) NFS_OPTIONS=,$value ;;
    orion.overlay_size=*) OVERLAY_SIZE=$value && check_size "$1" ;;
    orion.mount_timeout=*) MOUNT_TIMEOUT=$value && check_number "$1" "$value" ;;
    orion.shell=*)
        SHELL_AT=$value
        case " $POINTS " in
        *" $value "*) ;;
        *) wrong "$1 names no point of the boot" "one of: $POINTS" ;;
        esac
        ;;
    orion.on_failure=*)
        case $value in
        shell | reboot | poweroff | halt) ON_FAILURE=$value ;;
        *) wrong "$1 is not known" "one of: shell reboot poweroff halt" ;;
        esac
        ;;
    orion.*)
        key=${1#orion.}
        # ORION_OPTIONS: the cache's own words, which it reads and checks by itself; written by the builder.
        case " ${ORION_OPTIONS:-} " in
        *" ${key%%=*} "*) ;;
        *) UNKNOWN="$UNKNOWN $1" ;;
        esac
        ;;
    esac
}

check_number() {
    case $2 in
    '' | *[!0-9]* | ??????*) wrong "$1 is no number" "write ${1%%=*}=15" ;;
    esac
}

check_size() {
    number=${OVERLAY_SIZE%[kKmMgG%]}
    case $number in
    '' | *[!0-9]* | 0) wrong "$1 is no size" "write ${1%%=*}=512M, 2G or 50% (of the RAM)" ;;
    esac
}

parse_root() {
    case $1 in
    '') wrong "root= is missing" "write root=orion:SERVER:/PATH or root=nfs4:SERVER:/PATH" ;;
    orion | orion:*)
        ROOT_KIND=orion
        list=${1#orion} list=${list#:}
        parse_servers "${list:-$servers}" "root=$1"
        ;;
    nfs:* | nfs4:*) ROOT_KIND=nfs && parse_nfs "${1#*:}" "root=$1" ;;
    /dev/nfs)
        if [ -z "$nfsroot" ]; then
            wrong "root=/dev/nfs needs nfsroot=" "write nfsroot=SERVER:/PATH"
        else
            ROOT_KIND=nfs && parse_nfs "$nfsroot" "nfsroot=$nfsroot"
        fi
        ;;
    dir:/*) ROOT_KIND=dir ROOT_DIR=${1#dir:} ;;
    *) wrong "root=$1 is not understood" \
        "write root=orion:SERVER:/PATH, root=nfs4:SERVER:/PATH[:OPTIONS] or root=/dev/nfs with nfsroot=" ;;
    esac
}

# parse_servers LIST WORD: SERVER:/PATH[,SERVER:/PATH…]
parse_servers() {
    rest=$1
    [ -n "$rest" ] || wrong "$2 names no server" "write root=orion:SERVER:/PATH or add orion.servers=A:/PATH,B:/PATH" ||
        return 1
    while [ -n "$rest" ]; do
        one=${rest%%,*}
        case $rest in *,*) rest=${rest#*,} ;; *) rest='' ;; esac
        split_server "$one" "$2" || return 1
        SERVERS="$SERVERS${SERVERS:+ }$SERVER:$after"
    done
}

# parse_nfs [SERVER:]/PATH[:OPTIONS] WORD; the kernel's own nfsroot= has a comma before the options
parse_nfs() {
    split_server "$1" "$2" || return 1
    path=${after%%[:,]*}
    [ "$path" = "$after" ] || NFS_OPTIONS=$NFS_OPTIONS,${after#*[:,]}
    SERVERS=$SERVER:$path
}

# split_server TEXT WORD: sets SERVER and what comes after its colon
split_server() {
    case $1 in
    /*) SERVER='' after=$1 ;;
    \[*\]:/*) SERVER=${1%%\]*}] after=${1#*\]:} ;;
    \[*) SERVER='' after='' ;;
    *:/*) SERVER=${1%%:*} after=${1#*:} ;;
    *) SERVER='' after='' ;;
    esac
    case $SERVER in
    \[*[!0-9a-fA-F:.]*\]) case ${SERVER#*%} in "$SERVER") after='' ;; esac ;;
    \[*) ;;
    *[!A-Za-z0-9._-]*) after='' ;;
    esac
    case $after in
    /*) ;;
    *) wrong "$2: '$1' is no SERVER:/PATH" "write 192.0.2.1:/srv/root, or [2001:db8::1]:/srv/root for IPv6" ;;
    esac
}

# parse_ip WORD sets
#   IP_METHOD   dhcp, dhcp6, auto6, either6, static or none
#   IP_CLIENT   IP_PREFIX IP_PEER IP_GATEWAY IP_HOST IP_IFACE IP_MTU IP_MAC, each empty if it was not given
#   IP_DNS      words
parse_ip() {
    IP_METHOD='' IP_CLIENT='' IP_PREFIX='' IP_PEER='' IP_GATEWAY='' IP_HOST='' IP_IFACE='' IP_MTU='' IP_MAC='' IP_DNS=''
    rest=$1 WRONG='' MEND=''
    case $1 in
    '' | *\[*) ;;
    *:*) is_ip4 "${1%%:*}" || [ -z "${1%%:*}" ] || { parse_ip_of_interface "$1" && return; } || return 1 ;;
    *) is_ip4 "$1" || { ip_method "$1" "$1" && return; } || return 1 ;;
    esac
    ip_field "$1" && IP_CLIENT=$field &&
        ip_field "$1" && IP_PEER=$field &&
        ip_field "$1" && IP_GATEWAY=$field &&
        ip_field "$1" && mask=$field &&
        ip_field "$1" && IP_HOST=$field &&
        ip_field "$1" && IP_IFACE=$field &&
        ip_field "$1" && method=$field || return 1
    for address in $IP_CLIENT $IP_PEER $IP_GATEWAY; do
        is_ip4 "$address" || is_ip6 "$address" ||
            wrong "ip=$1: '$address' is no address" "write 192.0.2.7, or [2001:db8::7] for IPv6" || return 1
    done
    if [ -z "$IP_CLIENT" ]; then
        ip_method "${method:-dhcp}" "$1" || return 1
    else
        case $method in
        '' | none | off | static) IP_METHOD=static ;;
        *) ip_method "$method" "$1" || return 1 ;;
        esac
        ip_prefix "$mask" "$1" || return 1
    fi
    case $rest in
    [0-9]*.* | \[* | :*) ip_field "$1" && IP_DNS=$field && ip_field "$1" && IP_DNS="$IP_DNS $field" || return 1 ;;
    *) ip_mtu_and_mac "$1" ;;
    esac
}

# IFACE:METHOD[:MTU[:MAC]]
parse_ip_of_interface() {
    ip_field "$1" && IP_IFACE=$field && ip_field "$1" && ip_method "$field" "$1" && ip_mtu_and_mac "$1"
}

ip_mtu_and_mac() {
    ip_field "$1" && IP_MTU=$field IP_MAC=$rest || return 1
    case $IP_MTU in *[!0-9]*) wrong "ip=$1: '$IP_MTU' is no MTU" "write a number of bytes, such as 1500" ;; esac
}

# ip_field WORD: takes the next field off rest; an IPv6 literal in [] is one field
ip_field() {
    case $rest in
    \[*\]*) field=${rest#\[} field=${field%%\]*} rest=${rest#*\]} rest=${rest#:} ;;
    \[*) wrong "ip=$1: a ] is missing" "write IPv6 addresses as [2001:db8::7]" ;;
    *:*) field=${rest%%:*} rest=${rest#*:} ;;
    *) field=$rest rest='' ;;
    esac
}

ip_method() {
    case $1 in
    dhcp | on | any | both | single-dhcp) IP_METHOD=dhcp ;;
    dhcp6 | auto6 | either6) IP_METHOD=$1 ;;
    none | off) IP_METHOD=none ;;
    *) wrong "ip=$2: '$1' is no way to get an address" "one of: dhcp dhcp6 auto6 either6 none, or a whole \
CLIENT:PEER:GATEWAY:NETMASK:HOST:INTERFACE:none" ;;
    esac
}

is_ip4() {
    case $1 in
    *[!0-9.]* | *.*.*.*.* | .* | *. | *..* | *[0-9][0-9][0-9][0-9]*) return 1 ;;
    *.*.*.*) ;;
    *) return 1 ;;
    esac
    octets=$1.
    while [ -n "$octets" ]; do
        [ "${octets%%.*}" -le 255 ] || return 1
        octets=${octets#*.}
    done
}

is_ip6() {
    case $1 in
    *[!0-9a-fA-F:.]*) return 1 ;;
    *:*:*) ;;
    *) return 1 ;;
    esac
}

# ip_prefix MASK WORD: sets IP_PREFIX from 255.255.255.0 or 24; without one, as the kernel guesses it
ip_prefix() {
    case $1 in
    '')
        case $IP_CLIENT in
        *:*) IP_PREFIX=64 ;;
        *) if [ "${IP_CLIENT%%.*}" -lt 128 ]; then IP_PREFIX=8
        elif [ "${IP_CLIENT%%.*}" -lt 192 ]; then IP_PREFIX=16
        else IP_PREFIX=24; fi ;;
        esac
        return
        ;;
    *[!0-9.]*) ;;
    *.*) ! is_ip4 "$1" || ! mask_bits "$1" || return 0 ;;
    ????*) ;;
    *)
        IP_PREFIX=$1 most=32
        case $IP_CLIENT in *:*) most=128 ;; esac
        [ "$1" -gt $most ] || return 0
        ;;
    esac
    wrong "ip=$2: '$1' is no netmask" "write 255.255.255.0 or 24"
}

mask_bits() {
    IP_PREFIX=0 octets=$1. ended=''
    while [ -n "$octets" ]; do
        case ${octets%%.*} in
        255) bits=8 ;; 254) bits=7 ;; 252) bits=6 ;; 248) bits=5 ;; 240) bits=4 ;;
        224) bits=3 ;; 192) bits=2 ;; 128) bits=1 ;; 0) bits=0 ;; *) return 1 ;;
        esac
        [ -z "$ended" ] || [ $bits = 0 ] || return 1
        [ $bits = 8 ] || ended=yes
        IP_PREFIX=$((IP_PREFIX + bits)) octets=${octets#*.}
    done
}
