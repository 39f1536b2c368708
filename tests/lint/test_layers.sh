#!/bin/sh
# test_layers.sh - layers.sh is trusted only after it was seen to refuse: each broken rule, one at a time.
set -eu
lint=$(cd "$(dirname "$0")" && pwd)/layers.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

fail() {
    echo "$1" >&2
    exit 1
}

# tree_with FILE LINE: a small sound tree, and LINE added to FILE
tree_with() {
    rm -rf "$tree"/*
    for room in common broker client; do
        mkdir -p "$tree/$room/include/eventbus"
        echo '#include <stdint.h>' >"$tree/$room/include/eventbus/event.h"
    done
    mkdir -p "$tree/client/sqlite" "$tree/broker/store" "$tree/broker/bus" "$tree/broker/net" "$tree/examples"
    echo '#include "common/buf.h"' >"$tree/common/buf.c"
    printf '#include "common/buf.h"\n#include <sqlite3.h>\n' >"$tree/broker/store/log.c"
    echo '#include "broker/store/store.h"' >"$tree/broker/bus/bus.c"
    printf '#include "broker/bus/bus.h"\n#include <microhttpd.h>\n#include <wslay/wslay.h>\n' >"$tree/broker/net/ws.c"
    printf '#include "broker/net/net.h"\n#include "broker/store/store.h"\n' >"$tree/broker/main.c"
    printf '#include "common/ws.h"\n#include <eventbus/event.h>\n' >"$tree/client/client.c"
    printf '#include <sqlite3.h>\n#include <eventbus/event.h>\n' >"$tree/client/sqlite/once.c"
    echo "$2" >>"$tree/$1"
}

refuses() {
    tree_with "$1" "$2"
    if "$lint" "$tree" >"$tree/said"; then
        fail "not seen: $1: $2"
    fi
    grep -q "^$1:" "$tree/said" || fail "$1: $2: said only: $(cat "$tree/said")"
}

tree_with common/buf.c '#include <string.h>'
"$lint" "$tree" || fail "a sound tree was refused"

refuses common/buf.c '#include "broker/store/store.h"'
refuses common/buf.c '#include "client/client.h"'
refuses common/buf.c '#include <sqlite3.h>'
refuses common/buf.c '  #  include  "broker/bus/bus.h"'
refuses common/buf.c '#include <broker/bus/bus.h>'
refuses common/buf.c '#include "buf.h"'
refuses common/include/eventbus/event.h '#include "common/buf.h"'
refuses broker/store/log.c '#include "broker/bus/bus.h"'
refuses broker/store/log.c '#include "broker/broker.h"'
refuses broker/store/log.c '#include <microhttpd.h>'
refuses broker/store/log.c '#include <wslay/wslay.h>'
refuses broker/bus/bus.c '#include "broker/net/net.h"'
refuses broker/bus/bus.c '#include <microhttpd.h>'
refuses broker/bus/bus.c '#include <wslay/wslay.h>'
refuses broker/bus/bus.c '#include <sqlite3.h>'
refuses broker/net/ws.c '#include "broker/store/store.h"'
refuses broker/net/ws.c '#include <sqlite3.h>'
refuses broker/main.c '#include "client/client.h"'
refuses client/client.c '#include "broker/bus/bus.h"'
refuses client/client.c '#include <sqlite3.h>'
refuses client/sqlite/once.c '#include "client/client.h"'
refuses client/sqlite/once.c '#include "common/buf.h"'
refuses examples/chat.c '#include "common/buf.h"'

tree_with common/buf.c ''
rm "$tree/broker/net/ws.c"
if "$lint" "$tree" >"$tree/said"; then
    fail "a room without files was not seen"
fi
