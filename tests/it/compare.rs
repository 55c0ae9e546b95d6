//! The same on a plain directory, in branches and in a pool: all must see the same.

use std::path::Path;

use crate::harness::{Scene, require_root, sh};

/// What a body of test code saw, for comparison between a plain directory and a mount.
#[derive(Default)]
pub struct Log(Vec<String>);

impl Log {
    /// Notes a result: the value, or the error's name.
    pub fn note<T: std::fmt::Debug, E: std::fmt::Debug>(&mut self, what: &str, r: Result<T, E>) {
        self.0.push(match r {
            Ok(value) => format!("{what}: {value:?}"),
            Err(error) => format!("{what}: {error:?}"),
        });
    }
}

/// Runs the same on a plain directory, in a branch with `io = "checked"`, in one with
/// `io = "passthrough"` and in a pool of two: all must see the same. At least one note must have been made.
#[track_caller]
pub fn same_as_plain(body: impl Fn(&Path, &mut Log)) {
    require_root();
    let mut plain = Log::default();
    let scene = Scene::with(&["checked", "fast", "disk1", "disk2"], KINDS);
    body(&scene.base().join("plain"), &mut plain);
    assert!(!plain.0.is_empty(), "the body noted nothing");
    let mount = scene.mount();
    for branch in ["checked", "fast", "pool"] {
        let mut mounted = Log::default();
        body(&mount.path(branch), &mut mounted);
        for (seen, expected) in mounted.0.iter().zip(&plain.0) {
            assert_eq!(seen, expected, "{branch} (left) and plain (right) differ");
        }
        assert_eq!(plain.0.len(), mounted.0.len());
    }
    mount.unmount();
}

const KINDS: &str = r#"
[branches.checked]
path = "branches/checked"
[branches.fast]
path = "branches/fast"
io = "passthrough"
[branches.disk1]
path = "branches/disk1"
[branches.disk2]
path = "branches/disk2"
[pools.pool]
members = ["disk1", "disk2"]
"#;

/// Runs the same shell script on a plain directory and in all kinds of branch: output, errors and exit code must
/// be the same, and the output must not be empty.
#[track_caller]
pub fn same_script(script: &str) {
    same_as_plain(|directory, log| {
        let ended = sh(directory, script);
        assert!(!ended.out.is_empty(), "no output: {}", ended.err);
        log.note("code", Ok::<_, ()>(ended.code));
        for line in ended.out.lines().chain(ended.err.lines()) {
            log.note("line", Ok::<_, ()>(line.replace(directory.to_str().expect("UTF-8"), "DIR")));
        }
    });
}
