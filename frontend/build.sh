#!/usr/bin/env bash
# Builds the dashboard's bundle into frontend/dist. Called by ./dev, which presets RUSTC and the like where the
# distribution's compiler has to stand in for rustup's target.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
root=$PWD
dist=$root/frontend/dist
target=$root/target-wasm
wasm_bindgen=${WASM_BINDGEN:-$(PATH="$PATH:$root/.tools/bin" command -v wasm-bindgen || true)}
[ -n "$wasm_bindgen" ] || { echo "frontend/build.sh: wasm-bindgen is missing: ./dev build installs it" >&2; exit 1; }

# Erased view types: slightly slower to build on the page, a good deal smaller to load.
export RUSTFLAGS="${RUSTFLAGS:-} --cfg erase_components"
CARGO_TARGET_DIR=$target cargo build --quiet --profile wasm --target wasm32-unknown-unknown -p pilothouse-dashboard

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$wasm_bindgen" --target web --no-typescript --remove-name-section --remove-producers-section --out-dir "$work" --out-name dashboard \
  "$target/wasm32-unknown-unknown/wasm/pilothouse-dashboard.wasm"
# Old versions write tables that browsers refuse (tried with 108), so only a recent one may touch the bundle.
if [ "$(wasm-opt --version 2>/dev/null | grep -o '[0-9]*' | head -n 1)" -ge 120 ] 2>/dev/null; then
  wasm-opt -Oz -o "$work/small.wasm" "$work/dashboard_bg.wasm" && mv "$work/small.wasm" "$work/dashboard_bg.wasm"
fi

# A file's name carries its content's hash, so that browsers may keep it for ever.
hashed() { # FILE STEM EXTENSION: prints the new name
  local name; name=$2-$(sha256sum "$1" | cut -c1-16).$3
  cp "$1" "$fresh/$name"
  echo "$name"
}
fresh=$work/dist
mkdir "$fresh"
wasm=$(hashed "$work/dashboard_bg.wasm" dashboard wasm)
sed -i "s/dashboard_bg\.wasm/$wasm/g" "$work/dashboard.js"
script=$(hashed "$work/dashboard.js" dashboard js)
start=$work/start.js
sed "s/@SCRIPT@/$script/; s/@WASM@/$wasm/" frontend/assets/start.js >"$start"
start=$(hashed "$start" start js)
style=$(hashed frontend/assets/style.css style css)
icon=$(hashed frontend/assets/icon.svg icon svg)
sed "s/@SCRIPT@/$script/g; s/@WASM@/$wasm/g; s/@START@/$start/g; s/@STYLE@/$style/g; s/@ICON@/$icon/g" \
  frontend/assets/index.html >"$fresh/index.html"

# Files that are the same stay untouched, else the server, which embeds them, is compiled anew. The folder itself stays too: a running
# `cargo build` may be looking into it.
mkdir -p "$dist"
if ! diff -rq "$fresh" "$dist" >/dev/null; then
  find "$dist" -mindepth 1 -delete
  cp "$fresh"/* "$dist/"
fi
echo "dashboard: $(stat -c %s "$fresh/$wasm") bytes of WASM, $(gzip -9c "$fresh/$wasm" | wc -c) compressed"
