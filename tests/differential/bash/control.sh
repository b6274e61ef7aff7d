# === break outside a loop
echo a
break
echo b $?
continue 2
echo c $?
# === break in an if
if true; then break 3; fi
echo after
# === break in a sourced file
echo 'echo in; break; echo on' > part.sh
for i in 1 2; do . ./part.sh; echo "not reached"; done
echo end
# === return at the top
return 3
echo on $?
# === return in a function and a sourced file
f() { return 4; echo no; }
f; echo $?
echo 'x=1; return 5; x=2' > part.sh
. ./part.sh; echo $? $x
# === set -n
echo a
set -n
echo b
# === exit with a status
echo a; exit 7; echo b
# === exit in a function
f() { local v=1; exit 9; }
f
echo no
# === exit in a subshell
(exit 5); echo $?
x=$(exit 6); echo $?
# === exit in a sourced file
echo 'exit 8' > part.sh
. ./part.sh
echo no
# === exit in a pipe
exit 3 | cat
echo $? "${PIPESTATUS[@]}"
# === exit in a loop
for i in 1 2 3; do echo $i; [ $i = 2 ] && exit; done
# === exit without a status
false
exit
# === exit 256
exit 256
# === exit with a word
exit abc
# === exec to a file
exec > out.txt
echo hidden
exec 2>&1
nosuch_command
cat out.txt >&2
# === exec 2>&1
exec 2>&1
echo out
nosuch_command_b
echo end
# === exec with descriptors
exec 3>&1 4>three.txt
echo to3 >&3; echo to4 >&4
exec 3>&- 4>&-
cat three.txt
echo x >&3
# === exec of a program
echo before
exec echo replaced
echo no
# === exec of bash
exec bash -c 'echo inner; exit 4'
# === exec of what is not there
exec /nonexistent/program
echo no
# === kill the shell
echo a
kill -TERM $$
echo b
# === kill the shell hard
echo a
kill -9 $$
echo b
# === unbalanced single quote
echo a
echo 'b
echo c
# === unbalanced double quote
echo a
x="b
echo c
# === unfinished if
echo a
if true; then
echo b
# === unfinished function
echo a
f() {
echo b
# === unfinished case
case x in
x) echo a;;
# === unfinished command substitution
echo a
echo $(echo b
# === unfinished here-document
cat <<X
one
two $((1 + 1))
# === unexpected parenthesis
echo a
echo )
echo b
# === unexpected done
echo a
done
echo b
# === unexpected token in the middle
for i in 1 2; do echo $i; done
if then
echo no
# === stray brace
echo a
}
echo b
# === syntax error in eval
eval 'echo )'
echo on $?
# === syntax error in a sourced file
echo 'if' > part.sh
. ./part.sh
echo on $?
# === read at the end of input
read x; echo "$? <$x>"
read -r -p "name? " name || echo none
while read -r line; do echo "$line"; done
cat
echo end
# === select at the end of input
select x in a b; do echo $x; break; done
echo end $?
# === mapfile at the end of input
mapfile -t lines; echo ${#lines[@]}
# === background jobs and wait
sleep 0.05 & a=$!
(exit 3) & b=$!
wait $a; echo $?
wait $b; echo $?
wait; echo $?
# === wait for any
(sleep 0.3; exit 1) & (exit 5) &
wait -n; echo $?
wait -n; echo $?
# === wait for an unknown job
wait 999999
echo $?
# === jobs and disown
sleep 5 &
jobs | sed 's/^\[1\].*sleep/sleep/'
disown %1
jobs; echo none
kill $!
# === kill a job
sleep 10 & kill $!
wait $!; echo $?
# === killed child is told
bash -c 'kill -9 $$'
echo $?
# === coproc
coproc CAT { cat; }
echo hello >&${CAT[1]}
read -r line <&${CAT[0]}; echo "$line"
exec {CAT[1]}>&-
wait $CAT_PID 2>/dev/null
echo done
# === coproc of a filter
coproc tr a-z A-Z
eval "exec ${COPROC[1]}>&-"
cat <&${COPROC[0]}
# === all descriptors closed
for fd in /proc/$$/fd/*; do fd=${fd##*/}; ((fd > 2)) && eval "exec $fd>&-"; done
echo still here
# === stdout closed
exec 1>&-
echo lost
echo told >&2
# === stdin closed
exec <&-
read x; echo $?
# === stdin from a file
echo one > in.txt; exec < in.txt
read x; echo $x
# === closed everything
exec 0<&- 1>&- 2>&-
echo x
exit 3
# === function recursion limit
FUNCNEST=20
f() { f; }
f
echo on $?
# === bash -n of a file
echo 'if true; then' > bad.sh
bash -n bad.sh 2>/dev/null; echo $?
# === onecmd
set -t; echo a
echo b
# === set +o and back
set -f; o=$(set +o); set +f; eval "$o"; echo *; set +f
# === logout
logout
echo on $?
# === suspend
suspend
echo on $?
