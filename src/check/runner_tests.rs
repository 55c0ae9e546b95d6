//! What is left of commands that would not die, and how many of these there may be.

use super::*;

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

/// A process that was killed and hangs in the kernel is one that `wait` waits for: to whoever counts them it is
/// any process that goes on.
#[test]
fn beyond_so_many_that_do_not_die_no_more_are_run() {
    let runner = Runner::new(PathBuf::from("/nonexistent"), Vec::new());
    let taken = || runner.places.take(&|| false).map(drop);
    let mut pids = Vec::new();
    for _ in 0..STUCK_MAX {
        assert_eq!(taken(), Ok(()), "{} are stuck", pids.len());
        let child = sleeper();
        pids.push(rustix::process::Pid::from_child(&child));
        runner.leave(child);
    }
    let refused = Outcome::NotRun("16 commands were killed and do not die".to_owned());
    assert_eq!(taken(), Err(refused));
    let kill = |pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // One that dies after all makes place for another.
    kill(pids.pop().unwrap());
    while taken().is_err() {
        std::thread::sleep(END_POLL);
    }
    pids.into_iter().for_each(kill);
    while runner.places.taken.lock().stuck > 0 {
        std::thread::sleep(END_POLL);
    }
}
