# For code that may set an EXIT trap: it must not replace the driver's, and listings show the user's traps only. Bash hides DEBUG, ERR and
# RETURN traps from a function and restores them at its end, even those that it removed: __cloister_kept has their commands and how deep in
# functions they were set, and a trap ": __cloister" stands for a removed one. After a DEBUG or ERR trap is set, nothing is done that it
# would see.
trap() {
  \builtin local __cloister_t __cloister_s __cloister_n __cloister_v __cloister_all="" __cloister_status=0 __cloister_at=-2
  \builtin local -a __cloister_words __cloister_gone
  __cloister_words=("$@") __cloister_gone=()
  \builtin printf -v __cloister_t ' %s' "$@"
  for __cloister_s in "${FUNCNAME[@]}"; do [[ $__cloister_s == source ]] || __cloister_at=$((__cloister_at + 1)); done
  case "$__cloister_t " in
  "  " | " -- " | " -p "*)
    if (($# < 2)); then \builtin set -- ""; else \builtin shift; fi
    for __cloister_n in "$@"; do
      __cloister_t="$(\builtin trap -p ${__cloister_n:+"$__cloister_n"} && \builtin echo .)" || __cloister_status=1
      __cloister_t=${__cloister_t%.}
      for __cloister_s in EXIT INT TERM DEBUG ERR RETURN; do
        __cloister_v=$(\builtin trap -p "$__cloister_s")$'\n'
        case $__cloister_v in
        *'@HOOK_END@'*) __cloister_t=${__cloister_t/"'@HOOK_BEGIN@"/"'"} __cloister_t=${__cloister_t/'@HOOK_END@'/} ;;
        *__cloister*) __cloister_t=${__cloister_t/"$__cloister_v"/} ;;
        $'\n')
          case ${__cloister_n^^} in "" | "$__cloister_s") ;; *) \builtin continue ;; esac
          ((__cloister_at <= ${__cloister_kept[$__cloister_s.at]:--9})) || \builtin continue
          __cloister_v=${__cloister_kept[$__cloister_s]//\'/"'\\''"}
          __cloister_t+="trap -- '$__cloister_v' $__cloister_s"$'\n'
          ;;
        *" DEBUG"? | *" ERR"?) [[ -n $__cloister_n ]] || __cloister_t=${__cloister_t/"$__cloister_v"/}$__cloister_v ;;
        esac
      done
      __cloister_all+=$__cloister_t
    done
    \builtin printf %s "$__cloister_all"
    \builtin return "$__cloister_status"
    ;;
  esac
  [[ $1 != -- ]] || __cloister_words=("${@:2}")
  ((${#__cloister_words[@]} > 1)) || __cloister_words=(- "${__cloister_words[@]}")
  for __cloister_s in "${__cloister_words[@]:1}"; do
    case ${__cloister_s^^} in DEBUG | ERR | RETURN) __cloister_s=${__cloister_s^^} ;; *) \builtin continue ;; esac
    if [[ ${__cloister_words[0]} != - ]]; then
      __cloister_kept[$__cloister_s]=${__cloister_words[0]} __cloister_kept[$__cloister_s.at]=$__cloister_at
    elif ((__cloister_at <= ${__cloister_kept[$__cloister_s.at]:--9})); then
      __cloister_kept[$__cloister_s.at]=-9
      __cloister_gone+=("$__cloister_s")
    fi
  done
  case "$__cloister_t ${__cloister_gone[*]+-}" in
  *[\ G]EXIT\ * | *\ exit\ * | *\ 0\ * | *\ -)
    \builtin trap "$@" || __cloister_status=$?
    ((${#__cloister_gone[@]} == 0)) || \builtin trap ': __cloister' "${__cloister_gone[@]}"
    if ((__cloister_status || BASH_SUBSHELL)); then \builtin return "$__cloister_status"; fi
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
