#!/bin/sh
# make_venv.sh VENV REQUIREMENT: makes the virtual environment VENV unless a working one is there, then installs REQUIREMENT
# (such as '.[dev]') into it, held to constraints.txt.
#
# PYTHON in the environment names the interpreter; otherwise the newest one that runs is taken. uv is used where it is
# installed and never needed. Debian's Python may lack ensurepip, so there are several ways to a venv, tried in turn.
set -eu

venv=$1
requirement=$2

# True if "$1" runs and is of a supported version. A pyenv shim of that name may be on PATH and still refuse to run.
supported() {
    "$1" -c 'import sys, ssl; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" && { command -v "$PYTHON"; return; }
        echo "PYTHON=$PYTHON does not run, or is not Python 3.11, 3.12 or 3.13." >&2
        return 1
    fi
    for name in python3.13 python3.12 python3.11 python3 python; do
        supported "$name" && { command -v "$name"; return; }
    done
    echo "No Python 3.11, 3.12 or 3.13 found on PATH (3.14 lacks wheels of some dependencies)." >&2
    echo "Install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3" >&2
    return 1
}

have_uv() {
    command -v uv >/dev/null 2>&1
}

# Each way must end in a venv whose interpreter runs, and, without uv, has a working pip.
usable() {
    "$venv/bin/python" -c 'import sys' >/dev/null 2>&1 && { have_uv || "$venv/bin/python" -m pip --version >/dev/null 2>&1; }
}

try() {
    rm -rf "$venv"
    "$@" >/dev/null 2>&1 && usable
}

# `pip --python` (pip 22.3 and later) lets a pip from outside fill a venv that has none.
venv_with_foreign_pip() {
    "$python" -m venv --without-pip "$venv" || return 1
    "$python" -m pip --python "$venv/bin/python" install pip || pip3 --python "$venv/bin/python" install pip
}

make_venv() {
    python=$(find_python) || exit 1
    echo "making $venv with $python ($("$python" --version))"
    if have_uv && try uv venv --python "$python" "$venv"; then return; fi
    if try "$python" -m venv "$venv"; then return; fi
    if try "$python" -m virtualenv "$venv"; then return; fi
    if try virtualenv --python "$python" "$venv"; then return; fi
    if try venv_with_foreign_pip; then return; fi
    rm -rf "$venv"
    echo "$python cannot make a virtual environment: it has neither ensurepip nor pip. On Debian and Ubuntu this helps:" >&2
    "$python" -c 'import sys; print("    sudo apt-get install python%d.%d-venv" % sys.version_info[:2])' >&2
    exit 1
}

usable || make_venv

set -- --quiet --constraint constraints.txt --editable "$requirement"
if have_uv; then
    uv pip install --python "$venv/bin/python" "$@"
else
    "$venv/bin/python" -m pip install --disable-pip-version-check "$@"
fi
