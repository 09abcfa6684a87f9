#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Count the results in logs of meson test, one JSON object a line.

summary.py LOG...  prints what failed or was skipped, and in which log, and
then "N passed, M failed, K skipped".
"""
import json
import os
import sys

KINDS = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}

count = {"passed": 0, "failed": 0, "skipped": 0}
for log in sys.argv[1:]:
    run = os.path.basename(log).removesuffix(".json")
    with open(log, encoding="utf-8") as lines:
        for line in lines:
            test = json.loads(line)
            kind = KINDS.get(test["result"], "failed")
            count[kind] += 1
            if kind != "passed":
                name = test["name"].split(":", 1)[-1]  # without the project's
                print(f"{kind}: {name} ({run})")
print(", ".join(f"{n} {kind}" for kind, n in count.items()))
