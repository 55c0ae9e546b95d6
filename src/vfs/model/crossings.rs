//! The driver's renames, crossings and taking them back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use crate::branch::{FileKind, RenameFlags, SpaceLimit};
use crate::error::errno_name;
use crate::types::{TxId, ViewPath};

use super::super::{MoveRequest, Readied};
use super::operation::{Way, split, way_to};
use super::rename::Spot;
use super::run::{ROOT, Run};
use super::tree::{Body, Id, Layers, Model, Object, Store, Verdict};

/// A crossing that may be taken back.
#[derive(Debug, Clone)]
pub(super) struct Crossed {
    txid: TxId,
    from: (Id, Way),
    to: (Id, Way),
    top: Id,
    /// What the stores had under the source's name, and under the target's.
    layers: Layers,
    displaced: Layers,
    /// Everything that left, as it was, hidden or not; and what arrived.
    before: BTreeMap<Id, Object>,
    after: BTreeMap<Id, (Body, u32)>,
    /// The one store that it was renamed from, if nothing was copied.
    renamed: Option<Store>,
}

impl Run {
    pub(super) fn rename(
        &mut self,
        from: &[OsString],
        to: &[OsString],
        flags: RenameFlags,
        prepare: bool,
    ) -> Verdict {
        let ((folder, name), (new_folder, new_name)) = (split(from), split(to));
        let Some(parent) = self.folder(folder)? else { return Ok(()) };
        let Some(new_parent) = self.folder(new_folder)? else { return Ok(()) };
        // The kernel looks up both names before it renames.
        for (parent, name) in [(parent, name), (new_parent, new_name)] {
            self.look(parent, name, false)?;
        }
        let model = &self.world.model;
        let (source, target) = ((parent, name), (new_parent, new_name));
        let crossing = model.object(parent).domain != model.object(new_parent).domain;
        let ends = [parent, new_parent];
        if model.is_ghost(parent, name)
            || model.is_ghost(new_parent, new_name)
            || (crossing && ends.iter().any(|id| model.is_incomplete(*id)))
        {
            return Ok(());
        }
        if crossing && let Some(source) = model.child(parent, name) {
            // A crossing would wait a second for them, and be refused.
            let moving = model.below(source);
            self.close_writers(&moving);
        }
        let errors = self.world.model.rename_errors(source, target, flags);
        let numbers = (self.number(parent)?, self.number(new_parent)?);
        let prepared = if prepare {
            self.prepare((numbers.0, name), (numbers.1, new_name), flags)
        } else {
            None
        };
        if matches!(&prepared, Some(Readied::Crossing(_)) if !errors.is_empty()) {
            return Err(format!("it was prepared; the model expects one of {errors:?}"));
        }
        let result = self.world.vfs.rename(*ROOT, (numbers.0, name), (numbers.1, new_name), flags);
        drop(prepared);
        let denial = self.world.vfs.denials.last(0, None).filter(|_| crossing && result.is_err());
        let reason = denial.and_then(|denial| denial.decision.reason);
        let what = match reason {
            Some(reason) => format!("crossing ({reason})"),
            None if crossing => "crossing".to_owned(),
            None => "rename".to_owned(),
        };
        if self.judge(&what, &errors, result)?.is_some() {
            let stores = self.world.stores();
            let store = crossing.then(|| stores.placed(new_parent, new_name)).transpose()?;
            self.purged &= !crossing;
            let before = store.map(|store| self.before(source, target, store));
            self.world.model.rename(source, target, flags, store);
            if let Some(crossed) = before {
                self.note_crossing(crossed?, from, to);
            }
        } else {
            self.settle(new_parent);
            self.settle(parent);
        }
        Ok(())
    }

    /// As `octroi mv` does before it renames. What cannot be prepared is left for rename(2) to refuse.
    fn prepare(
        &self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
    ) -> Option<Readied> {
        let request = MoveRequest {
            caller: *ROOT,
            groups: vec![0],
            source: (from.0, from.1.to_owned()),
            target: (to.0, to.1.to_owned()),
            no_replace: flags.contains(RenameFlags::NOREPLACE),
            undoes: None,
        };
        self.world.vfs.prepare_move(&request, &|_| {}).ok()
    }

