"""`scripts/bench crossings`: moves between branches on two file systems, an ext4 and an xfs image on tmpfs.

Each run has its own source, written, synced, and dropped from the caches: data that is moved away is
seldom data just used. What a run leaves is removed outside its time, what octroi keeps in hold included
(`hold.keep = "0s"`, and each run waits for it to be empty). `cp` here is `cp` (1 GiB) or `cp -a`, then
`sync -f` and `rm`, so that it ends as durable as a crossing does. Figures compare within one table only.
Needs root, fuse3, mkfs.ext4, mkfs.xfs and rsync.

  scripts/bench crossings                      all rows, five runs, from ext4 to xfs
  scripts/bench crossings --from xfs --rows file,tree --runs 3
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

from bench_shared import build, need_root, note, run, table, timed, tmpfs, unmount

IMAGE_MIB = 3 << 10
# Neither gives back what was written to the image.
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-E", "nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
}
FILE_BYTES = 1 << 30
TREE_FOLDERS, TREE_FILES, TREE_BYTES = 100, 100, 4096
MANY_FOLDERS, MANY_FILES, MANY_BYTES = 1000, 99, 16
ROWS = ["file", "tree", "memory", "latency"]
TITLES = {
    "file": "1 GiB, random bytes",
    "tree": f"{TREE_FOLDERS * TREE_FILES} files of {TREE_BYTES >> 10} KiB",
}
CP, RSYNC, MV, OCTROI_MV = "cp", "rsync", "octroi, plain mv", "octroi mv"
# Of the load whose latency is measured.
PERIOD_SECONDS = 0.005
OPERATIONS = ["create+write+unlink", "stat", "list"]


class World:
    """Two file systems, a branch on each, and the view."""

    def __init__(self, base, octroi, source):
        self.octroi = octroi
        self.base = base
        self.ends = [source, "xfs" if source == "ext4" else "ext4"]
        self.view = os.path.join(base, "view")
        self.config = os.path.join(base, "bench.toml")

    def __enter__(self):
        try:
            self.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def mount(self):
        os.mkdir(self.view)
        config = f'[view]\nname = "bench-crossings"\nstate = "{self.base}/state"\n[hold]\nkeep = "0s"\n'
        for kind in self.ends:
            image = os.path.join(self.base, f"{kind}.img")
            # All of it, so that no run pays for memory that another then uses.
            run("dd", "if=/dev/zero", f"of={image}", "bs=1M", f"count={IMAGE_MIB}", "status=none")
            run(*MKFS[kind], image)
            os.mkdir(self.disk(kind))
            run("mount", "-o", "loop", image, self.disk(kind))
            os.makedirs(self.disk(kind, "plain"))
            os.makedirs(self.disk(kind, "closed/branch"))
            os.chmod(self.disk(kind, "closed"), 0o700)
            config += f'[branches.{kind}]\npath = "{self.disk(kind)}/closed/branch"\n'
        source, target = self.ends
        config += f'[gates.pass]\nfrom = "{source}"\nto = "{target}"\nwho = ["*"]\n'
        with open(self.config, "w") as file:
            file.write(config)
        subprocess.run([self.octroi, "mount", self.config, self.view], check=True, stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        if os.path.ismount(self.view):
            subprocess.run([self.octroi, "umount", self.view], check=False)
        unmount(self.view)
        for kind in self.ends:
            unmount(self.disk(kind))

    def disk(self, kind, path=""):
        return os.path.join(self.base, kind, path)

    def top(self, name, end):
        """Where the thing named works, at end 0 or 1."""
        kind = self.ends[end]
        return self.disk(kind, "plain") if name in (CP, RSYNC) else os.path.join(self.view, kind)

    def settle(self):
        """What was moved is gone from hold, and nothing is cached or left to write."""
        hold = self.disk(self.ends[0], "closed/branch/.octroi/hold")
        deadline = time.monotonic() + 60
        while os.listdir(hold):
            if time.monotonic() > deadline:
                sys.exit("bench: hold was not emptied within a minute")
            time.sleep(0.05)
        run("sync")
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")

    def daemon(self):
        """Its process."""
        words = [self.octroi, "status", "--json", "--view", self.config]
        return json.loads(subprocess.check_output(words))["pid"]


def move(name, octroi, source, target):
    """Seconds until source is at target, durable."""
    if name == MV:
        return timed("mv", source, target)
    if name == OCTROI_MV:
        return timed(octroi, "mv", source, target, stderr=subprocess.DEVNULL)
    if name == RSYNC:
        is_folder = os.path.isdir(source)
        words = ["rsync", "-a", "--fsync", "--remove-source-files"]
        seconds = timed(*words, source + "/" * is_folder, target + "/" * is_folder)
        if is_folder:
            # It leaves the folders.
            seconds += timed("rm", "-r", source)
        return seconds
    seconds = timed("cp", "-a", "--reflink=never", source, target)
    seconds += timed("sync", "-f", target)
    return seconds + timed("rm", "-r", source)


def make_tree(top, folders, files, size):
    content = os.urandom(size)
    for folder in range(folders):
        path = os.path.join(top, f"folder-{folder:04}")
        os.makedirs(path)
        for number in range(files):
            with open(os.path.join(path, f"file-{number:04}"), "wb") as file:
                file.write(content)


def measure(world, row, name, templates):
    source = os.path.join(world.top(name, 0), row)
    target = os.path.join(world.top(name, 1), row)
    run("cp", "-a", templates[row], source)
    world.settle()
    seconds = move(name, world.octroi, source, target)
    if os.path.exists(source):
        sys.exit(f"bench: {name} left {source}")
    run("diff", "-r", templates[row], target)
    run("rm", "-r", target)
    return seconds


def memory(world, name):
    """KiB of the daemon before and at most while a tree of small files crosses."""
    source, target = (os.path.join(world.top(name, end), "many") for end in (0, 1))
    make_tree(source, MANY_FOLDERS, MANY_FILES, MANY_BYTES)
    world.settle()
    run("find", source)
    process = f"/proc/{world.daemon()}"
    # From here on the peak counts.
    with open(f"{process}/clear_refs", "w") as file:
        file.write("5")
    before = status(process, "VmRSS")
    move(name, world.octroi, source, target)
    return before, status(process, "VmHWM")


def status(process, key):
    with open(f"{process}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":"))


def load(folder, seconds):
    """A modest load in a folder; prints when each operation began and how long it took."""
    for number in range(20):
        with open(os.path.join(folder, f"file-{number}"), "w") as file:
            file.write("text")
    samples = []
    began = time.monotonic()
    ticks = int(seconds / PERIOD_SECONDS)
    for tick in range(ticks):
        time.sleep(max(0, began + tick * PERIOD_SECONDS - time.monotonic()))
        for operation in OPERATIONS:
            start = time.monotonic()
            if operation == "stat":
                os.stat(os.path.join(folder, f"file-{tick % 20}"))
            elif operation == "list":
                os.listdir(folder)
            else:
                path = os.path.join(folder, "new")
                with open(path, "wb") as file:
                    file.write(bytes(4096))
                os.unlink(path)
            samples.append((operation, start, time.monotonic() - start))
    json.dump(samples, sys.stdout)


def latency(world, name, template, rounds):
    """Samples of the load by operation, idle and while 1 GiB crosses."""
    source, target = (os.path.join(world.top(name, end), "large") for end in (0, 1))
    folder = os.path.join(world.view, world.ends[0], "others")
    os.makedirs(folder, exist_ok=True)
    found = {operation: ([], []) for operation in OPERATIONS}
    for _ in range(rounds):
        run("cp", template, source)
        world.settle()
        words = [sys.executable, __file__, "load", folder, "5"]
        loading = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        time.sleep(3)
        crossing = time.monotonic()
        seconds = move(name, world.octroi, source, target)
        samples = json.loads(loading.communicate()[0])
        for operation, start, took in samples:
            if crossing <= start < crossing + seconds:
                found[operation][1].append(took)
            elif crossing - 2 <= start < crossing - took:
                found[operation][0].append(took)
        os.unlink(target)
    return found


def p99(samples):
    return sorted(samples)[int(len(samples) * 0.99)] * 1000 if samples else float("nan")


def trees_cross(world):
    """Whether a directory can be moved through the view at all."""
    source, target = (os.path.join(world.top(MV, end), "probe") for end in (0, 1))
    os.mkdir(source)
    moved = subprocess.run(["mv", "-T", source, target], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(target if moved.returncode == 0 else source, ignore_errors=True)
    return moved.returncode == 0


def report(world, rows, names, results, runs):
    if not {"file", "tree"} & set(rows):
        return
    source, target = world.ends
    print(f"Median of {runs} interleaved runs from {source} to {target}, loop images on tmpfs, caches")
    print("dropped before each; cp is cp -a --reflink=never, sync -f and rm -r; rsync is rsync -a --fsync")
    print("--remove-source-files; octroi reads back and compares.\n")
    table([row for row in ("file", "tree") if row in rows], names, results, TITLES)


def report_memory(name, before, peak):
    count = MANY_FOLDERS * (MANY_FILES + 1)
    print(f"\nMemory of the daemon for a tree of {count} entries, by {name}: {before >> 10} MiB before,")
    print(f"{peak >> 10} MiB at most, {(peak - before) / 1024:.1f} MiB more.")


def report_latency(name, found):
    print(f"\nLatency of others in another folder of the branch, idle and while {name} moves 1 GiB:\n")
    print("| | idle p99, ms | moving p99, ms | ratio | samples |")
    print("|---|---|---|---|---|")
    for operation, (idle, busy) in found.items():
        both = p99(idle), p99(busy)
        cells = [operation, *(f"{ms:.2f}" for ms in both), f"{both[1] / both[0]:.2f}"]
        print("| " + " | ".join([*cells, f"{len(idle)}, {len(busy)}"]) + " |")


def main(words):
    parser = argparse.ArgumentParser(prog="bench crossings", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--rows", default=",".join(ROWS), help="rows to measure, by commas")
    parser.add_argument("--from", dest="source", choices=["ext4", "xfs"], default="ext4")
    arguments = parser.parse_args(words)
    rows = [row for row in ROWS if row in arguments.rows.split(",")]
    if not rows:
        sys.exit(f"bench: no such rows; there are: {', '.join(ROWS)}")
    need_root()
    octroi = build()
    names = [CP, RSYNC, MV, OCTROI_MV]
    if subprocess.run([octroi, "mv", "--help"], capture_output=True, check=False).returncode:
        names.remove(OCTROI_MV)
        note("octroi mv does not exist and is left out")
    with tmpfs("16g") as base, World(base, octroi, arguments.source) as world:
        measure_all(world, rows, names, arguments.runs)


def measure_all(world, rows, names, runs):
    templates = {row: os.path.join(world.base, f"template-{row}") for row in ("file", "tree")}
    with open(templates["file"], "wb") as file:
        for _ in range(FILE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    make_tree(templates["tree"], TREE_FOLDERS, TREE_FILES, TREE_BYTES)
    trees = trees_cross(world)
    if not trees:
        note("directories do not cross yet: tree of octroi and memory are left out")
    results = {name: [] for name in names}
    for number in range(runs):
        for name in names:
            note(f"run {number + 1} of {runs}: {name}")
            found = {}
            for row in ("file", "tree"):
                if row in rows and (row == "file" or trees or name in (CP, RSYNC)):
                    found[row] = measure(world, row, name, templates)
            results[name].append(found)
    report(world, rows, names, results, runs)
    last = names[-1]
    if "memory" in rows and trees:
        note("memory")
        report_memory(last, *memory(world, last))
    if "latency" in rows:
        note("latency")
        # What cp does to them is the measure: disks and processors are shared.
        for name in (CP, last):
            report_latency(name, latency(world, name, templates["file"], runs))


if __name__ == "__main__":
    load(sys.argv[2], float(sys.argv[3]))
