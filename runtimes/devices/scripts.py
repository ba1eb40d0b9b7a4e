"""What runs in a device's own sh with few tools besides: dash, bash, busybox and Android's mksh all read it.

No script holds a name that a user chose: those are arguments. Each is one line, as csh, perhaps somebody's login shell,
quotes no line breaks.
"""

from __future__ import annotations

from tofe_edge.runtimes.native_runner import BINARY

PREFIX = "tofe-edge-"
"""What the name of a temporary folder begins with; a secret of 128 bits follows."""

RUNNER = BINARY
"""The runner's name in it."""

# The rest of a script for one of the folders that may hold temporary ones.
_EACH_ROOT = (
    'for root in "$TMPDIR" "$@" "$HOME"; do case $root in /*) ;; *) continue ;; esac; folder=$root/' + PREFIX + "$0; "
)

_STOP = (
    "for process in /proc/[0-9]*; do case $(readlink $process/exe 2>/dev/null) in */" + PREFIX + "$0/" + RUNNER + ") "
    "kill -9 ${process#/proc/};; esac; done; "
)

# A folder of ours is kept with what is in it: this runs again after a link broke. Anything else of that name is none of
# ours; mkdir follows no link and takes over no folder. The probe fails where a program may not run (noexec).
MAKE = (
    _STOP
    + "umask 077; "
    + _EACH_ROOT
    + 'if [ -L "$folder" ] || [ -d "$folder" ] && [ -O "$folder" ] 2>/dev/null; then :; '
    'else mkdir -m 700 "$folder" || continue; fi; [ -L "$folder" ] && continue; mkdir -p "$folder/lib"; '
    'echo "exit 0" >"$folder/probe" && chmod 700 "$folder/probe" && "$folder/probe" && rm "$folder/probe" && '
    'cd "$folder" && pwd -P && exit 0; rm -rf "$folder"; done; exit 1'
)
"""``$0``: the secret; arguments: roots. Ends runners that outlived their link, makes the folder in the first
root that will do, and prints its path."""

REMOVE = _STOP + "left=0; " + _EACH_ROOT + 'rm -rf "$folder"; [ -e "$folder" ] && left=1; done; exit $left'
"""``$0``: the secret; arguments: roots. Ends what runs from the folder and removes it, whichever root it is in."""

SUMS = (
    'cd "$0" || exit 1; if command -v sha256sum >/dev/null; then sum=sha256sum; '
    'elif command -v shasum >/dev/null; then sum="shasum -a 256"; else exit 3; fi; '
    'for file in "$@"; do [ -f "$file" ] && $sum "$file"; done; exit 0'
)
"""``$0``: a folder; arguments: names. Prints sum and name of those that are there; exit code 3: there is no tool."""

GONE = 125
"""Exit code of :data:`RUN` where the folder is not there; the runner has no such code."""

# Nobody may be there any more to stop a runner that takes too long, so it carries two ends with it: `read` returns when
# the link has gone, since nothing is ever written to stdin; and the kernel ends it once it used so much CPU time, which
# needs no process that watches and nothing that could outlive the shell. Watchers hold neither stdout nor stderr,
# which would keep the link open.
RUN = (
    f'cd "$0" && exec 3<&0 || exit {GONE}; limit=$1; shift; chmod 700 ' + RUNNER + "; "
    "LD_LIBRARY_PATH=$PWD/lib; export LD_LIBRARY_PATH; "
    '(ulimit -t $limit; exec "./' + RUNNER + '" "$@") </dev/null 3<&- & runner=$!; '
    "(read -r line <&3; kill -9 $runner) >/dev/null 2>&1 & watch=$!; "
    "exec 3<&-; wait $runner; code=$?; kill $watch 2>/dev/null; exit $code"
)
"""``$0``: the folder, ``$1``: seconds of CPU time, then the runner's arguments. Ends with the runner's exit code."""

FACTS = (
    'echo "arch=$(uname -m)"; echo "system=$(uname -s)"; echo "kernel=$(uname -r)"; '
    'echo "cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null)"; '
    'echo "cpu=$(sed -n "s/^model name[[:space:]]*: *//p" /proc/cpuinfo 2>/dev/null | head -n 1)"; '
    'echo "lscpu=$(LC_ALL=C lscpu 2>/dev/null | sed -n "s/^Model name: *//p" | head -n 1)"; '
    'echo "tree=$(tr -d "\\000" 2>/dev/null </proc/device-tree/model)"; '
    'echo "product=$(cat /sys/class/dmi/id/product_name 2>/dev/null)"; '
    "if command -v getprop >/dev/null; then "
    'echo "android=$(getprop ro.build.version.release)"; '
    'echo "phone=$(getprop ro.product.manufacturer) $(getprop ro.product.model)"; fi; exit 0'
)
"""Prints ``key=value`` lines about the device."""
