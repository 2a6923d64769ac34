# shellcheck shell=sh
# What happens when the boot cannot go on, and the shells for people.

# Seconds for which a message stands on the screen before the machine restarts.
RESTART_DELAY=5

say() {
    echo "orion: $*"
}

# rescue_shell WHY: a shell on the console; returns when it ends, at once if nobody can type there
rescue_shell() {
    say "a shell $1"
    setsid cttyhack sh || :
}

# die MESSAGE [MEND]: never returns
die() {
    trap - EXIT
    set +e
    echo "orion: error: $1"
    [ -z "${2:-}" ] || echo "  mend: $2"
    for hook in /hooks/failure/*; do
        [ ! -x "$hook" ] || "$hook" "$1"
    done
    case ${ON_FAILURE:-shell} in
    shell) rescue_shell "because the boot failed; 'exit' restarts the machine" ;;
    poweroff) poweroff -f ;;
    halt) halt -f ;;
    esac
    say "restart in $RESTART_DELAY seconds"
    sleep $RESTART_DELAY
    reboot -f
    # Only if the kernel refuses all that: the first process must not end.
    while sleep 3600; do :; done
}
