# Sourced by the Makefile, .ci/run and the other scripts: one environment for every build, so that one
# target folder serves them all and nothing is compiled twice. Changes nothing outside the process.

TARGET_DIR=${CARGO_TARGET_DIR:-target}
case $TARGET_DIR in /*) ;; *) TARGET_DIR=$PWD/$TARGET_DIR ;; esac
export TARGET_DIR

# Where the jars of the broker lie that tests and demo start.
export TOLLBOOK_KAFKA_LIBS=${TOLLBOOK_KAFKA_LIBS:-$TARGET_DIR/kafka-4.1.0}

# SQL is checked against the committed .sqlx, whatever database the caller's shell points at.
export SQLX_OFFLINE=true
unset DATABASE_URL

# The fastest linker that the C compiler can drive. A caller's own RUSTFLAGS win.
if [ -z "${RUSTFLAGS+set}" ]; then
    for linker in mold lld; do
        if command -v "$linker" >/dev/null 2>&1 &&
            echo 'int main(void){return 0;}' |
                cc "-fuse-ld=$linker" -x c -o /dev/null - >/dev/null 2>&1; then
            export RUSTFLAGS="-Clink-arg=-fuse-ld=$linker"
            break
        fi
    done
fi

# Runs a command under a heading and says how long it took.
step() {
    local title=$1 started=$SECONDS status=0
    shift
    printf '==> %s\n' "$title"
    "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        printf '==> %s: failed after %s s\n' "$title" "$((SECONDS - started))" >&2
        return "$status"
    fi
    printf '    %s: done in %s s\n' "$title" "$((SECONDS - started))"
}
