"""`scripts/bench policy`: what checking costs.

First the engine alone, with 1, 100 and 10,000 rules (benches/policy.rs, which says what is measured). Then
the same work through two mounts, one without rules and one with 100, interleaved: create+write, stat, open
and read, rename, unlink of many files. The ratio is the median of those of each pair of runs.

  scripts/bench policy
  scripts/bench policy --runs 15
"""

import argparse
import statistics
import subprocess
import sys

from bench_shared import binaries, build, need_root, pairs_of_mounts, run

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


def main(words):
    parser = argparse.ArgumentParser(prog="bench policy", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=9, help="pairs of runs (9)")
    arguments = parser.parse_args(words)
    need_root()
    octroi = build()
    programs = binaries()
    subprocess.run([programs["policy"], "percentiles"], check=True)

    def work(folder):
        return {row: float(run(programs["operations"], folder, row, str(COUNT))) for row in ROWS}

    pairs = pairs_of_mounts(octroi, {"none": "", "many": rules()}, work, arguments.runs)
    print(f"\nSeconds for {COUNT} files, medians of {arguments.runs} interleaved pairs on tmpfs:\n")
    print(f"| | no rules | {RULES} rules | ratio, median of pairs |\n|---|---|---|---|")
    for row in ROWS:
        none, many = ([pair[side][row] for pair in pairs] for side in (0, 1))
        ratio = statistics.median(b / a for a, b in zip(none, many))
        print(f"| {row} | {statistics.median(none):.3f} | {statistics.median(many):.3f} | {ratio:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit("run scripts/bench policy")
