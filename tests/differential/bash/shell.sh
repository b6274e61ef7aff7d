# === function named printf
printf() { :; }
printf hidden
unset -f printf
printf 'seen\n'
# === function named echo
echo() { builtin echo "<$*>"; }
echo a b
# === function named eval
eval() { builtin echo "eval $*"; }
eval x=1
# === function named builtin
builtin() { echo "builtin $*"; }
builtin echo a
# === function named trap
trap() { echo "mine $*"; }
trap x EXIT
# === function named exit
exit() { echo "no exit"; }
exit 3
echo on
# === function named read
read() { x=mine; }
read; echo $x
# === function named source
source() { echo "sourcing $1"; }
source nothing
# === function named cd
cd() { builtin cd "$@" && echo "in $PWD"; }
cd /
# === function named return and break
f() { return 3; }
f; echo $?
# === functions named set, shopt, unset and export
set() { :; }
shopt() { :; }
export() { :; }
unset() { :; }
x=1; unset x; echo $x
# === functions named mapfile, declare, local and printf
mapfile() { :; }; declare() { :; }; local() { :; }; printf() { :; }
echo on
# === IFS of colons
IFS=:
p=/a:/b:/c; for d in $p; do echo "$d"; done
echo $p
# === empty IFS
IFS=
x="a b  c"; echo $x; set -- $x; echo $#
# === unset IFS
unset IFS
x="a b  c"; set -- $x; echo $#
# === IFS of a newline
IFS=$'\n'
x=$'a b\nc d'; for l in $x; do echo "[$l]"; done
# === readonly IFS
readonly IFS
echo ok
# === noglob
set -f
echo *
set +f
# === verbose
set -v
echo a
f() {
  echo b
}
f
set +v
echo c
# === xtrace
set -x
echo a
x=$(echo b)
[ "$x" = b ]
set +x
# === xtrace of a function
f() { local y=$1; echo "$y"; }
set -x
f 1
set +x
# === xtrace to a file
exec 5> trace.txt
BASH_XTRACEFD=5
set -x; echo a; set +x
unset BASH_XTRACEFD
cat trace.txt
# === PS4
PS4='+ line $LINENO: '
set -x
echo a
set +x
# === posix mode
set -o posix
x=1; echo $x
set +o posix
# === POSIXLY_CORRECT
POSIXLY_CORRECT=1
echo posix
unset POSIXLY_CORRECT
# === noclobber
set -C
echo a > f.txt
echo b > f.txt
echo $?
cat f.txt
# === nounset
set -u
echo "${x-default}"
echo "$x"
echo no
# === errexit
set -e
echo a
true && false || true
! true
echo b
false
echo no
# === errexit in a function in a condition
set -e
f() { false; echo "f goes on"; }
f || echo failed
if f; then echo yes; fi
x=$(false) || echo sub
echo end
# === errexit and a failing substitution
set -e
x=$(false)
echo no
# === errexit and local
set -e
f() { local x=$(false); echo "local hides it"; }
f
# === pipefail
set -o pipefail
false | true; echo $?
true | false | true; echo "${PIPESTATUS[*]}"
set +o pipefail
false | true; echo $?
# === strict mode
set -euo pipefail
IFS=$'\n\t'
items=("a b" c)
for i in "${items[@]}"; do echo "$i"; done
grep x /dev/null | cat
echo no
# === nullglob, failglob and dotglob
shopt -s nullglob; echo *.none; shopt -u nullglob
touch .hidden a.txt; shopt -s dotglob; echo *; shopt -u dotglob
shopt -s failglob; echo *.none; echo $?
# === extglob
shopt -s extglob
x=foobar.txt; echo "${x%.@(txt|md)}"
case abc in +([a-c])) echo yes;; esac
# === extglob on one line
shopt -s extglob; [[ abc == +(a|b|c) ]] && echo yes
# === globstar
shopt -s globstar
mkdir -p a/b; touch a/b/c.txt a/d.txt
echo **/*.txt
# === nocasematch
shopt -s nocasematch
[[ ABC == abc ]] && echo same
case X in x) echo case;; esac
# === lastpipe
shopt -s lastpipe
echo value | read x
echo "$x"
# === unknown shopt
shopt -s nosuchoption
echo $?
# === alias
shopt -s expand_aliases
alias hi='echo hello'
hi there
unalias hi
hi
# === aliases of builtins
shopt -s expand_aliases
alias eval='echo no' builtin='echo no' printf='echo no' trap='echo no'
echo on
# === readonly variables
readonly r=1
r=2
echo on $?
# === readonly in a function
f() { local -r x=1; x=2; echo no; }
f
echo on
# === unset of functions and variables
f() { echo f; }
unset -f f; f
x=1; unset x; echo "${x-unset}"
unset -f $(compgen -A function)
echo on
# === all variables unset
for v in $(compgen -v | grep -v '^BASH\|^_'); do unset "$v" 2>/dev/null; done
echo on
# === LINENO
echo $LINENO
f() {
  echo $LINENO
}
f
echo $LINENO
LINENO=100
echo $LINENO
# === names of script and function
echo "$0" "${BASH_SOURCE[0]}" "${#BASH_SOURCE[@]}" "${FUNCNAME[0]-none}"
f() { echo "${FUNCNAME[*]}" "${BASH_SOURCE[*]}" "${BASH_LINENO[*]}"; caller; caller 0; }
g() { f; }
g
# === main guard
main() { echo "main $#"; }
if [[ "${BASH_SOURCE[0]}" == "${0}" ]]; then
  main "$@"
fi
# === sourced or not
(return 0 2>/dev/null) && echo sourced || echo executed
# === no functions and variables but the users own
declare -F
compgen -v | grep -c nosuchthing
type -t eval exit
# === positional parameters
echo $# "$@"
set -- a "b c"
echo $# "$2"
shift; echo $1
shift 5; echo $?
# === special parameters
echo "$-" | grep -c h
echo $((SHLVL > 0)) $((PPID > 0)) $((UID == EUID)) ${BASH_VERSINFO[0]}
[[ $$ == $BASHPID ]] && echo same; (( $(echo $BASHPID) != $$ )) && echo other
# === last argument
echo a b
echo $_
: x y; echo "$_"
# === status of the first command
echo $?
# === umask and directory
umask 077; umask
mkdir -p d/e; cd d/e; echo "${PWD##*/}"; cd - > /dev/null; cd ..; dirs | wc -l
# === ulimit
ulimit -n 64; ulimit -n
for i in {1..3}; do echo $i | cat; done
# === few descriptors left
ulimit -n 20
echo $(echo a) | cat
# === hash and type
hash -r; type -t ls if cd nosuch
command -v cd
command -V nosuch
# === exported functions
f() { echo "exported $1"; }
export -f f
bash -c 'f x'
# === environment of one command
X=1 bash -c 'echo $X'; echo "${X-unset}"
X=2 eval 'echo $X'
env -i A=1 "$BASH" -c 'echo $A ${HOME-none}'
# === disabled builtin
enable -n printf
type -t printf
enable printf
# === a here-document in a loop
for i in 1 2; do
  cat <<END
