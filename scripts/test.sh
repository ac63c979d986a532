#!/usr/bin/env bash
# Runs every test there is, then says again what the suites proved: cargo prints much after them.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

mkdir -p "$TARGET_DIR"
log="$TARGET_DIR/test.log"
status=0
cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$log" || status=$?

echo
sed -n '/^row  *| /,/^[^|]*$/p' "$log"
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "%d tests passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
grep -E '^(test .* \.\.\. FAILED|---- .* ----)$' "$log" | sort -u || true
exit "$status"
