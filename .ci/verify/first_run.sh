#!/usr/bin/env bash
# Verifies what the README promises of `cargo run`: that it starts with and without an installed
# Postgres, as root and as another user, that the first query ever gets `null`, and that the data
# survive a restart. Takes half a minute once built. Needs root, curl, npm, postgresql and
# util-linux.
#
#     .ci/verify/first_run.sh
. "$(dirname "$0")/lib.sh"
address=127.0.0.1:22300
[ "$(id -u)" = 0 ] || fail "only root can hide the installed Postgres and become another user"

build
# Where every user can run it.
install "$programs/max-two" "$work"

# Runs the launcher as user $1, $2 an installed Postgres, and waits until it is ready.
start_as() {
    local user=$1 home=$work/$1-$2 hide=""
    [ "$2" = with ] || hide='mount -t tmpfs none /usr/lib/postgresql; mount -t tmpfs none /var/cache;'
    install -d -o "$user" "$home"
    : >"$work/launcher.log"
    # shellcheck disable=SC2016
    start launcher unshare --mount sh -euc "$hide"' exec "$@"' sh \
        setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
        env -C "$home" -u XDG_CACHE_HOME HOME="$home" "$work/max-two" --users 1000 --listen "$address"
    is_ready_or_gone() { grep -q "^Max Two is ready: " "$work/launcher.log" || ! kill -0 "${running[launcher]}"; }
    wait_until is_ready_or_gone
}
expect_timestamp() {
    local answer
    answer=$(curl -sf "http://$address/") || fail "no answer"
    echo "   $answer"
    grep -qE "^\{\"users\":\[.*\],\"timestamp\":$1\}$" <<<"$answer" || fail "not what the README promises"
}

# The download takes its time.
WAIT_TIMEOUT=300
for postgres in with without; do
    for user in root nobody; do
        echo "-- as $user, $postgres an installed Postgres"
        start_as "$user" "$postgres"
        expect_timestamp null
        end INT launcher || fail "Ctrl-C ended the launcher with a failure"
        start_as "$user" "$postgres"
        expect_timestamp '"[-0-9]+ [:0-9]+"'
        end INT launcher || fail "Ctrl-C ended the launcher with a failure"
    done
done
