#!/bin/sh
# Installs the real agent CLIs from npm into DIR, for tests/it/real_agents.rs:
#
#   tests/kit/install-clis.sh DIR && HARNESS_TEST_CLIS=DIR cargo test --test it real_agents
#
# DIR/node_modules/.bin gets claude, codex, gemini and opencode; DIR/older/node_modules/.bin the
# older claude whose stream differs. What is there already is left alone. Each installation may
# take TIMEOUT seconds (300); one that fails is reported and the rest goes on, so that a test run
# without one of them skips its tests. Exit 0: at least one CLI is there. Needs npm, and nothing
# of it needs a login.
#
# Usage: install-clis.sh DIR [NAME…]   where NAME is claude, claude-older, codex, gemini, opencode
set -u

[ $# -ge 1 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$1
shift
[ $# -gt 0 ] || set -- claude claude-older codex gemini opencode
limit=${TIMEOUT:-300}

command -v npm >/dev/null 2>&1 || { echo "install-clis: npm is not found: nothing installed" >&2; exit 1; }
mkdir -p "$dir" && dir=$(cd "$dir" && pwd) || exit 1

# bounded SECONDS COMMAND…: as timeout(1) does, without it where a host has none.
bounded() {
    if command -v timeout >/dev/null 2>&1; then timeout -k 10 "$@"; else shift; "$@"; fi
}

# install PREFIX PACKAGE PROGRAM
install() {
    prefix=$1 package=$2 program=$3
    runs "$prefix/node_modules/.bin/$program" && { said "$prefix" "$program"; return 0; }
    mkdir -p "$prefix"
    log=$prefix/install-$program.log
    bounded "$limit" npm install --prefix "$prefix" --no-audit --no-fund --no-progress \
        "$package" >"$log" 2>&1 </dev/null
    code=$?
    # npm may have been told not to run install scripts: claude's then only leaves a stub behind.
    stub=$prefix/node_modules/@anthropic-ai/claude-code/install.cjs
    if [ "$program" = claude ] && [ -f "$stub" ] && ! runs "$prefix/node_modules/.bin/claude"; then
        (cd "${stub%/*}" && bounded "$limit" node install.cjs) >>"$log" 2>&1 </dev/null
    fi
    if runs "$prefix/node_modules/.bin/$program"; then
        said "$prefix" "$program"
    else
        echo "install-clis: $package failed (npm's exit code $code), see $log" >&2
        return 1
    fi
}

runs() { [ -x "$1" ] && bounded 60 "$1" --version >/dev/null 2>&1 </dev/null; }

said() { echo "$2 $("$1/node_modules/.bin/$2" --version 2>/dev/null </dev/null | head -n 1)  $1/node_modules/.bin/$2"; }

good=1
for name; do
    case $name in
    # Exact versions: what the tests expect of each was observed of these.
    claude) install "$dir" @anthropic-ai/claude-code@2.1.330 claude ;;
    claude-older) install "$dir/older" @anthropic-ai/claude-code@2.1.197 claude ;;
    codex) install "$dir" @openai/codex@0.169.0 codex ;;
    gemini) install "$dir" @google/gemini-cli@0.61.0 gemini ;;
    opencode) install "$dir" opencode-ai@1.18.33 opencode ;;
    *) echo "install-clis: unknown name $name" >&2; exit 2 ;;
    esac && good=0
done
exit $good
