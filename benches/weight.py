"""What does it cost to compile? Clean release builds of programs that do nothing much, each with only the
features it needs: crates (without those that only run at build time), processor seconds, size. Prints Markdown.

    python3 benches/weight.py [ROUNDS]
"""
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 1

TOKIO = 'tokio = { version = "1", features = ["macros", "rt-multi-thread", "sync", "time"] }\n'
REQWEST = 'reqwest = { version = "0.13", default-features = false, features = ["form", "json", "rustls-no-provider"] }\n'
RUSTLS = 'rustls = {{ version = "0.23", default-features = false, features = ["std", "tls12", "{}"] }}\n'
OURS = f'ccg-session = {{{{ path = "{HERE}", default-features = false, features = [{{}}] }}}}\n'

SLEEP = "tokio::time::sleep(std::time::Duration::ZERO).await;"
# The least that sends a form.
POST = """
    rustls::crypto::{0}::default_provider().install_default().unwrap();
    let answer = reqwest::Client::new().post("https://localhost:1/").form(&[("a", "b")]).send().await;
    println!("{{:?}}", answer.map(|answer| answer.status()));
"""
FIXED = """
    let session = ccg_session::SessionHandle::fixed("token").unwrap();
    println!("{:?}", session.get_token().await.map(|token| token.id()));
"""
BOX = """
    let session = ccg_session::Session::box_ccg(ccg_session::Subject::enterprise("1"), "id", "secret");
    println!("{:?}", session.unwrap().spawn().unwrap().get_token().await.map(|token| token.id()));
"""

# What it is, its dependencies, its program, and what it is compared with.
PROGRAMS = {
    "tokio": (TOKIO, SLEEP, None),
    "ccg-session": (TOKIO + OURS.format(""), FIXED, "tokio"),
}
for backend, feature in [("aws_lc_rs", "aws-lc"), ("ring", "ring")]:
    base = f"tokio, reqwest, rustls on {feature}"
    PROGRAMS[base] = (TOKIO + REQWEST + RUSTLS.format(backend), POST.format(backend), None)
    needs = f'"http", "{feature}"'
    PROGRAMS[f"ccg-session with http on {feature}"] = (TOKIO + OURS.format(needs), BOX, base)


def measure(dependencies, program):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "src").mkdir()
        (folder / "src/main.rs").write_text(
            "#[tokio::main]\nasync fn main() {\n" + program + "\n}\n")
        manifest = '[package]\nname = "hello"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[dependencies]\n'
        (folder / "Cargo.toml").write_text(manifest + dependencies)
        # The same versions for all.
        shutil.copy(HERE / "Cargo.lock", folder)
        env = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target")}

        def cargo(*arguments):
            done = subprocess.run(["cargo", *arguments], cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True)
            return done.stdout

        cargo("fetch", "--quiet")
        listed = cargo("tree", "--edges=normal", "--prefix=none", "--format={p}").splitlines()
        crates = {line.removesuffix(" (*)") for line in listed if line} - {listed[0]}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        cargo("build", "--release", "--quiet")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return len(crates), seconds, (folder / "target/release/hello").stat().st_size / 1024


rounds = [{name: measure(*given[:2]) for name, given in PROGRAMS.items()} for _ in range(ROUNDS)]
figures = {name: [statistics.median(column) for column in zip(*(each[name] for each in rounds))] for name in PROGRAMS}

print("| a program with | crates | CPU s | KiB | crates × | CPU s × |\n|---|---|---|---|---|---|")
for name, (_, _, base) in PROGRAMS.items():
    crates, seconds, size = figures[name]
    ratios = [f"{mine / its:.2f}" for mine, its in zip(figures[name], figures[base])][:2] if base else ["–", "–"]
    print(f"| {name} | {crates:.0f} | {seconds:.1f} | {size:,.0f} | {' | '.join(ratios)} |")
