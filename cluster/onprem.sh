#!/usr/bin/env bash
# A Ray cluster on machines of your own: one command on each, no root, closed by default. The same project and .venv lie on all of them.
#
# start:      on the head machine      cluster/onprem.sh token && cluster/onprem.sh head 10.0.0.1
#             from there, once each    ssh 10.0.0.2 'mkdir -p -m 700 ~/.ray' && scp -p ~/.ray/auth_token 10.0.0.2:.ray/auth_token
#             on every other machine   cluster/onprem.sh worker 10.0.0.1 10.0.0.2
# submit:     on your laptop           scp -p 10.0.0.1:.ray/auth_token ~/.ray/auth_token
#                                      ssh -N -L 8265:127.0.0.1:8265 10.0.0.1 &
#                                      python -m archsweep submit heads_vs_layers --address http://127.0.0.1:8265
# watch:      python -m archsweep logs heads_vs_layers -f --address http://127.0.0.1:8265;  cluster/onprem.sh status
# fetch:      python -m archsweep fetch heads_vs_layers --address http://127.0.0.1:8265
# tear down:  cluster/onprem.sh stop, on every machine: it ends what it started there and nothing else
#
# Between the machines the firewall lets through ARCHSWEEP_PORT and ARCHSWEEP_NODE_PORTS and the 999 after it, and for others nothing.
#
# To be set in the environment, if at all:
#   ARCHSWEEP_PYTHON              a Python that has archsweep's packages                    [.venv/bin/python of this project]
#   ARCHSWEEP_NODE                this node's folder: process id, log, Ray's temporary files       [/tmp/archsweep-USERID]
#   ARCHSWEEP_PORT                where the head answers the other nodes                                         [6379]
#   ARCHSWEEP_DASHBOARD_PORT      where the head takes jobs, on 127.0.0.1                                        [8265]
#   ARCHSWEEP_NODE_PORTS          the first of the thousand ports of a node; another for a second node of a machine  [20000]
#   ARCHSWEEP_CPUS, ARCHSWEEP_GPUS  what trials may use                                                  [all there are]
#   ARCHSWEEP_AUTOSCALING_CONFIG  of the head, where `ray up` calls this script                                     [none]
#   RAY_AUTH_TOKEN_PATH           the file with the cluster's token                                     [~/.ray/auth_token]
set -euo pipefail

readonly START_SECONDS=90 STOP_SECONDS=30
readonly LONGEST_FOLDER=38 # what Ray puts below it has 68 characters, and a socket's path at most 107

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${ARCHSWEEP_PYTHON:-$project/.venv/bin/python}
node=${ARCHSWEEP_NODE:-/tmp/archsweep-$(id -u)}
port=${ARCHSWEEP_PORT:-6379}
dashboard_port=${ARCHSWEEP_DASHBOARD_PORT:-8265}
first=${ARCHSWEEP_NODE_PORTS:-20000}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN RAY_ADDRESS RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER # what is meant for another Ray; the token is the file's

refuse() {
    echo "onprem.sh: $*" >&2
    exit 2
}

# --- what must hold before anything starts

check_number() { # name value lowest highest
    if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3 || $2 > $4)); then refuse "$1 must be a number from $3 to $4, got '$2'."; fi
}

