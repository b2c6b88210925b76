#!/bin/sh
#harness priority: high
# Fails at its first attempt and works at its second, as a flaky test or a busy server would.
set -eu
if [ "$HARNESS_ATTEMPT" -eq 1 ]; then
    echo "the server is busy" >&2
    exit 75
fi
mkdir -p reports
echo "It took $HARNESS_ATTEMPT attempts." > reports/attempts.md
git add reports
git commit -qm "Work at the second try"
