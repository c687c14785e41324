"""Inventories: of a real Debian with services, and of the layouts of CentOS 6 and others, written by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from joey.migrate.inventory import services, system
from joey.migrate.inventory.packages import packages
from joey.migrate.inventory.page import treemap
from joey.migrate.trees.folder import FolderTree

from ..conftest import Joey
from .guests import SERVER, debian_root, run

SECRET = "s3cret-content"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def centos6(tmp_path: Path) -> Path:
    """The files of a CentOS 6 machine that an inventory looks at, as its documentation has them."""
    root = write(
        tmp_path / "root",
        {
            "etc/redhat-release": "CentOS release 6.10 (Final)\n",
            "etc/inittab": "# comment\nid:3:initdefault:\n",
            "etc/init/rc.conf": "start on runlevel [0123456]\nexec /etc/rc.d/rc $RUNLEVEL\n",
            "etc/init/app.conf": "# app\nstart on runlevel [345]\nrespawn\nexec /opt/app/bin/server --port=8080\n",
            "etc/init/off.conf": "start on runlevel [345]\nexec /bin/off\n",
            "etc/init/off.override": "manual\n",
            "etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=web1.example.com\n",
            "etc/sysconfig/clock": 'ZONE="Europe/Berlin"\n',
            "etc/sysconfig/network-scripts/ifcfg-eth0": "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\nIPADDR=10.0.0.5\n",
            "etc/selinux/config": "SELINUX=enforcing\n",
            "etc/httpd/conf/httpd.conf": "#Listen 12\nListen 80\nListen 0.0.0.0:8443\n",
            "etc/ssh/sshd_config": "#Port 22\nPort 2222\n",
            "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1:bin:/bin:/sbin/nologin\nann:x:500:500::/home/ann:/bin/bash\n",
            "etc/shadow": f"root:$6${SECRET}:1:0:::::\nbin:*:1:0:::::\nann:!!:1:0:::::\n",
            "etc/group": "root:x:0:\nann:x:500:\n",
            "etc/sudoers": "Defaults requiretty\nroot ALL=(ALL) ALL\nann ALL=NOPASSWD: /sbin/service\n",
            "home/ann/.ssh/authorized_keys": f"# mine\nssh-rsa {SECRET} ann\n",
            "home/ann/.ssh/id_rsa": SECRET,
            "etc/pki/tls/private/web1.key": SECRET,
            "etc/crontab": "SHELL=/bin/bash\n01 * * * * root run-parts /etc/cron.hourly\n",
            "var/spool/cron/ann": "@daily /home/ann/report.sh\n*/5 * * * * true\n",
            "etc/fstab": "/dev/mapper/vg-root / ext4 defaults 1 1\nnas:/data /data nfs defaults 0 0\ntmpfs /dev/shm tmpfs defaults 0 0\n",
            "etc/sysctl.conf": "# c\nkernel.shmmax = 68719476736\nnet.ipv4.ip_forward = 0\n",
            "etc/security/limits.conf": "ann soft nofile 10000\n",
            "var/lib/mysql/ibdata1": "x" * 5000,
            "usr/share/x": "x",
        },
    )
    for name in ("httpd", "sshd", "crond", "network"):
        write(root, {f"etc/rc.d/init.d/{name}": "#!/bin/sh\n"})
        (root / "etc/rc.d/rc3.d").mkdir(exist_ok=True)
        (root / f"etc/rc.d/rc3.d/S55{name}").symlink_to(f"../init.d/{name}")
    (root / "etc/rc.d/rc3.d/K10off").symlink_to("../init.d/off")
    (root / "sbin").mkdir()
    for name in ("init", "initctl"):
        shutil.copy("/bin/true", root / "sbin" / name)
    (root / "lib/modules/2.6.32-754.el6.x86_64").mkdir(parents=True)
    return root


def inspect(joey: Joey, root: Path) -> dict[str, Any]:
    done = joey("migrate", "inspect", str(root), "--json")
    assert SECRET not in done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_centos_6(centos6: Path, joey: Joey) -> None:
    found = inspect(joey, centos6)
    assert found["distribution"] == "CentOS release 6.10 (Final)"
    assert (found["distribution_id"], found["release"]) == ("centos", "6.10")
    assert (found["init"], found["runlevel"], found["architecture"]) == ("upstart", "3", "amd64")
    assert found["kernels"] == ["2.6.32-754.el6.x86_64"]
    assert (found["hostname"], found["time_zone"], found["selinux"]) == (
        "web1.example.com",
        "Europe/Berlin",
        "enforcing",
    )
    services = {row["name"]: row for row in found["services"]}
    assert set(services) == {"app", "crond", "httpd", "network", "sshd"}
    assert services["app"]["command"] == "/opt/app/bin/server --port=8080"
    assert services["network"]["hardware"]
    assert not services["httpd"]["hardware"]
    assert {(row["number"], row["service"]) for row in found["ports"]} == {
        (80, "httpd"),
        (8443, "httpd"),
        (2222, "sshd"),
    }
    accounts = {row["name"]: (row["password"], row["keys"]) for row in found["accounts"]}
    assert accounts == {"root": (True, 0), "ann": (False, 1)}
    assert found["sudo"] == ["root ALL=(ALL) ALL", "ann ALL=NOPASSWD: /sbin/service"]
    assert {(row["user"], row["when"]) for row in found["jobs"]} == {
        ("root", "01 * * * *"),
        ("ann", "@daily"),
        ("ann", "*/5 * * * *"),
    }
    assert {row["target"]: row["kind"] for row in found["mounts"]} == {
        "/": "disk",
        "/data": "network",
        "/dev/shm": "kernel",
    }
    assert [(row["kind"], row["path"]) for row in found["databases"]] == [("MySQL or MariaDB", "/var/lib/mysql")]
    assert {(row["kind"], row["path"]) for row in found["secrets"]} == {
        ("ssh private key", "/home/ann/.ssh/id_rsa"), ("private key", "/etc/pki/tls/private/web1.key"),
    }  # fmt: skip
    assert "HWADDR=52:54:00:12:34:56" in found["settings"]["network"]
    assert {row["rule"] for row in found["rules"]} >= {"network-mounts", "sysctl", "selinux"}
    assert found["score"] == 6


def test_what_is_proposed_for_it(centos6: Path, joey: Joey) -> None:
    text = joey("migrate", "plan", str(centos6)).stdout
    assert 'entrypoint: ["/sbin/init"]' in text
    assert 'stop-signal: "SIGPWR"' in text
    assert '"io.joey.init": "upstart"' in text
    assert 'volumes: ["/var/lib/mysql"]' in text
    assert "2222/tcp" in text


def test_the_table_obeys_no_name(centos6: Path, joey: Joey) -> None:
    (centos6 / "etc/hostname").write_text("\x1b]0;evil\x07host\n")
    (centos6 / "etc/cron.d").mkdir()
    (centos6 / "etc/cron.d/x").write_text("* * * * * root echo \x1b[31m\n")
    text = joey("migrate", "inspect", str(centos6)).stdout
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_page(centos6: Path, joey: Joey, tmp_path: Path) -> None:
    """One file that needs nothing else, in which no name of the machine is markup."""
    (centos6 / "etc/hostname").write_text("<script>alert(1)</script>\n")
    (centos6 / "etc/cron.d").mkdir()
    (centos6 / "etc/cron.d/x").write_text("* * * * * root echo '<img src=x onerror=y>'\n")
    assert joey("migrate", "inspect", str(centos6), "--html", f"{tmp_path}/page.html").stdout == ""
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert SECRET not in text
    assert not re.search(r"<[^>]*\b(src|href)=|https?://", text)
    for word in (
        "CentOS release 6.10",
        "/opt/app/bin/server --port=8080",
        "8443/tcp",
        "MySQL or MariaDB",
        "<svg",
        "6<small> / 10",
    ):
        assert word in text, word
    parser = Checker()
    parser.feed(text)
    assert parser.counts["table"] >= 10


class Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1


@pytest.mark.parametrize(
    "sizes", [{}, {"/a": 1}, {"/a": 0}, {f"/d{n}": 2**n for n in range(40)}, {f"/d{n}": 1 for n in range(500)}]
)
def test_the_treemap_fills_its_area(sizes: dict[str, int]) -> None:
    text = treemap(sizes)
    boxes = [tuple(map(float, found)) for found in re.findall(r'width="([\d.]+)" height="([\d.]+)" fill', text)]
    if any(sizes.values()):
        assert sum((width + 1.5) * (height + 1.5) for width, height in boxes) == pytest.approx(1000 * 420, rel=0.02)
        assert len(boxes) <= 401


@pytest.mark.parametrize(
    ("files", "links", "init", "runlevel"),
    [
        ({"lib/systemd/systemd": "", "etc/passwd": ""}, {"sbin/init": "../lib/systemd/systemd"}, "systemd", "graphical.target"),
        ({"sbin/init": "", "etc/inittab": "id:4:initdefault:\n"}, {}, "sysvinit", "4"),
        ({"bin/busybox": "", "sbin/openrc": ""}, {"sbin/init": "/bin/busybox"}, "openrc", "default"),
        ({"bin/busybox": ""}, {"sbin/init": "../bin/busybox"}, "busybox", ""),
        ({"sbin/init": "", "sbin/initctl": "", "etc/init/x.conf": "", "etc/init/rc-sysinit.conf": "env DEFAULT_RUNLEVEL=2\n"}, {}, "upstart", "2"),
        ({"etc/passwd": ""}, {}, "", ""),
        ({"etc/passwd": ""}, {"sbin/init": "/sbin/init"}, "", ""),
    ],
)  # fmt: skip
def test_the_init_is_told(
    files: dict[str, str], links: dict[str, str], init: str, runlevel: str, tmp_path: Path
) -> None:
    write(tmp_path, files)
    (tmp_path / "sbin").mkdir(exist_ok=True)
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    tree = FolderTree(str(tmp_path))
    assert system.init(tree) == init
    assert system.runlevel(tree, init) == runlevel


def test_units_of_systemd(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "lib/systemd/system/app@.service": "[Service]\nUser=www\nExecStart=-/opt/app \\\n  --name=%i\n",
            "lib/systemd/system/plain.service": "[Service]\nExecStart=/bin/plain\n",
        },
    )
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "app@one.service").symlink_to("/lib/systemd/system/app@.service")
    (wants / "plain.service").symlink_to("/lib/systemd/system/plain.service")
    (wants / "gone.service").symlink_to("/nowhere")
    found = {s.name: (s.command, s.user) for s in services.services(FolderTree(str(tmp_path)), "systemd", "")}
    assert found == {"app@one": ("/opt/app    --name=%i", "www"), "plain": ("/bin/plain", ""), "gone": ("", "")}


@pytest.mark.root
@pytest.mark.parametrize("kind", ["sqlite", "bdb"])
def test_rpm_databases(kind: str, tmp_path: Path, joey: Joey) -> None:
    """A real package in a real database: today's, and the Berkeley one that CentOS 6 has, made of it by db5.3's tools."""
    spec = tmp_path / "demo.spec"
    spec.write_text(
        "Name: demo\nVersion: 1.5\nRelease: 2\nSummary: x\nLicense: x\nBuildArch: noarch\n%description\nx\n%install\n"
        "mkdir -p %{buildroot}/usr/share/demo %{buildroot}/etc\necho data > %{buildroot}/usr/share/demo/file\n"
        "echo a=1 > %{buildroot}/etc/demo.conf\n%files\n/usr/share/demo\n%config(noreplace) /etc/demo.conf\n"
    )
    run("rpmbuild", "--quiet", "--define", f"_topdir {tmp_path}/build", "-bb", spec)
    root = tmp_path / "root"
    root.mkdir()
    (package,) = (tmp_path / "build/RPMS").rglob("*.rpm")
    run("rpm", "--root", root, "--dbpath", "/var/lib/rpm", "--nodeps", "-i", package)
    database = root / "var/lib/rpm"
    if kind == "bdb":
        header = run_bytes("sqlite3" if shutil.which("sqlite3") else "python3", database / "rpmdb.sqlite")
        for path in database.iterdir():
            path.unlink()
        berkeley(database / "Packages", header)
    found = packages(FolderTree(str(root)))
    assert found.losses == []
    assert [(p.name, p.version, p.architecture) for p in found.found] == [("demo", "1.5-2", "noarch")]
    assert b"usr/share/demo/file" in found.owners
    assert found.configuration == {b"etc/demo.conf"}
    report = json.loads(joey("migrate", str(root), "--to", f"oci:{tmp_path}/image", "--json").stdout)
    assert {layer["name"] for layer in report["layers"]} == {"packages", "configuration", "data", "directories"}


def run_bytes(tool: str, database: Path) -> bytes:
    """The package's header blob in today's database."""
    import sqlite3

    with sqlite3.connect(database) as connection:
        (blob,) = connection.execute("select blob from Packages").fetchone()
    assert isinstance(blob, bytes)
    return blob


def berkeley(path: Path, header: bytes) -> None:
    """A hash database as RPM up to 4.15 wrote it: the package's number -> its header; 0 -> the largest number."""
    lines = ["VERSION=3", "format=bytevalue", "type=hash", "db_pagesize=4096", "HEADER=END"]
    for key, value in (((0).to_bytes(4, "little"), (1).to_bytes(4, "little")), ((1).to_bytes(4, "little"), header)):
        lines += [" " + key.hex(), " " + value.hex()]
    lines.append("DATA=END")
    subprocess.run(["db5.3_load", str(path)], input="\n".join(lines) + "\n", text=True, check=True)


