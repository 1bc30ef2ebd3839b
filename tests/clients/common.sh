# shellcheck shell=bash
# What `run`, `routers`, `contract` and `../web/run` share; they source it. Sets PYTHON, and for the tests CLIENTS_BINARY, CLIENTS_URL and
# CLIENTS_KEY.

clients=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
server=

# Settings of whoever calls would change what is tested.
unset "${!SPARKV_@}"

# The server ends with the script, however that ends.
cleanup() {
    if [ -n "$server" ]; then
        kill -KILL "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

# find_binary [PATH]: the one named, else the newest that was built here.
find_binary() {
    local built
    # shellcheck disable=SC2012  # the names are known
    built=$(cd "$clients/../.." && ls -t "$PWD"/target/{release,debug}/sparkv 2>/dev/null | head -n 1 || true)
    CLIENTS_BINARY=$(realpath "${1:-$built}" 2>/dev/null || true)
    if [ ! -x "$CLIENTS_BINARY" ]; then
        echo "no binary at ${1:-target/release/sparkv}: build one with \`cargo build --release\`" >&2
        exit 2
    fi
    export CLIENTS_BINARY
}

# install_python [-tools [FOLDER]]: installs the pinned packages of tests/clients or of a folder beside it, once for each
# state of the lock file. Sets PYTHON, or PYTHON_TOOLS.
install_python() {
    local venv=${2:-$clients}/.venv${1:-} lock=${2:-$clients}/requirements${1:-}.txt
    if ! cmp -s "$lock" "$venv/installed.txt"; then
        python3 -m venv --clear "$venv"
        # The lock has all that they need, but for what requirements-tools.without says.
        "$venv/bin/pip" install --quiet --no-deps --require-hashes -r "$lock"
        cp "$lock" "$venv/installed.txt"
    fi
    if [ -n "${1:-}" ]; then export PYTHON_TOOLS=$venv/bin/python; else export PYTHON=$venv/bin/python; fi
}

# install_node [FOLDER]: the pinned packages of its lock file; by default those of the clients.
install_node() {
    local folder=${1:-$clients/node}
    if ! cmp -s "$folder/package-lock.json" "$folder/node_modules/installed.json"; then
        (cd "$folder" && npm ci --silent --no-audit --no-fund)
        cp "$folder/package-lock.json" "$folder/node_modules/installed.json"
    fi
}

# start_server [ARGUMENT...]: serves the demo model on a free port, with an API key.
start_server() {
    export CLIENTS_KEY=test-key-$RANDOM
    SPARKV_API_KEY=$CLIENTS_KEY "$CLIENTS_BINARY" serve --port 0 --offline "$@" >"$work/address" 2>"$work/log" &
    server=$!
    for _ in $(seq 300); do
        CLIENTS_URL=$(grep -oE 'http://[0-9.:]+' "$work/address" || true)
        if [ -n "$CLIENTS_URL" ]; then
            export CLIENTS_URL
            return
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    echo "the server did not start:" >&2
    cat "$work/log" >&2
    exit 2
}
