# === grep
printf '%s\n' apple banana cherry > f; grep an f; grep -c e f; grep -v a f; grep -n rr f; grep -E '^(a|c)' f; grep -o 'an' f; grep -q zzz f; echo $?; grep -i APP f; echo abc | grep -P '(?<=a)b'
# === sed
printf 'one\ntwo\nthree\n' | sed 's/o/0/g; 2d'; printf 'a=1\nb=2\n' | sed -n 's/^b=//p'; echo hello | sed -E 's/(.)(.*)/\2\1/'; seq 5 | sed -n '2,4p;$='; echo x > f; sed -i 's/x/y/' f; cat f
# === awk
printf 'a 1\nb 2\na 3\n' | awk '{s[$1] += $2} END {for (k in s) print k, s[k]}' | sort; echo 'x,y,z' | awk -F, '{print $2, NF}'; awk 'BEGIN {printf "%.2f\n", 10 / 3}'; seq 10 | awk 'NR % 2 == 0 && $1 > 3'; echo | awk -v n=5 '{print n * 2}'
# === sort and uniq
printf '%s\n' 10 9 2 1 | sort; printf '%s\n' 10 9 2 1 | sort -n; printf '%s\n' b a b | sort | uniq -c | sed 's/^ *//'; printf 'k 2\nj 1\n' | sort -k2; printf '%s\n' a A b | sort -fu; printf '%s\n' x y | sort -r
# === cut, tr, paste, join
echo a:b:c | cut -d: -f2; echo abcdef | cut -c2-4; echo hello | tr -d l; echo aabb | tr -s a; paste -d, <(seq 2) <(seq 3 4); join <(printf '1 a\n2 b\n') <(printf '1 x\n2 y\n'); echo 'a b' | tr ' ' '\n'
# === head, tail, wc, nl, tac
seq 10 | head -3; seq 10 | tail -2; seq 10 | tail -n +9; seq 3 | wc -l; seq 2 | tac; printf 'a\nb\n' | nl -w1 -s' '; printf 'x' | wc -c; seq 100 | head -n -98
# === find
mkdir -p p/q; touch p/a.txt p/q/b.txt p/c.md; find p -name '*.txt' | sort; find p -type d | sort; find p -name '*.md' -exec echo found {} \;; find p -type f -print0 | sort -z | tr '\0' ' '; echo; find p -maxdepth 1 -type f | wc -l; find p -name '*.txt' -delete; ls p
# === xargs
seq 3 | xargs; seq 4 | xargs -n 2 echo; printf 'a b\0c' | xargs -0 -I{} echo '<{}>'; echo 1 2 | xargs -n1 sh -c 'echo $0'; seq 2 | xargs -P 1 -I% echo n%; echo x | xargs false; echo $?
# === files
mkdir -p a/b; echo 1 > a/f; cp a/f a/g; mv a/g a/h; ln -s f a/l; ls a; readlink a/l; cat a/l; rm a/h; rmdir a/b; [ -L a/l ] && echo link; stat -c %s a/f; chmod 600 a/f; stat -c %a a/f; basename /x/y.txt .txt; dirname /x/y; du -s --apparent-size a | cut -f2; rm -r a; ls | wc -l; touch -d 2020-01-01 t; date -r t +%Y
# === archives
mkdir d; echo data > d/f; tar czf d.tgz d; tar tzf d.tgz; rm -r d; tar xzf d.tgz; cat d/f; gzip -c d/f | gunzip; echo x | base64; echo eA== | base64 -d; echo; echo abc | md5sum; echo -n abc | sha256sum | cut -c1-16; echo abc | od -An -c; printf 'AB' | xxd -p 2>/dev/null || printf 'AB' | od -An -tx1
# === json with python
echo '{"a": [1, 2, {"b": "x"}]}' > j.json
python3 -c 'import json; d = json.load(open("j.json")); print(d["a"][2]["b"], len(d["a"]))'
python3 - <<'P'
import json
print(json.dumps({"k": "v"}))
P
cat j.json | python3 -m json.tool --compact
# === python one-liners
python3 -c "print('hi'); import sys; sys.exit(3)"; echo $?; x=$(python3 -c 'print(2 ** 10)'); echo $x; echo 5 | python3 -c 'print(int(input()) * 2)'
# === numbers
seq 1 3 10; seq -s, 5; seq 3 -1 1; echo $((RANDOM % 1)); printf '%.3f\n' 2.5; expr 3 + 4; expr length hello; factor 12; awk 'BEGIN{print 1/3}'; numfmt --to=iec 2048
# === timeouts and signals
timeout 0.1 sleep 5; echo $?; (sleep 0.05; exit 3) & wait $!; echo $?; timeout 5 true; echo $?; sh -c 'kill -TERM $$'; echo $?
# === yes and a closed pipe
yes | head -2; seq 100000 | head -1; echo "${PIPESTATUS[0]}" | grep -c '141\|0'
# === strict header
set -euo pipefail
IFS=$'\n\t'
readonly VERSION="1.2"
log() { printf '[%s] %s\n' "$1" "${*:2}"; }
die() { log ERROR "$@" >&2; exit 1; }
main() {
  local -a files=("one" "two")
  local f
  for f in "${files[@]}"; do log INFO "file $f"; done
  [[ -f /nonexistent ]] || die "missing file" "$VERSION"
}
main "$@"
# === usage function
usage() {
  cat <<EOF
Usage: tool [-h] [-n NUM]

Options:
  -n NUM   a number
EOF
  exit "${1:-0}"
}
[[ $# -eq 0 ]] && usage 2
# === colours
RED='\033[0;31m'; GREEN=$'\e[32m'; NC='\033[0m'
echo -e "${RED}error${NC}"; printf '%sok%s\n' "$GREEN" $'\e[0m'; echo -e "\033[1mBold\033[0m"; tput sgr0 2>/dev/null; [ -t 1 ] && echo terminal || echo pipe
# === retry loop
attempt=0; max=3
until [ $attempt -ge $max ]; do
  attempt=$((attempt + 1)); echo "attempt $attempt"
  if [ $attempt -eq 3 ]; then echo success; break; fi
  sleep 0.01
done
# === retry function
retry() { local n=$1 i; shift; for ((i = 1; i <= n; i++)); do "$@" && return 0; echo "failed $i"; done; return 1; }
c=0; flaky() { ((++c >= 2)); }; retry 3 flaky && echo done; retry 2 false || echo gave up
# === script directory
SCRIPT_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"; [[ -d $SCRIPT_DIR ]] && echo directory
# === configuration file
cat > app.conf <<'C'
# comment
name = app
port=80
C
while IFS='=' read -r k v; do [[ -z $k || $k == \#* ]] && continue; k=${k// /}; v=${v# }; declare "conf_$k=$v"; done < app.conf; echo "$conf_name $conf_port"
# === csv
printf 'name,age\nal,30\nbo,25\n' > d.csv
{ read -r head; while IFS=, read -r n a; do echo "$n is $a"; done; } < d.csv; tail -n +2 d.csv | sort -t, -k2 -n | cut -d, -f1 | paste -sd' '; awk -F, 'NR > 1 {s += $2} END {print s / (NR - 1)}' d.csv
# === menu of functions
cmd_start() { echo starting; }; cmd_stop() { echo stopping; }
for c in start stop fly; do if declare -F "cmd_$c" > /dev/null; then "cmd_$c"; else echo "unknown $c" >&2; fi; done
# === lock and temporary files
t=$(mktemp); echo data > "$t"; cat "$t"; rm -f "$t"; d=$(mktemp -d); [[ -d $d ]] && rmdir "$d" && echo removed
( flock -n 9 && echo locked ) 9> lock; command -v flock > /dev/null && echo has
# === parallel jobs
for i in 3 1 2; do (sleep 0.0$i; echo "job $i" > "out.$i") & done; wait; cat out.*; pids=(); for i in 0 1; do (exit $i) & pids+=($!); done; for p in "${pids[@]}"; do wait $p; echo $?; done
# === log levels
LOG=2; log() { local l=$1; shift; ((l <= LOG)) && echo "L$l $*" >&2; return 0; }; log 1 one; log 3 three; log 2 two
# === stack machine
stack=(); push() { stack+=("$1"); }; pop() { local i=$((${#stack[@]} - 1)); echo "${stack[i]}"; unset "stack[i]"; }
push 1; push 2; pop; echo ${#stack[@]}
# === word count
text="the cat the dog"; declare -A n; for w in $text; do ((n[$w]++)); done; for w in "${!n[@]}"; do echo "$w ${n[$w]}"; done | sort
tr ' ' '\n' <<< "$text" | sort | uniq -c | sort -rn | head -1 | awk '{print $2}'
# === bubble sort
a=(5 2 9 1); for ((i = 0; i < ${#a[@]}; i++)); do for ((j = 0; j < ${#a[@]} - i - 1; j++)); do ((a[j] > a[j + 1])) && { t=${a[j]}; a[j]=${a[j + 1]}; a[j + 1]=$t; }; done; done; echo "${a[@]}"
# === primes and fizzbuzz
for ((i = 2; i < 20; i++)); do p=1; for ((j = 2; j * j <= i; j++)); do ((i % j == 0)) && { p=0; break; }; done; ((p)) && echo -n "$i "; done; echo
for i in {1..15}; do ((i % 15 == 0)) && echo FizzBuzz && continue; ((i % 5 == 0)) && echo Buzz && continue; ((i % 3 == 0)) && echo Fizz && continue; echo $i; done
# === git in a directory
git init -q r 2>/dev/null && cd r && git config user.email a@b.c && git config user.name n && echo x > f && git add f && git commit -qm first && git log --format=%s && git status --short | wc -l
# === missing program in a script
set -e
echo start
nosuchprogram --version
echo never
# === bc and dc are asked for
if command -v bc > /dev/null; then echo "2 ^ 10" | bc; else echo 1024; fi
# === a pipe into a loop loses variables
n=0; seq 3 | while read -r x; do n=$((n + x)); done; echo $n; while read -r x; do n=$((n + x)); done < <(seq 3); echo $n
# === large loop
n=0; for ((i = 0; i < 20000; i++)); do ((n += i)); done; echo $n; x=$(seq 20000 | tail -1); echo $x
# === much output
seq 20000 | md5sum; for i in {1..300}; do echo "line $i"; done
# === output of both streams
for i in 1 2 3; do echo "out $i"; echo "err $i" >&2; done
# === environment
export A=1; env | grep '^A='; A=2 env | grep '^A='; env -u A env | grep -c '^A='; printenv A; unset A; printenv A; echo $?
