#!/bin/sh
# initdb at the first start with POSTGRES_USER, _PASSWORD and _DB, then the server.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
  initdb -U "$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 -E UTF8 >/dev/null
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  pg_ctl -w -o "-c listen_addresses=''" start >/dev/null
  PGPASSWORD=$POSTGRES_PASSWORD createdb -U "$POSTGRES_USER" -h /var/run/postgresql "$POSTGRES_DB" 2>/dev/null || true
  pg_ctl -w stop >/dev/null
fi
exec postgres -c "listen_addresses=*"
