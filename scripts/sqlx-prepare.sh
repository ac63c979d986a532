#!/usr/bin/env bash
# Describes every query of the store against a freshly migrated Postgres of its own, into an empty
# folder. Without arguments it replaces .sqlx by that folder; with --check it compares the two and
# fails where a query or a migration changed and .sqlx did not.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

mode=${1:---write}
case $mode in --write | --check) ;; *)
    echo "usage: scripts/sqlx-prepare.sh [--check]" >&2
    exit 2
    ;;
esac

# The newest server of the system.
programs=$(dirname "$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -V | tail -n 1)")
[ -x "$programs/initdb" ] || programs=$(dirname "$(readlink -f "$(command -v postgres)")")

state=$(mktemp -d "${TMPDIR:-/tmp}/tollbook-sqlx-XXXXXX")
server=
stop() {
    [ -z "$server" ] || kill -s INT "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$state"
}
trap stop EXIT
trap 'exit 130' INT TERM

# Postgres refuses root; what it needs is made for the user that it runs as.
run_as=()
mkdir "$state/postgres" "$state/queries"
if [ "$(id -u)" -eq 0 ]; then
    user=$(id -u postgres >/dev/null 2>&1 && echo postgres || echo nobody)
    run_as=(setpriv "--reuid=$(id -u "$user")" "--regid=$(id -g "$user")" --clear-groups --)
    chmod 711 "$state"
    chown "$user" "$state/postgres"
fi

# Answers on a socket in a folder of its own, so on no port that others may have; the path is short
# enough for a socket unless TMPDIR is very long.
cd "$state/postgres"
"${run_as[@]}" "$programs/initdb" -D data -U tollbook --auth=trust --encoding=UTF8 --no-locale \
    --no-sync >"$state/initdb.log"
"${run_as[@]}" "$programs/postgres" -D data -k "$state/postgres" -c listen_addresses= \
    -c fsync=off >"$state/postgres.log" 2>&1 &
server=$!
cd - >/dev/null
psql=("$programs/psql" -X -q -h "$state/postgres" -U tollbook -v ON_ERROR_STOP=1)
until "${psql[@]}" -d postgres -c 'select 1' >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || {
        tail -n 3 "$state/postgres.log" >&2
        exit 1
    }
    sleep 0.1
done
"${psql[@]}" -d postgres -c 'create database tollbook'
for migration in migrations/*.sql; do
    "${psql[@]}" -d tollbook -f "$migration" >/dev/null
done

# Only the store has queries. Touched, so that its macros run whatever was built before; its time is put
# back afterwards, so that nothing else is built anew for this.
touch -r crates/store/src/lib.rs "$state/time"
touch crates/store/src/lib.rs
socket=$(printf '%s' "$state/postgres" | sed 's|%|%25|g; s|/|%2F|g')
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$state/queries" \
    DATABASE_URL="postgres://tollbook@$socket/tollbook" \
    cargo check --locked --quiet --workspace --all-targets || status=$?
touch -r "$state/time" crates/store/src/lib.rs
[ "${status:-0}" -eq 0 ] || exit "$status"

count=$(find "$state/queries" -name 'query-*.json' | wc -l)
[ "$count" -gt 0 ] || {
    echo "no query was described: the store was not built anew" >&2
    exit 1
}
if [ "$mode" = --check ]; then
    diff -rq .sqlx "$state/queries" || {
        echo ".sqlx is stale: run scripts/sqlx-prepare.sh and commit .sqlx" >&2
        exit 1
    }
    echo "    .sqlx holds the $count queries of the store, and no other"
else
    rm -rf .sqlx
    cp -r "$state/queries" .sqlx
    echo "    .sqlx holds $count queries"
fi
