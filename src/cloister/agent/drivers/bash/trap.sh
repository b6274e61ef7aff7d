# For code that may set an EXIT trap: it must not replace the driver's, and listings show the user's traps only. Nothing but the one command is
# done for other traps: a DEBUG or ERR trap would see it.
trap() {
  \builtin local __cloister_t
  \builtin printf -v __cloister_t ' %s' "$@"
  case "$__cloister_t " in
  "  " | " -p "*)
    \builtin local __cloister_all="$(\builtin trap "$@" && \builtin echo .)" __cloister_s
    for __cloister_s in EXIT INT TERM; do
      __cloister_t=$(\builtin trap -p "$__cloister_s")
      case $__cloister_t in
      *__cloister*) __cloister_all=${__cloister_all/"$__cloister_t"$'\n'/} ;;
      *'@HOOK_END@'*) __cloister_all=${__cloister_all/"'@HOOK_BEGIN@"/"'"} __cloister_all=${__cloister_all/'@HOOK_END@'/} ;;
      esac
    done
    \builtin printf %s "${__cloister_all%.}"
    ;;
  *[\ G]EXIT\ * | *\ exit\ * | *\ 0\ *)
    \builtin trap "$@" || \builtin return
    ((BASH_SUBSHELL == 0)) || \builtin return 0
    __cloister_t=$(\builtin trap -p EXIT)
    case $__cloister_t in
    "") @TRAP_EXIT@ ;;
    *__cloister* | *'@HOOK_END@'* | "trap -- '' EXIT") ;;
    *) \builtin trap "@HOOK_BEGIN@$(\builtin eval "builtin set ${__cloister_t#trap}" && \builtin printf %s "$1")"'@HOOK_END@' EXIT ;;
    esac
    ;;
  *) \builtin trap "$@" ;;
  esac
}
