#!/usr/bin/env bash
# Installs what building Cairn needs and is missing: system packages (Debian, Ubuntu),
# Rust, and the RocksDB archive that all builds share. Says what it does; does nothing
# when everything is there. Packages named as arguments are installed too.
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    local missing=("$@")
    command -v g++ >/dev/null || missing+=(build-essential)
    command -v make >/dev/null || missing+=(make)
    command -v git >/dev/null || missing+=(git)
    command -v curl >/dev/null || missing+=(curl ca-certificates)
    # bindgen loads libclang when it reads RocksDB's C header; libclang-cpp is another library.
    compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null || missing+=(clang libclang-dev)
    [ ${#missing[@]} -eq 0 ] && return
    if ! command -v apt-get >/dev/null; then
        say "please install: ${missing[*]}"
        exit 1
    fi
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

install_rust() {
    if command -v cargo >/dev/null || [ -x "$HOME/.cargo/bin/cargo" ]; then return; fi
    say "installing Rust with rustup"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default
}

# Builds RocksDB once, with the flags every profile uses, and keeps its archive.
build_rocksdb() {
    if [ -f "$ROCKSDB_LIB_DIR/librocksdb.a" ]; then return; fi
    say "compiling RocksDB once for all builds (ten to twenty minutes on two cores)"
    local scratch="$cairn_cache/rocksdb-build"
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$scratch" \
        cargo build --release --locked -p rocksdb
    mkdir -p "$ROCKSDB_LIB_DIR"
    cp "$scratch"/release/build/librocksdb-sys-*/out/librocksdb.a "$ROCKSDB_LIB_DIR/librocksdb.a.new"
    mv "$ROCKSDB_LIB_DIR/librocksdb.a.new" "$ROCKSDB_LIB_DIR/librocksdb.a"
    rm -rf "$scratch"
}

cd "$(dirname "$0")/.."
install_packages "$@"
install_rust
# shellcheck source=scripts/env.sh
. scripts/env.sh
build_rocksdb
