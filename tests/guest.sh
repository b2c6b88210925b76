#!/usr/bin/env bash
# Runs tests of tests/it in a guest kernel, where cgroup v2 has its controllers and is all theirs: on most
# hosts of tests it is not delegated, or is version 1. The guest is user-mode Linux (Debian: apt-get install
# user-mode-linux); it runs as an ordinary process, reads this machine's files, and writes to its own memory.
#
#   tests/guest.sh [TEST…]     by default the tests of the kernel's own limits
#
# Exit status: that of the tests; 77 where there is no guest; 124 after ten minutes.
set -uo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
uml=$(command -v linux.uml || command -v linux) || { echo "no user-mode Linux here" >&2; exit 77; }
[ $# -gt 0 ] || set -- machine::the_kernel machine::where_others

cd "$top" || exit 1
tests=$(cargo test --test it --no-run --message-format json 2>/dev/null |
    sed -n 's/.*"name":"it".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -x "$tests" ] || { echo "the tests cannot be built: cargo test --test it --no-run" >&2; exit 1; }

dir=$(mktemp -d) && trap 'rm -rf -- "${dir:?}"' EXIT
cat >"$dir/init" <<INIT
#!/bin/sh
export PATH='$PATH' HOME=/mnt TMPDIR=/mnt
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs dev /dev 2>/dev/null
$(printf 'set --'; printf " '%s'" "$@")
mount -t tmpfs -o mode=1777,size=60% tmpfs /mnt
cd /mnt
uname -sr
'$tests' --test-threads 1 "\$@"
echo "guest: the tests ended with \$?"
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod +x "$dir/init"
timeout --kill-after=5 600 "$uml" mem=1536M rootfstype=hostfs rootflags=/ ro "init=$dir/init" \
    con=null con0=null,fd:1 quiet </dev/null 2>&1 | tee "$dir/log"
status=${PIPESTATUS[0]}
[ "$status" -ne 124 ] || exit 124
code=$(tr -d '\r' <"$dir/log" | sed -n 's/^guest: the tests ended with \([0-9]*\)$/\1/p')
exit "${code:-1}"
