#!/usr/bin/env bash
# Runs the tests of fndm-kernels under the address sanitizer, in their debug form, whose assertions check every pointer
# range; and the plain parts under miri where the toolchain has it. Linux on x86-64.
#
#   scripts/sanitize.sh [cargo test arguments...]
set -euo pipefail
cd "$(dirname "$0")/.."
# The sanitizer is an unstable option that a stable compiler has as well.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cdebuginfo=line-tables-only" RUSTDOCFLAGS="-Zsanitizer=address"
# Scratch buffers are kept for the whole run: not leaks.
export ASAN_OPTIONS="detect_leaks=0:${ASAN_OPTIONS:-}"
# With a target of its own name, build scripts and macros are built without the sanitizer.
cargo test -p fndm-kernels --target x86_64-unknown-linux-gnu --lib --tests "$@"
if cargo miri --version >/dev/null 2>&1; then
    unset RUSTFLAGS RUSTDOCFLAGS
    FNDM_SIMD=portable MIRIFLAGS="-Zmiri-disable-isolation" cargo miri test -p fndm-kernels --lib
else
    echo "miri isn't installed: left out" >&2
fi