item $i
END
done
# === history is off
set +H; echo "a!b"
history | wc -l
# === colons and comments only
# nothing
:
# === empty program

# === long line
x=$(printf 'a%.0s' {1..5000}); echo ${#x}
# === no newline at the end
echo a
printf b
# === carriage returns in data
printf 'a\r\nb\r\n' | tr -d '\r'
# === binary output
printf '\x00\x01\xff' | od -An -tx1
# === command not found handle
command_not_found_handle() { echo "no $1"; return 3; }
nosuchcmd a
echo $?
# === permission denied and directories
touch plain; ./plain; echo $?
mkdir dir; ./dir; echo $?
./nothing; echo $?
# === bad substitution
echo ${x!y}
echo on
# === division by zero
echo $((1 / 0))
echo on $?
# === wrong arithmetic
echo $((1 +))
echo on
# === wrong test
[ 1 -eq x ]; echo $?
[[ 1 -eq ]]
echo on
# === wrong redirection
echo a > /nonexistent/file; echo $?
cat < /nonexistent/file; echo $?
echo a >&9; echo $?
# === unset with an error
${x:?is missing}
echo no
# === wrong names
1x=3; echo $?
export 1y=2; echo $?
# === wrong options
set -o nosuch; echo $?
read -Z; echo $?
cd /nonexistent; echo $?
