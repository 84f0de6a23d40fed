"""Runs the demos for a few seconds. They check their own figures; this checks that they are there."""
import json
import subprocess
import sys

command = sys.argv[1] if len(sys.argv) > 1 else "target/release/ccg-session"
day = {"refused": 0, "grants_in_flight_max": 1, "errors_stale_outage": 0, "errors_other": 0}
fleet = {"errors": 0, "grants_at_cold_start": 1, "grants_of_restarted": 0}
for more, expected in [([], day), (["--replicas", "8"], fleet)]:
    run = subprocess.run([command, "demo", "--seconds", "8", "--json", *more], stdout=subprocess.PIPE, text=True)
    print(run.stdout)
    if run.returncode != 0:
        sys.exit(f"the demo's exit code is {run.returncode}")
    figures = json.loads(run.stdout)
    for figure, wanted in expected.items():
        if figures[figure] != wanted:
            sys.exit(f"{figure} is {figures[figure]}, not {wanted}")
