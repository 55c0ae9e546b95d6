//! Commands that crash, hang, flood, multiply or stay: each is a fail, and gone afterwards.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use octroi::check::Outcome;

use super::Shut;
use crate::harness::{sh, wait_for};

/// Seconds for a sleep that no other process has, to be looked for.
pub fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{:03}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[track_caller]
fn gone(marker: &str) {
    wait_for("the end of what it began", || {
        sh(Path::new("/"), &format!("pgrep -f '[s]leep {marker}'")).code == Some(1)
    });
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    assert_eq!(Shut::script("echo bad; exit 7").run().outcome, Outcome::Exit(7));
    assert_eq!(Shut::script("kill -SEGV $$").run().outcome, Outcome::Signal(11));
    assert_eq!(Shut::script("kill -KILL $$").run().outcome, Outcome::Signal(9));
    let verdict = Shut::script("echo one; echo two >&2; echo; exit 1").run();
    assert_eq!((verdict.outcome, verdict.last_line), (Outcome::Exit(1), Some("two".to_owned())));
}

#[test]
fn a_program_that_cannot_be_executed_is_a_fail_that_says_so() {
    let mut shut = Shut::script("");
    shut.check.run = vec!["/usr/bin/octroi-has-no-such-program".to_owned()];
    let Outcome::NotRun(why) = shut.run().outcome else { panic!("it ran") };
    assert_eq!(why, "cannot execute /usr/bin/octroi-has-no-such-program: ENOENT");
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_all_it_began() {
    let mark = marker();
    let mut shut =
        Shut::script(&format!("sleep {mark} & trap '' TERM INT HUP; echo on; sleep {mark}"));
    shut.check.timeout = Duration::from_secs(1);
    let verdict = shut.run();
    assert_eq!(verdict.outcome, Outcome::TimedOut(Duration::from_secs(1)));
    assert_eq!(verdict.last_line.as_deref(), Some("on"));
    gone(&mark);
}

#[test]
fn processor_time_is_limited_too() {
    let mut shut =
        Shut::script("for i in 1 2 3 4; do (while :; do :; done) & done; wait -n; echo $?; kill 0");
    // Of four that share it none comes to so much before the clock would end all of them.
    shut.check.timeout = Duration::from_secs(2);
    assert_eq!(shut.run().outcome, Outcome::TimedOut(Duration::from_secs(2)));
    let limit = Shut::script("ulimit -t");
    assert_eq!(limit.says(), "60");
}

#[test]
fn who_asks_to_stop_does_not_wait_for_the_command() {
    let mark = marker();
    let shut = Shut::script(&format!("sleep {mark}"));
    assert_eq!(shut.run_until(&|| true).outcome, Outcome::Cancelled);
    let running = || sh(Path::new("/"), &format!("pgrep -f '[s]leep {mark}'")).code == Some(0);
    assert_eq!(shut.run_until(&running).outcome, Outcome::Cancelled);
    gone(&mark);
}

#[test]
fn a_flood_is_a_fail() {
    for script in ["yes", "yes >&2", "cat /dev/zero", "head -c 1100000 /dev/zero"] {
        assert_eq!(Shut::script(script).run().outcome, Outcome::Flooded(1 << 20), "{script}");
    }
    assert_eq!(Shut::script("head -c 1000000 /dev/zero; echo; echo fine").says(), "fine");
}

#[test]
fn what_stays_behind_is_a_fail_and_ended() {
    for script in ["sleep MARK &", "(setsid sleep MARK >/dev/null 2>&1 </dev/null &) & exit 0"] {
        let mark = marker();
        let verdict = Shut::script(&script.replace("MARK", &mark)).run();
        assert_eq!(verdict.outcome, Outcome::LeftProcesses, "{script}");
        gone(&mark);
    }
    // One that ends by itself a moment later is none.
    assert_eq!(Shut::script("sleep 0.1 & echo fine").says(), "fine");
}

#[test]
fn a_fork_bomb_is_a_fail_and_does_not_spread() {
    let mark = marker();
    let script = format!("bomb() {{ bomb | bomb & }}; bomb; sleep {mark}");
    let mut shut = Shut::script(&script);
    shut.check.timeout = Duration::from_secs(3);
    let outcome = shut.run().outcome;
    assert_ne!(outcome, Outcome::Passed);
    gone(&mark);
    let count = "import os, time\ncount = 0\ntry:\n while True:\n  if os.fork() == 0: time.sleep(100)\n  count += 1\n\
                 except OSError: print(count, flush=True)";
    let mut shut = Shut::script(&format!("exec /usr/bin/python3 -c '{count}'"));
    shut.check.memory = 4 << 30;
    let verdict = shut.run();
    assert_eq!(verdict.outcome, Outcome::LeftProcesses);
    let said = verdict.last_line.unwrap_or_default();
    assert!(said.parse::<u32>().is_ok_and(|count| (100..128).contains(&count)), "{said}");
}

#[test]
fn memory_is_limited_for_each_process_and_for_all() {
    let one = "import sys; x = bytearray(400 << 20)";
    let shut = Shut::script(&format!("/usr/bin/python3 -c '{one}' 2>&1"));
    let verdict = shut.run();
    assert_eq!(verdict.outcome, Outcome::Exit(1));
    assert_eq!(verdict.last_line.as_deref(), Some("MemoryError"));
    let many = "import os, time\nfor _ in range(5):\n if not os.fork(): break\nx = b\"x\" * (100 << 20)\ntime.sleep(60)";
    let shut = Shut::script(&format!("exec /usr/bin/python3 -c '{many}'"));
    assert_eq!(shut.run().outcome, Outcome::Memory(256 << 20));
    // Shared memory without a file could be let go of and still be there: there is none.
    let shared = "import mmap; mmap.mmap(-1, 1 << 20)";
    let verdict = Shut::script(&format!("exec /usr/bin/python3 -c '{shared}' 2>&1")).run();
    assert_eq!(verdict.outcome, Outcome::Exit(1));
    let said = verdict.last_line.unwrap_or_default();
    assert!(said.contains("Function not implemented"), "{said}");
}
