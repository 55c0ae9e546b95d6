//! What the model says of rename(2): within a domain, and between two, where it is a crossing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::branch::RenameFlags;
use crate::error::Errno;
use crate::types::BranchMode;

use super::names::IN_THE_WAY;
use super::tree::{Body, Errors, Id, Model, ModelGate, Store};

/// A name in a directory.
pub(super) type Spot<'a> = (Id, &'a OsStr);

impl Model {
    pub(super) fn rename_errors(&self, from: Spot<'_>, to: Spot<'_>, flags: RenameFlags) -> Errors {
        let both = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        let mut errors = self.remove_errors(from.0, from.1);
        errors.extend(self.target_errors(to.0, to.1));
        if flags == both || flags.contains(RenameFlags::WHITEOUT) {
            errors.push(Errno::INVAL);
        }
        let Some(source) = self.child(from.0, from.1) else {
            errors.push(Errno::NOENT);
            return errors;
        };
        if !errors.is_empty()
            && (self.directory(from.0).is_none() || self.directory(to.0).is_none())
        {
            return errors;
        }
        let domains = [from.0, to.0].map(|parent| self.object(parent).domain);
        if domains[0] != domains[1] {
            errors.extend(self.crossing_errors((from, source), to, flags));
        } else {
            errors.extend(self.rename_within_errors((from, source), to, flags));
        }
        errors
    }

