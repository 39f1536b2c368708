#!/bin/sh
# test_architecture.sh - architecture.py is trusted only after it was seen to refuse: each disagreement, one at a time.
set -eu
lint=$(cd "$(dirname "$0")" && pwd)/architecture.py
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

fail() {
    echo "$1" >&2
    exit 1
}

sound_tree() {
    rm -rf "${tree:?}"/*
    mkdir -p "$tree/common" "$tree/broker" "$tree/client" "$tree/docs"
    printf '    X(EB_RANK_A, "a") \\\n    X(EB_RANK_B, "b")\n' >"$tree/common/lock.h"
    printf 'EB_RANK_A EB_RANK_B pthread_setname_np(t, "eb-one"); snprintf(name, 16, "eb-two-%%u", i);\n' >"$tree/broker/a.c"
    printf '| `eb-one` | 1 |\n| `eb-two-N` | 2 |\n| 1 | `EB_RANK_A` | a |\n| 2 | `EB_RANK_B` | b |\n' >"$tree/docs/architecture.md"
}

# refuses WHAT SED-EXPRESSION FILE: the sound tree with one thing changed
refuses() {
    sound_tree
    sed -i "$2" "$tree/$3"
    if /usr/bin/python3 "$lint" "$tree" >/dev/null; then
        fail "not seen: $1"
    fi
}

sound_tree
/usr/bin/python3 "$lint" "$tree" || fail "a sound tree was refused"
refuses "a thread that the page does not name" 's/eb-one/eb-other/' broker/a.c
refuses "a thread that is gone" 's/"eb-one"/NULL/' broker/a.c
refuses "a numbered thread that the page does not name" '/eb-two/d' docs/architecture.md
refuses "a rank that the page does not name" '/EB_RANK_B/d' docs/architecture.md
refuses "a wrong order" 's/EB_RANK_A/EB_RANK_C/; s/EB_RANK_B/EB_RANK_A/; s/EB_RANK_C/EB_RANK_B/' docs/architecture.md
refuses "a wrong number" 's/^| 2 /| 3 /' docs/architecture.md
refuses "a rank that nobody uses" 's/EB_RANK_B//' broker/a.c
refuses "a tree without threads" 's/eb-//g' broker/a.c
