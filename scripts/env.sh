# Where builds of Cairn keep what they share. Source it: `. scripts/env.sh`.
#
# One archive of RocksDB serves every profile and every checkout (its C++ takes ten to
# twenty minutes to compile), and one lasting target folder keeps dependencies built.

cairn_cache="${CAIRN_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn}"
cairn_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
rocksdb_version="$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' "$cairn_root/Cargo.lock")"

export ROCKSDB_LIB_DIR="$cairn_cache/rocksdb-$rocksdb_version-$(uname -m)"
export ROCKSDB_STATIC=1
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cairn_cache/target}"
if [ -d "$HOME/.cargo/bin" ]; then
    export PATH="$HOME/.cargo/bin:$PATH"
fi
