#!/bin/bash
# What somebody does who has unpacked the tarball: release_story.sh TARBALL_FOLDER CHECKPOINT_DIR SCRATCH_DIR
# Ends with 0 when a checkpoint was loaded and the daemon ended as it should, and says what went wrong otherwise.
set -euo pipefail
top=$1 checkpoint=$2 scratch=$3
"$top/bin/ckptd" --version
"$top/bin/ckptctl" --version
printf '[store]\nlock = "try"\n' >"$scratch/ckptd.toml"
"$top/bin/ckptd" --config "$scratch/ckptd.toml" --runtime-dir "$scratch/run" --state-dir "$scratch/state" \
  --device host --host-devices 1 --store-budget 64MiB >"$scratch/log" 2>&1 &
daemon=$!
trap 'kill -9 "$daemon" 2>/dev/null || true; cat "$scratch/log"' EXIT
ctl() { "$top/bin/ckptctl" --socket "$scratch/run/control.sock" "$@"; }
for _ in $(seq 200); do
  [ ! -S "$scratch/run/control.sock" ] || break
  kill -0 "$daemon" || { echo "ckptd has ended"; exit 1; }
  sleep 0.1
done
ctl load story@1 "$checkpoint"
status=$(ctl --json status)
[[ $status =~ \"versions_resident\":\ ?1, ]] || { echo "status does not show what was loaded: $status"; exit 1; }
for library in "$top"/lib/*.so*; do
  name=$(basename "$library")
  mapped=$(sed -n "s|.* \(/.*/$name\)$|\1|p" "/proc/$daemon/maps" | sort -u)
  [ -z "$mapped" ] || [ "$mapped" = "$library" ] || { echo "ckptd runs with $mapped"; exit 1; }
done
kill "$daemon"
code=0
wait "$daemon" || code=$?
trap - EXIT
[ "$code" -eq 0 ] || { cat "$scratch/log"; echo "ckptd ended with $code"; exit 1; }
echo "the story is over"
