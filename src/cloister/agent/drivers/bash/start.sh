# Begins a bash of the driver's (bash/shell.py, which puts paths and descriptors in place of @NAME@): reads the state that it is to take up.
\exec @SCRIPT@<&-
\builtin shopt -s expand_aliases
\builtin trap '' INT
__cloister_u=0 __cloister_busy=0 __cloister_undo="" __cloister_list=(-p DEBUG ERR RETURN)
\builtin declare -A __cloister_kept
@TRAP_EXIT@
\builtin mapfile -d "" -t __cloister_in <@RESTORE@
