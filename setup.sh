#!/usr/bin/env bash
# Makes the virtual environment and installs what is missing. Running it again does nothing new.
# Usage: setup.sh VENV_FOLDER
set -euo pipefail
venv=$1

exec 9<"$0"
flock 9  # one set-up at a time: another waits and finds everything done

# Debian packages: what each command below comes from.
declare -A package=([g++]=g++ [perl]=perl [make]=make [sta]=opensta [ngspice]=ngspice [iverilog]=iverilog)
missing=()
for command in "${!package[@]}"; do command -v "$command" >/dev/null || missing+=("${package[$command]}"); done
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
  as_root=()
  if ((EUID != 0)); then as_root=(sudo -n); fi
  echo "setup: installing Debian packages: ${missing[*]}"
  if ! { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"${TMPDIR:-/tmp}/voltfront-setup.log" 2>&1; then
    tail -n 3 "${TMPDIR:-/tmp}/voltfront-setup.log" >&2
    echo "setup: Debian packages must be installed first: run 'sudo apt-get install ${missing[*]}', then repeat the command" >&2
    exit 3
  fi
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: python3 must be 3.11 or newer, not $(python3 --version)" >&2; exit 3; }
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
echo "setup: installing Python packages (requirements.lock)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.lock
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
"$venv/bin/python" -m flow.tools
touch "$venv/ready"
echo "setup: done"
