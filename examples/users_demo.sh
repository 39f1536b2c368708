#!/bin/sh
# users_demo.sh - two services and the bus between them, from nothing to a copy in step, through a crash of each.
#
#   examples/users_demo.sh [BUILD FOLDER]      (default: build)
#
# user_service (with the bus in it) takes users over HTTP; user_sync follows user.* and keeps a copy. Ports and files
# are the demo's own, so it can run beside anything. Exit status 0: the copy equals the original, each user
# applied once.
set -eu
examples=$(cd "${1:-build}/examples" && pwd)
folder=$(mktemp -d)
service=
sync=

clean_up() {
    [ -z "$service" ] || kill -9 "$service" 2>/dev/null || true
    [ -z "$sync" ] || kill -9 "$sync" 2>/dev/null || true
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

say() { printf '\n== %s\n' "$*"; }
die() { printf 'users_demo: %s\n' "$*" >&2; tail -n 5 "$folder"/*.log >&2; exit 1; }

# until COMMAND...: try for 30 seconds
until_true() {
    tries=0
    while ! "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || die "gave up waiting for: $*"
        sleep 0.05
    done
}

# the address that a service has printed
address_of() { sed -n 's|^[a-z_]*: \(http://.*\)$|\1|p' "$folder/$1.log" | tail -n 1; }
says_where() { [ -n "$(address_of "$1")" ]; }

start_service() { # the port is chosen once, and then kept: user_sync looks for the service there
    : >"$folder/service.log"
    "$examples/user_service" --port "${port:-0}" --db "$folder/users.db" --bus "$folder/eventbus.db" >"$folder/service.log" 2>&1 &
    service=$!
    until_true says_where service
    api=$(address_of service)
    port=${api#http://127.0.0.1:}
    port=${port%%/*}
}

start_sync() {
    : >"$folder/sync.log"
    "$examples/user_sync" --port 0 --url "ws://127.0.0.1:$port/ws" --db "$folder/copy.db" >"$folder/sync.log" 2>&1 &
    sync=$!
    until_true says_where sync
    copy=$(address_of sync)
}

add_user() {
    status=$(curl -s -o "$folder/answer" -w '%{http_code}' -d "{\"id\":$1,\"username\":\"$2\"}" "$api") || status=none
    printf 'POST /api/users %s -> %s %s\n' "$2" "$status" "$(cat "$folder/answer")"
    [ "$status" = 201 ] || die "user $1 was not created"
}

# as the service would show its own: the copy says besides how many events were applied to each
copied() { curl -s "$copy" | sed 's/,"events":1}/}/g'; }
in_step() { [ "$(curl -s "$api")" = "$(copied)" ]; }

say "a service that embeds the bus, and one that keeps a copy"
start_service
start_sync
add_user 1 alice
add_user 2 bob
until_true in_step

say "the copy is killed; users go on being created; it starts again behind its cursor"
kill -9 "$sync"
wait "$sync" 2>/dev/null || true
add_user 3 carol
add_user 4 dave
start_sync
until_true in_step

say "the service is killed, and with it the bus; the copy reconnects by itself"
kill -9 "$service"
wait "$service" 2>/dev/null || true
start_service
add_user 5 erin
until_true in_step

say "what is wrong is said"
curl -s -d '{"id":"six"}' "$api"
echo
curl -s -d '{"id":1,"username":"mallory"}' "$api"
echo

say "the service's users, and the copy"
curl -s "$api"
echo
curl -s "$copy"
echo

kill "$service" "$sync"
wait "$service" || die "user_service did not end in order"
wait "$sync" || die "user_sync did not end in order"
service=
sync=
echo
echo "users_demo: the copy is in step, every user was applied once"
