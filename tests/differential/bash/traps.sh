# === exit trap at the end
trap 'echo bye $?' EXIT
echo a
(exit 3)
# === exit trap and exit
trap 'echo bye $?' EXIT
echo a
exit 4
# === exit trap that exits
trap 'echo cleanup; exit 7' EXIT
echo a
# === exit trap keeps a failing status
set -e
trap 'rc=$?; echo "rc $rc"; exit $rc' EXIT
echo a
false
echo no
# === exit trap as a function
cleanup() { local rc=$?; rm -f tmp.txt; echo "cleaned $rc"; }
trap cleanup EXIT
touch tmp.txt
ls
exit 2
# === exit trap of several signals
trap 'echo got' EXIT INT TERM
echo a
# === exit trap removed
trap 'echo bye' EXIT
trap - EXIT
echo a
# === exit trap replaced
trap 'echo one' EXIT
trap 'echo two' EXIT
# === exit trap ignored
trap '' EXIT
echo a
# === exit trap in a subshell
(trap 'echo sub' EXIT; echo in)
echo out
# === exit trap is not inherited
trap 'echo bye' EXIT
(echo in)
x=$(echo sub); echo $x
# === exit trap with quotes
trap "echo 'it is' \"\$x\"; echo \$'a\\tb'" EXIT
x="a  b"
# === exit trap of several lines
trap '
echo one
echo two # comment
' EXIT
echo a
# === exit trap with an error
trap 'nosuchcommand' EXIT
echo a
# === exit trap under unset variables
set -u
trap 'echo bye $?' EXIT
echo $nosuch
echo no
# === exit trap set in a function
f() { trap 'echo from f' EXIT; }
f
echo main
# === exit trap by number
trap 'echo zero' 0
echo a
# === exit trap in a failing pipeline
set -euo pipefail
trap 'echo "exit $?"' EXIT
false | true
echo no
# === err trap
trap 'echo "err $? line $LINENO"' ERR
false
true
(exit 3)
if false; then :; fi
false || true
echo end
# === err trap that exits
trap 'echo "failed: $BASH_COMMAND" >&2; exit 1' ERR
echo a
ls /nonexistent 2>/dev/null
echo no
# === err trap in functions
set -E
trap 'echo "E $FUNCNAME"' ERR
f() { false; true; }
f
# === err trap without errtrace
trap 'echo E' ERR
f() { false; true; }
f; echo end
# === errexit and err
set -e
trap 'echo "line $LINENO"' ERR
echo a

false
# === debug trap
trap 'echo "debug: $BASH_COMMAND"' DEBUG
x=1
echo $x
trap - DEBUG
echo end
# === debug trap counts
n=0; trap '((n++))' DEBUG
: ; : ; :
trap - DEBUG
echo $((n > 2))
# === return trap
f() { trap 'echo returned' RETURN; echo in; }
f
trap - RETURN
# === return trap of a source
echo 'echo in' > part.sh
trap 'echo returned' RETURN
. ./part.sh
trap - RETURN
echo end
# === signal trap
trap 'echo usr1' USR1
kill -USR1 $$
echo after
# === signal trap and wait
trap 'echo alarm' USR2
(sleep 0.1; kill -USR2 $$) &
wait; echo $?
wait; echo $?
# === ignored signal
trap '' TERM
kill -TERM $$
echo alive
trap - TERM
# === term trap
trap 'echo terminated; exit 5' TERM
kill $$
echo no
# === int trap
trap 'echo interrupted' INT
kill -INT $$
echo on
trap - INT
# === list of traps
trap 'echo bye' EXIT
trap 'echo "it'"'"'s"' USR1
trap
trap -p USR1
trap - EXIT
# === no traps
trap
trap -p
echo end
# === saved and restored trap
trap 'echo old' USR1
saved=$(trap -p USR1)
trap 'echo new' USR1
kill -USR1 $$
eval "$saved"
kill -USR1 $$
# === wrong signal
trap 'echo x' NOSUCH
echo $?
# === trap in a loop
for i in 1 2; do trap "echo loop $i" EXIT; done
# === trap without arguments in a function
f() { trap; }
f
echo end
# === stack of cleanups
cleanups=()
defer() { cleanups+=("$*"); }
run() { for ((i = ${#cleanups[@]} - 1; i >= 0; i--)); do eval "${cleanups[i]}"; done; }
trap run EXIT
defer echo first
defer echo second
echo body
# === temporary directory
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"; [ -e "$tmp" ] || echo removed' EXIT
echo data > "$tmp/f"
cat "$tmp/f"
