#!/bin/bash
# A GPU that is at hand for 15 minutes, its start included: two calls, one at once after the other.
#
#     bash benchmarks/gpu_session.sh first     # at most 560 s
#     bash benchmarks/gpu_session.sh second    # at most 240 s
#
# Needs torch and what pyproject.toml requires, no setup. Results are written after every row, so that a machine
# that is taken away leaves what was measured, to benchmarks/results, or to $OUT.
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
FOLDER=${OUT:-benchmarks/results}
DEVICE=${DEVICE:-cuda}
BEGUN=$SECONDS

# bench END NAME OPTIONS: a scenario that has until END seconds after the start; killed 5 s later.
bench() {
    local left=$(($1 - SECONDS + BEGUN)) name=$2
    shift 2
    if [ "$left" -lt 20 ]; then
        echo "left out, no time: $name $*"
        return
    fi
    echo "== $name $* ($left s)"
    timeout --signal=INT --kill-after=10 $((left + 5)) "$PYTHON" -m benchmarks "$name" --device "$DEVICE" \
        --seconds "$left" --json "$FOLDER/$CALL-$((++NUMBER))-$name.json" "$@"
}

CALL=${1:-first}
NUMBER=0
case $CALL in
first)
    bench 100 smoke
    bench 330 times --only rates attention step decode --count 3
    bench 540 times --only rates attention --count 3 --ceiling 8 16
    ;;
second)
    bench 110 times --only rates attention --count 3 --ceiling 6
    bench 225 times --only attention step decode fast --count 1
    ;;
*)
    echo "usage: bash benchmarks/gpu_session.sh first|second"
    exit 2
    ;;
esac
