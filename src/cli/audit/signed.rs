//! Where a signed ledger is read from: the state folder, or `.audit` of a mounted view.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::branch::{Branch, BranchSpec};
use crate::config;
use crate::control::protocol::{Answer, Request};
use crate::ledger::CheckpointCopy;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::note::{NoteSigner, VerifierKey};
use crate::ledger::start::{KEY, NEW_KEY};
use crate::ledger::store::TreeStore;
use crate::ledger::verify::{Against, Source, Witness};
use crate::storage::real::{RealDir, RealStorage};
use crate::types::{BranchMode, within};

use super::super::failure::{Failure, cannot};
use super::super::output::is_terminal;
use super::super::target::{ViewOption, mount_of_config};
use super::super::unexpected;

/// How long a branch is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// All that belongs to a signed ledger.
pub(super) struct Signed {
    /// Where, for messages.
    pub place: String,
    /// The lines.
    pub lines: Source,
    /// Tiles and checkpoint.
    pub tree: TreeStore<RealStorage>,
    /// The newest checkpoint.
    pub checkpoint: Option<Vec<u8>>,
    /// The key that it says it has.
    pub key: Result<VerifierKey, String>,
    /// Copies in the branches, once they were asked for.
    pub copies: Vec<CheckpointCopy>,
    /// The branches.
    pub branches: Vec<BranchSpec>,
    /// Where the view is mounted, if it is.
    pub mountpoint: Option<PathBuf>,
}

impl Signed {
    /// Of a configuration, mounted or not, or of a mounted view.
    pub(super) fn find(option: &ViewOption) -> Result<Self, Failure> {
        if let Some(config) = option.view.as_deref().filter(|path| path.is_file()) {
            let loaded = config::load(config)
                .map_err(|errors| Failure::diagnostics(errors.render(is_terminal())))?;
            let branches = loaded.config.branches.into_iter().map(|entry| entry.spec).collect();
            let mount = mount_of_config(config, &loaded.config.view);
            let mountpoint = mount.map(|mount| mount.mountpoint);
            let found = Self::of_state(&loaded.config.state, branches)?;
            return Ok(Self { mountpoint, ..found });
        }
        let view = option.find(None)?;
        let found = match view.client.ask(&Request::Status) {
            Ok(Answer::Status(status)) => {
                let loaded = config::load(&view.client.hello.config);
                let entries = loaded.map(|loaded| loaded.config.branches).unwrap_or_default();
                let branches = entries.into_iter().map(|entry| entry.spec).collect();
                Self::of_state(&status.state, branches)
            }
            Ok(_) => Err(unexpected()),
            Err(_) => Self::of_audit(&view.mount.mountpoint.join(".audit")),
        }?;
        Ok(Self { mountpoint: Some(view.mount.mountpoint), ..found })
    }

    fn of_state(state: &Path, branches: Vec<BranchSpec>) -> Result<Self, Failure> {
        let ledger = state.join("ledger");
        let key = own_key(&state.join(KEY));
        let mut found = Self::of_folder(&ledger, Source::Folder(ledger.clone()), key, branches)?;
        if found.key.is_err()
            && let (Ok(key), Some(note)) = (own_key(&state.join(NEW_KEY)), &found.checkpoint)
            && Checkpoint::open(note, &key).is_ok()
        {
            // A crash came before it got its name; the next mount goes on from there.
            found.key = Ok(key);
        }
        Ok(found)
    }

    fn of_audit(audit: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(audit.join("key.pub"));
        let text = text.map_err(|error| {
            cannot(format!("read {}", audit.join("key.pub").display()))(error)
                .hint("audit.readers names who may, beside root")
        })?;
        let key = text.parse::<VerifierKey>().map_err(str::to_owned);
        Self::of_folder(audit, Source::File(audit.join("log.jsonl")), key, Vec::new())
    }

    fn of_folder(
        folder: &Path,
        lines: Source,
        key: Result<VerifierKey, String>,
        branches: Vec<BranchSpec>,
    ) -> Result<Self, Failure> {
        let place = folder.display().to_string();
        let dir = RealDir::open(folder).map_err(cannot(format!("open the ledger {place}")))?;
        let tree = TreeStore::new(Arc::new(RealStorage), dir);
        let checkpoint =
            tree.checkpoint().map_err(cannot(format!("read the checkpoint in {place}")))?;
        Ok(Self {
            place,
            lines,
            tree,
            checkpoint,
            key,
            copies: Vec::new(),
            branches,
            mountpoint: None,
        })
    }

    /// What its lines are held against, with the checkpoint that is the newest now.
    pub(super) fn against<'a>(
        &'a self,
        key: &'a VerifierKey,
        witness: Option<Witness<'a>>,
    ) -> std::io::Result<Against<'a, RealStorage>> {
        Ok(Against {
            key,
            checkpoint: self.tree.checkpoint()?,
            copies: &self.copies,
            tiles: Some(&self.tree),
            witness,
        })
    }

    /// Reads the copies in the branches; says which there are not. A branch that does not answer is one that
    /// there is not.
    pub(super) fn find_copies(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut hung = Vec::new();
        for spec in &self.branches {
            let read_only = spec.mode == BranchMode::Ro;
            let asked = spec.clone();
            let answer = within(ANSWER_WAIT, move || {
                // Also what --files needs first.
                let _ = RealDir::open(&asked.path);
                Branch::find_checkpoint(&asked)
            });
            let found = match answer {
                Ok(Some(found)) => found,
                Ok(None) => {
                    let (name, seconds) = (&spec.name, ANSWER_WAIT.as_secs());
                    notes.push(format!(
                        "branch {name} has not answered for {seconds} s: its copy is not compared"
                    ));
                    hung.push(name.clone());
                    continue;
                }
                Err(error) => {
                    notes.push(format!("the copy in branch {} was not read: {error}", spec.name));
                    continue;
                }
            };
            match found {
                // Of another view, whose branch it is.
                Ok(Some(note)) if read_only && self.is_foreign(&note) => {}
                Ok(Some(note)) => self.copies.push(CheckpointCopy {
                    place: format!("the copy in branch {}", spec.name),
                    note,
                    adopted: read_only,
                }),
                Ok(None) if read_only => {}
                Ok(None) => notes.push(format!("branch {} has no copy", spec.name)),
                Err(error) => {
                    notes.push(format!("the copy in branch {} was not read: {error}", spec.name));
                }
            }
        }
        self.branches.retain(|spec| !hung.contains(&spec.name));
        notes
    }

    /// Whether another log's key has signed.
    fn is_foreign(&self, note: &[u8]) -> bool {
        let origin = Checkpoint::unverified(note).map(|found| found.origin);
        self.key.as_ref().is_ok_and(|key| origin.is_none_or(|origin| origin != key.name()))
    }
}

fn own_key(path: &Path) -> Result<VerifierKey, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let signer = text.parse::<NoteSigner>().map_err(str::to_owned)?;
    Ok(signer.verifier().clone())
}

/// A key on the command line: itself, or the file that holds it.
pub(super) fn key_of(given: &str) -> Result<VerifierKey, Failure> {
    if let Ok(key) = given.parse() {
        return Ok(key);
    }
    let text = std::fs::read_to_string(given).map_err(|error| {
        Failure::usage(format!("cannot read the key {given}: {error}"))
            .hint("a public key is NAME+HASH+KEY, as .audit/key.pub has it, or a file with that")
    })?;
    text.parse().map_err(|why| Failure::usage(format!("cannot use the key in {given}: {why}")))
}
