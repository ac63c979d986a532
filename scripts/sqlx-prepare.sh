#!/usr/bin/env bash
# Writes the checked queries to .sqlx, from which the build works without a database, or with
# --check compares .sqlx with what a database migrated just now gives. Needs no sqlx-cli: where
# SQLX_OFFLINE_DIR is set, sqlx's macros write one file per query that they check.
#
#   scripts/sqlx-prepare.sh          after a change of a query or a migration
#   scripts/sqlx-prepare.sh --check  in CI: exit 1 where .sqlx is not what the queries are
#
# PREPARE_DATABASE_URL names a server's database in which another one may be created; where it is
# not set, a server of its own is started for the while.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

mode="${1:-write}"
case "$mode" in
write | --check) ;;
*)
    echo "usage: scripts/sqlx-prepare.sh [--check]" >&2
    exit 2
    ;;
esac

scratch="$(mktemp -d)"
data="$scratch/postgres"
server=""

# Postgres refuses to run as root.
as_owner() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
    else
        "$@"
    fi
}

finish() {
    if [ -n "${database:-}" ]; then
        psql -qX "$server" -c "drop database if exists $database with (force)" || true
    fi
    if [ -d "$data" ]; then
        as_owner "$programs/pg_ctl" -D "$data" -m immediate -s stop || true
    fi
    rm -rf "$scratch"
}
trap finish EXIT

server="${PREPARE_DATABASE_URL:-}"
if [ -z "$server" ]; then
    programs="$(dirname "$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)")"
    chmod 755 "$scratch"
    mkdir "$data"
    if [ "$(id -u)" = 0 ]; then chown postgres "$data"; fi
    as_owner "$programs/initdb" -D "$data" -U tollbook -A trust -E UTF8 --no-locale --no-sync >/dev/null
    # A socket in the scratch folder: no port that something else may hold.
    as_owner "$programs/pg_ctl" -D "$data" -s -w -l "$data/log" \
        -o "-c listen_addresses='' -c unix_socket_directories='$data' -c fsync=off" start
    server="postgres://tollbook@localhost/postgres?host=$data"
fi

database="tollbook_prepare_$$"
psql -qX "$server" -c "create database $database"
case "$server" in
*\?*) url="${server%%\?*}" && url="${url%/*}/$database?${server#*\?}" ;;
*) url="${server%/*}/$database" ;;
esac
for file in migrations/*.sql; do
    psql -qX "$url" -v ON_ERROR_STOP=1 --single-transaction -f "$file" >/dev/null
done

# Macros run again only where their crate is built again; the store alone holds SQL. Without a change
# of content the time stamp is what cargo looks at.
fresh="$scratch/queries"
mkdir "$fresh"
# The stamp is put back, so that nothing else is built again for this; and the whole workspace is
# checked, since a single package has other features and so builds all that it depends on again.
touch -r crates/store/src/lib.rs "$scratch/stamp"
touch crates/store/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$fresh" DATABASE_URL="$url" \
    cargo check --locked --quiet --workspace --lib || status=$?
touch -r "$scratch/stamp" crates/store/src/lib.rs
[ "${status:-0}" = 0 ] || exit "$status"

count="$(find "$fresh" -name 'query-*.json' | wc -l)"
if [ "$count" = 0 ]; then
    echo "error: sqlx wrote no query: was the store built?" >&2
    exit 1
fi
if [ "$mode" = --check ]; then
    if ! diff -r -q .sqlx "$fresh"; then
        echo "error: .sqlx is not what the queries are: run scripts/sqlx-prepare.sh and commit .sqlx" >&2
        exit 1
    fi
    echo "$count queries are as .sqlx says"
else
    mkdir -p .sqlx
    find .sqlx -name 'query-*.json' -delete
    cp "$fresh"/query-*.json .sqlx/
    echo "$count queries written to .sqlx"
fi
