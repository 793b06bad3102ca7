"""A PostgreSQL server for the tests, made in a temporary folder and gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDERS = ("/usr/lib/postgresql/*/bin/initdb", "/usr/local/pgsql/bin/initdb")
SETTINGS = "-c listen_addresses='' -c unix_socket_directories={folder} -c shared_buffers=64MB -c max_connections=200"
# Without waiting for the disk, where nobody pulls the plug of the server.
HASTY = " -c fsync=off -c full_page_writes=off"


def find_programs() -> Path | None:
    """Return the folder of `initdb` and `pg_ctl`, None where PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    found = sorted(path for pattern in FOLDERS for path in Path("/").glob(pattern.lstrip("/")))
    return found[-1].parent if found else None


@contextmanager
def running_server(programs: Path, *, durable: bool = False) -> Iterator[str]:
    """Start a server on a socket of its own; yield the URL of an empty database. It waits for the disk if `durable`."""
    folder = Path(tempfile.mkdtemp(prefix="labels-pg-"))
    # PostgreSQL does not run as root.
    as_user: list[str] = []
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    run(str(programs / "initdb"), "-D", str(data), "-U", "labels", "-A", "trust", "--no-sync", "-E", "UTF8")
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
    run(*control, "-o", SETTINGS.format(folder=folder) + ("" if durable else HASTY), "start")
    try:
        yield f"postgresql://labels@/postgres?host={folder}"
    finally:
        run(*control, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
