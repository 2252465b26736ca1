#!/usr/bin/env bash
# Runs the tests of fndm-runtime and fndm-kernels under the address sanitizer, in their debug form, whose assertions check every pointer
# range; then the library's own tests and tests/small.rs under miri, on the portable code path, where a nightly toolchain
# has it. Linux on x86-64.
#
#   scripts/sanitize.sh [cargo test arguments...]
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${FNDM_ONLY_MIRI:-} ]]; then
    # The sanitizer is an unstable option that a stable compiler has as well. Scratch buffers are kept for the whole run:
    # not leaks. With a target of its own name, build scripts and macros are built without the sanitizer.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cdebuginfo=line-tables-only" RUSTDOCFLAGS="-Zsanitizer=address" \
        ASAN_OPTIONS="detect_leaks=0:${ASAN_OPTIONS:-}" \
        cargo test -p fndm-runtime -p fndm-kernels --target x86_64-unknown-linux-gnu --lib --tests "$@"
fi
if cargo +nightly miri --version >/dev/null 2>&1; then
    # Rayon's queues break the stacked borrows that miri checks by default, but not the tree borrows; its threads outlive
    # the tests. Left out: mapped files, which miri can't open, and the CUDA kernels' emulator, which is safe code.
    FNDM_SIMD=portable RAYON_NUM_THREADS=2 MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-tree-borrows" \
        cargo +nightly miri test -p fndm-runtime -p fndm-kernels --lib --test small "$@" -- --skip mapped --skip cuda
else
    echo "no nightly toolchain with miri: left out" >&2
fi
