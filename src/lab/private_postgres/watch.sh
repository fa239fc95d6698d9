# Runs a private PostgreSQL server for the process at the other end of our standard input, as the server's user.
# When that process ends, however it ends, the kernel closes the pipe, `read` fails, and server and files go.
# Our standard error is the locked directory: as long as we live, nobody takes it for left over.
#
# $1  folder of initdb, pg_ctl and postgres
# $2  the server's directory
# $3  "dead": left over by a crash, and its postmaster.pid may by now name a stranger
bin=$1 dir=$2
umask 077
trap '' HUP INT QUIT TERM PIPE

step() { "$@" </dev/null >>"$dir/setup.log" 2>&1; }

initialize() {
    step "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale --no-sync --no-instructions &&
        cat "$dir/settings.conf" >>"$dir/data/postgresql.conf"
}

halt() { step "$bin/pg_ctl" -D "$dir/data" -m "$1" -w -t 60 stop; }

while read -r order; do
    case $order in
        initialize) initialize ;;
        start) step "$bin/pg_ctl" -D "$dir/data" -l "$dir/server.log" -w -t 60 start ;;
        crash) halt immediate ;;
        stop) halt fast ;;
        *) false ;;
    esac
    echo "$?"
done

if [ "$3" = dead ]; then
    rm -f "$dir/data/postmaster.pid"
elif [ -f "$dir/data/postmaster.pid" ]; then
    # A server that a test has paused hears nothing until it is continued.
    read -r pid <"$dir/data/postmaster.pid" && step kill -CONT "$pid"
    halt immediate
fi
# Backends that outlive a killed postmaster may still write for a moment.
tries=0
until step_out=$(rm -rf "$dir" 2>&1) || [ "$tries" -ge 10 ]; do
    tries=$((tries + 1))
    sleep 1
done
[ ! -e "$dir" ]
