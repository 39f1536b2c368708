#!/bin/sh
# layers.sh - who may include what: a room uses only the rooms below it, and the libraries that are its own.
#
#   layers.sh [ROOT]     0 when every include goes the right way; else one line for each that does not
#
# The table below is the rule (docs/architecture.md gives the reasons). A file belongs to the first
# room whose folder its path starts with. Includes of ours are written from the root
# ("common/buf.h"), those of a public header <eventbus/...>; so a header's owner can be read.
set -eu
cd "${1:-$(dirname "$0")/../..}"

find common broker client examples -type f \( -name '*.c' -o -name '*.h' \) | LC_ALL=C sort | xargs awk '
# room(folder, rooms it may include, libraries it may not include): longest folder first
function room(folder, may, never) {
    folders[++rooms] = folder
    allowed[folder] = " " may " "
    banned[folder] = " " never " "
}
BEGIN {
    room("common/include/", "eventbus/", "sqlite3.h microhttpd.h wslay/")
    room("broker/include/", "eventbus/", "sqlite3.h wslay/")
    room("client/include/", "eventbus/", "sqlite3.h microhttpd.h wslay/")
    room("broker/store/", "common/ broker/store/ eventbus/", "microhttpd.h wslay/")
    room("broker/bus/", "common/ broker/store/ broker/bus/ eventbus/", "sqlite3.h microhttpd.h wslay/")
    room("broker/net/", "common/ broker/bus/ broker/net/ eventbus/", "sqlite3.h")
    room("broker/", "common/ broker/ eventbus/", "wslay/")
    room("common/", "common/ eventbus/", "sqlite3.h microhttpd.h wslay/")
    room("client/sqlite/", "eventbus/", "microhttpd.h wslay/")
    room("client/", "common/ client/ eventbus/", "sqlite3.h microhttpd.h")
    room("examples/", "examples/ eventbus/", "wslay/")
}
function starts_with_one_of(path, list,    i, n, words) {
    n = split(list, words, " ")
    for (i = 1; i <= n; i++)
        if (index(path, words[i]) == 1)
            return 1
    return 0
}
function owner(file,    i) {
    for (i = 1; i <= rooms; i++)
        if (index(file, folders[i]) == 1)
            return folders[i]
}
function complain(why) {
    printf "%s:%d: %s\n", FILENAME, FNR, why
    wrong = 1
}
FNR == 1 {
    mine = owner(FILENAME)
    for (i = 1; i <= rooms; i++)
        seen[folders[i]] += index(FILENAME, folders[i]) == 1
}
/^[ \t]*#[ \t]*include[ \t]*[<"]/ {
    quoted = $0 ~ /include[ \t]*"/
    path = $0
    sub(/^[^<"]*[<"]/, "", path)
    sub(/[>"].*$/, "", path)
    ours = starts_with_one_of(path, "common/ broker/ client/ examples/ eventbus/")
    if (quoted && !ours)
        complain("\"" path "\": write it from the root, \"" mine path "\"")
    else if (ours && !starts_with_one_of(path, allowed[mine]))
        complain(mine " may not include " path " (only:" allowed[mine] ")")
    else if (!ours && starts_with_one_of(path, banned[mine]))
        complain(mine " knows nothing of <" path ">")
}
END {
    # A check that reads no file would be green for ever.
    for (i = 1; i <= rooms; i++)
        if (folders[i] !~ /^examples/ && !seen[folders[i]]) {
            printf "%s: no source file found there\n", folders[i]
            wrong = 1
        }
    exit wrong
}'
