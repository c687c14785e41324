#!/bin/bash
# Real programs of a Debian root file system, run inside it. What they print is the same on every kernel.
#   programs.sh           all, each between "== NAME" and "-- STATUS"
#   programs.sh NAME...   some
export LC_ALL=C.UTF-8 HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
work=$(mktemp -d)
chmod 755 "$work"
cd "$work" || exit 1
here=$(dirname "$(readlink -f "$0")")

do_ls() {
    ls -lRn --time-style=+%s /usr/bin /etc/apt /usr/lib/python3 /usr/share/perl5 /etc/ssl | grep -v -e '^total' -e '^d' | sha256sum
    ls -lR / >/dev/null 2>errors; echo "ls / said $?"
    grep -v /proc errors
    ls / | grep -v lost+found
}

do_bash() {
    printf '%s\n' c a b | sort | tr a-z A-Z | while read -r line; do echo "got $line"; done
    diff <(seq 3) <(seq 4)
    set -m
    sleep 30 &
    jobs -r | sed 's/ *$//'
    kill %1; wait %1; echo "killed job: $?"
    (sleep 0.1; exit 7) & wait $!; echo "waited: $?"
    sleep 60 & kill -STOP $!; sleep 0.2; jobs -s >stopped; grep -c Stopped stopped; kill -KILL $!; wait $! 2>/dev/null; echo "stopped job: $?"
    set +m
    trap 'echo trapped' USR1; kill -USR1 $BASHPID; trap - USR1
    coproc cat; echo through >&"${COPROC[1]}"; read -r back <&"${COPROC[0]}"; echo "$back"; kill "$COPROC_PID"; wait 2>/dev/null
    yes | head -1000 | wc -l
    timeout 0.2 sleep 5; echo "timeout: $?"
    ulimit -n 64; ulimit -n
}

do_python() { python3 "$here/modern.py"; }

do_apt() {
    mkdir -p package/DEBIAN package/usr/share/hello
    printf 'Package: hello-joey\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: hello\n' >package/DEBIAN/control
    printf '#!/bin/sh\necho configured "$1"\n' >package/DEBIAN/postinst; chmod 755 package/DEBIAN/postinst
    echo hello >package/usr/share/hello/hello
    dpkg-deb --root-owner-group -b package "$work/hello.deb" >/dev/null
    chmod 755 "$work"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$work/hello.deb" 2>&1 | grep -e configured -e 'newly installed'
    dpkg -s hello-joey | grep Status; cat /usr/share/hello/hello
    DEBIAN_FRONTEND=noninteractive apt-get purge -y -q hello-joey >/dev/null 2>&1; echo "purged: $?"; ls /usr/share/hello 2>&1
}

do_perl() {
    perl -e '
use strict; use warnings; use IO::Socket::INET; use File::Temp; use POSIX; use Time::HiRes; use List::Util qw(sum);
pipe(my $r, my $w); my $pid = fork // die; if (!$pid) { print $w "child\n"; exit 3 } close $w; print "read: ", <$r>; waitpid $pid, 0; print "status: ", $? >> 8, "\n";
my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die "listen: $!";
if (!fork) { my $c = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $server->sockport) or die; print $c "hello\n"; exit }
my $c = $server->accept; print "socket: ", <$c>; wait;
my $t = File::Temp->new; print $t "x" x 10; close $t; print "size: ", -s "$t", "\n"; my @s = stat("/etc/passwd"); print "mode: ", $s[2] & 07777, "\n";
local $SIG{ALRM} = sub { print "alarm\n" }; Time::HiRes::alarm(0.1); POSIX::pause(); print "sum: ", sum(1..100), "\n"; print "backtick: ", `echo hi`;'
}

