"""`scripts/bench ledger`: what recording costs, and what reading the ledger takes.

On the disk that --folder is on (the system's temporary folder), the median of several runs:

  group     records/s that several threads append, until the last is on the disk
  caller    what one append takes its caller, in bursts that the queue takes
  sync      how many records of 64 waiting callers share an fsync
  verify    records/s that `octroi audit verify` checks: lines, tree, tiles
  query     finding a transaction among so many records, by an index that is there; and with none
  proof     the path of a line to the root
  memory    the most that any of these had
  mount     create+write of many files through two mounts, one that records mutations and one that records
            crossings alone, interleaved, on tmpfs; the ratio is the median of those of each pair of runs

  scripts/bench ledger                      all, with 10,000,000 records (some 3 GiB)
  scripts/bench ledger --records 1000000
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from bench_shared import binaries, build, need_root, note, pairs_of_mounts, run

FILES = 5_000
GROUP = 2_000_000


def peak(*words):
    """Seconds, and the most memory in KiB, of a command."""
    started = time.monotonic()
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - started
    if status:
        sys.exit(f"bench: {words} failed")
    return seconds, usage.ru_maxrss, out


class Ledgers:
    """State folders, each for one measurement."""

    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.memory = 0

    def measure(self, *words, state="state", keep=False):
        state = os.path.join(self.folder, state)
        found = json.loads(run(self.program, state, *words))
        self.memory = max(self.memory, found["memory_kib"])
        if not keep:
            shutil.rmtree(state)
        return found

    def median(self, runs, key, *words):
        found = [self.measure(*words) for _ in range(runs)]
        return {name: statistics.median(one[name] for one in found) for name in key}


def queries(octroi, ledgers, transactions):
    config = os.path.join(ledgers.folder, "bench.toml")
    closed = os.path.join(ledgers.folder, "closed")
    os.makedirs(os.path.join(closed, "data"))
    os.chmod(closed, 0o700)
    with open(config, "w") as file:
        file.write(f'[view]\nname = "bench"\nstate = "{ledgers.folder}/large"\n')
        file.write(f'[branches.data]\npath = "{closed}/data"\n')
    words = [octroi, "audit", "query", "--json", "--view", config, "--tx"]
    times = []
    for txid in [transactions[0], *transactions]:
        seconds, memory, out = peak(*words, txid)
        if out.count(b"\n") != 1:
            sys.exit(f"bench: {txid} was not found once: {out[:200]}")
        ledgers.memory = max(ledgers.memory, memory)
        times.append(seconds * 1e3)
    _, memory, _ = peak(octroi, "audit", "query", "--denied", "--view", config)
    ledgers.memory = max(ledgers.memory, memory)
    return times[0], statistics.median(times[1:]), max(times[1:])


def main(words):
    parser = argparse.ArgumentParser(prog="bench ledger", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3); three times as many pairs of mounts")
    parser.add_argument("--records", type=int, default=10_000_000, help="for verify, query and proof (10000000)")
    parser.add_argument("--folder", help="where ledgers are made")
    arguments = parser.parse_args(words)
    need_root()
    octroi = build()
    programs = binaries()
    rows = []
    folder = tempfile.mkdtemp(prefix="octroi-bench-", dir=arguments.folder)
    try:
        ledgers = Ledgers(programs["ledger"], folder)
        runs, records = arguments.runs, arguments.records
        note("group, caller, sync")
        found = ledgers.median(runs, ["records_per_second"], "group", str(GROUP))
        rows.append(("group", f"{found['records_per_second']:,.0f} records/s", "at least 200,000"))
        found = ledgers.median(runs, ["p50_us", "p90_us"], "caller")
        rows.append(("caller's path", f"p50 {found['p50_us']:.2f} us, p90 {found['p90_us']:.2f} us", "at most 2 us"))
        found = ledgers.median(runs, ["records_per_fsync", "records_per_second"], "sync")
        said = f"{found['records_per_fsync']:.1f} records/fsync, {found['records_per_second']:,.0f} records/s"
        rows.append(("64 sync callers", said, "at least 20 records/fsync"))
        note(f"a ledger of {records:,} records")
        transactions = ledgers.measure("fill", str(records), state="large", keep=True)["transactions"]
        note("verify, proof, query")
        found = ledgers.measure("verify", state="large", keep=True)
        rows.append(("verify", f"{found['records_per_second']:,.0f} records/s", "at least 500,000"))
        found = ledgers.measure("proof", str(records), state="large", keep=True)
        rows.append(("inclusion proof", f"p50 {found['p50_ms']:.3f} ms, max {found['max_ms']:.3f} ms", "at most 5 ms"))
        first, median, worst = queries(octroi, ledgers, transactions)
        rows.append((f"query by txid in {records:,}", f"median {median:.1f} ms, max {worst:.1f} ms", "at most 100 ms"))
        rows.append(("the same, index made first", f"{first:.0f} ms", ""))
        rows.append(("memory", f"{ledgers.memory / 1024:.1f} MiB", "at most 64 MiB"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    levels = {level: f'[audit]\nrecord = "{level}"\n' for level in ("crossings", "mutations")}
    create = lambda folder: float(run(programs["operations"], folder, "create", str(FILES)))
    pairs = pairs_of_mounts(octroi, levels, create, 3 * arguments.runs)
    ratio = statistics.median(mutations / crossings for crossings, mutations in pairs)
    seconds = [statistics.median(pair[side] for pair in pairs) for side in (0, 1)]
    said = f"{ratio:.3f} ({seconds[1]:.3f} s / {seconds[0]:.3f} s for {FILES:,} files)"
    rows.append(("create: mutations / crossings", said, "at most 1.05"))
    print("| | measured | asked |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit("run scripts/bench ledger")
