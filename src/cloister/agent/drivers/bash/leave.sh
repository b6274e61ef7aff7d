# After a cell: its status, then the old variables, then the report: status, options, and the EXIT and ERR traps.
__cloister_status=$?
# After a syntax error inside one, bash 5.2 knows no [[ ]] until the next syntax error.
((__cloister_status != 2)) || \builtin eval '[[ . ]]' || \builtin :
\unset -f builtin
if [[ ${__cloister_in[1]} == *t* ]]; then
  [[ $(\builtin declare -f trap) != *__cloister* ]] || \builtin unset -f trap
  [[ $(\builtin trap -p ERR) != *__cloister* ]] || \builtin trap - ERR
  [[ ${__cloister_kept[DEBUG.at]-} != -9 ]] || __cloister_list=(- DEBUG)
fi
\builtin eval "$__cloister_undo"
__cloister_undo="" __cloister_busy=4
{
  \builtin printf "%s %s\n" "$__cloister_status" "$-"
  \builtin trap -p EXIT ERR
  \builtin printf '\0'
} >@REPORT@
@TRAP_EXIT@
# A cell that closed every descriptor has closed what holds the agent's pipes: another bash has them.
[[ /dev/fd/@OUT@ -ef @DRIVER@/1 && /dev/fd/@ERR@ -ef @DRIVER@/2 ]] || \builtin exit 0