do_git() {
    git init -q -b main origin; cd origin || return
    git config user.email a@b.c; git config user.name a
    for number in 1 2 3; do echo "$number" >"file$number"; git add .; git commit -qm "commit $number"; done
    cd ..
    git clone -q "file://$work/origin" copy; git -C copy log --format='%h %s'
    git clone -q --no-hardlinks origin local; git -C local status --short --branch
    git -C local gc -q; git -C local fsck 2>&1; cp -r local worktree; git -C worktree mv file1 moved; git -C worktree status --short
}

do_openssl() {
    openssl rand 4096 >random; wc -c <random
    openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -subj /CN=localhost -days 2 2>/dev/null; openssl x509 -in cert -noout -subject
    echo secret | openssl enc -aes-256-cbc -pbkdf2 -pass pass:x -out sealed; openssl enc -d -aes-256-cbc -pbkdf2 -pass pass:x -in sealed
    openssl s_server -accept 14433 -cert cert -key key -www >/dev/null 2>&1 & server=$!
    for _ in $(seq 100); do
        printf 'GET / HTTP/1.0\r\n\r\n' | timeout 20 openssl s_client -quiet -connect 127.0.0.1:14433 2>/dev/null | head -1 | tr -d '\r' | grep . && break
        sleep 0.2
    done
    kill $server; wait $server 2>/dev/null
}

do_nginx() {
    mkdir -p www logs; chmod 755 "$work" www; echo served >www/index.html; head -c 3000000 /dev/zero >www/zeros
    cat >nginx.conf <<END
worker_processes 2; pid $work/nginx.pid; error_log $work/errors warn; events { worker_connections 64; }
http { access_log off; sendfile on; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s;
server { listen 127.0.0.1:18080; root $work/www; } }
END
    nginx -c "$work/nginx.conf" -e "$work/errors" 2>/dev/null || nginx -c "$work/nginx.conf"; echo "started: $?"
    python3 - <<'END'
import concurrent.futures, time, urllib.request
def get(name):
    for _ in range(50):
        try: return urllib.request.urlopen("http://127.0.0.1:18080/" + name, timeout=30).read()
        except OSError: time.sleep(0.2)
print(get("index.html"))
with concurrent.futures.ThreadPoolExecutor(8) as pool: print(sum(len(x) for x in pool.map(get, ["zeros"] * 16)))
END
    kill -HUP "$(cat nginx.pid)"; sleep 0.5
    kill -QUIT "$(cat nginx.pid)"; for _ in $(seq 50); do [ -e nginx.pid ] || break; sleep 0.2; done; [ -e nginx.pid ] || echo stopped
    grep -v -e 'conflicting' errors | head -3
}

do_sshd() {
    mkdir -p /run/sshd keys; ssh-keygen -q -t ed25519 -N '' -f keys/host; ssh-keygen -q -t ed25519 -N '' -f keys/user
    id visitor >/dev/null 2>&1 || useradd -m -s /bin/bash visitor
    mkdir -p ~visitor/.ssh; cp keys/user.pub ~visitor/.ssh/authorized_keys; chown -R visitor: ~visitor/.ssh; chmod 700 ~visitor/.ssh
    usermod -p '*' visitor
    /usr/sbin/sshd -o ListenAddress=127.0.0.1 -o Port=10022 -o HostKey="$work/keys/host" -o PidFile="$work/sshd.pid" -o UsePAM=yes -o StrictModes=no -E "$work/sshd.log" -f /dev/null; echo "sshd: $?"
    ask() { timeout 100 ssh -p 10022 -i keys/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR visitor@127.0.0.1 "$@"; }
    for _ in $(seq 50); do [ -e sshd.pid ] && break; sleep 0.1; done
    ask 'id -un; pwd; echo $SHELL'; ask exit 5; echo "status: $?"
    echo input | ask cat; ask -tt 'tty | cut -c1-9' | tr -d '\r'
    kill "$(cat sshd.pid)"; grep -i fatal sshd.log
    userdel -r visitor 2>/dev/null; true
}

