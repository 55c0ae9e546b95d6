//! The commands of a gate, as the mover asks them; what answers is made up.

use std::sync::Weak;
use std::time::Duration;

use super::*;
use crate::check::{About, Outcome, Verdict};
use crate::ledger::record::{CheckRecord, CheckResult};
use crate::types::{Check, CheckInput};

/// What was asked: program, path at the source, content, mode of what was shown.
type Asked = (String, String, Vec<u8>, u32);

/// Refuses contents that begin with `bad`, and remembers what it was asked.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<Asked>>>, Arc<Mutex<Option<Arc<Disk>>>>);

impl Commands<Disk> for Answers {
    fn run(
        &self,
        check: &Check,
        file: &<Disk as Storage>::File,
        about: &About<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Verdict {
        let disk = self.1.lock().clone().unwrap();
        let found = disk.stat_file(file).unwrap();
        let mut content = vec![0; found.identity.size as usize];
        let read = disk.read_at(file, &mut content, 0).unwrap();
        assert_eq!((read, about.gate), (content.len(), "submit"));
        let path = about.source.to_string();
        self.0.lock().push((check.run[0].clone(), path, content.clone(), found.mode));
        let outcome = match content {
            _ if cancelled() => Outcome::Cancelled,
            bad if bad.starts_with(b"bad") => Outcome::Exit(3),
            _ => Outcome::Passed,
        };
        let last_line = Some(format!("{} to {}", about.source, about.target));
        Verdict { outcome, last_line, took: Duration::from_millis(7) }
    }
}

fn check(program: &str, input: CheckInput) -> Check {
    let (timeout, memory) = (Duration::from_secs(1), 1 << 20);
    Check { run: vec![program.to_owned()], input, timeout, memory, read: Vec::new() }
}

fn request(world: &World, source: &str, target: &str) -> CrossingRequest<Disk> {
    let mut request = world.request(source, target);
    let checks = vec![check("first", CheckInput::Stdin), check("second", CheckInput::Path)];
    request.sources[0].terms = Arc::new(GateTerms {
        types: Vec::new(),
        max_size: None,
        verify: Verify::Readback,
        checks,
        lossy: Default::default(),
    });
    request
}

fn answering(world: &World) -> Answers {
    let answers = Answers::default();
    *answers.1.lock() = Some(Arc::clone(&world.disk));
    world.mover.set_commands(Box::new(answers.clone()));
    answers
}

/// What the ledger has of checks after a restart.
fn recorded(world: World, same: bool) -> Vec<CheckRecord> {
    let disk = Arc::clone(&world.disk);
    drop(world);
    let mut found = Vec::new();
    let ledger_dir = disk.open_dir(&disk.root(0).unwrap(), Path::new("ledger")).unwrap();
    let replay = &mut |entry: &crate::ledger::Entry| {
        if let Record::Check(record) = &entry.record {
            found.push((**record).clone());
        }
    };
    let (ledger, _) = Ledger::open(Arc::clone(&disk), ledger_dir, "lab", replay).unwrap();
    ledger.close().unwrap();
    // And the next start can do with it.
    drop(start(disk, same).unwrap());
    found
}

/// Notes which command is said to run while it does.
struct Watching(Weak<Mover<Disk>>, Arc<Mutex<Vec<String>>>);

impl Commands<Disk> for Watching {
    fn run(
        &self,
        _: &Check,
        _: &<Disk as Storage>::File,
        _: &About<'_>,
        _: &dyn Fn() -> bool,
    ) -> Verdict {
        let mover = self.0.upgrade().unwrap();
        let running = mover.active().into_iter().filter_map(|progress| progress.oldest_check());
        self.1.lock().extend(running.map(|(command, _)| command));
        Verdict { outcome: Outcome::Passed, last_line: None, took: Duration::ZERO }
    }
}

#[test]
fn the_command_that_runs_is_told_until_it_has_ended() {
    let world = new_world(Names::Journal, false);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watching = Watching(Arc::downgrade(&world.mover), Arc::clone(&seen));
    world.mover.set_commands(Box::new(watching));
    world.put(0, "f", b"good");
    world.cross_as(request(&world, "f", "g")).unwrap();
    assert_eq!(*seen.lock(), ["first", "second"]);
}

#[test]
fn every_command_is_asked_and_what_passed_is_recorded() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        let answers = answering(&world);
        world.put(0, "f", &new_content());
        let crossed = world.cross_as(request(&world, "f", "sub/g")).unwrap();
        let asked = answers.0.lock().clone();
        // A copy is made readable for all while it is in stage; a source is let be.
        let mode = if same { 0o4751 } else { 0o444 };
        let wanted = |program: &str| (program.to_owned(), "/a/f".to_owned(), new_content(), mode);
        assert_eq!(asked, [wanted("first"), wanted("second")]);
        let dir = world.dir(1, "sub/g");
        assert_eq!(world.disk.stat(&dir, OsStr::new("g")).unwrap().unwrap().mode, 0o4751);
        let records = recorded(world, same);
        assert_eq!(records.len(), 2);
        let second = &records[1];
        assert_eq!(
            (second.txid, second.run.as_slice()),
            (crossed.txid, &["second".to_owned()][..])
        );
        assert_eq!((second.result, second.reason.as_deref()), (CheckResult::Passed, None));
        assert_eq!((second.line.as_deref(), second.ms), (Some("/a/f to /b/sub/g"), 7));
    }
}

