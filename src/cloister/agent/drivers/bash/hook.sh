# Before an EXIT trap of the user's, which bash runs instead of the driver's: writes the state, in a process of its own. Prints where the
# trap's output goes: set -e has bash undo the cell's redirections first.
__cloister_status=$?
((__cloister_busy == 0)) || (\. @DUMP@ >@STATE@) 2>/dev/null
[[ -e /dev/fd/@OUT@ ]] && \builtin printf @OUT@ || \builtin printf 1
\builtin exit "$__cloister_status"
