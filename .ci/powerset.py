"""Does the library compile with each set of the features that stand beside each other?"""
import itertools
import subprocess

FEATURES = ("metrics", "pool", "reqwest-middleware", "tower")

sets = itertools.chain.from_iterable(itertools.combinations(FEATURES, n) for n in range(len(FEATURES) + 1))
for features in sets:
    check = ["cargo", "clippy", "--quiet", "--lib", "--no-default-features", "--features", ",".join(features)]
    check += ["--", "-D", "warnings"]
    print("features:", *features or ["none"], flush=True)
    subprocess.run(check, check=True)
