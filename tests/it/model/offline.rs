//! Branches whose directories go away and come back while the view is mounted.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::thread::sleep;

use octroi::vfs::TTL;
use serde_json::Value;

use crate::error::Errno;
use crate::harness::{octroi, wait_for};

use super::run::Run;
use super::tree::{Errors, Id, Store, Verdict};

/// How often a branch goes away in a run: it takes seconds until all is noticed.
const LEAVES_MAX: usize = 2;

impl Run {
    /// One more branch goes away.
    pub(super) fn leave(&mut self, nth: usize) -> Verdict {
        let store = nth % self.backing.len();
        if self.leaves == LEAVES_MAX || self.model.away.len() > 1 || self.is_away(store) {
            return Ok(());
        }
        self.leaves += 1;
        self.close_all_on(store);
        let away = self.backing[store].with_extension("away");
        self.move_store(store, away)?;
        self.wait(store, Some("offline"));
        self.model.away.insert(store);
        Ok(())
    }

    /// All that are away come back.
    pub(super) fn come_back(&mut self) -> Verdict {
        for store in std::mem::take(&mut self.model.away) {
            self.close_all_on(store);
            let home = self.backing[store].with_extension("");
            self.move_store(store, home)?;
            self.wait(store, None);
            // The newest time of all parts is seen, and they have changed apart.
            let all: Vec<Id> = self.model.objects.keys().copied().collect();
            let pooled = |id: &Id| self.model.is_pooled(*id) && self.model.directory(*id).is_some();
            let pooled: Vec<Id> = all.into_iter().filter(pooled).collect();
            pooled.into_iter().for_each(|id| self.model.touch(id));
        }
        Ok(())
    }

    fn is_away(&self, store: Store) -> bool {
        self.model.away.contains(&store)
    }

    fn move_store(&mut self, store: Store, to: PathBuf) -> Verdict {
        let from = std::mem::replace(&mut self.backing[store], to);
        let to = &self.backing[store];
        std::fs::rename(&from, to).map_err(|error| format!("{}: {error}", from.display()))
    }

    /// Until the daemon has seen it, and the kernel asks again for what it knows.
    fn wait(&self, store: Store, fault: Option<&str>) {
        wait_for(&format!("store {store} to be {fault:?}"), || {
            let text = octroi(["status", "--json", "--view", self.scene.name()]).ok();
            let status: Value = serde_json::from_str(&text).expect("JSON");
            let mut branches = status["branches"].as_array().expect("branches").iter();
            let branch = branches.find(|found| found["name"] == format!("store{store}"));
            branch.expect("the branch")["fault"].as_str() == fault
        });
        sleep(TTL + TTL / 4);
    }

    /// What is open may be served from what the kernel has.
    fn close_all_on(&mut self, store: Store) {
        let model = &self.model;
        let domain = model.domains.iter().position(|domain| domain.stores.contains(&store));
        let there = |id: Id| model.object(id).domain == domain;
        for slot in &mut self.files {
            slot.take_if(|file| there(file.id));
        }
        for slot in &mut self.lists {
            slot.take_if(|list| there(list.id));
        }
    }

    /// Whether a name is left alone: one that only a branch that is away has, which may or may not be known, and a
    /// folder of the layout that leads to or from one.
    pub(super) fn is_beside(&self, parent: Id, name: &OsStr) -> bool {
        let model = &self.model;
        let fixed = model.child(parent, name).filter(|id| model.object(*id).fixed);
        let dark = |id: Id| model.is_dark(parent) || model.is_dark(id);
        model.is_ghost(parent, name) || fixed.is_some_and(dark)
    }

    /// EIO where the way to a name in the last of these directories leads through a branch that is away. They
    /// are in order from there up.
    pub(super) fn offline_errors(&self, way: &[Id]) -> Errors {
        let model = &self.model;
        let mut below = None;
        for id in way {
            let served = below.is_some_and(|below: Id| model.object(below).fixed);
            if model.is_dark(*id) && !served {
                return vec![Errno::IO];
            }
            below = Some(*id);
        }
        Vec::new()
    }
}
