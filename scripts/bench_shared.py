"""What `scripts/bench` and its subcommands share: building, running, a tmpfs, and the table."""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(*words, **options):
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def timed(*words, **options):
    started = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, **options)
    return time.monotonic() - started


def note(text):
    print(text, file=sys.stderr, flush=True)


def build():
    """The release build of octroi."""
    run("cargo", "build", "--release", "--quiet", cwd=ROOT)
    target = json.loads(run("cargo", "metadata", "--format-version", "1", "--no-deps", cwd=ROOT))
    return os.path.join(target["target_directory"], "release", "octroi")


def need_root():
    if os.geteuid() != 0:
        sys.exit("bench: mounting tmpfs needs root")
    # So that what is mounted is unmounted then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextlib.contextmanager
def tmpfs(size):
    base = tempfile.mkdtemp(prefix="octroi-bench-")
    try:
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "octroi-bench", base)
        yield base
    finally:
        subprocess.run(["umount", "-l", base], check=False)
        os.rmdir(base)


def unmount(mountpoint):
    """Waits for those who still have it, for a while."""
    for _ in range(50):
        if not os.path.ismount(mountpoint):
            return
        if subprocess.run(["umount", mountpoint], check=False, stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.1)
    subprocess.run(["umount", "-l", mountpoint], check=False)


def binaries():
    """The programs in benches/, by name."""
    said = run("cargo", "bench", "--no-run", "--message-format=json", "--quiet", cwd=ROOT)
    found = {}
    for line in said.splitlines():
        message = json.loads(line)
        if message.get("executable") and "bench" in message["target"]["kind"]:
            found[message["target"]["name"]] = message["executable"]
    return found


def mounted(octroi, base, name, body):
    """A view of one branch, with a configuration that has `body` at the end."""
    folder = os.path.join(base, name)
    backing = os.path.join(folder, "closed", "data")
    os.makedirs(backing)
    os.chmod(os.path.dirname(backing), 0o700)
    mountpoint = os.path.join(folder, "mnt")
    os.makedirs(mountpoint)
    config = os.path.join(folder, "bench.toml")
    with open(config, "w") as file:
        file.write(f'[view]\nname = "bench-{name}"\nstate = "{folder}/state"\n')
        file.write(f'[branches.data]\npath = "{backing}"\n{body}')
    run(octroi, "mount", config, mountpoint)
    return mountpoint


def pairs_of_mounts(octroi, bodies, work, count):
    """What `work` says of a folder in each of two views on tmpfs, `count` times, after once to warm up. Each
    view goes first as often as the other."""
    pairs = []
    with tmpfs("4g") as base:
        mounts = []
        try:
            for name, body in bodies.items():
                mounts.append(mounted(octroi, base, name, body))
            for number in range(count + 1):
                note(f"mounts: pair {number} of {count}")
                told = {}
                for mountpoint in mounts if number % 2 else mounts[::-1]:
                    folder = os.path.join(mountpoint, "data", "work")
                    os.makedirs(folder)
                    told[mountpoint] = work(folder)
                    shutil.rmtree(folder)
                if number:
                    pairs.append([told[mountpoint] for mountpoint in mounts])
        finally:
            for mountpoint in mounts:
                unmount(mountpoint)
    return pairs


def table(rows, names, results, titles):
    """`results[name]` is a list of runs, each from row to seconds; what is missing was left out."""
    peers = [name for name in names if not name.startswith("octroi")]
    ratios = [(ours, peer) for ours in names if ours.startswith("octroi") for peer in peers]
    heads = ["", *(f"{name}, s" for name in names), *(f"{ours} / {peer}" for ours, peer in ratios)]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        runs = {name: [run[row] for run in results[name] if row in run] for name in names}
        medians = {name: statistics.median(seconds) for name, seconds in runs.items() if seconds}
        cells = [titles.get(row, row)]
        cells += [f"{medians[name]:.3f}" if name in medians else "" for name in names]
        both = [(ours, peer, {ours, peer} <= medians.keys()) for ours, peer in ratios]
        cells += [f"{medians[o] / medians[p]:.2f}" if known else "" for o, p, known in both]
        print("| " + " | ".join(cells) + " |")