def test_a_damaged_rpm_database_is_a_loss_that_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"var/lib/rpm/rpmdb.sqlite": "not a database" * 100, "etc/passwd": ""})
    found = packages(FolderTree(str(tmp_path)))
    assert found.found == []
    assert "the RPM database was not read" in found.losses[0]


@pytest.mark.slow
@pytest.mark.root
def test_a_real_debian(joey: Joey, tmp_path: Path) -> None:
    root = debian_root(*SERVER)
    found = inspect(joey, root)
    assert (found["distribution_id"], found["release"], found["init"]) == ("debian", "12", "systemd")
    assert {"nginx", "postgresql", "ssh", "cron", "rsyslog"} <= {row["name"] for row in found["services"]}
    assert {(80, "nginx"), (22, "sshd"), (5432, "postgresql")} <= {
        (row["number"], row["service"]) for row in found["ports"]
    }
    assert len(found["packages"]) == len(list((root / "var/lib/dpkg/info").glob("*.list")))
    assert any(row["kind"] == "PostgreSQL" for row in found["databases"])
    report = json.loads(joey("migrate", str(root), "--to", f"oci:{tmp_path}/image", "--json").stdout)
    layers = {layer["name"]: layer["unpacked"] for layer in report["layers"]}
    assert layers["base packages"] + layers["packages"] > 0.85 * sum(layers.values())
    assert (
        json.loads(joey("migrate", "verify", str(root), f"oci:{tmp_path}/image", "--json").stdout)["unexplained"] == 0
    )


@pytest.mark.slow
@pytest.mark.root
def test_like_machines_share_their_package_layers(joey: Joey, tmp_path: Path) -> None:
    """Two machines of one release with other names, files, times of folders: only their own layers differ."""
    root = debian_root()
    layers = []
    for name in ("one", "two"):
        run("cp", "-a", root, tmp_path / name)
        write(
            tmp_path / name,
            {"etc/hostname": name, f"usr/share/{name}": name, f"usr/bin/{name}": name},
        )
        os.utime(tmp_path / name / "usr/lib")
        report = json.loads(
            joey("migrate", f"{tmp_path}/{name}", "--to", f"oci:{tmp_path}/images:{name}", "--json").stdout
        )
        layers.append({layer["name"]: layer["digest"] for layer in report["layers"]})
    same = {name for name in layers[0] if layers[0][name] == layers[1][name]}
    assert same == {"base packages", "packages", "data"}
    for name in ("one", "two"):
        joey("migrate", "verify", f"{tmp_path}/{name}", f"oci:{tmp_path}/images:{name}")
