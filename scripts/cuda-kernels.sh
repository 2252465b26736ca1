#!/usr/bin/env bash
# Compiles and assembles every CUDA kernel for the oldest and the newest architecture that it must run on, with all warnings as errors.
# Needs nvcc, but no GPU: docs/gpu.md says where to get it.
#
#   scripts/cuda-kernels.sh [ARCHITECTURE...]     (default: 75 90)
set -euo pipefail

cd "$(dirname "$0")/../crates/fndm-kernels/src/cuda/kernels"
command -v nvcc > /dev/null || { echo "cuda-kernels: expected nvcc on the PATH (see docs/gpu.md), found none" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

architectures=("$@")
[ $# -gt 0 ] || architectures=(75 90)
for file in *.cu; do
    [ "$file" != prelude.cu ] || continue
    # As NVRTC gets it: no header but what is in the text.
    cat prelude.cu "$file" > "$folder/$file"
    for architecture in "${architectures[@]}"; do
        cubin="$folder/kernels.cubin"
        log=$(nvcc --std=c++17 -cubin -arch="sm_$architecture" -Xptxas -v --Werror all-warnings -o "$cubin" "$folder/$file" 2>&1) ||
            { echo "$log" >&2; exit 1; }
        echo "$file sm_$architecture: $(grep -c 'Compiling entry function' <<< "$log") kernels, at most $(grep -oE 'Used [0-9]+ registers' <<< "$log" | grep -oE '[0-9]+' | sort -n | tail -n 1) registers, $(grep -c ' [1-9][0-9]* bytes spill' <<< "$log" || true) with spills"
    done
done
