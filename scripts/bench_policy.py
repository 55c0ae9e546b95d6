"""`scripts/bench policy`: what checking costs.

First the engine alone, with 1, 100 and 10,000 rules (benches/policy.rs, which says what is measured). Then
the same work through two mounts, one without rules and one with 100, interleaved: create+write, stat, open
and read, rename, unlink of many files. The ratio is the median of those of each pair of runs.

  scripts/bench policy
  scripts/bench policy --runs 15
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from bench_shared import ROOT, build, need_root, note, run, tmpfs, unmount

ROWS = ["create", "stat", "read", "rename", "unlink"]
COUNT = 5_000
RULES = 100


def rules():
    """Rules as people write them; none forbids what is measured."""
    text = ""
    for number in range(RULES):
        path = [
            f"/data/team-{number}/**",
            f"/data/**/*.kind{number}",
            f"/data/team-{number}/{{raw,final}}/*.csv",
            f"/data/*/archive-{number}/**",
        ][number % 4]
        text += (
            f'[rules.rule-{number}]\ndeny = ["write", "add", "remove"]\nwho = ["*"]\n'
            f'paths = ["{path}"]\nreason = "a rule"\n'
        )
    return text


def binaries():
    """The two programs in benches/."""
    said = run("cargo", "bench", "--no-run", "--message-format=json", "--quiet", cwd=ROOT)
    found = {}
    for line in said.splitlines():
        message = json.loads(line)
        if message.get("executable") and "bench" in message["target"]["kind"]:
            found[message["target"]["name"]] = message["executable"]
    return found["operations"], found["policy"]


def mounted(octroi, base, name, body):
    folder = os.path.join(base, name)
    backing = os.path.join(folder, "closed", "data")
    os.makedirs(backing)
    os.chmod(os.path.dirname(backing), 0o700)
    mountpoint = os.path.join(folder, "mnt")
    os.makedirs(mountpoint)
    config = os.path.join(folder, "bench.toml")
    with open(config, "w") as file:
        file.write(f'[view]\nname = "{name}"\nstate = "{folder}/state"\n')
        file.write(f'[branches.data]\npath = "{backing}"\n{body}')
    run(octroi, "mount", config, mountpoint)
    return mountpoint


def work(operations, mountpoint):
    folder = os.path.join(mountpoint, "data", "work")
    os.makedirs(folder)
    seconds = {row: float(run(operations, folder, row, str(COUNT))) for row in ROWS}
    os.rmdir(folder)
    return seconds


def main(words):
    parser = argparse.ArgumentParser(prog="bench policy", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=9, help="pairs of runs (9)")
    arguments = parser.parse_args(words)
    need_root()
    octroi = build()
    operations, policy = binaries()
    subprocess.run([policy, "percentiles"], check=True)
    pairs = []
    with tmpfs("4g") as base:
        mounts = []
        try:
            for name, body in (("none", ""), ("many", rules())):
                mounts.append(mounted(octroi, base, f"bench-{name}", body))
            for mountpoint in mounts:
                work(operations, mountpoint)
            for number in range(arguments.runs):
                note(f"pair {number + 1} of {arguments.runs}")
                # Each goes first as often as the other.
                order = mounts if number % 2 else mounts[::-1]
                times = {mountpoint: work(operations, mountpoint) for mountpoint in order}
                pairs.append([times[mountpoint] for mountpoint in mounts])
        finally:
            for mountpoint in mounts:
                unmount(mountpoint)
    print(f"\nSeconds for {COUNT} files, medians of {arguments.runs} interleaved pairs on tmpfs:\n")
    print(f"| | no rules | {RULES} rules | ratio, median of pairs |\n|---|---|---|---|")
    for row in ROWS:
        none, many = ([pair[side][row] for pair in pairs] for side in (0, 1))
        ratio = statistics.median(b / a for a, b in zip(none, many))
        print(f"| {row} | {statistics.median(none):.3f} | {statistics.median(many):.3f} | {ratio:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit("run scripts/bench policy")
