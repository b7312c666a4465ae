"""The two sides of a row of ci/bench: disks, and the devices on them, ours and a peer's.

A side is set up, measured by ci/bench-inside, and removed.  Every step has a time limit.
"""
import mmap
import os
import select
import struct
import subprocess
import time
from array import array
from pathlib import Path

TMP = Path(os.environ["TMPDIR"])
NULL_BLK = Path("/sys/kernel/config/nullb")
SIZE_MIB = 128
STEP_S = 120    # of the host's time; the longest fio needs 20 s on a slow machine
SECTOR = 512
MIB = 1 << 20
REGION_BYTES = 512 << 10    # of mirrors: what we take by default; the kernel always asks


class Failed(Exception):
    """The error in a row's report."""


def start(command, output):
    return subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)


def host_time():
    """The host's clock, in seconds: the VM's own clock runs at its own pace."""
    return int(Path("/sys/class/rtc/rtc0/since_epoch").read_text())


def run(*command, bound_s=STEP_S):
    """Runs a command to its end; its output, or Failed.  Neither a hanging process nor one that
    leaves a child behind with its output open is waited for."""
    name = " ".join(str(c) for c in command[:3]).replace(f"{TMP}/", "")
    log = TMP / "output"
    deadline = host_time() + bound_s
    with open(log, "wb") as output:
        process = start(command, output)
        # No polling: it would be part of the measurement.
        ended = select.poll()
        pidfd = os.pidfd_open(process.pid)
        ended.register(pidfd, select.POLLIN)
        while not ended.poll(20_000):
            if host_time() > deadline:
                process.kill()
                raise Failed(f"{name}: has not ended after {bound_s} s")
        code = process.wait()
        os.close(pidfd)
    text = log.read_text(errors="replace").strip()
    if code:
        raise Failed(f"{name}: exit code {code}: {text.splitlines()[-1] if text else 'no output'}")
    return text


# --- disks ------------------------------------------------------------------------------