    /// What will have to be restored, should it be taken back.
    fn before(&self, from: Spot<'_>, to: Spot<'_>, store: Store) -> Verdict<Crossed> {
        let model = &self.world.model;
        let path = [way_to(model, to.0), vec![to.1.to_owned()]].concat();
        let path = path.iter().fold(ViewPath::root(), |path, name| path.join(name));
        let txid = self.world.vfs.with_journal(|journal| journal.last_to(&path));
        let layers = model.layers(from.0, from.1);
        let mut before = BTreeMap::new();
        let mut open: Vec<Id> = layers.values().copied().collect();
        while let Some(id) = open.pop() {
            before.insert(id, model.object(id).clone());
            if let Body::Directory(directory) = &model.object(id).body {
                open.extend(directory.entries.values().flat_map(BTreeMap::values));
            }
        }
        // What is neither file nor directory is made anew also on one file system.
        let top = model.child(from.0, from.1).ok_or("nothing crossed")?;
        let moves = matches!(model.object(top).kind(), FileKind::File | FileKind::Directory);
        let alone = layers.keys().next().copied().filter(|_| layers.len() == 1 && moves);
        Ok(Crossed {
            txid: txid.ok_or("a crossing is not in the journal")?,
            from: (from.0, Way::new()),
            to: (to.0, Way::new()),
            top,
            renamed: alone.filter(|from| self.world.disk(*from) == self.world.disk(store)),
            displaced: model.layers(to.0, to.1),
            layers,
            before,
            after: BTreeMap::new(),
        })
    }

    fn note_crossing(&mut self, mut crossed: Crossed, from: &[OsString], to: &[OsString]) {
        (crossed.from.1, crossed.to.1) = (from.to_vec(), to.to_vec());
        crossed.after = self.seen_below(crossed.top);
        self.crossed.push(crossed);
    }

    /// What users see from something on down, each with the number of its links.
    fn seen_below(&self, top: Id) -> BTreeMap<Id, (Body, u32)> {
        let model = &self.world.model;
        let all = model.below(top).into_iter();
        let mut seen: BTreeMap<Id, (Body, u32)> =
            all.map(|id| (id, (model.object(id).body.clone(), model.links(id)))).collect();
        if let Some((Body::Directory(directory), _)) = seen.get_mut(&top) {
            directory.parent = None;
        }
        seen
    }

    /// Takes back a crossing, counted from the last. What is not as it came must be refused.
    pub(super) fn undo(&mut self, back: usize) -> Verdict {
        let Some(at) = self.crossed.len().checked_sub(back + 1) else { return Ok(()) };
        let crossed = self.crossed[at].clone();
        let ((home, from), (place, to)) = (&crossed.from, &crossed.to);
        let ((home_way, from), (place_way, to)) = (split(from), split(to));
        let model = &self.world.model;
        let leads = |way: &[OsString], id: Id| {
            way.iter().try_fold(model.root, |here, name| model.child(here, name)) == Some(id)
        };
        let found = model.objects.contains_key(place).then(|| model.layers(*place, to));
        if !leads(home_way, *home)
            || !leads(place_way, *place)
            || found
                != Some(BTreeMap::from_iter(
                    model
                        .child(*place, to)
                        .and_then(|id| Some((*model.object(id).on.keys().next()?, crossed.top))),
                ))
            || model.child(*place, to) != Some(crossed.top)
            || !model.away.is_empty()
        {
            // What becomes of it depends on what is there now.
            return Ok(());
        }
        let now = self.seen_below(crossed.top);
        let as_it_came = now == crossed.after;
        let same_names = now.keys().eq(crossed.after.keys())
            && now.iter().zip(&crossed.after).all(|((_, now), (_, then))| {
                match (&now.0, &then.0) {
                    (Body::File(_), Body::File(_)) => now.1 == then.1,
                    _ => now == then,
                }
            });
        let taken = !model.layers(*home, from).is_empty();
        if !as_it_came && !same_names && !taken {
            return Ok(());
        }
        self.close_writers(&now.keys().copied().collect::<Vec<_>>());
        for (way, name) in [(home_way, (*home, from)), (place_way, (*place, to))] {
            self.walk(way, false)?;
            self.look(name.0, name.1, false)?;
        }
        let numbers = (self.number(*place)?, self.number(*home)?);
        let (to, from) = ((numbers.0, to), (numbers.1, from));
        let request = MoveRequest {
            caller: *ROOT,
            groups: Vec::new(),
            source: (to.0, to.1.to_owned()),
            target: (from.0, from.1.to_owned()),
            no_replace: true,
            undoes: Some(crossed.txid),
        };
        let prepared = self.world.vfs.prepare_move(&request, &|_| ());
        if taken || !as_it_came {
            let wrong = |_| Err(format!("{request:?} was prepared, against the model"));
            return prepared.map_or(Ok(()), wrong);
        }
        let undo = prepared.map_err(|error| format!("undo of what is as it came: {error:?}"))?;
        let result = self.world.vfs.rename(*ROOT, to, from, RenameFlags::NOREPLACE);
        drop(undo);
        result.map_err(|errno| format!("undoing gave {}", errno_name(errno)))?;
        self.crossed.remove(at);
        let (place, to) = (*place, to.1.to_owned());
        let displaced: Vec<Id> = crossed.displaced.values().copied().collect();
        self.world.model.take_back(crossed);
        // What the crossing replaced is back under the name that moved away, and not known by it.
        match displaced.iter().find(|id| self.world.model.directory(**id).is_some()) {
            Some(id) if self.world.model.object(*id).is_known() => self.look_alive(place, &to, *id),
            _ => self.look(place, &to, true).map(drop),
        }
    }

