#!/usr/bin/env bash
# Checks every query of the store against a real PostgreSQL and renews the metadata (.sqlx) that builds without a
# database use. Starts a PostgreSQL of its own in a temporary directory and ends it.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
dir=$(mktemp -d)
as_user=(unshare --user --map-user=1000 --map-group=1000)
[ "$(id -u)" = 0 ] || as_user=()
"${as_user[@]}" "$bin/initdb" -D "$dir/data" -U pilothouse -E UTF8 --locale=C --auth=trust --no-sync >/dev/null
"${as_user[@]}" "$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c fsync=off >"$dir/log" 2>&1 &
postgres=$!
trap 'kill -INT $postgres; wait $postgres || true; rm -rf "$dir"' EXIT
until "$bin/pg_isready" -q -h "$dir"; do sleep 0.1; done
for migration in ../../migrations/*.sql; do
  psql -q -h "$dir" -U pilothouse -v ON_ERROR_STOP=1 postgres -f "$migration"
done
rm -rf .sqlx && mkdir .sqlx
touch src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$PWD/.sqlx" DATABASE_URL="postgres://pilothouse@localhost/postgres?host=$dir" \
  cargo check -p pilothouse-store
echo "$(ls .sqlx | wc -l) queries"