    fn rename_within_errors(
        &self,
        (from, source): (Spot<'_>, Id),
        to: Spot<'_>,
        flags: RenameFlags,
    ) -> Errors {
        let mut errors = Vec::new();
        let target = self.child(to.0, to.1);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange && target.is_none() {
            errors.push(Errno::NOENT);
        }
        if flags.contains(RenameFlags::NOREPLACE) && target.is_some() {
            errors.push(Errno::EXIST);
        }
        if self.ancestors(to.0).contains(&source) {
            errors.push(Errno::INVAL);
        }
        if self.directory(source).is_some() && self.is_incomplete(source) {
            errors.push(Errno::IO);
        }
        let moving = self.near_layers(from.0, from.1);
        let replaced = self.near_layers(to.0, to.1);
        let several = moving.len() > 1 || replaced.keys().any(|store| !moving.contains_key(store));
        if several && exchange {
            errors.push(Errno::INVAL);
        }
        if target == Some(source) {
            return errors;
        }
        if moving.keys().any(|store| self.is_blocked(to.0, *store)) {
            errors.extend(IN_THE_WAY);
        }
        let Some(target) = target else { return errors };
        if self.ancestors(from.0).contains(&target) {
            errors.push(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if !exchange {
            errors.extend(self.replace_errors(source, target));
            errors.extend(self.hidden_errors(source, to));
        }
        errors
    }

    /// Why what a target hides cannot be replaced.
    fn hidden_errors(&self, source: Id, to: Spot<'_>) -> Errors {
        let layers = self.near_layers(to.0, to.1);
        let full = layers.values().any(|id| self.is_full(*id));
        let file = self.directory(source).is_some() && self.hides_file(to.0, to.1);
        if full || file { vec![Errno::NOTEMPTY] } else { vec![] }
    }

    /// Why something cannot take the place of something else.
    fn replace_errors(&self, source: Id, target: Id) -> Errors {
        match (self.directory(source), self.directory(target)) {
            (Some(_), Some(target)) if !target.entries.is_empty() => vec![Errno::NOTEMPTY],
            (Some(_), None) => vec![Errno::NOTDIR],
            (None, Some(_)) => vec![Errno::ISDIR],
            _ => vec![],
        }
    }

    fn crossing_errors(
        &self,
        (from, source): (Spot<'_>, Id),
        to: Spot<'_>,
        flags: RenameFlags,
    ) -> Errors {
        let mut errors = Vec::new();
        if flags.contains(RenameFlags::EXCHANGE) {
            errors.push(Errno::INVAL);
        }
        let (Some(from_domain), Some(to_domain)) =
            (self.object(from.0).domain, self.object(to.0).domain)
        else {
            errors.push(Errno::ROFS);
            return errors;
        };
        for domain in [from_domain, to_domain] {
            if self.domains[domain].mode == BranchMode::Ro {
                errors.push(Errno::ROFS);
            }
        }
        if let Some(target) = self.child(to.0, to.1) {
            if flags.contains(RenameFlags::NOREPLACE) {
                errors.push(Errno::EXIST);
            }
            errors.extend(self.replace_errors(source, target));
            errors.extend(self.hidden_errors(source, to));
            // What the target hides must be of its kind.
            let hidden = self.layers(to.0, to.1).into_values();
            errors.extend(hidden.flat_map(|hidden| self.replace_errors(source, hidden)));
        }
        let moving = self.layers(from.0, from.1);
        let admits = |gate: &&ModelGate| {
            // The names of directories do not matter, those of the files in them do. What is hidden
            // is asked for too.
            let free = moving.values().all(|id| self.directory(*id).is_some());
            let fits = |name: &OsStr| free || name.as_bytes().ends_with(gate.suffix.as_bytes());
            (gate.from, gate.to) == (from_domain, to_domain) && fits(from.1) && fits(to.1)
        };
        match self.gates.iter().find(admits) {
            Some(gate) => errors.extend(self.gate_errors(gate, source)),
            None => errors.push(Errno::ACCESS),
        }
        if moving.iter().any(|(store, id)| self.is_linked_outside(*id, *store)) {
            errors.push(Errno::PERM);
        }
        errors
    }

    /// What the gate refuses for what it is.
    fn gate_errors(&self, gate: &ModelGate, top: Id) -> Errors {
        let refuses = |id: &Id| {
            let text = match &self.object(*id).body {
                Body::File(bytes) => !bytes.contains(&0),
                Body::Directory(_) => true,
                Body::Symlink(_) | Body::Special(..) => false,
            };
            let size = self.object(*id).size().unwrap_or(0);
            (gate.text_only && !text) || gate.max_size.is_some_and(|max| size > max)
        };
        let named_wrong = |id: &Id| {
            let names = self.listing(*id).into_iter();
            let mut names = names.filter(|(_, id)| self.directory(*id).is_none());
            names.any(|(name, _)| !name.as_bytes().ends_with(gate.suffix.as_bytes()))
        };
        let all = self.below(top);
        if all.iter().any(refuses) || all.iter().any(named_wrong) {
            vec![Errno::ACCESS]
        } else {
            vec![]
        }
    }

    /// Whether something that a store has at or below a name has another name elsewhere there.
    fn is_linked_outside(&self, top: Id, store: Store) -> bool {
        let mut inside: BTreeMap<Id, u32> = BTreeMap::new();
        let mut open = vec![top];
        while let Some(id) = open.pop() {
            match self.directory(id) {
                Some(directory) => {
                    let below = directory.entries.values();
                    open.extend(below.filter_map(|layers| layers.get(&store)));
                }
                None => *inside.entry(id).or_default() += 1,
            }
        }
        inside.into_iter().any(|(id, names)| self.links(id) != names)
    }

    /// Hard links, one in hold included.
    pub(super) fn links(&self, id: Id) -> u32 {
        self.names(id) + self.object(id).held
    }

    /// A rename that succeeded. `store` is where a crossing went.
    pub(super) fn rename(
        &mut self,
        from: Spot<'_>,
        to: Spot<'_>,
        flags: RenameFlags,
        store: Option<Store>,
    ) {
        let source = self.child(from.0, from.1).expect("a source");
        let target = self.child(to.0, to.1);
        if target == Some(source) {
            return;
        }
        if self.object(from.0).domain != self.object(to.0).domain {
            return self.cross((from, source), to, store.expect("a store"));
        }
        let replaced = self.take(to.0, to.1);
        let moved = self.take(from.0, from.1);
        self.give(to.0, to.1, moved);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.give(from.0, from.1, replaced);
        }
    }

    fn cross(&mut self, (from, source): (Spot<'_>, Id), to: Spot<'_>, store: Store) {
        for displaced in self.take(to.0, to.1).into_values() {
            self.object_mut(displaced).held += 1;
        }
        self.take(from.0, from.1);
        let domain = self.object(to.0).domain;
        for id in self.below(source) {
            let object = self.object_mut(id);
            let attr = object.on.values().next().cloned().unwrap_or_default();
            object.on = BTreeMap::from([(store, attr)]);
            object.domain = domain;
            if let Body::Directory(directory) = &mut object.body {
                // What was hidden left too, and did not arrive.
                for layers in directory.entries.values_mut() {
                    let first = layers.values().next().copied();
                    *layers = first.into_iter().map(|id| (store, id)).collect();
                }
            }
        }
        self.give(to.0, to.1, BTreeMap::from([(store, source)]));
    }
}
