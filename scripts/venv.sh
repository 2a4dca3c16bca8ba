# shellcheck shell=sh
# Sourced from the repository's root: `make_venv EXTRA` provides .venv with this project and its EXTRA installed.

make_venv() {
    _is_installed "$1" && return
    _python=$(_find_python) || return
    # Two concurrent installations would corrupt the venv. The lock belongs to the open file, so it ends with this process,
    # however the process ends.
    exec 9<scripts/venv.sh
    "$_python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    _is_installed "$1" || _install "$1" || return
    exec 9<&-
}

# What was installed from: another place, another Python or another pyproject.toml means to install again.
_state() {
    pwd
    .venv/bin/python -V
    cat pyproject.toml
}

# "dev" has all that the other extras have.
_is_installed() {
    .venv/bin/python -c 'import pip' 2>/dev/null || return
    for _extra in "$1" dev; do
        _state | cmp -s - ".venv/installed-$_extra" && return
    done
    return 1
}

_find_python() {
    _lacking=
    for _name in python3.11 python3.12 python3.13 python3; do
        if "$_name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$_name" -c 'import venv, ensurepip' 2>/dev/null && echo "$_name" && return
            _lacking=$_name
        fi
    done
    if [ "$_lacking" ]; then
        echo "$_lacking lacks its venv module: install it (on Debian and Ubuntu: apt install $_lacking-venv)" >&2
    else
        echo "Python 3.11 or newer is needed: there is no python3.11, python3.12, python3.13 or newer python3" >&2
    fi
    return 1
}

_install() {
    printf 'Installing into .venv (a minute the first time) ' >&2
    # Prints a dot every two seconds, and ends with this process.
    (while kill -0 $$ 2>/dev/null; do sleep 2; printf . >&2; done) 9<&- &
    _dots=$!
    _status=0
    _pip_install "$1" || _status=$?
    kill "$_dots" 2>/dev/null
    wait "$_dots" 2>/dev/null || :
    echo >&2
    return "$_status"
}

_pip_install() {
    .venv/bin/python -c 'import pip' 2>/dev/null || "$_python" -m venv --clear .venv || return
    rm -f .venv/installed-*
    # The pip that comes with Python 3.11 needs three times as long to choose versions.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip || return
    # Twice quiet: setuptools warns of each folder of data. What nobody imports is not compiled.
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-compile --editable ".[$1]" || return
    _state >".venv/installed-$1"
}
