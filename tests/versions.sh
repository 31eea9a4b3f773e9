#!/bin/bash
# Runs the fast group with the lowest and with the newest versions that pyproject.toml allows.
# A release must pass it.
#
#     bash tests/versions.sh [lowest|newest|all] [OPTION_OF_PYTEST …]
#
# The environments are built outside the clone, in ~/.cache/remote_mi-versions or the folder that
# REMOTE_MI_VERSIONS names. torch is the one of constraints.txt in both: on PyPI its other versions
# are builds for CUDA, of 6 GB each on the disk. With REMOTE_MI_EVERY_TORCH=1 each end has its own.
# UV_FIND_LINKS (or PIP_FIND_LINKS) and UV_INDEX name further places of packages.
set -euo pipefail
cd "$(dirname "$0")/.."
which=${1:-all}
shift || true
folder=${REMOTE_MI_VERSIONS:-$HOME/.cache/remote_mi-versions}
python=$(python3 -c 'import sys; print(sys.executable)')
export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
mkdir -p "$folder"
grep '^torch==' constraints.txt >"$folder/torch.txt"
[ -z "${REMOTE_MI_EVERY_TORCH:-}" ] || : >"$folder/torch.txt"

case $which in
  lowest) resolutions=(lowest-direct) ;;
  newest) resolutions=(highest) ;;
  all) resolutions=(lowest-direct highest) ;;
  *)
    echo "usage: bash tests/versions.sh [lowest|newest|all] [OPTION_OF_PYTEST …]" >&2
    exit 2
    ;;
esac

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  [ -x "$folder/uv/bin/uv" ] || { python3 -m venv "$folder/uv" && "$folder/uv/bin/pip" install -q uv; }
  uv=$folder/uv/bin/uv
fi

failed=()
for resolution in "${resolutions[@]}"; do
  venv=$folder/$resolution
  "$uv" venv -q --clear --seed --python "$python" "$venv"
  "$uv" pip install -q --python "$venv" --resolution "$resolution" -c "$folder/torch.txt" \
    -e ".[test,pandas]"
  echo "--- $resolution"
  "$uv" pip freeze --python "$venv"
  VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH \
    "$venv/bin/python" -m pytest tests/fast -m "not slow" -n 2 -q "$@" || failed+=("$resolution")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed with the versions: ${failed[*]}" >&2
  exit 1
fi
