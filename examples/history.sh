#!/bin/sh
# Writes the project's history down and leaves it uncommitted: harness commits what is left.
set -eu
mkdir -p reports
git log --date=short --format='- %ad %s' > reports/history.md
echo "wrote $(wc -l < reports/history.md) lines of history"