do_postgresql() {
    bin=$(ls -d /usr/lib/postgresql/*/bin); chown postgres "$work"; chmod 755 "$work"
    as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
    as "$bin/initdb" -D "$work/db" -A trust --no-sync >log 2>&1; echo "initdb: $?"
    as "$bin/pg_ctl" -D "$work/db" -w -t 120 -o "-k $work -c listen_addresses=127.0.0.1 -p 15432 -c fsync=off" -l "$work/server.log" start >/dev/null 2>&1; echo "start: $?"
    as "$bin/psql" -h 127.0.0.1 -p 15432 -d postgres -Atq <<'END'
create table t (id serial primary key, name text); insert into t (name) select 'row ' || n from generate_series(1, 2000) n;
select count(*), min(name), sum(id) from t; create index on t (name); select id from t where name = 'row 77';
begin; delete from t; rollback; select count(*) from t; copy (select * from t where id < 3) to stdout;
END
    as "$bin/pgbench" -h "$work" -p 15432 -i -q postgres >/dev/null 2>&1; as "$bin/pgbench" -h "$work" -p 15432 -c 4 -j 2 -t 5 postgres 2>/dev/null | grep -i 'actually processed'
    as "$bin/pg_ctl" -D "$work/db" -w -m fast stop >/dev/null; echo "stop: $?"
    # a session that has just said goodbye may be ended by the stop above: that is told as FATAL too
    grep -e PANIC -e FATAL server.log | grep -v 'due to administrator command' | head -3
}

do_node() {
    cat >threads.js <<'END'
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const fs = require('fs'), http = require('http'), os = require('os'), crypto = require('crypto'), { spawnSync } = require('child_process');
if (!isMainThread) { let sum = 0; for (let i = 0; i < workerData; i++) sum += i; parentPort.postMessage(sum); } else {
  Promise.all([1, 2, 3, 4].map(n => new Promise(done => new Worker(__filename, { workerData: n * 1000 }).on('message', done)))).then(async sums => {
    console.log(sums.join(' '), crypto.randomBytes(8).length, spawnSync('echo', ['spawned']).stdout.toString().trim());
    fs.writeFileSync('a', 'x'.repeat(100000)); fs.copyFileSync('a', 'b'); console.log(fs.statSync('b').size, fs.readdirSync('.').includes('b'));
    const watcher = fs.watch('.', () => {}); watcher.close();
    const server = http.createServer((q, r) => r.end('answer')).listen(0, '127.0.0.1', () => http.get({ port: server.address().port, host: '127.0.0.1' }, r => r.on('data', d => { console.log(d.toString()); server.close(); })));
  }); }
END
    node threads.js
}

do_tar() {
    tar -C / -cf tree.tar usr/share/perl5 etc/ssl usr/bin 2>/dev/null; mkdir out; tar -C out -xf tree.tar; echo "tar: $?"
    (cd out && find . -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum; (cd / && find ./usr/share/perl5 ./etc/ssl ./usr/bin -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum
    rsync -a out/ synced/; echo "rsync: $?"; diff -r --no-dereference out synced && echo same
    (cd synced && find . -printf '%M %U %G %l %p\n' | sort) >first; (cd out && find . -printf '%M %U %G %l %p\n' | sort) >second; cmp first second && echo 'same modes'
    xz -T2 -0 -k second; xz -dc second.xz | cmp - second && echo 'xz same'
    cp -a out/etc copied; mv -n copied moved; ln -s nowhere link; chmod 600 second; touch -h -d @1000 link; stat -c '%A %Y %s' link; chown -h 1:1 link; stat -c %u link
}

all='ls bash python apt perl git openssl nginx sshd postgresql node tar'
for name in ${*:-$all}; do
    echo "== $name"
    mkdir "$work/$name"; cd "$work/$name" || exit 1
    (work=$work/$name; "do_$name") 2>&1
    echo "-- $?"
    cd "$work" || exit 1
done
cd / && rm -rf "$work"
