#!/usr/bin/env sh
# Makes the wheels that a bare GPU machine needs for `python -m tests.gpu` into a folder: for Python
# 3.12 on Linux, where torch 2.11, transformers 5.17 and accelerate 1.15 are there already. Of
# bitsandbytes only the libraries for CUDA 13.0 and the CPU are kept: 4 MB of 43.
#
#     sh tests/gpu/wheels.sh FOLDER
set -eu

folder="${1:?say where the wheels go: sh tests/gpu/wheels.sh FOLDER}"
python="${PYTHON:-python3}"
mkdir -p "$folder"
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_24_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform linux_x86_64 \
    --dest "$folder" \
    annotated-types==0.8.0 bitsandbytes==0.50.2 datasets==5.2.0 dill==0.4.1 gguf==0.19.0 \
    liger-kernel==0.8.5 multiprocess==0.70.19 peft==0.21.2 pydantic==2.14.3 pydantic-core==2.50.4 \
    torchao==0.18.0 trl==1.16.0 typing-extensions==4.16.0 typing-inspection==0.4.5

"$python" - "$folder" <<'EOF'
import base64, hashlib, sys, zipfile
from pathlib import Path

folder = Path(sys.argv[1])
for whole in folder.glob("bitsandbytes-*.whl"):
    part = whole.with_suffix(".part")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as new:
        lines = []
        (record,) = (name for name in old.namelist() if name.endswith(".dist-info/RECORD"))
        for name in old.namelist():
            library = name.endswith(".so") and not ("cuda130" in name or "cpu" in name)
            if library or name == record or name.endswith("/"):
                continue
            data = old.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(data)}")
            new.writestr(name, data)
        new.writestr(record, "\n".join([*lines, f"{record},,"]) + "\n")
    part.replace(whole)
wheels = sorted(folder.glob("*.whl"))
for wheel in wheels:
    print(f"{wheel.stat().st_size:>12,}  {wheel.name}")
print(f"{sum(wheel.stat().st_size for wheel in wheels):>12,}  together")
EOF