check_settings() {
    [[ -x $python ]] || refuse "$python is not there. Set up the project (make), or name a Python that has its packages: ARCHSWEEP_PYTHON=…"
    check_number ARCHSWEEP_PORT "$port" 1024 65535
    check_number ARCHSWEEP_DASHBOARD_PORT "$dashboard_port" 1024 65535
    check_number ARCHSWEEP_NODE_PORTS "$first" 1024 64536
    [[ -z ${ARCHSWEEP_CPUS:-} ]] || check_number ARCHSWEEP_CPUS "$ARCHSWEEP_CPUS" 0 4096
    [[ -z ${ARCHSWEEP_GPUS:-} ]] || check_number ARCHSWEEP_GPUS "$ARCHSWEEP_GPUS" 0 64
    [[ $node == /* && ${#node} -le $LONGEST_FOLDER ]] ||
        refuse "ARCHSWEEP_NODE must be an absolute path of at most $LONGEST_FOLDER characters, got '$node'."
    [[ -z ${ARCHSWEEP_AUTOSCALING_CONFIG:-} || -f $ARCHSWEEP_AUTOSCALING_CONFIG ]] ||
        refuse "ARCHSWEEP_AUTOSCALING_CONFIG names $ARCHSWEEP_AUTOSCALING_CONFIG, which is not there."
}

check_address() {
    [[ $1 =~ ^([0-9]{1,3}\.){3}[0-9]{1,3}$ ]] || refuse "a node is named by its IPv4 address, got '$1'."
    [[ $1 != 0.* ]] || refuse "$1 is every network at once. Give the one address at which the other nodes reach this machine."
}

check_free() { # address port...: that the address is this machine's, and nothing listens there
    local taken
    taken=$("$python" - "$@" <<'PYTHON'
import errno, socket, sys

address, *ports = sys.argv[1:]
for port in (0, *map(int, ports)):
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((address, port))
        except OSError as error:
            sys.exit(print("here" if error.errno == errno.EADDRNOTAVAIL else port))
PYTHON
    )
    [[ $taken != here ]] || refuse "$1 is no address of this machine. It has: $(hostname -I 2>/dev/null || echo unknown)"
    [[ -z $taken ]] || refuse "port $taken is taken on $1. Give others: ARCHSWEEP_PORT, ARCHSWEEP_DASHBOARD_PORT, ARCHSWEEP_NODE_PORTS."
}

check_token() {
    [[ -s $token ]] || refuse "$token is not there. The head makes it (onprem.sh token); copy it here from the head: scp -p HEAD:$token $token"
    local mode
    mode=$(stat -c %a "$token")
    [[ $mode == [46]00 ]] || refuse "$token lets others read the cluster's token (mode $mode). Close it: chmod 600 $token"
}

make_token() {
    local folder
    folder=$(dirname "$token")
    (umask 077 && mkdir -p "$folder")
    [[ $folder != "$HOME/.ray" ]] || chmod 700 "$folder"
    [[ -s $token ]] || (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token")
    check_token
}

# --- the one process that a node is, and its session

ours() { # the id of the node's session, as it was written down, while any process of it is left
    local pid began now
    [[ -r $node/process ]] || return 1
    read -r pid began <"$node/process"
    now=$(began_at "$pid")
    [[ -z $now || $now == "$began" ]] && [[ -n $(session "$pid") ]] && echo "$pid"
}

began_at() { # a process id comes again; together with the moment at which it began it does not (proc(5): field 22 of stat)
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20 || true
}

session() { # every process of it; one that is dead and not yet buried is none
    ps -o pid=,stat= -s "$1" | sed -n '/Z/!s/^ *\([0-9]*\).*/\1/p' || true
}

launch() { # the options of ray start
    (umask 077 && mkdir -p "$node")
    [[ -O $node && $(stat -c %a "$node") == 700 ]] || refuse "$node must be yours alone (mode 700). Remove it, or give another: ARCHSWEEP_NODE=…"
    local pid
    if pid=$(ours); then refuse "a node runs from $node already (process $pid). End it: onprem.sh stop, or give another folder: ARCHSWEEP_NODE=…"; fi
    local options=(
        --node-manager-port="$first" --object-manager-port="$((first + 1))" --runtime-env-agent-port="$((first + 2))"
        --dashboard-agent-listen-port="$((first + 3))" --dashboard-agent-grpc-port="$((first + 4))" --metrics-export-port="$((first + 5))"
        --min-worker-port="$((first + 10))" --max-worker-port="$((first + 999))" --temp-dir="$node/ray" --block
    )
    [[ -z ${ARCHSWEEP_CPUS:-} ]] || options+=(--num-cpus="$ARCHSWEEP_CPUS")
    [[ -z ${ARCHSWEEP_GPUS:-} ]] || options+=(--num-gpus="$ARCHSWEEP_GPUS")
    : >"$node/log" # what an earlier node has said must not be taken for this one's
    # A job's `python` is the one that runs Ray.
    PATH="$(dirname "$python"):$PATH" PYTHONUNBUFFERED=1 setsid "$python" -P -c "$RAY" start "$@" "${options[@]}" >"$node/log" 2>&1 </dev/null &
    pid=$!
    echo "$pid $(began_at "$pid")" >"$node/process"
    local until=$((SECONDS + START_SECONDS))
    until grep -q "Ray runtime started" "$node/log"; do
        if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > until)); then
            tail -n 20 "$node/log" >&2
            stop >/dev/null
            echo "onprem.sh: Ray did not start; above is the end of what it said. A wrong token reads there as a failure to connect." >&2
            exit 1
        fi
        sleep 0.2
    done
    echo "a node of $address runs (process $pid, log $node/log)"
}

