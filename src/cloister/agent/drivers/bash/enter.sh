# After ready.sh and leave.sh: waits for the next cell and reads it (status, flags, names and values of the run's variables, code), sets the
# variables, and leaves in __cloister_undo what puts the old ones back. It succeeds or fails as the cell before, so that $? is right.
# __cloister_kept gets the DEBUG, ERR and RETURN traps that the script's own line found (trap.sh).
# Nothing in here depends on IFS or set -efu.
__cloister_busy=0 __cloister_list=(-p DEBUG ERR RETURN)
\builtin mapfile -d "" -t __cloister_listed <@LIST@
\builtin eval "__cloister_listed=(${__cloister_listed[0]-})"
__cloister_kept=()
for ((__cloister_i = 3; __cloister_i < ${#__cloister_listed[@]}; __cloister_i += 4)); do
  __cloister_n=${__cloister_listed[__cloister_i]}
  [[ ${__cloister_listed[__cloister_i - 1]} == ": __cloister" ]] || __cloister_kept[$__cloister_n.at]=0
  __cloister_kept[$__cloister_n]=${__cloister_listed[__cloister_i - 1]}
done
\builtin read -r __cloister_in <@GO@
\builtin mapfile -d "" -t __cloister_in <@INPUT@
__cloister_busy=1 __cloister_undo="" __cloister_args=("$@")
for ((__cloister_i = 2; __cloister_i < ${#__cloister_in[@]} - 1; __cloister_i += 2)); do
  __cloister_n=${__cloister_in[__cloister_i]}
  __cloister_undo+="unset -v $__cloister_n;"
  if [[ -v $__cloister_n || -v $__cloister_n[@] ]]; then
    if [[ ${!__cloister_n@a} == *[aA]* ]]; then
      __cloister_undo+="$(\builtin declare -p "$__cloister_n");"
    else
      __cloister_undo+="${!__cloister_n@A};"
    fi
  fi
  \builtin printf -v "$__cloister_n" %s "${__cloister_in[__cloister_i + 1]}" && \builtin export "${__cloister_n?}" || \builtin :
done
# Code that may end bash without its EXIT trap (exec, kill -9): the state of this moment is kept.
[[ ${__cloister_in[1]} != *s* ]] || (__cloister_busy=3 && \. @DUMP@ >@STATE@)
[[ ${__cloister_in[1]} != *t* ]] || \. @TRAP@
\builtin return "${__cloister_in[0]}"
