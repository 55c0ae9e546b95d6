//! Changes from outside: what others put into the stores of a pool, shadows above all. What the kernel
//! knows of a place is looked up again after it changed, as when its time is over.

use std::ffi::{OsStr, OsString};

use super::operation::split;
use super::run::Run;
use super::tree::{Id, Store, Verdict};

impl Run {
    /// Plants a file or directory on one of a pool's stores, with the folders above it.
    pub(super) fn plant(&mut self, at: &[OsString], nth: usize, text: Option<&str>) -> Verdict {
        let (folder, name) = split(at);
        let Some((parent, store)) = self.world.model.plantable(folder, name, nth) else {
            return Ok(());
        };
        if self.would_hide((parent, name), store, text.is_some()) {
            return Ok(());
        }
        let world = &mut self.world;
        world.model.plant_deep(&world.backing, (parent, name), store, text)?;
        self.walk(at, true).map(drop)
    }

    /// Whether it would stand before something else that the kernel knows.
    fn would_hide(&self, (parent, name): (Id, &OsStr), store: Store, file: bool) -> bool {
        let model = &self.world.model;
        let layers = model.layers(parent, name);
        let Some((first, seen)) = layers.first_key_value() else { return false };
        let merges = !file && model.directory(*seen).is_some();
        if store > *first || merges {
            return false;
        }
        let in_use = self.in_use();
        model.below(*seen).iter().any(|id| model.object(*id).is_known() || in_use.contains(id))
    }

    /// Notes folders that were made on more stores by something that failed after that.
    pub(super) fn settle(&mut self, parent: Id) {
        self.world.model.settle(&self.world.backing, parent);
    }
}
