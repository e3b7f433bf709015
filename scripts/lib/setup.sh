# Sourced by scripts/demo and scripts/test: installs what they need, once.
# shellcheck shell=bash

say() { printf '\n== %s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root to run: $* (run as root, or install sudo)"
  fi
}

# install_debian_packages [LIST...]: those of debian-packages.txt and of further lists. Needs the network only while a
# package is missing.
install_debian_packages() {
  local package missing=()
  while read -r package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done < <(grep -hv '^#' scripts/debian-packages.txt "$@")
  [ "${#missing[@]}" -eq 0 ] && return
  say "installing Debian packages: ${missing[*]}"
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# Some other cmake may come first in PATH; any from 3.25 on will do.
find_cmake() {
  local candidate
  for candidate in cmake /usr/bin/cmake; do
    if "$candidate" --version 2>/dev/null | awk 'NR == 1 { split($3, v, "."); exit !(v[1] > 3 || v[2] >= 25) }'; then
      CMAKE=$candidate
      CTEST=$(dirname "$(command -v "$candidate")")/ctest
      return
    fi
  done
  die "no cmake of version 3.25 or newer was found"
}

PYTHON_READY=.venv/torch-is-ready
PYTHON_MISSING=""
WORKERS=.venv/workers
WORKERS_MISSING=""

# Leaves .venv with torch and the real worker, or says in PYTHON_MISSING why there is none. Never pulls gigabytes: what
# pip would install is looked at first.
prepare_python() {
  [ -e "$PYTHON_READY" ] && cmp -s "$PYTHON_READY" scripts/python-requirements.txt && return
  rm -f "$PYTHON_READY"
  local plan=.venv/plan.json log=.venv/pip.log pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet --timeout 20 --retries 1)
  [ -x .venv/bin/python ] || python3 -m venv .venv
  : >"$log"
  say "preparing Python with torch and the real worker (for tests and demo alone)"
  # An older pip downloads whole wheels for a dry run.
  if ! "${pip[@]}" install --upgrade 'pip>=24' >>"$log" 2>&1; then
    PYTHON_MISSING="PyPI cannot be reached ($log says how)"
    return
  fi
  if ! "${pip[@]}" install --dry-run --report "$plan" -r scripts/python-requirements.txt >>"$log" 2>&1; then
    PYTHON_MISSING="pip cannot install scripts/python-requirements.txt ($log says why)"
    return
  fi
  if grep -Eq '"name": *"(nvidia-|triton)' "$plan"; then
    PYTHON_MISSING="torch would come with gigabytes of CUDA packages; put a CPU build where pip finds it (pip's find-links)"
    return
  fi
  if ! "${pip[@]}" install -r scripts/python-requirements.txt >>"$log" 2>&1; then
    PYTHON_MISSING="pip install failed ($log says why)"
    return
  fi
  cp scripts/python-requirements.txt "$PYTHON_READY"
}

# Unpacks the workers of scripts/python-workers.txt side by side, one folder a version, or says in WORKERS_MISSING why not.
# Each is some kilobytes of Python; what they import comes from .venv.
prepare_workers() {
  [ -n "$PYTHON_MISSING" ] && return
  local package version log=.venv/pip-workers.log
  : >"$log"
  while read -r package; do
    version=${package#*==}
    [ -e "$WORKERS/$version/checkpoint_engine/worker.py" ] && continue
    rm -rf "${WORKERS:?}/$version.part"
    if ! .venv/bin/python -m pip --disable-pip-version-check --quiet --timeout 20 --retries 1 install --no-deps \
      --target "$WORKERS/$version.part" "$package" >>"$log" 2>&1; then
      WORKERS_MISSING="pip cannot install $package ($log says why)"
      return
    fi
    rm -rf "${WORKERS:?}/$version"
    mv "$WORKERS/$version.part" "$WORKERS/$version"
  done < <(grep -v '^#' scripts/python-workers.txt)
}

# Leaves SGLang's Python files in .venv/sglang, without anything that it depends on: tests load one file of them. Its wheel
# is for one Python and one machine, but that file is for any.
SGLANG_VERSION=0.5.23
prepare_sglang() {
  local folder=.venv/sglang log=.venv/pip.log
  [ -n "$PYTHON_MISSING" ] && return
  [ -e "$folder/sglang-$SGLANG_VERSION.dist-info" ] && return
  say "fetching SGLang's worker extension (for tests alone)"
  rm -rf "$folder"
  .venv/bin/python -m pip --disable-pip-version-check --quiet --timeout 20 --retries 1 install --no-deps \
    --only-binary :all: --implementation cp --python-version 3.11 --platform manylinux_2_34_x86_64 --target "$folder" \
    "sglang==$SGLANG_VERSION" >>"$log" 2>&1 ||
    say "PyPI has no sglang $SGLANG_VERSION for us ($log says why): tests of its extension are skipped"
}

CUDA_MISSING=""

# Leaves cuda.h in .venv, if no toolkit has it where the build looks (cmake/CudaHeader.cmake), so that the CUDA code is built
# and tested wherever PyPI can be reached; or says in CUDA_MISSING why there is none. These are headers of 2.5 MB. nccl.h is
# not fetched: the wheel that has it (nvidia-nccl-cu13 2.32.3) is 305 MB, too much for each run of a CI, and only one test
# reads it.
prepare_cuda_headers() {
  local folder log=.venv/pip-cuda.log
  for folder in "${CUDA_HOME:-/none}" "${CUDA_PATH:-/none}" /usr/local/cuda /usr/local/cuda/targets/x86_64-linux /usr \
    .venv/lib/python3*/site-packages/nvidia/cu13; do
    [ -e "$folder/include/cuda.h" ] && return
  done
  [ -x .venv/bin/python ] || python3 -m venv .venv
  say "fetching CUDA's headers"
  .venv/bin/python -m pip --disable-pip-version-check --quiet --timeout 20 --retries 1 install --no-deps \
    'nvidia-cuda-runtime>=13,<14' >"$log" 2>&1 || CUDA_MISSING="nvidia-cuda-runtime cannot be had from PyPI ($log says why)"
}
