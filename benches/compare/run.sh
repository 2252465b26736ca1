#!/usr/bin/env bash
# Compares this project with its peers on equal inputs: run.sh [topic...] [--json FILE]; see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cargo build --quiet --release --manifest-path "$here/../../Cargo.toml" -p fndm-compare -p fndm-cli
exec python3 "$here/driver.py" "$@"
