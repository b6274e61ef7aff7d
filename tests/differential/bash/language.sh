# === parameter expansions
x=hello.tar.gz
echo ${x%.*} ${x%%.*} ${x#*.} ${x##*.} ${x/l/L} ${x//l/L} ${x/#he/HE} ${x/%gz/xz} ${#x} ${x:1:3} ${x: -2} ${x:(-5):2}
echo ${x^} ${x^^} ${x,,} ${x^^[h-l]} "${x@Q}" "${x@U}"
# === defaults and alternatives
unset a; b=
echo ${a-d} ${b-d} ${a:-d} ${b:-d} ${a+s} ${b+s} ${b:+s} ${c:=new} $c
# === indirect names
name=target; target=value; echo ${!name}
prefix_a=1; prefix_b=2; echo ${!prefix_*}
declare -n ref=target; ref=changed; echo $target
# === arrays
a=(one "two three" four); echo ${#a[@]} "${a[1]}" "${a[@]:1}" ${!a[@]}
a+=(five); a[10]=ten; echo "${a[@]}" ${#a[@]} ${!a[*]} "${a[-1]}"
unset 'a[1]'; echo "${a[*]}"; printf '<%s>' "${a[@]/o/0}"; echo
declare -p a
# === associative arrays
declare -A m=([apple]=1 ["two words"]=2)
m[new]=3; echo ${#m[@]} ${m["two words"]} ${m[none]-none}
for k in $(printf '%s\n' "${!m[@]}" | sort | tr ' ' _); do echo $k; done
unset 'm[apple]'; [[ -v m[apple] ]] || echo gone
# === arithmetic
echo $((1 + 2 * 3)) $((2 ** 10)) $((7 / 2)) $((-7 / 2)) $((7 % 3)) $((1 << 4)) $((5 & 3)) $((5 ^ 1)) $((!0)) $((~0))
i=5; echo $((i++)) $i $((++i)) $((i += 3)) $((i > 3 ? 1 : 0)) $((16#ff)) $((2#101)) $((010))
((i == 9)) && echo nine; let "j = i * 2"; echo $j
for ((k = 0; k < 3; k++)); do echo -n "$k "; done; echo
# === braces and tildes
echo {a,b}{1,2} {1..5} {01..03} {a..e..2} {5..1} x{,y}
echo ~ | grep -c /
# === globs
touch a1 a2 b1 .h; mkdir d
echo * a? [ab]1 [!a]* */
echo nomatch*
# === quoting
echo 'single $x' "double $((1 + 1))" $'tab\tnew' "a'b" 'a"b' a\ b \$x
echo "nested $(echo "inner $(echo "deep")")" `echo back`
# === word splitting
x="a   b"; echo $x; echo "$x"; set -- $x; echo $#; for w in $x; do echo "<$w>"; done
f() { echo $#; }; f "$@" "" ; f ""; f $nothing
# === here-documents
x=value
cat <<A
$x $(echo sub) \$x
A
cat <<'A'
$x $(echo sub)
A
cat <<-A
	tabs go
	A
cat <<A; cat <<B
first
A
second
B
# === here-strings
cat <<< "text $((1 + 1))"; read a b <<< "one two three"; echo "$b"; wc -w <<< "a b c"
# === functions
f() { local x=inner; echo "$x $1 $# $*"; return 3; }
x=outer; f a b; echo $? $x
function g { echo g; }; g
h() ( cd /; y=sub; pwd ); h; echo ${y-unset}
# === recursion
fact() { (($1 <= 1)) && echo 1 || echo $(($1 * $(fact $(($1 - 1))))); }; fact 10
fib() { local n=$1; ((n < 2)) && { echo $n; return; }; echo $(($(fib $((n - 1))) + $(fib $((n - 2))))); }; fib 8
# === dynamic scope
f() { local x=1; g; echo $x; }; g() { x=2; y=3; }; f; echo ${x-unset} $y
# === case
for x in apple 12 "" -v file.txt; do
  case $x in a*) echo a;; [0-9]*) echo number;; "") echo empty;; -v|-q) echo option;; *.txt) echo text;;& *) echo other;; esac
done
case b in a) echo a;; b) echo b;& c) echo c;; esac
# === loops
for x in 1 2 3; do [ $x = 2 ] && continue; echo $x; done
n=0; while [ $n -lt 3 ]; do n=$((n + 1)); done; echo $n
until ((n == 0)); do ((n--)); done; echo $n
for i in 1 2; do for j in a b; do [ $j = b ] && continue 2; echo $i$j; done; done
for i in 1 2; do while :; do break 2; done; done; echo $i
for x; do echo never; done
# === tests
[ -z "" ] && echo empty; [ a \< b ] && echo less; [ 2 -gt 1 -a 1 -lt 2 ] && echo and; [[ a < b && 1 -lt 2 ]] && echo both
[[ file.txt == *.txt ]] && echo glob; [[ "*" == "\*" ]] || echo literal; [[ -d / && ! -f / ]] && echo directory; [ ! -e /nonexistent ]; echo $?
# === regular expressions
[[ "2024-05-06" =~ ^([0-9]{4})-([0-9]{2}) ]] && echo "${BASH_REMATCH[0]} ${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
re='^a.c$'; [[ abc =~ $re ]] && echo match; [[ abc =~ "a.c" ]] || echo quoted; [[ x =~ [ ]]
echo $?
# === pipes
echo hello | tr a-z A-Z | rev; printf '%s\n' c a b | sort | head -1; true | false; echo $?
false | true | (exit 4); echo "${PIPESTATUS[@]}"; ls /nonexistent |& grep -c nonexistent; ! false; echo $?
# === redirections
echo out > o.txt; echo more >> o.txt; cat < o.txt; { echo a; echo b >&2; } > both.txt 2>&1; cat both.txt
ls /nonexistent 2> /dev/null || echo failed; echo x &> all.txt; cat all.txt; exec 3< o.txt; read -u 3 l; echo $l; exec 3<&-
cat 3<<< three <&3; { echo err >&2; } 2>&1 | cat; : > o.txt; wc -c < o.txt
# === descriptors in variables
exec {fd}> f.txt; echo data >&$fd; exec {fd}>&-; cat f.txt; ((fd >= 10)) && echo high
# === subshells and groups
x=1; (x=2; echo $x); echo $x; { x=3; }; echo $x; echo $BASH_SUBSHELL $(echo $BASH_SUBSHELL)
(cd /; echo $PWD); [ "$PWD" != / ] && echo same
# === process substitution
cat <(echo a) <(echo b); diff <(printf '1\n2\n') <(printf '1\n3\n'); echo $?
while read -r l; do n=$((n + 1)); done < <(seq 5); echo $n; echo text | tee >(cat > t.txt) > /dev/null; sleep 0.1; cat t.txt
# === printf
printf '%d %s %5.2f|%-5s|%05d|%x|%o|%e|%c|%%|%b|%q\n' 42 str 3.14159 ab 42 255 8 12345.678 xyz 'a\tb' 'it is'
printf '%s-' 1 2 3; echo; printf '%(%Y)T\n' 0; printf -v v '%03d' 7; echo $v; printf '%s\n'; printf '%d\n' abc; echo $?
# === echo
echo -n no newline; echo; echo -e 'a\tb\n'; echo "-n"; echo -- x; echo 'back\\slash'
# === read
printf 'a b c\nd\\te\n' | { read x y; echo "$y"; read -r z; echo "$z"; }
IFS=, read -r a b <<< "1,2,3"; echo "$b"; read -n 2 c <<< "xyz"; echo $c; read -d : e <<< "p:q"; echo $e; IFS=: read -ra parts <<< "a:b:c"; echo ${#parts[@]} ${parts[2]}
read -t 0.01 z < /dev/null; echo $?
# === mapfile
mapfile -t l < <(printf '%s\n' one "two three"); echo ${#l[@]} "${l[1]}"; mapfile -n 1 -s 1 k <<< $'a\nb\nc'; echo -n "${k[0]}"; readarray -d , -t c < <(printf 'x,y'); echo ${c[1]}
# === getopts
f() { local OPTIND opt; while getopts ":ab:" opt "$@"; do case $opt in a) echo a;; b) echo "b=$OPTARG";; \?) echo "bad $OPTARG";; :) echo "needs $OPTARG";; esac; done; shift $((OPTIND - 1)); echo "rest $*"; }
f -a -b val rest; f -x; f -b
# === long options by hand
set -- --name=foo --flag -v file
while [[ $# -gt 0 ]]; do case "$1" in --name=*) name="${1#*=}"; shift;; --flag) flag=1; shift;; -v|--verbose) v=1; shift;; *) break;; esac; done; echo $name $flag $v $1
# === declare
declare -i n=5+5; echo $n; declare -r c=1; declare -u up=abc; echo $up; declare -l low=ABC; echo $low; declare -x e=1; declare -p n c up
f() { declare -g g=global; declare l=1; }; f; echo $g ${l-unset}; declare -a arr; arr[2]=x; declare -p arr; typeset -f f
# === strings
s="  trim me  "; s="${s#"${s%%[![:space:]]*}"}"; s="${s%"${s##*[![:space:]]}"}"; echo "[$s]"
s=abc; for ((i = ${#s} - 1; i >= 0; i--)); do echo -n "${s:i:1}"; done; echo; [[ $s == *b* ]] && echo contains; echo "${s//[ac]/_}"; printf '=%.0s' {1..10}; echo
# === unicode
x="héllo 日本"; echo "${#x}" "${x:1:1}" "${x^^}"; printf '%s\n' "$x" | wc -m
# === dates and times
date -d 2024-01-31 +%A; date -u -d @0 +%FT%TZ; TZ=UTC printf '%(%F)T\n' 86400; ((SECONDS < 100)); echo $?; [[ $EPOCHSECONDS -gt 1700000000 ]] && echo now
# === random
RANDOM=42; a=$RANDOM; RANDOM=42; [[ $a == $RANDOM ]] && echo same
# === time keyword
{ time sleep 0.01; } 2>&1 | grep -c real; TIMEFORMAT=%0R; { time :; } 2>&1
# === eval and indirect calls
cmd="echo 'a b'"; eval "$cmd"; $cmd; f=echo; $f x; "$f" "y z"; args=(-n hi); echo "${args[@]}"; echo
eval "for i in 1 2; do echo \$i; done"; name=dyn; eval "$name=5"; echo $dyn; declare "$name=6"; echo $dyn; printf -v "$name" 7; echo $dyn
# === command substitution keeps
x=$(printf 'a\n\n\n'); echo "[$x]"; y=$(exit 3); echo $?; z="$(printf 'l1\nl2')"; echo "$z" | wc -l; echo "$(< /dev/null)"
# === lists and precedence
true && echo a || echo b; false && echo a || echo b; true; echo c & wait; { false; } || echo d; ! true || echo e
# === strings of lines
while IFS= read -r line; do echo "[$line]"; done <<< $'  two\n\nlast'; while read -r a _ b; do echo $a-$b; done < <(echo "1 2 3 4")
# === last background pid
sleep 0.01 & [[ $! -gt 1 ]] && echo pid; wait $!; echo $?
# === comments everywhere
echo a # comment
x=5 # another
if true; then # why
  echo b
fi # end
echo 'not # comment' x#y
# === line continuation
echo one \
  two
x="a\
b"; echo $x
true &&
  echo and |
  cat
# === scripts in scripts
cat > s.sh <<'S'
#!/bin/bash
echo "script $0 $#: $*"
exit 5
S
chmod +x s.sh; ./s.sh a "b c"; echo $?; bash s.sh; . ./s.sh
echo never
