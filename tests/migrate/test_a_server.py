"""The whole way: a Debian server with nginx and PostgreSQL, in a streamOptimized VMDK on LVM, serves as a container."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from ..conftest import Joey
from ..e2e.conftest import host
from ..e2e.host import Host
from .guests import MIB, SERVER, debian_root, group, make_file_system, run

__all__ = ["host"]

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]
PAGE = "<h1>The page of the old machine</h1>\n"
QUERY = "select count(*), sum(amount), min(who) from orders"
PSQL = "su postgres -c \"psql -qtA shop -c '{}'\""


def fill(root: Path) -> str:
    """Give the server a page and a database with rows, as its own programs do; what a query says there."""
    (root / "var/www/html/index.html").write_text(PAGE)
    (root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
    script = f"""
        set -e
        mkdir -p /run/postgresql && chown postgres: /run/postgresql
        pg_ctlcluster 15 main start
        su postgres -c "createdb shop"
        su postgres -c "psql -q shop -c 'create table orders (who text, amount int)'"
        su postgres -c "psql -q shop -c \\"insert into orders select 'customer ' || n, n * 7 from generate_series(1, 5000) n\\""
        {PSQL.format(QUERY)}
        pg_ctlcluster 15 main stop
    """
    return run("unshare", "-m", "-p", "-f", "-n", "sh", "-c",
               f"mount -t proc proc {root}/proc && mount -t tmpfs none {root}/run && "
               f"mount -t tmpfs none {root}/dev/shm && ip link set lo up && chroot {root} sh -c '{script.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}'").strip()  # fmt: skip


def test_a_server_moves(joey: Joey, tmp_path: Path) -> None:
    root, data = tmp_path / "root", tmp_path / "data"
    run("cp", "-a", debian_root(*SERVER), root)
    rows = fill(root)
    assert rows == "5000|87517500|customer 1"
    (root / "var/lib/postgresql").rename(data)
    (root / "var/lib/postgresql").mkdir()
    (root / "etc/fstab").write_text(
        "/dev/vg/root / ext4 defaults 0 1\n/dev/mapper/vg-db /var/lib/postgresql xfs defaults 0 2\n"
    )
    (root / "etc/hostname").write_text("shop\n")
    make_file_system(tmp_path / "root.fs", "ext4", 1500 * MIB, root)
    make_file_system(tmp_path / "db.fs", "xfs", 320 * MIB, data)
    one, two = group(tmp_path, "vg", {"root": tmp_path / "root.fs", "db": tmp_path / "db.fs"})
    disks = [tmp_path / "one.vmdk", tmp_path / "two.vmdk"]
    for raw, disk in zip((one, two), disks, strict=True):
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, disk)
        raw.unlink()

    words = list(map(str, disks))
    score = json.loads(joey("migrate", "inspect", *words, "--json").stdout)
    assert (score["hostname"], score["score"]) == ("shop", 10)
    recipe = tmp_path / "recipe.yaml"
    joey("migrate", "plan", *words, "-o", str(recipe))
    text = recipe.read_text()
    assert 'ports: ["22/tcp", "80/tcp", "5432/tcp"]' in text
    start = 'mkdir -p /run/postgresql && chown postgres: /run/postgresql && pg_ctlcluster 15 main start && exec nginx -g \\"daemon off;\\"'
    recipe.write_text(text.replace('entrypoint: ["/sbin/init"]', f'entrypoint: ["/bin/sh", "-c", "{start}"]'))
    report = json.loads(
        joey("migrate", *words, "--recipe", str(recipe), "--to", f"oci:{tmp_path}/images:shop", "--json").stdout
    )
    dropped = {row["rule"]: row["bytes"] for row in report["dropped"]}
    assert dropped["kernel"] > 20 * MIB, "its kernel and modules stay behind, and the report says so"
    joey("migrate", "verify", *words, "--recipe", str(recipe), f"oci:{tmp_path}/images:shop")
    joey("image", "unpack", f"oci:{tmp_path}/images:shop", f"{tmp_path}/bundle")

    name = joey.id()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(joey.command("run", "--bundle", f"{tmp_path}/bundle", name), stdout=log, stderr=log)
        try:
            fetch = 'exec 3<>/dev/tcp/127.0.0.1/80; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3'
            for _ in range(200):
                done = joey("exec", name, "bash", "-c", fetch, check=False)
                if done.returncode == 0 or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert done.stdout.replace("\r", "").partition("\n\n")[2] == PAGE, (tmp_path / "log").read_text()
            assert joey("exec", name, "sh", "-c", PSQL.format(QUERY)).stdout.strip() == rows
        finally:
            joey("kill", name, "KILL", check=False)
            process.wait(30)


def test_it_lives_on_by_its_own_init(host: Host, tmp_path: Path) -> None:
    """The same server as a rich container: its services, under limits; upgraded, and rolled back."""
    root = tmp_path / "root"
    run("cp", "-a", debian_root(*SERVER), root)
    rows = fill(root)
    make_file_system(tmp_path / "root.fs", "ext4", 1700 * MIB, root)
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", tmp_path / "root.fs",
        tmp_path / "shop.vmdk")  # fmt: skip
    disk, images = str(tmp_path / "shop.vmdk"), f"oci:{tmp_path}/images"
    host("migrate", disk, "--to", f"{images}:shop", timeout=200)
    inventory = tmp_path / "shop.json"
    inventory.write_text(host("migrate", "inspect", disk, "--json").stdout)

    def rich(*words: str, check: bool = True) -> str:
        environment = {**os.environ, "JOEY_RICH": str(tmp_path / "store")}
        return host("rich", *words, check=check, timeout=150, env=environment).stdout

    try:
        rich("run", "--name", "shop", "--network", "bridge,address=10.71.0.9", "--memory", "600M", "--pids", "400",
             "--disk-quota", "400M", "--views", "--force", "views=fuse", "--health", "nc -z 127.0.0.1 80 || bash -c '</dev/tcp/127.0.0.1/80'",
             "--wait-for", "init", "--wait-for", "port:80", "--wait-for", "port:5432", "--wait-for", "port:22",
             f"{images}:shop")  # fmt: skip

        def serves() -> None:
            script = "import urllib.request; print(urllib.request.urlopen('http://10.71.0.9/', timeout=10).read().decode(), end='')"
            assert host.call("/usr/bin/python3", "-c", script) == PAGE
            assert rich("exec", "shop", "sh", "-c", PSQL.format(QUERY)).strip() == rows

        serves()
        assert int(rich("exec", "shop", "sh", "-c", "free -m | grep Mem").split()[1]) <= 600
        assert (
            json.loads(rich("verify", "--against", str(inventory), "--json", "shop", check=False))["unexplained"] == 0
        )
        rich("exec", "shop", "sh", "-c", PSQL.format("insert into orders select * from orders limit 1"))
        rich("pause", "shop")
        rich("commit", "shop", f"{images}:next")
        rich("resume", "shop")
        rich("upgrade", "--image", f"{images}:next", "shop")
        assert rich("exec", "shop", "sh", "-c", PSQL.format("select count(*) from orders")).strip() == "5001"
        rich("rollback", "shop")
        assert rich("exec", "shop", "sh", "-c", PSQL.format("select count(*) from orders")).strip() == "5001"
        rich("stop", "shop")
    finally:
        rich("rm", "--force", "shop", check=False)
