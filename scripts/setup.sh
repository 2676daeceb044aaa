#!/bin/sh
# Chooses the Python and hands over to set_up.py. PYTHON=... overrides the choice.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)

suits() { # a pyenv shim exists for versions that are not selected: it must run, not only be found
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    suits "$PYTHON" || { echo "setup: PYTHON=$PYTHON is not a Python 3.11 or 3.12" >&2; exit 1; }
    candidates=$PYTHON
elif [ -d "${GRAPE_ROS_PREFIX:-/opt/ros/jazzy}" ]; then
    candidates=/usr/bin/python3 # the one ROS's binaries are built for
else
    candidates="python3.11 python3.12 python3"
fi
for python in $candidates; do
    if suits "$python"; then
        exec "$python" "$here/set_up.py" "$@"
    fi
done
echo "setup: no Python 3.11 or 3.12 found: install one (Debian, Ubuntu: apt install python3 python3-venv python3-dev) or set PYTHON" >&2
exit 1
