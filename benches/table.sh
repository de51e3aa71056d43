#!/usr/bin/env bash
# Measures again what docs/benchmarks.md shows. Prints the tables, and keeps the JSON beside them.
#
#   benches/table.sh [DIRECTORY]     default: target/bench
#
# Run it on a quiet machine: whatever else runs makes limits come out as "disturbed", and their ratios then do
# not count.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/bench}
mkdir -p "$out"
cargo build --release --locked
read -r load _ </proc/loadavg
echo "load before: $load"
tramline=target/release/tramline
measure() {
    local name=$1
    shift
    echo
    echo "\$ tramline bench $*"
    "$tramline" bench "$@" | tee "$out/$name.txt"
    "$tramline" bench "$@" --json >"$out/$name.json"
}
measure all all
measure rate latency --rate 10000 --duration 2 --pin none
