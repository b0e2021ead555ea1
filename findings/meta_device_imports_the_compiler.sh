#!/usr/bin/env bash
# Building a network on the meta device, where nothing is allocated, imports torch.compile's machinery.
#
# Version:   torch 2.13.0 (CPU)
# Behaviour: `with torch.device("meta"): Model()` is the advised way to make a model whose weights
#            come from a file. On the CPU, nn.Embedding draws its weights in C++. On the meta device
#            the same `normal_` has no kernel: it goes to a decomposition written in Python, whose
#            wrapper imports torch._dynamo, and with it sympy and torch._inductor. The first such
#            layer takes a hundred times what it takes with real weights, once a process;
#            `uniform_`, which nn.Linear draws with, does not do that.
# Seen:      on the CPU: torch._dynamo not imported; on the meta device: imported, 800 and more
#            further modules, 0.9 to 2.2 s (a millisecond on the CPU)
# Source:    run below; torch/_refs/__init__.py (`normal`, `normal_`) and torch/_compile.py.
# Who meets it: whoever loads a small model in a fresh process (a command line, a test, a notebook)
#            and builds it on the meta device first. Skipping the draws, by a TorchFunctionMode that
#            returns the tensor, avoids it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "numpy==2.4.6" 2>/dev/null
cat > "$work/build.py" <<'PY'
import sys
import time

import torch

before, start = len(sys.modules), time.perf_counter()
with torch.device(sys.argv[1]):
    getattr(torch.nn, sys.argv[2])(50, 16)
spent = time.perf_counter() - start
compiler = "torch._dynamo" in sys.modules
print(sys.argv[1], sys.argv[2], compiler, len(sys.modules) - before, f"{spent:.3f}")
PY
run() { "$work/env/bin/python" "$work/build.py" "$@"; }
run cpu Embedding | tee "$work/cpu"
run meta Linear | tee "$work/linear"
run meta Embedding | tee "$work/meta"
read -r _ _ on_cpu _ _ < "$work/cpu"
read -r _ _ with_uniform _ _ < "$work/linear"
read -r _ _ on_meta modules _ < "$work/meta"
[ "$on_cpu" = False ] || { echo "the behaviour has changed: the CPU imports it, too"; exit 1; }
[ "$with_uniform" = False ] || { echo "the behaviour has changed: uniform_ imports it, too"; exit 1; }
[ "$on_meta" = True ] && [ "$modules" -gt 500 ] || { echo "the behaviour has changed: $modules"; exit 1; }
echo "as described"
