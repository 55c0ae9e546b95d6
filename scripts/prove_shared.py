"""What `scripts/prove` and the parts in `scripts/prove.d` share: views that are mounted and watched, and
cases that are done once.

A part is run in a folder of its own ($PROVE_WORK) that stays when it is interrupted. What it has done
by then is in `cases.json` there, so that it goes on where it stopped. Run by hand, without the
driver, a part works in target/prove/NAME.
"""

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAME = os.path.basename(sys.argv[0])
# Where cargo installs programs.
CARGO = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
os.environ["PATH"] += os.pathsep + os.path.join(CARGO, "bin")

# What the kernel says of tasks that hang and of trouble in its own code.
KERNEL_TROUBLE = re.compile(
    r"blocked for more than|hung_task|BUG:|WARNING:|Oops|soft lockup|rcu_.*stall|Out of memory"
)
DAEMON_TROUBLE = re.compile(r"\bERROR\b|panicked")


class Failed(Exception):
    """Something that was promised does not hold."""


def note(text):
    print(text, file=sys.stderr, flush=True)


def run(*words, **options):
    """A command that must succeed; its standard output."""
    ended = subprocess.run(
        words, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    if ended.returncode:
        said = (ended.stdout + ended.stderr)[-4000:]
        raise Failed(f"{' '.join(words)} ended with {ended.returncode}:\n{said}")
    return ended.stdout


def program():
    """The octroi to prove: $OCTROI, or the release build of this checkout."""
    given = os.environ.get("OCTROI")
    return os.path.abspath(given or os.path.join(ROOT, "target", "release", "octroi"))


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def need(*programs):
    """Ends the part unless these are installed."""
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        sys.exit(f"{NAME}: not installed: {', '.join(missing)}; run scripts/setup")


def work_folder():
    folder = os.environ.get("PROVE_WORK") or os.path.join(ROOT, "target", "prove", NAME)
    os.makedirs(folder, exist_ok=True)
    return os.path.abspath(folder)


def write_json(path, value):
    """All of it or what was there before."""
    with open(path + ".new", "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)


def read_json(path, default):
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return default


class Cases:
    """Results of the cases of a part by name, kept over interruptions."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "cases.json")
        self.results = read_json(self.path, {})

    def run(self, name, function, *arguments):
        """Calls `function` unless that was done before; gives what it gave then."""
        if name not in self.results:
            note(f"{NAME}: {name}")
            started = time.monotonic()
            self.results[name] = function(*arguments)
            write_json(self.path, self.results)
            note(f"{NAME}: {name}: done in {time.monotonic() - started:.0f} s")
        return self.results[name]


def mounted(path):
    with open("/proc/self/mountinfo") as table:
        return any(line.split(" ")[4] == path for line in table)


class View:
    """A mounted view below `folder`, watched: see `check`.

    `body` is what follows the [view] table of its configuration; `branches` are made, open to all
    within the view, below a folder that is closed to others.
    """

    def __init__(self, folder, branches, body):
        self.folder = folder
        self.mountpoint = os.path.join(folder, "mnt")
        self.config = os.path.join(folder, "view.toml")
        self.state = os.path.join(folder, "state")
        self.branches = branches
        self.body = body
        self.pid = None

    def __enter__(self):
        self.clear()
        closed = os.path.join(self.folder, "closed")
        os.makedirs(closed)
        os.chmod(closed, 0o700)
        for branch in self.branches:
            path = os.path.join(closed, branch)
            os.mkdir(path)
            os.chmod(path, 0o777)
        os.mkdir(self.mountpoint)
        # Random: another run's view may be mounted.
        name = "prove-" + os.urandom(6).hex()
        with open(self.config, "w") as file:
            file.write(f'[view]\nname = "{name}"\nstate = "{self.state}"\n{self.body}')
        self.hung_before = hung_tasks()
        self.began = time.clock_gettime(time.CLOCK_MONOTONIC)
        try:
            self.mount()
        except BaseException:
            self.clear(keep=True)
            raise
        return self

    def mount(self):
        # In a session of its own: Ctrl-C is for the part, which then unmounts.
        run(program(), "mount", self.config, self.mountpoint, start_new_session=True)
        self.pid = self.status()["pid"]

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.check()
                self.unmount()
        finally:
            self.clear(keep=kind is not None and kind is not KeyboardInterrupt)

    def path(self, *names):
        return os.path.join(self.mountpoint, *names)

    def status(self):
        told = run(program(), "status", "--json", "--view", self.mountpoint)
        return json.loads(told)

    def log(self):
        with open(os.path.join(self.state, "octroi.log"), errors="replace") as file:
            return file.read()

    def resident_kib(self):
        with open(f"/proc/{self.pid}/status") as file:
            return int(re.search(r"^VmRSS:\s+(\d+) kB", file.read(), re.M).group(1))

    def descriptors(self):
        """All but those of the ledger's segments, of which there are more the longer it is."""
        count = 0
        folder = f"/proc/{self.pid}/fd"
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                leads = os.readlink(os.path.join(folder, name))
                count += not (leads.endswith(".jsonl") and "/ledger/" in leads)
        return count

    def check(self):
        """The daemon is the one that was started, well, and the kernel saw nothing hang."""
        status = self.status()
        if status["pid"] != self.pid:
            raise Failed(f"the daemon was {self.pid} and is {status['pid']}")
        if status["panics"]:
            raise Failed(f"{status['panics']} threads of the daemon panicked")
        if status["ledger"]:
            raise Failed(f"the ledger is not in order: {status['ledger']}")
        if status["dead"]:
            raise Failed(f"transactions need a person: {status['dead']}")
        for branch in status["branches"]:
            if branch["fault"]:
                raise Failed(f"branch {branch['name']} is {branch['fault']}: {branch['why']}")
        trouble = [line for line in self.log().splitlines() if DAEMON_TROUBLE.search(line)]
        trouble += [line for line in kernel_log(self.began) if KERNEL_TROUBLE.search(line)]
        if hung_tasks() != self.hung_before:
            trouble.append(f"{hung_tasks() - self.hung_before} tasks of this machine hung for minutes")
        if trouble:
            raise Failed("\n".join(trouble[:20]))

    def figures(self):
        """What the daemon holds: the inodes, files and directories that the kernel knows or has open."""
        return {
            **self.status()["known"],
            "descriptors": self.descriptors(),
            "resident_kib": self.resident_kib(),
        }

    def quiesce(self, seconds=60):
        """The figures once the kernel has forgotten what it can: they no longer change, or time is up."""
        deadline = time.monotonic() + seconds
        before = None
        while True:
            # Dentries and inodes; no file's content. FORGET and RELEASE come a moment later.
            with open("/proc/sys/vm/drop_caches", "w") as file:
                file.write("2")
            time.sleep(1)
            now = self.figures()
            quiet = now["files"] == 0 and now["directories"] == 0 and before == now
            if quiet or time.monotonic() > deadline:
                return now
            before = now

    def unmount(self):
        for attempt in range(50):
            ended = subprocess.run(
                [program(), "umount", self.mountpoint], check=False, text=True, capture_output=True
            )
            if ended.returncode == 0:
                return
            time.sleep(0.1)
        raise Failed(f"cannot unmount {self.mountpoint}: {ended.stderr}")

    def remount(self):
        self.unmount()
        self.mount()

    def clear(self, keep=False):
        """Unmounts what is there, in any state, and removes all of it, or keeps it to look at."""
        for _ in range(20):
            if not mounted(self.mountpoint):
                break
            subprocess.run(
                ["umount", "-l", self.mountpoint], check=False, stderr=subprocess.DEVNULL
            )
        if self.pid:
            # The daemon of a mount that is gone ends by itself; one that does not is no good.
            deadline = time.monotonic() + 30
            while os.path.exists(f"/proc/{self.pid}") and time.monotonic() < deadline:
                time.sleep(0.05)
            if os.path.exists(f"/proc/{self.pid}"):
                os.kill(self.pid, signal.SIGKILL)
            self.pid = None
        if not keep and os.path.exists(self.folder):
            shutil.rmtree(self.folder)


# The places that content is proven in, each with the folder of the view to work in. $PROVE_PLACES (by
# commas) leaves the others out.
PLACES = {
    "checked": ("work", ["work"], '[branches.work]\npath = "closed/work"\n'),
    "passthrough": ("fast", ["fast"], '[branches.fast]\npath = "closed/fast"\nio = "passthrough"\n'),
    "pool": (
        "pool",
        ["one", "two"],
        '[branches.one]\npath = "closed/one"\n[branches.two]\npath = "closed/two"\n'
        '[pools.pool]\nmembers = ["one", "two"]\n',
    ),
}

if os.environ.get("PROVE_PLACES"):
    PLACES = {name: PLACES[name] for name in os.environ["PROVE_PLACES"].split(",")}


@contextlib.contextmanager
def place(folder, name):
    """A view with one place of PLACES, in `folder`; gives it and the folder to work in."""
    top, branches, body = PLACES[name]
    with View(os.path.join(folder, name), branches, body) as view:
        yield view, view.path(top)


def sysctl(name):
    try:
        with open(f"/proc/sys/kernel/{name}") as file:
            return int(file.read())
    except FileNotFoundError:
        return None


def hung_tasks():
    """How many there were, where the kernel counts them; its log tells of the first ten only."""
    return sysctl("hung_task_detect_count")


def kernel_log(since):
    """Lines of the kernel's log of later than so many seconds after it started."""
    lines = run("dmesg").splitlines()
    stamps = [re.match(r"(?:<\d+>)?\[ *(\d+\.\d+)\]", line) for line in lines]
    return [line for line, stamp in zip(lines, stamps) if stamp and float(stamp.group(1)) > since]


def interrupt(*_):
    """As Ctrl-C, once, for the part and all that it started; a daemon has a session of its own."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    raise KeyboardInterrupt


def answer(pipe, function, arguments):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        pipe.send((True, function(*arguments)))
    except Exception as error:  # whatever it is, it is what went wrong there
        pipe.send((False, f"{type(error).__name__}: {error}"))


def at_once(function, calls):
    """Calls a function once for each tuple of arguments, at once, each in a process; what they gave."""
    running = []
    for arguments in calls:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(
            target=answer, args=(theirs, function, arguments), daemon=True
        )
        process.start()
        theirs.close()
        running.append((process, ours))
    answers = []
    for process, pipe in running:
        try:
            answers.append(pipe.recv())
        except EOFError:
            answers.append((False, f"process {process.pid} died"))
        process.join()
    wrong = [told for good, told in answers if not good]
    if wrong:
        raise Failed("\n".join(wrong))
    return [told for _, told in answers]


def part(main):
    """Runs a part to its result, which is the last line of standard output."""
    if os.geteuid() != 0:
        sys.exit(f"{NAME}: needs root")
    if not os.access(program(), os.X_OK):
        sys.exit(f"{NAME}: there is no {program()}: cargo build --release, or set OCTROI")
    lock = open(os.path.join(work_folder(), "lock"), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{NAME}: is running already in {work_folder()}")
    if hung_tasks() is None and sysctl("hung_task_warnings") == 0:
        sys.exit(f"{NAME}: the kernel tells of no more hung tasks: sysctl kernel.hung_task_warnings=-1")
    # So that what is mounted is unmounted.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        print(main(), flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Failed as failure:
        print(f"failed: {failure}", flush=True)
        sys.exit(1)
