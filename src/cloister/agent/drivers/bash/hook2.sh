# The same for the errors of an EXIT trap.
__cloister_status=$?
[[ -e /dev/fd/@ERR@ ]] && \builtin printf @ERR@ || \builtin printf 2
\builtin exit "$__cloister_status"
