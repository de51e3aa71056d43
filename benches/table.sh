#!/usr/bin/env bash
# Measures again what docs/benchmarks.md shows. Prints the tables, keeps them, and draws
# docs/benchmarks.svg.
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
}
measure all all
measure rate latency --rate 10000 --duration 2 --pin none
sizes=64,256,1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,4MiB
"$tramline" bench latency --path ring,socket --size "$sizes" --pin none --json >"$out/latency.json"
"$tramline" bench throughput --path ring,socket --size "$sizes" --json >"$out/throughput.json"
benches/plot.py "$out/latency.json" "$out/throughput.json" >docs/benchmarks.svg
