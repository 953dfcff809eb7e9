#!/bin/sh
# Waits for identity's files, starts mosquitto on them, and has it read them again when they change.
set -eu
dir=${BROKER_DIR:-/data/broker}
files="$dir/acl $dir/crl.pem $dir/trust.pem $dir/server.pem $dir/mosquitto.conf"

for waited in $(seq 600); do
  missing=
  for file in $files "$dir/server-key.pem"; do [ -s "$file" ] || missing=$file; done
  [ -z "$missing" ] && break
  [ "$waited" = 1 ] && echo "waiting for $missing, which identity writes"
  [ "$waited" = 600 ] && { echo "$missing did not come: is identity running?"; exit 1; }
  sleep 1
done

ulimit -n "$(ulimit -Hn)"  # a file for each client
mosquitto -c "$dir/mosquitto.conf" &
pid=$!
echo "$pid" > /tmp/mosquitto.pid
trap 'kill -TERM "$pid" 2>/dev/null' TERM INT

state() { cksum $files 2>/dev/null; }
before=$(state)
while kill -0 "$pid" 2>/dev/null; do
  sleep 2 &
  wait $! || true
  now=$(state)
  if [ "$now" != "$before" ]; then
    before=$now
    echo "access list, revocations or certificates changed: reading them again"
    kill -HUP "$pid" 2>/dev/null || true
  fi
done
wait "$pid"
