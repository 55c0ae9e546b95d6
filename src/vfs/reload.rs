//! Another policy in the place of the one in force, in one step: whoever asks from then on is answered by
//! the new one. Open handles carry the generation that allowed them, and are asked about again at their next
//! write; what the kernel was given to write by itself cannot be, and is named here. An operation that was
//! already allowed when the step was made may still act after it.

use std::sync::Arc;

use crate::audit_dir::InForce;
use crate::policy::{Decision, Object, Policy, Principal};
use crate::types::{Caller, Operation, ViewPath};
use crate::view::{OpenFile, change_classes, in_epoch};

use super::Vfs;
use super::facts::{About, Asked};
use super::permit::groups_unknown;

/// An open file that the kernel reads and writes by itself, and that the policy in force would
/// deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRight {
    /// A name of the file.
    pub path: ViewPath,
    /// Who opened it.
    pub opener: Caller,
    /// What would be denied.
    pub operation: Operation,
    /// By what.
    pub decision: Decision,
}

impl Vfs {
    /// Puts a policy in force, with the text that `.audit` shows of it and those who may read that.
    pub fn replace_policy(&self, policy: Policy, config: String, readers: Vec<Principal>) {
        let policy = Arc::new(policy);
        change_classes(|| self.policy.store(Arc::clone(&policy)));
        self.readers.store(Arc::new(readers));
        self.audit.directory().show_policy(policy, Some(config));
    }

    /// Has groups looked up anew, which are believed for a minute otherwise.
    pub fn forget_groups(&self) {
        self.identities.forget();
    }

    /// Asks for all that one operation needs by one policy: again, if another came into force meanwhile, for
    /// what half of one and half of the other allow may be what each of them denies. A denial stands: one
    /// policy has denied.
    pub(super) fn by_one_policy<T, E>(&self, ask: impl Fn() -> Result<T, E>) -> Result<T, E> {
        loop {
            let generation = self.policy().generation();
            let asked = ask()?;
            if self.policy().generation() == generation {
                return Ok(asked);
            }
        }
    }

    /// What is in force, and since when.
    pub fn in_force(&self) -> Arc<InForce> {
        self.audit.directory().in_force()
    }

    /// Open files that the kernel reads or writes by itself and that the policy in force would deny.
    pub fn kept_rights(&self) -> Vec<KeptRight> {
        let files = self.view.handles.files();
        files
            .iter()
            .filter(|file| file.is_passthrough())
            .filter_map(|f| self.kept_right(f))
            .collect()
    }

    fn kept_right(&self, file: &OpenFile) -> Option<KeptRight> {
        let operations = [
            (file.writable, Operation::OpenWrite),
            (file.writable, Operation::WriteData),
            (file.readable, Operation::OpenRead),
        ];
        let (epoch, policy) = in_epoch(|| self.policy());
        let subject = self.subject(file.opener);
        let facts = Asked::of(About::Open(self, file));
        let paths = file.inode.paths_by_class(epoch, &|path| policy.classify_path(path));
        let asked = operations.into_iter().filter(|(open, _)| *open);
        asked
            .flat_map(|(_, operation)| paths.iter().map(move |(_, path)| (operation, path)))
            .find_map(|(operation, path)| {
                let object = Object { path, branch: Some(file.branch()), is_directory: false };
                let decision = match &subject {
                    Ok(subject) => policy.decide(subject, operation, object, &facts),
                    Err(_) => groups_unknown(&policy),
                };
                let (path, opener) = (path.clone(), file.opener);
                (!decision.allowed).then_some(KeptRight { path, opener, operation, decision })
            })
    }
}