#[test]
fn what_a_command_refuses_stays_as_it_was() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        let answers = answering(&world);
        world.put(0, "f", b"bad");
        world.put(1, "g", b"there");
        let before = world.get(0, "f");
        let error = world.cross_as(request(&world, "f", "g")).unwrap_err();
        assert_eq!(error.to_string(), "check `first`: exit code 3, saying: /a/f to /b/g");
        assert_eq!((error.errno(), error.is_denial()), (Errno::ACCESS, true));
        assert_eq!(answers.0.lock().len(), 1, "the first that refuses is the last that is asked");
        assert_eq!((world.get(0, "f"), world.get(1, "g")), (before, Some(b"there".to_vec())));
        assert_eq!(world.private(1, "stage"), Vec::<Vec<u8>>::new());
        assert!(world.mover.active().is_empty());
        let records = recorded(world, same);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].result, CheckResult::Failed);
        assert_eq!(records[0].reason.as_deref(), Some("exit code 3"));
    }
}

#[test]
fn in_a_tree_every_inode_is_asked_about_and_named() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        let answers = answering(&world);
        world.make_dirs(0, &["t", "t/deep"]);
        for name in ["t/one", "t/two", "t/deep/three"] {
            world.put(0, name, name.as_bytes());
        }
        world.link(0, "t/one", "t/deep/uno");
        world.cross_as(request(&world, "t", "t")).unwrap();
        let mut paths: Vec<String> = answers.0.lock().iter().map(|asked| asked.1.clone()).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths, ["/a/t/deep/three", "/a/t/one", "/a/t/two"]);
        assert_eq!(answers.0.lock().len(), 6);
        world.make_dirs(0, &["u", "u/deep"]);
        world.put(0, "u/deep/f", b"bad");
        let error = world.cross_as(request(&world, "u", "u")).unwrap_err();
        assert!(error.to_string().starts_with("deep/f: check `first`: exit code 3"), "{error}");
        assert!(error.is_denial() && world.get(1, "u").is_none());
    }
}

/// While it checks a file, somebody outside opens that file for writing.
struct Opens {
    disk: Arc<Disk>,
    dir: SimulatedDir,
    name: &'static str,
}

impl Commands<Disk> for Opens {
    fn run(
        &self,
        _: &Check,
        _: &<Disk as Storage>::File,
        _: &About<'_>,
        _: &dyn Fn() -> bool,
    ) -> Verdict {
        self.disk.open_outside(&self.dir, OsStr::new(self.name)).unwrap();
        Verdict { outcome: Outcome::Passed, last_line: None, took: Duration::ZERO }
    }
}

/// Nothing is written yet: the lease alone tells.
#[test]
fn who_opens_a_file_while_it_is_checked_keeps_it() {
    for same in [false, true] {
        for (top, name) in [("t", "one"), ("one", "one")] {
            let world = new_world(Names::Journal, same);
            world.make_dirs(0, &["t"]);
            let path = if top == name { name } else { "t/one" };
            world.put(0, path, &new_content());
            let (disk, dir) = (Arc::clone(&world.disk), world.dir(0, path));
            world.mover.set_commands(Box::new(Opens { disk, dir, name }));
            let crossed = world.cross_as(request(&world, top, "sub/t"));
            assert!(crossed.is_err(), "{top} was taken from a writer");
            assert_eq!(world.get(0, path), Some(new_content()));
            assert_eq!(world.get(1, "sub/t"), None);
        }
    }
}

#[test]
fn without_anybody_who_runs_commands_nothing_passes() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"good");
    let error = world.cross_as(request(&world, "f", "g")).unwrap_err();
    assert!(
        error.is_denial() && error.to_string().contains("nothing here runs commands"),
        "{error}"
    );
}

#[test]
fn what_has_no_content_is_refused() {
    for kind in [Kind::Symlink("x".into()), Kind::Fifo] {
        let world = new_world(Names::Journal, true);
        let answers = answering(&world);
        world.special(0, "s", &kind);
        let error = world.cross_as(request(&world, "s", "s")).unwrap_err();
        assert!(matches!(error, CrossingError::NothingToCheck { .. }), "{error}");
        world.make_dirs(0, &["t"]);
        world.special(0, "t/s", &kind);
        let error = world.cross_as(request(&world, "t", "t")).unwrap_err();
        assert!(error.is_denial() && error.to_string().starts_with("s: it is inode/"), "{error}");
        assert!(answers.0.lock().is_empty());
    }
}