# Ray's own command. It refuses a second node where everything is on loopback, and else replaces 127.0.0.1 by an address that others reach.
RAY='from ray.scripts.scripts import main; main()'
on_loopback() {
    export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 # Ray's switch for one machine: everything listens on 127.0.0.1
    RAY="from ray._private import ray_constants, services
services.get_node_ip_address = lambda address=None: '127.0.0.1'
ray_constants.ENABLE_RAY_CLUSTER = True
$RAY"
}

# --- the commands

start_head() {
    address=$1
    check_address "$address"
    check_free "$address" "$port" "$first"
    check_free 127.0.0.1 "$dashboard_port"
    make_token
    # A dead or unreachable node is noticed after some 8 seconds, not after a minute.
    export RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000
    export RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3
    local options=(--head --node-ip-address="$address" --port="$port" --ray-client-server-port="$((first + 6))")
    options+=(--include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port")
    [[ -z ${ARCHSWEEP_AUTOSCALING_CONFIG:-} ]] || options+=(--autoscaling-config="$ARCHSWEEP_AUTOSCALING_CONFIG")
    [[ $address != 127.* ]] || on_loopback
    launch "${options[@]}"
    echo "other nodes: copy $token there, then cluster/onprem.sh worker $address IP"
    echo "jobs: http://127.0.0.1:$dashboard_port on this machine; from another one: ssh -N -L $dashboard_port:127.0.0.1:$dashboard_port $address"
}

start_worker() {
    address=$2
    check_address "$1"
    check_address "$address"
    check_free "$address" "$first"
    check_token
    timeout 5 bash -c "exec 3<>/dev/tcp/$1/$port" 2>/dev/null ||
        refuse "nothing answers at $1:$port. Start the head first (onprem.sh head $1), and let its firewall through to this machine."
    [[ $address != 127.* ]] || on_loopback
    launch --address="$1:$port" --node-ip-address="$address"
}

status() {
    local pid
    if pid=$(ours); then
        echo "a node runs (process $pid, $(session "$pid" | wc -l) processes, log $node/log)"
    else
        echo "no node runs from $node"
        return 1
    fi
}

stop() { # exactly the processes of this node's session
    local pid until=$((SECONDS + STOP_SECONDS))
    if ! pid=$(ours); then
        echo "no node runs from $node"
        return
    fi
    kill -TERM "$pid" 2>/dev/null || true
    while ours >/dev/null && ((SECONDS < until)); do sleep 0.2; done
    # shellcheck disable=SC2046 # process ids, one word each
    ! ours >/dev/null || kill -KILL $(session "$pid") 2>/dev/null || true
    rm -rf "$node/process" "$node/ray"
    echo "stopped the node of $node"
}

check_settings
case "${1:-} $#" in
"token 1") make_token && echo "$token" ;;
"head 2") start_head "$2" ;;
"worker 3") start_worker "$2" "$3" ;;
"status 1") status ;;
"stop 1") stop ;;
*) refuse "say one of: token, head IP, worker HEAD-IP IP, status, stop. What each does is at the top of this file." ;;
esac
