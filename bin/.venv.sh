# Sourced by bin/prefork and bin/test, with $root set. Owns the quick look at .venv (three files, no process) and the
# search for a Python; .venv.py, which that Python runs, does the making.

# need_venv EXTRA: returns once .venv has what pyproject.toml asks for, EXTRA included; else one line, and exit.
need_venv() {
    venv_is_fit "$root/.venv/.installed${1:+-$1}" && return
    find_python
    "$python" "$root/bin/.venv.py" "$root" "$1" || exit $?
}

# A stamp opens with the place it was written for (a moved .venv is useless) and has the time of the pyproject.toml
# that was installed, so that an older one put back is noticed, too.
venv_is_fit() {
    [ -x "$root/.venv/bin/python" ] && [ -f "$1" ] &&
        ! [ "$root/pyproject.toml" -nt "$1" ] && ! [ "$root/pyproject.toml" -ot "$1" ] &&
        IFS= read -r place <"$1" && [ "$place" = "$root" ]
}

# Sets $python to the real path of the first that is new enough, so that .venv outlives a shim or another .venv.
find_python() {
    probe='import os, sys; sys.stdout.write("%d.%d.%d %d %s" % (tuple(sys.version_info[:3]) + (sys.version_info >= (3, 11), os.path.realpath(sys.executable))))'
    found=
    for name in ${PREFORK_PYTHON:+"$PREFORK_PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        answer=$("$name" -c "$probe" 2>/dev/null) || continue
        version=${answer%% *}
        answer=${answer#* }
        python=${answer#* }
        [ "${answer%% *}" = 1 ] && return
        found="$found${found:+, }$version ($python)"
    done
    echo "prefork: needs Python 3.11 or newer, found ${found:-none};" \
        "install one (https://www.python.org/downloads/) or name it in PREFORK_PYTHON" >&2
    exit 1
}
