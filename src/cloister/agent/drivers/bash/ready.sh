# After the state was taken up: the driver's traps, where the user has none. An unset variable under set -u is the one thing that ends bash
# *and* leaves the functions it was in, so that the dump has no local variables in it; so that is how SIGINT ends a cell. A second
# SIGINT must not end the dump: it is ignored from then on.
if [[ -v __cloister_traps ]]; then
  \builtin unset -v __cloister_traps
  \builtin trap 'exit 143 # __cloister' TERM
  \builtin trap '{ trap "" INT; ((__cloister_busy)) && __cloister_busy=2; [[ -o nounset ]] || __cloister_u=1; set -u; : "$__cloister_unset"; } 2>/dev/null' INT
fi
{
  \builtin printf "0 %s\n" "$-"
  \builtin trap -p EXIT ERR
  \builtin printf '\0'
} >@REPORT@
@TRAP_EXIT@
