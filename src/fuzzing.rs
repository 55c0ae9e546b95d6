//! The fuzz targets. `fuzz/` feeds them bytes without end, the test here what is in `fuzz/corpus`: both
//! run the same code. A target fails by a panic or by not coming back.
//!
//! Each module has what is made of the bytes in a file `fuzzing.rs` of its own, which tests and fuzzers
//! alone compile.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use crate::control::protocol::{Answer, Request};
use crate::control::server::Connection;
use crate::control::{Service, ViewService};
use crate::daemon::fuzzing::{Folder, Scene};
use crate::mover::Journal;
use crate::types::Caller;

/// A name, which is also that of its folder in `fuzz/corpus`, and what is fed.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("config", crate::config::fuzzing::run),
    ("rules", crate::policy::fuzzing::run),
    ("ledger", ledger),
    ("proofs", proofs),
    ("control", control),
    ("requests", requests),
];

/// Segments of a ledger, up to the transactions that recovery would meet.
pub fn ledger(data: &[u8]) {
    let folder = Folder::new();
    let mut journal = Journal::default();
    crate::ledger::fuzzing::run(data, &folder.0, &mut |entry| journal.apply(entry));
}

/// Keys, notes, checkpoints and proofs.
pub fn proofs(data: &[u8]) {
    crate::ledger::fuzzing::proofs(data);
}

/// A peer of the control socket, and a daemon that answers.
pub fn control(data: &[u8]) {
    crate::control::fuzzing::run(data, &Late::default());
}

/// Requests of the kernel.
pub fn requests(data: &[u8]) {
    let scene = Scene::new();
    crate::fuse::fuzzing::run(data, scene.vfs());
    scene.check_isolation();
}

/// A view that is made only when somebody asks something that can be understood.
#[derive(Default)]
struct Late(OnceLock<(Scene, ViewService)>);

impl Late {
    fn service(&self) -> &ViewService {
        let made = self.0.get_or_init(|| {
            let scene = Scene::new();
            let service = scene.service();
            (scene, service)
        });
        &made.1
    }
}

impl Service for Late {
    fn answer(&self, peer: Caller, request: Request) -> Answer {
        self.service().answer(peer, request)
    }

    fn converse(
        &self,
        peer: Caller,
        request: Request,
        descriptors: Vec<OwnedFd>,
        connection: &Connection,
    ) -> std::io::Result<()> {
        self.service().converse(peer, request, descriptors, connection)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    use super::*;

    /// Far more than any input needs: what takes longer hangs.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// Counts the panics of threads that no test is named for: the transport catches some, to answer EIO.
    fn panics_elsewhere() -> &'static AtomicU64 {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |what| {
            if !std::thread::current().name().is_some_and(|name| name.contains("::")) {
                COUNT.fetch_add(1, Ordering::Relaxed);
            }
            told(what);
        }));
        &COUNT
    }

    #[test]
    fn no_input_of_the_corpus_fails() {
        let panics = panics_elsewhere();
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let inputs = std::fs::read_dir(&folder).expect("each target has a corpus");
            let mut inputs: Vec<_> = inputs.map(|entry| entry.expect("listed").path()).collect();
            inputs.sort();
            assert!(inputs.len() >= 5, "{name} has a corpus of {}", inputs.len());
            for input in inputs {
                let data = std::fs::read(&input).expect("read");
                let (done, wait) = channel();
                let thread = std::thread::spawn(move || {
                    target(&data);
                    let _ = done.send(());
                });
                let ended = wait.recv_timeout(PATIENCE);
                assert_ne!(ended, Err(RecvTimeoutError::Timeout), "{} hangs", input.display());
                let failed = thread.join().is_err() || panics.load(Ordering::Relaxed) != 0;
                assert!(!failed, "{} fails", input.display());
            }
        }
    }
}