class Disks:
    """null_blk disks of one run."""
    count = 0

    def __init__(self, row):
        self.latency_us = row["latency_us"]
        self.size_mib = row.get("disk_mib", SIZE_MIB)
        self.dirs = []

    def new(self, fill, size_mib=None):
        Disks.count += 1
        path = NULL_BLK / f"bench{Disks.count}"
        path.mkdir()
        self.dirs.append(path)
        settings = {"size": size_mib or self.size_mib, "blocksize": 4096, "queue_mode": 2, "memory_backed": 1,
                    "irqmode": 2 if self.latency_us else 0, "completion_nsec": self.latency_us * 1000, "power": 1}
        for key, value in settings.items():
            (path / key).write_text(str(value))
        disk = f"/dev/{path.name}"
        if not Path(disk).is_block_device():
            disk = f"/dev/nullb{(path / 'index').read_text().strip()}"
        wait_for(disk)
        if fill and self.size_mib == SIZE_MIB:
            buffer = mmap.mmap(-1, 1 << 20)
            buffer.write(b"ublk-dm!" * (len(buffer) // 8))
            fd = os.open(disk, os.O_WRONLY | os.O_DIRECT)
            for _ in range(SIZE_MIB):
                os.write(fd, buffer)
            os.close(fd)
        return disk

    def remove(self):
        for path in self.dirs:
            path.rmdir()


def wait_for(device):
    for _ in range(500):
        if Path(device).is_block_device():
            return
        time.sleep(0.01)
    raise Failed(f"{device} did not appear")


def write_store(disk, row):
    """A store of 4 KiB chunks with as many exceptions as the row says."""
    count, area_records = row["exceptions"], 4096 // 16
    chunks = (row["disk_mib"] << 20) // 4096
    assert row["chunk_bytes"] == 4096 and chunks & (chunks - 1) == 0
    fd = os.open(disk, os.O_WRONLY)
    os.pwrite(fd, struct.pack("<IIII", 0x70416E53, 1, 1, 8).ljust(4096, b"\0"), 0)
    # Odd, so that no chunk is used twice.
    stride = 1 if row.get("runs") else 0x9E3779B1
    for area in range(count // area_records + 1):
        start, first = 1 + area * (area_records + 1), area * area_records
        records, used = array("Q", bytes(4096)), min(area_records, count - first)
        records[0:2 * used:2] = array("Q", [number * stride % chunks for number in range(first, first + used)])
        records[1:2 * used:2] = array("Q", range(start + 1, start + 1 + used))
        os.pwrite(fd, records.tobytes(), start * 4096)
    os.fsync(fd)
    os.close(fd)


# --- the two sides ----------------------------------------------------------------------

class Ours:
    """ublk-dm."""
    server = "ublk-dm"      # its program, too

    def __init__(self, row):
        self.row, self.snapshots = row, []

    def build(self, disks):
        if self.row["target"] == "mirror":
            return self.build_mirror(legs_of(disks), "--nosync", *self.row.get("flags", []))
        origin = disks.new(fill=True)
        for _ in range(self.row["snapshots"]):
            self.add_snapshot(origin, cow_of(disks, self.row))
        self.device = self.snapshots[0] if self.row["target"] == "snapshot" else self.add("origin", "--origin", origin)
        return None

    def add_snapshot(self, origin, cow):
        self.snapshots.append(self.add("snapshot", "--origin", origin, "--cow", cow, "--chunk-size", self.row["chunk_bytes"]))

    def build_mirror(self, legs, *words):
        legs = [word for leg in legs for word in ("--leg", leg)]
        self.device = self.add("mirror", *legs, "--region-size", self.row.get("region_bytes", REGION_BYTES), *words)

    def build_merge(self, disks):
        """Begins a merge of a store into an origin."""
        line = merge_line(self.row, disks)
        self.device = run(TMP / self.server, "-q", "create", "merge", "--table", line)

    def build_merging(self, disks):
        """An origin's device into which a snapshot is being merged, not faster than the row says."""
        cow, origin = disks
        self.device = self.add("origin", "--origin", origin)
        self.add_snapshot(origin, cow)
        run(TMP / self.server, "-q", "merge", self.snapshots.pop(), "--rate", self.row["rate_bytes"])

    def status(self):
        return run(TMP / self.server, "status", self.device)

    def memory(self):
        """Bytes of memory of its own."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.path.basename(os.readlink(process / "exe")) == self.server:
                    return int((process / "status").read_text().split("RssAnon:")[1].split()[0]) << 10
            except OSError:
                pass
        return 0

    def add(self, *words):
        return run(TMP / self.server, "-q", "add", *words)

    def exceptions(self):
        return [copied(run(TMP / self.server, "status", s), self.row) for s in self.snapshots]

    def remove(self):
        run(TMP / self.server, "del", "--all")


class OtherBuild(Ours):
    """ublk-dm, built from something else."""
    server = "ublk-dm-other"


class NoMerge(Ours):
    """ublk-dm, with nothing to merge."""

    def build_merging(self, disks):
        self.device = self.add("origin", "--origin", disks[1])


class Kernel:
    """dm-snapshot and dm-snapshot-origin."""
    server = None
    count = 0

    def __init__(self, row):
        self.row, self.snapshots, self.names = row, [], []

    def build(self, disks):
        if self.row["target"] == "mirror":
            return self.build_mirror(legs_of(disks), "nosync")
        origin = disks.new(fill=True)
        for _ in range(self.row["snapshots"]):
            self.add_snapshot(origin, cow_of(disks, self.row))
        name = self.snapshots[0] if self.row["target"] == "snapshot" else self.create(f"snapshot-origin {origin}")
        self.device = f"/dev/mapper/{name}"
        return None

    def add_snapshot(self, origin, cow):
        self.snapshots.append(self.create(f"snapshot {origin} {cow} P {self.row['chunk_bytes'] // SECTOR}"))

    def build_mirror(self, legs, *words):
        legs = " ".join(f"{leg} 0" for leg in legs)
        options = " ".join([str(1 + len(words)), str(self.row.get("region_bytes", REGION_BYTES) // SECTOR), *words])
        self.device = f"/dev/mapper/{self.create(f'mirror core {options} 2 {legs}')}"

    def build_merge(self, disks):
        name = self.create(merge_line(self.row, disks).split(" ", 2)[2])
        self.device = f"/dev/mapper/{name}"

    build_merging = build_merge

    def status(self):
        return run("dmsetup", "status", self.names[-1])

    @staticmethod
    def memory():
        """Bytes of the kernel's small objects."""
        return int(Path("/proc/meminfo").read_text().split("Slab:")[1].split()[0]) << 10

    def create(self, target):
        Kernel.count += 1
        self.names.append(f"bench{Kernel.count}")
        sectors = self.row.get("disk_mib", SIZE_MIB) << 11
        run("dmsetup", "create", self.names[-1], "--table", f"0 {sectors} {target}")
        return self.names[-1]

    def exceptions(self):
        return [copied(run("dmsetup", "status", name), self.row) for name in self.snapshots]

    def remove(self):
        for name in reversed(self.names):
            run("dmsetup", "remove", "--retry", name)


class Rublk:
    """rublk: loop with zero copy, or null."""
    server = "rublk"
    count = 100

    def __init__(self, row):
        Rublk.count += 1
        self.row, self.id = row, Rublk.count
        self.device = f"/dev/ublkb{self.id}"

    def build(self, disks):
        kind = ["null"] if self.row["peer"] == "rublk null" else ["loop", "-f", disks.new(fill=True)]
        run(TMP / "rublk", "add", *kind, "--zero-copy", "--quiet", "-n", self.id)
        wait_for(self.device)

    @staticmethod
    def exceptions():
        return []

    def remove(self):
        try:
            run(TMP / "rublk", "del", "-n", self.id)
        except Failed:
            # Its `del` may panic at the very end, with the device gone.
            if Path(self.device).exists():
                raise


class Disk:
    """The disk itself."""
    server = None

    def __init__(self, _row):
        pass

    def build(self, disks):
        self.device = disks.new(fill=True)

    @staticmethod
    def exceptions():
        return []

    @staticmethod
    def remove():
        pass


class Fio(Disk):
    """No mirror and no merge, but what none can exceed: as much is read from one disk as is written to the other, at the
    same time; scattered chunks lie side by side on a COW, and are written one by one."""

    def __init__(self, row):
        self.bytes = copied_bytes(row)
        large = ["--bs=512k", "--iodepth=8"]
        self.read = ["--rw=read", *large]
        self.write = ["--rw=write", *large] if row.get("runs", True) else ["--rw=randwrite", "--bs=4k", "--iodepth=32"]

    def build_mirror(self, disks):
        words = ["--ioengine=io_uring", "--direct=1", f"--size={self.bytes}"]
        run(TMP / "fio", *words, "--name=read", *self.read, f"--filename={disks[0]}",
            "--name=write", *self.write, f"--filename={disks[1]}")

    build_merge = build_mirror

    @staticmethod
    def status():
        return "1/1"


def cow_of(disks, row):
    cow = disks.new(fill=False)
    if row.get("exceptions"):
        write_store(cow, row)
    return cow


def legs_of(disks):
    return [disks.new(fill=True) for _ in range(2)]


def merge_disks(disks, row):
    """A COW with a store, and the origin into which it is merged."""
    return cow_of(disks, row), disks.new(fill=True)


def merge_line(row, disks):
    cow, origin = disks
    return f"0 {row['disk_mib'] << 11} snapshot-merge {origin} {cow} P {row['chunk_bytes'] // SECTOR}"


def copied_bytes(row):
    """How much a recovery or a merge copies."""
    return row.get("exceptions", 0) * row["chunk_bytes"] or SIZE_MIB << 20


PEERS = {"disk": Disk, "fio, no mirror": Fio, "fio, no merge": Fio, "no merge": NoMerge, "kernel mirror": Kernel,
         "kernel snapshot": Kernel, "kernel snapshot-merge": Kernel, "kernel snapshot-origin": Kernel, "rublk loop": Rublk, "rublk null": Rublk, "other build": OtherBuild}


def copied(status, row):
    """Exceptions, out of a status line `0 LENGTH snapshot USED/TOTAL METADATA`."""
    try:
        used, metadata = status.split()[3].split("/")[0], status.split()[4]
        return (int(used) - int(metadata)) * SECTOR // row["chunk_bytes"]
    except (IndexError, ValueError):
        raise Failed(f"status says: {status}") from None
