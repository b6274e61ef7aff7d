# Writes the state: options, a NUL, and the rest. It may change what it likes, because bash is about to end, or it runs in a process of its
# own. It starts no process: bash may be about to die of a signal.
\unset -f builtin
\builtin set +o
\builtin printf "set +et\n"
((__cloister_u)) && \builtin echo "set +u"
\builtin printf "\0trap - INT TERM\n"
# Bash hides ERR traps in functions, and the others from files that it reads: trap -p, after them, shows the rest and what is newer.
for __cloister_v in "${FUNCNAME[@]}"; do [[ $__cloister_v == source || $__cloister_v == main ]] || __cloister_hides=1; done
for __cloister_v in DEBUG RETURN ${__cloister_hides:+ERR}; do
  ((${__cloister_kept[$__cloister_v.at]:--9} < 0)) || \builtin printf "trap -- %q %s\n" "${__cloister_kept[$__cloister_v]}" "$__cloister_v"
done
\builtin trap -p
\builtin trap '' INT TERM
((__cloister_busy == 2)) && \builtin echo __cloister_traps=1
\builtin set +efuxn
\builtin trap - DEBUG ERR RETURN
[[ ${__cloister_in[1]} != *t* ]] || \builtin unset -f trap
__cloister_depth=-1
for __cloister_v in "${FUNCNAME[@]}"; do [[ $__cloister_v == source ]] || ((__cloister_depth += 1)); done
((__cloister_depth > 0)) && \builtin set -- "${__cloister_args[@]}"
\builtin printf "set --"
(($#)) && \builtin printf " %q" "$@"
\builtin printf "\ncd -- %q\n" "$PWD"
\builtin umask -p
# exit in a function leaves the function's variables in the way of the global ones. These are marked, and all in front of them removed.
__cloister_reveal() {
  \builtin declare -gt "$1"
  for ((__cloister_i = __cloister_depth; __cloister_i > 0; __cloister_i--)); do
    [[ ${!1@a} == *t* ]] && \builtin break
    \builtin unset -v "$1" || \builtin return
  done
  \builtin declare -g +t "$1"
  [[ -v $1 || -v $1[@] ]] || \builtin unset -v "$1"
}
for __cloister_v in @NAMES@; do
  case $__cloister_v in @OWN@) \builtin continue ;; esac
  ((__cloister_depth <= 0)) || __cloister_reveal "$__cloister_v" 2>/dev/null || \builtin continue
  [[ $__cloister_v == IFS ]] || \builtin declare -p "$__cloister_v"
done
if [[ -v IFS ]]; then \builtin declare -p IFS; else \builtin echo unset IFS; fi
\builtin unset -f __cloister_reveal
\builtin declare -f
\builtin declare -Fx
\builtin shopt -p
\builtin alias -p
\builtin printf "%s\n" "$__cloister_undo" "" "# complete $__cloister_busy"
