#!/bin/sh
# A whole client of harness in POSIX sh: ls, mv, cat and sleep are all that it runs.
# docs/protocol.md explains it. The tree is $HARNESS_ROOT, else .harness.
#   client.sh add NAME <FILE    drops an item, never over another one
#   client.sh where NAME        its folder: pending, claimed/agent-1, review, merge, done, parked
#   client.sh wait NAME         until it has ended; exit code 0: done, 1: parked
#   client.sh result NAME       outcome and branch of its last attempt
#   client.sh log NAME          what its last attempt printed
#   client.sh move NAME FOLDER  to parked: cancel; to pending: try again; from review to merge: approve
set -eu
cd "${HARNESS_ROOT:-.harness}/queue"

fail() { echo "client.sh: $*" >&2; exit 100; }

# In the order in which items move: one that moves meanwhile is found further on.
where() {
    for file in pending/"$1" claimed/*/"$1" claimed/*/"$1.~ending~" review/"$1" merge/"$1" done/"$1" parked/"$1"; do
        if ls -d -- "$file" >/dev/null 2>&1; then echo "${file%/*}"; return; fi
    done
    return 1
}

# The last value of a text in the item's record, which has a line of JSON for each event.
last() {
    cat "../state/items/$2.jsonl" | {
        value=
        while read -r line; do
            case $line in *"\"$1\":\""*) line=${line#*"\"$1\":\""} value=${line%%\"*} ;; esac
        done
        echo "$value"
    }
}

[ $# -ge 2 ] || fail "usage: client.sh add|where|wait|result|log|move NAME"
case $1 in
add)
    where "$2" >/dev/null && fail "$2 is there already, in $(where "$2")"
    cat >"pending/.$2.$$.part"                 # a name that is no item
    mv -n -- "pending/.$2.$$.part" "pending/$2" ;;
where) where "$2" || fail "no such item: $2" ;;
wait)
    # Who has its claim still works on it, wherever its file lies.
    until case $(where "$2") in done | parked) ! ls "../state/claims/$2" >/dev/null 2>&1 ;; *) false ;; esac; do
        sleep 1
    done
    [ "$(where "$2")" = done ] ;;
result) echo "$(last outcome "$2") $(last branch "$2")" ;;
log) cat "../state/sessions/$(last session "$2")/stdout.log" "../state/sessions/$(last session "$2")/stderr.log" ;;
move) mv -n -- "$(where "$2")/$2" "$3/" ;;
*) fail "no such command: $1" ;;
esac
