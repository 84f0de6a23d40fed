"""Runs the demo for a few seconds. It checks its own figures; this checks that they are there."""
import json
import subprocess
import sys

command = ["target/release/ccg-session", "demo", "--seconds", "8", "--json"]
if len(sys.argv) > 1:
    command[0] = sys.argv[1]
run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
print(run.stdout)
if run.returncode != 0:
    sys.exit(f"the demo's exit code is {run.returncode}")
figures = json.loads(run.stdout)
for figure, wanted in {"refused": 0, "grants_in_flight_max": 1, "errors_stale_outage": 0, "errors_other": 0}.items():
    if figures[figure] != wanted:
        sys.exit(f"{figure} is {figures[figure]}, not {wanted}")
