#!/bin/sh
# train.sh BUILD: give a broker built with -Db_pgo=generate the work that its profile is made of (./dev build --pgo).
set -eu
build=$1
load=$build/tests/bench/load/eventbus-load
folder=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null || true; rm -rf "$folder"' EXIT

start() { # [SETTINGS]
    rm -f "$folder/out"
    "$build/broker/eventbusd" --listen 127.0.0.1:0 "$@" >"$folder/out" 2>"$folder/log" &
    broker=$!
    port=
    while [ -z "$port" ]; do
        kill -0 "$broker" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
        port=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$folder/out")
    done
}

# An orderly end: that is when the profile is written.
stop() {
    kill -TERM "$broker"
    wait "$broker" || { cat "$folder/log" >&2; exit 1; }
    broker=
}


run() { # MODE TARGET [OPTIONS]
    mode=$1 target=$2
    shift 2
    "$load" "$mode" --target "$target" --host 127.0.0.1 --port "$port" --payload 128 "$@" >/dev/null
}

for target in eventbus-json eventbus-bin; do
    start --db "$folder/$target.db"
    run publish $target --connections 1 --window 4096 --topics 100 --events 100000
    run replay $target --topics 100 --events 100000
    run publish $target --connections 1 --window 4096 --batch 256 --topics 100 --events 200000
    run publish $target --connections 64 --window 1 --topics 100 --events 20000
    stop
done
start --db "$folder/http.db"
run publish eventbus-http --connections 64 --topics 100 --events 20000
run latency eventbus-json --rate 2000 --subscribers 10 --seconds 2
stop
start --storage memory
for target in eventbus-json eventbus-bin; do
    run fanout $target --subscribers 100 --seconds 2
done
stop
