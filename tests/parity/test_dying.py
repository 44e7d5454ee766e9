"""Whatever dies under a run ends it within seconds, and the run goes on to the bits of a whole one.

Two runs through `fedllm run`, whose processes are killed in turn; each start goes on from where the
last one died. Starting takes most of the time, so the two run side by side. Each has a temporary
folder of its own, so that nothing left behind goes unseen.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import small
import victim

from fedllm_app.play import run_local

pytestmark = [pytest.mark.flower, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
NOTICED_S = 10.0
START_S = 200.0
FEDERATION = "num-supernodes = 1\nclient-resources-num-cpus = 1\ninit-args-num-cpus = 1\n"
# Who is killed, and what the run then says has died.
VICTIMS = {
    "flower-superlink": r"Flower's SuperLink \(process {pid}\) died",
    "flwr-simulation": r"Flower's simulation \(process {pid}\) died",
    "raylet": r"Ray's raylet( \(process {pid}\))? died",
    "gcs_server": r"Ray's gcs_server \(process {pid}\) died",
    "ray::ClientAppActor": r"a worker of Ray's \(process {pid}\) died",
}


@dataclass
class Mortal:
    """One run that is started again and again.

    Attributes
    ----------
    files : folder with model and data. home : run.home, a small disk where one can be mounted.
    temporary : its TMPDIR. mounted : whether home is a disk of its own.
    """

    files: Path
    home: Path
    temporary: Path
    mounted: bool
    name: str

    def settings(self, **run):
        run = {"home": str(self.home), "name": self.name, "rounds": 4000} | run
        return small.settings(
            self.files, strategy=small.FLOSS, run={"checkpoint-every": 2} | run,
            round={"evaluate-every": 3},
        )  # fmt: skip

    @property
    def folder(self):
        return self.home / "runs" / self.name

    def rounds(self):
        file = self.folder / "metrics.jsonl"
        return file.read_bytes().count(b"\n") - 1 if file.exists() else 0

    def saved(self):
        found = sorted((self.folder / "checkpoints").glob("*.safetensors"))
        return int(re.sub(r"\D", "", found[-1].stem)) if found else None

    @contextlib.contextmanager
    def started(self):
        """Start the run, wait until it has played some rounds; yield it and all below it."""
        federation = self.files / f"{self.name}.toml"
        federation.write_text(FEDERATION)
        words = small.overrides(self.settings())
        before, saved = self.rounds(), self.saved()
        command = [sys.executable, "-m", "fedllm_app.cli", "run", *words]
        env = os.environ | {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        with (self.files / f"{self.name}.log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--federation", str(federation)], cwd=ROOT, env=env,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + START_S
            # Its first lines are cut back to the checkpoint.
            while self.rounds() < max(before, saved or 0) + 3:
                assert process.poll() is None and time.monotonic() < deadline, self.log()
                time.sleep(0.05)
            yield process, psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
            process.wait()
        if saved is not None:
            assert f"run {self.name} goes on after round {saved}, from " in self.log()

    def log(self):
        return (self.files / f"{self.name}.log").read_text(errors="replace")

    def is_clean(self, below):
        """Say whether no process and no file is left of a start."""
        deadline = time.monotonic() + NOTICED_S
        while time.monotonic() < deadline:
            if not any(map(lives, below)) and not list(self.temporary.iterdir()):
                return True
            time.sleep(0.05)
        return False


def lives(process):
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def mortal(name, files, home):
    # Ray's sockets lie below it, and the path of a socket is short.
    temporary = Path(tempfile.mkdtemp(prefix="k-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(home)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield Mortal(files, home, temporary, mounted, name)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(home)], check=True)
        shutil.rmtree(temporary)


def ended(mortal, process, died, killed_at):
    """Check that a start has ended by itself, in time, with what died and how to go on."""
    assert process.wait(3 * NOTICED_S) == 1, mortal.log()
    assert time.monotonic() - killed_at < NOTICED_S
    log = mortal.log()
    assert re.search(f"The run failed: {died}", log), log
    said = re.search(r"It was in round (\d+); all up to round (\d+) is saved", log)
    assert (int(said[1]), int(said[2])) == (mortal.rounds() + 1, mortal.saved()), log
    assert re.search(rf"\n  fedllm run .*run.name=.*{mortal.name}.* --federation .*\n", log), log


def process_dies(mortal, victim):
    with mortal.started() as (process, below):
        (target, *_) = [
            p for p in below if any(Path(w).name.startswith(victim) for w in p.cmdline()[:2])
        ]
        killed_at = time.monotonic()
        target.kill()
        ended(mortal, process, VICTIMS[victim].format(pid=target.pid), killed_at)
        assert mortal.is_clean(below)


def disk_is_full(mortal, _):
    """Fill the disk under a run in one process; a start of Flower would show no more."""
    if not mortal.mounted:
        pytest.skip("a small disk cannot be mounted here")
    said = mortal.files / f"{mortal.name}-disk.log"
    process = victim.start(mortal.settings(), said=said)
    while mortal.rounds() < 3:
        assert process.is_alive()
        time.sleep(0.05)
    filler = mortal.home / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    process.join(3 * NOTICED_S)
    assert re.search(rf"the disk of {mortal.home}.* is full: make room", said.read_text())
    filler.unlink()


def launcher_is_killed(mortal, _):
    with mortal.started() as (process, below):
        process.kill()
        assert mortal.is_clean(below)


def bits_are_those_of_a_run_that_nobody_killed(mortal, _):
    rounds = mortal.rounds() + 2
    run = run_local(small.RunConfig.parse(mortal.settings(rounds=rounds)))
    whole = run_local(small.RunConfig.parse(mortal.settings(rounds=rounds, name="whole")))
    for name in ("metrics.jsonl", "ledger.jsonl", "adapter/adapter_model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert small.same_bits(small.state(run), small.state(whole))
    assert all(line["clients"] for line in small.lines(run, "metrics.jsonl")[1:])


# What happens to each run, in order; the second has fewer, and its bits are looked at.
DEATHS = {
    "first": [(process_dies, v) for v in list(VICTIMS)[:3]],
    "second": [
        (disk_is_full, ""),
        *[(process_dies, v) for v in list(VICTIMS)[3:]],
        (launcher_is_killed, ""),
        (bits_are_those_of_a_run_that_nobody_killed, ""),
    ],
}


@pytest.fixture(scope="module")
def deaths(folder, tmp_path_factory):
    """Start both runs; return what comes of each death, as it comes."""
    found: dict[tuple[str, str], Future] = {}
    with contextlib.ExitStack() as stack:
        for name, planned in DEATHS.items():
            one = stack.enter_context(mortal(name, folder, tmp_path_factory.mktemp(name)))
            line = stack.enter_context(ThreadPoolExecutor(1))
            found |= {(how.__name__, v): line.submit(how, one, v) for how, v in planned}
        yield found


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_that_dies_ends_the_run(deaths, victim):
    deaths["process_dies", victim].result()


@pytest.mark.parametrize(
    "how", [disk_is_full, launcher_is_killed, bits_are_those_of_a_run_that_nobody_killed]
)
def test_the_same_holds_where(deaths, how):
    deaths[how.__name__, ""].result()
