"""Weakens every memory order of the core, one at a time, and tells which scenarios notice.

    python3 mutate.py PATH/TO/model_check [--table OUT.md] [--jobs N] [--iterations N] [--only PATTERN]

An order that no scenario misses is either stronger than it has to be or not covered; README.md says which.
"""

import argparse
import collections
import concurrent.futures
import pathlib
import re
import subprocess
import sys

# What each order may be weakened to, by kind of access.
WEAKER = {
    "load": {"seq_cst": ["acquire", "relaxed"], "acquire": ["relaxed"]},
    "store": {"seq_cst": ["release", "relaxed"], "release": ["relaxed"]},
    "rmw": {
        "seq_cst": ["acq_rel", "relaxed"],
        "acq_rel": ["acquire", "release", "relaxed"],
        "acquire": ["relaxed"],
        "release": ["relaxed"],
    },
}


def run(program: str, *arguments: str) -> str:
    """What the checker prints."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=600)
    return done.stdout


def sites_of(program: str) -> dict[str, tuple[str, str, set[str]]]:
    """Access -> (operation, order, scenarios that come by)."""
    found: dict[str, tuple[str, str, set[str]]] = {}
    for line in run(program, "--sites", "--iterations", "2000").splitlines():
        match = re.fullmatch(r"site (\S+) (\S+) (\S+) (\S+)", line)
        # The scenarios' own atomics and the modelled descriptor are not the core's.
        if match and not re.match(r"(\w*scenario\w*|signal_fd|checker)\.", match[2]):
            found.setdefault(match[2], (match[3], match[4], set()))[2].add(match[1])
    return found


def mutations(sites: dict[str, tuple[str, str, set[str]]]) -> list[tuple[str, str, str]]:
    """(access, part, weaker order). The two orders of a compare-exchange lose their acquire together."""
    wanted = []
    for access, (operation, order, _) in sites.items():
        place, part = access.rsplit(":", 1)
        kind = operation if operation in ("load", "store") else "rmw"
        if part == "failure":
            wanted += [(access, part, "relaxed")] if order != "relaxed" else []
            continue
        for weaker in WEAKER[kind].get(order, []):
            drops_acquire = part == "success" and weaker in ("release", "relaxed") and order in ("acq_rel", "acquire")
            wanted.append((f"{place}:both" if drops_acquire else access, part, weaker))
    return wanted


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--table", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--iterations", default="10000", help="executions of each scenario")
    parser.add_argument("--only", default="", help="accesses that match this: 'queue.hpp:1[0-9][0-9]:'")
    arguments = parser.parse_args()
    sites = sites_of(arguments.program)
    scenarios = {access.rsplit(":", 1)[0]: found[2] for access, found in sites.items()}

    def attempt(mutation: tuple[str, str, str]) -> tuple[tuple[str, str, str], list[str]]:
        access, _, weaker = mutation
        place = access.rsplit(":", 1)[0]
        weakened = ("--weaken", f"{access}:{weaker}", "--iterations", arguments.iterations)
        output = run(arguments.program, *weakened, *sorted(scenarios[place]))
        return mutation, re.findall(r"^(\w+): FAILED", output, re.MULTILINE)

    rows = collections.defaultdict(list)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        wanted = [each for each in mutations(sites) if re.search(arguments.only, each[0])]
        for (access, part, weaker), failed in pool.map(attempt, wanted):
            place = access.rsplit(":", 1)[0]
            order = sites[f"{place}:{part}"][1]
            print(f"{access} {order} -> {weaker}: {', '.join(failed) or 'NOT NOTICED'}", flush=True)
            rows[place, part].append((weaker, failed))
    if arguments.table:
        lines = ["| access | operation | order | weakened to | noticed by |", "|---|---|---|---|---|"]
        for (place, part), results in sorted(rows.items(), key=lambda row: natural(row[0])):
            operation, order, _ = sites[f"{place}:{part}"]
            what = operation if part == "order" else f"{operation}, {part}"
            for weaker, failed in results:
                lines.append(f"| {place} | {what} | {order} | {weaker} | {', '.join(failed) or '-'} |")
        arguments.table.write_text("\n".join(lines) + "\n")
    return 0


def natural(key: tuple[str, str]) -> tuple[str, int, str]:
    """Sorts by file, then by line as a number."""
    file, line = key[0].split(":")
    return file, int(line), key[1]


if __name__ == "__main__":
    sys.exit(main())
