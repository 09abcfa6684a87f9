# SPDX-License-Identifier: BSD-3-Clause
"""The results as JSON, as a table and as pictures, in BENCH_OUT."""
import json
import os
import statistics
import subprocess

from common import BASE, ROUNDS, SIZE, file_system, ratios

OUT = os.environ.get("BENCH_OUT", "docs/bench")

# Name of the picture -> group, and candidates.
PICTURES = {
    "first-touch": ("first touch", "async", "written", "qemu-storage-daemon"),
    "snapshot-reads": ("snapshot, half copied", "fssnap",
                       "qemu-storage-daemon"),
}

SCRIPT = """\
set terminal svg size 1000,450 font "sans,12" background "white"
set output "{name}.svg"
set title "{title}: of what nbdkit file does; median, least and most"
set style data histogram
set style histogram errorbars gap 1 lw 1
set style fill solid 0.8
set grid y
set yrange [0:*]
set key outside top horizontal reverse Left
set bmargin 5
$data << END
{data}
END
plot {bars}
"""


def label(row):
    """A row's place on the axis: some short lines."""
    words = row["load"].split()
    half = (len(words) + 1) // 2
    lines = [" ".join(words[:half]), " ".join(words[half:]),
             f"depth {row['depth']}"]
    if row["connections"] > 1:
        lines.append(f"{row['connections']} connections")
    return "\\n".join(lines)


def draw(rows, name):
    """One picture: a group of bars for each load, a bar for each
    candidate."""
    group, *candidates = PICTURES[name]
    lines = []
    for row in rows:
        figures = row["figures"]
        if row["group"] != group \
                or not {"nbdkit file", *candidates} <= set(figures):
            continue
        numbers = [number for candidate in candidates
                   for number in ratios(figures[candidate]["mib/s"],
                                        figures["nbdkit file"]["mib/s"])]
        lines.append(f'"{label(row)}" '
                     + " ".join(f"{n:.3f}" for n in numbers))
    bars = ", ".join(
        f"$data using {3 * i + 2}:{3 * i + 3}:{3 * i + 4}:xtic(1) "
        f'title "{candidate}"' for i, candidate in enumerate(candidates))
    subprocess.run(
        ["gnuplot"], text=True, check=True, cwd=OUT,
        input=SCRIPT.format(name=name, title=group, data="\n".join(lines),
                            bars=bars))


def goal_lines(rows):
    """The table of goals."""
    yield "| case | ratio | median | spread | goal | |"
    yield "| --- | --- | ---: | --- | ---: | --- |"
    for row in rows:
        for goal in row["goals"]:
            rate = goal["figure"] == "mib/s"
            what = "" if rate else f", {goal['figure']}"
            yield (f"| {row['case']} | {goal['candidate']} / "
                   f"{goal['against']}{what} | {goal['ratio']:.3f} "
                   f"| {goal['least']:.3f} to {goal['most']:.3f} "
                   f"| {'≥' if rate else '≤'} {goal['wanted']} "
                   f"| {'holds' if goal['holds'] else '**missed**'} |")


def rate_lines(rows):
    """The table of what was measured."""
    yield "| case | candidate | MiB/s | spread | p50, µs | p99, µs |"
    yield "| --- | --- | ---: | --- | ---: | ---: |"
    for row in rows:
        for name, figures in row["figures"].items():
            rates = figures["mib/s"]
            times = [f"{statistics.median(figures[key]):.0f}"
                     if key in figures else ""
                     for key in ("p50-us", "p99-us")]
            yield (f"| {row['case']} | {name} "
                   f"| {statistics.median(rates):.0f} "
                   f"| {min(rates):.0f} to {max(rates):.0f} "
                   f"| {times[0]} | {times[1]} |")


def count_lines(counts):
    """The table of what was counted."""
    yield ("| candidate | system calls | bytes read | bytes written "
           "| bytes copied | most calls |")
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for name, count in counts.items():
        most = ", ".join(f"{call} {times:.2f}"
                         for call, times in count["most"].items())
        yield (f"| {name} | {count['calls']:.2f} | {count['bytes-read']:.0f} "
               f"| {count['bytes-written']:.0f} "
               f"| {count['bytes-copied']:.0f} | {most} |")


def write_report(rows, counts):
    """All of it."""
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "results.json"), "w", encoding="ascii") as f:
        json.dump({"rounds": ROUNDS, "size": SIZE, "on": file_system(BASE),
                   "processors": os.cpu_count(), "cases": rows,
                   "counted": counts}, f, indent=1)
        f.write("\n")
    parts = [
        ["# Results", "",
         f"By `make bench`: {ROUNDS} rounds (three times as many where the "
         "goal is close",
         f"to 1), an origin of {SIZE} MiB (4096 for scattered writes) on "
         f"{file_system(BASE)},",
         f"{os.cpu_count()} processors shared with the clients. How to read "
         "it:", "[README.md](README.md).", "", "## The goals", ""],
        goal_lines(rows),
        ["", "## What was measured", ""],
        rate_lines(rows),
        ["", "## What was counted, for one scattered 4 KiB first-touch write",
         ""],
        count_lines(counts)]
    with open(os.path.join(OUT, "results.md"), "w", encoding="utf-8") as f:
        f.writelines(line + "\n" for part in parts for line in part)
    for name in PICTURES:
        draw(rows, name)