    /// To the kernel a directory that was replaced is dead for as long as it has it, which is why it must
    /// get another number.
    fn look_alive(&mut self, parent: Id, name: &OsStr, id: Id) -> Verdict {
        let object = self.world.model.object_mut(id);
        let (dead, lookups) = (object.number.take(), std::mem::take(&mut object.lookups));
        self.look(parent, name, true)?;
        let number = dead.ok_or("it had no number")?;
        self.world.vfs.forget(number, lookups);
        if self.number(id)? == number {
            return Err(format!("{id} came back with the number of a dead directory"));
        }
        for slot in 0..self.lists.len() {
            if self.lists[slot].as_ref().is_some_and(|list| list.id == id) {
                self.list_end(slot)?;
            }
        }
        Ok(())
    }

    pub(super) fn purge(&mut self) -> Verdict {
        if !self.world.model.away.is_empty() {
            return Ok(());
        }
        self.world.vfs.tend();
        // An undo goes after what it gave back, and what is in another branch's hold when that is looked after.
        let branches = &self.world.vfs.branches;
        for branch in branches.iter().chain(branches).chain(branches) {
            let (index, now) = (branch.spec().index, jiff::Timestamp::now());
            let all = SpaceLimit::Percent(100);
            self.world.vfs.mover.tend_branch(index, all, now, Duration::ZERO);
        }
        for object in self.world.model.objects.values_mut() {
            object.held = 0;
        }
        let in_use = self.in_use();
        self.world.model.collect(&in_use);
        self.purged = true;
        self.crossed.clear();
        Ok(())
    }
}

impl Model {
    /// A crossing that was taken back. What was renamed comes as it is now, what was copied as it was.
    fn take_back(&mut self, crossed: Crossed) {
        let (home, from) = (crossed.from.0, split(&crossed.from.1).1);
        let (place, to) = (crossed.to.0, split(&crossed.to.1).1);
        let domain = self.object(home).domain;
        self.take(place, to);
        for (id, before) in crossed.before {
            let Some(object) = self.objects.get_mut(&id) else {
                self.objects.insert(id, Object { number: None, lookups: 0, ..before });
                continue;
            };
            object.domain = domain;
            let now = object.on.values().next().cloned();
            match crossed.renamed.zip(now) {
                Some((store, now)) => object.on = BTreeMap::from([(store, now)]),
                None => object.on = before.on,
            }
            if let (Body::Directory(now), Body::Directory(before)) = (&mut object.body, before.body)
            {
                *now = before;
            }
        }
        self.give(home, from, crossed.layers);
        for displaced in crossed.displaced.values() {
            let object = self.object_mut(*displaced);
            object.held = object.held.saturating_sub(1);
        }
        self.give(place, to, crossed.displaced);
    }
}
