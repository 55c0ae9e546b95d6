//! How the operations of a run are chosen: by what the model is at the time, and from few names, so that
//! everything collides.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::branch::{FileKind, RenameFlags};

use super::acl::{ACCESS, Acl, DEFAULT};
use super::operation::{Access, Allocation, FILES_MAX, LISTS_MAX, LONG, Op, Slot, Way, way_to};
use super::tree::{Id, Model, USER};

const KEYS: [&str; 3] = ["user.a", "user.b", "trusted.t"];

/// splitmix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound.max(1)
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub(super) fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }

    fn slot(&mut self) -> Slot {
        self.below(FILES_MAX as u64) as usize
    }

    fn list(&mut self) -> Slot {
        self.below(LISTS_MAX as u64) as usize
    }

    fn uid(&mut self) -> u32 {
        if self.one_in(4) { USER } else { 0 }
    }

    fn access(&mut self) -> Access {
        self.of(&[Access::Read, Access::Read, Access::Write, Access::Both, Access::Append])
    }

    fn offset(&mut self) -> u64 {
        self.of(&[0, 0, 1, 100, 1000, 4095, 9000])
    }

    fn length(&mut self) -> u64 {
        self.of(&[1, 7, 100, 1000, 3000, 5000])
    }

    fn name(&mut self) -> OsString {
        if self.one_in(40) {
            return self.of(&[".octroi".into(), ".audit".into(), LONG.as_str().into()]);
        }
        let odd = OsString::from_vec(b"\xff.c".to_vec());
        self.of(&["a".into(), "b".into(), "c.c".into(), "d".into(), odd])
    }

    /// A directory of the view, of any domain with equal chance; seldom something else.
    fn folder(&mut self, model: &Model) -> Way {
        if self.one_in(40) {
            let count = self.below(3);
            return (0..count).map(|_| self.name()).collect();
        }
        let domain = self.below(model.domains.len() as u64) as usize;
        let folders: Vec<Id> = model
            .objects
            .keys()
            .copied()
            .filter(|id| {
                model.directory(*id).is_some()
                    && model.object(*id).domain == Some(domain)
                    && !model.is_gone(*id)
            })
            .collect();
        let near: Vec<Id> =
            folders.into_iter().filter(|id| model.ancestors(*id).len() < 6).collect();
        way_to(model, self.of(&near))
    }

    /// A name that may be there or not.
    fn site(&mut self, model: &Model) -> Way {
        let mut way = self.folder(model);
        way.push(self.name());
        way
    }

    /// A name that is there, if the chosen directory has any.
    fn entry(&mut self, model: &Model) -> Way {
        let mut way = self.folder(model);
        let folder = way.iter().try_fold(model.root, |here, name| model.child(here, name));
        let names: Vec<OsString> =
            folder.map(|id| model.listing(id).into_keys().collect()).unwrap_or_default();
        way.push(if names.is_empty() || self.one_in(12) { self.name() } else { self.of(&names) });
        way
    }

    fn either(&mut self, model: &Model) -> Way {
        if self.one_in(2) { self.site(model) } else { self.entry(model) }
    }

    /// The next operation; `early` while there is little yet.
    pub(super) fn operation(&mut self, model: &Model, early: bool) -> Op {
        let pools = model.domains.iter().any(|domain| domain.place.is_some());
        if pools && self.one_in(if early { 2 } else { 25 }) {
            return self.plant(model);
        }
        if !model.away.is_empty() && self.one_in(25) {
            return Op::Return;
        }
        match self.below(100) {
            0..=39 => self.on_names(model),
            40..=57 => self.rename(model),
            58..=84 => self.on_content(model),
            85..=91 => self.on_attributes(model),
            92..=96 => self.on_lists(model),
            _ => match self.below(10) {
                0 => Op::Purge,
                1 => Op::Refresh,
                2 if early => Op::Refresh,
                2 => Op::Leave { nth: self.below(9) as usize },
                3 => Op::Space { at: self.entry(model) },
                4..=5 => Op::Look { at: self.site(model) },
                _ => Op::Forget { at: self.entry(model), all: !self.one_in(4) },
            },
        }
    }

    pub(super) fn plant(&mut self, model: &Model) -> Op {
        let text = self.of(&[None, Some("planted"), Some("by others")]);
        Op::Plant { at: self.either(model), nth: self.below(3) as usize, text }
    }

    fn on_names(&mut self, model: &Model) -> Op {
        match self.below(40) {
            0..=9 => Op::Create {
                at: self.site(model),
                uid: self.uid(),
                mode: self.of(&[0o644, 0o600, 0o777]),
                exclusive: self.one_in(2),
                access: self.access(),
                slot: self.slot(),
            },
            10..=17 => {
                let mode = self.of(&[0o755, 0o777, 0o777, 0o700]);
                Op::Mkdir { at: self.site(model), uid: self.uid(), mode }
            }
            18..=20 => {
                let kinds = [FileKind::File, FileKind::Fifo, FileKind::Socket];
                let device = [FileKind::CharacterDevice];
                Op::Mknod { at: self.site(model), kind: self.of(&[&kinds[..], &device].concat()) }
            }
            21..=22 => Op::Symlink {
                at: self.site(model),
                uid: self.uid(),
                text: self.of(&["a", "../b", "/nowhere"]),
            },
            23..=28 => Op::Link { from: self.entry(model), to: self.site(model) },
            29 => Op::LinkOpen { slot: self.slot(), to: self.site(model) },
            30 => Op::Readlink { at: self.entry(model) },
            31..=35 => Op::Unlink { at: self.entry(model) },
            _ => Op::Rmdir { at: self.entry(model) },
        }
    }

    fn rename(&mut self, model: &Model) -> Op {
        let (none, exchange) = (RenameFlags::empty(), RenameFlags::EXCHANGE);
        let flags = self.of(&[none, none, none, none, RenameFlags::NOREPLACE, exchange]);
        let both = RenameFlags::NOREPLACE | exchange;
        let flags = if self.one_in(60) { both } else { flags };
        let flags = if self.one_in(60) { RenameFlags::WHITEOUT } else { flags };
        let from = self.entry(model);
        let to = match self.below(12) {
            0 => from.iter().cloned().chain([self.name()]).collect(),
            1 => from[..from.len() - 1].to_vec(),
            _ => self.either(model),
        };
        let to = if to.is_empty() { self.site(model) } else { to };
        match self.below(12) {
            0 => Op::Undo { back: self.below(2) as usize },
            1 => Op::Move { from, to, no_replace: self.one_in(2) },
            _ => Op::Rename { from, to, flags },
        }
    }

    fn on_content(&mut self, model: &Model) -> Op {
        let slot = self.slot();
        match self.below(30) {
            27..=28 => Op::Seek { slot, offset: self.offset(), hole: self.one_in(2) },
            29 => Op::Sync { slot, data_only: self.one_in(2) },
            0..=4 => Op::Open {
                at: self.entry(model),
                access: self.access(),
                truncate: self.one_in(4),
                slot,
            },
            5 => Op::OpenAgain { open: slot, access: self.access(), slot: self.slot() },
            6..=8 => Op::Read { slot, offset: self.offset(), size: self.length() as u32 },
            9..=15 => Op::Write {
                slot,
                uid: self.uid(),
                mapped: self.one_in(10),
                offset: self.offset(),
                letter: b'a' + self.below(26) as u8,
                length: self.length() as usize,
            },
            16..=17 => Op::Truncate { at: self.entry(model), uid: self.uid(), size: self.offset() },
            18 => Op::TruncateOpen { slot, size: self.offset() },
            19..=20 => Op::Allocate {
                slot,
                uid: self.uid(),
                how: self.of(&[
                    Allocation::Plain,
                    Allocation::KeepSize,
                    Allocation::Punch,
                    Allocation::Zero,
                ]),
                offset: self.offset(),
                length: self.length(),
            },
            21..=22 => Op::Copy {
                uid: self.uid(),
                from: self.slot(),
                offset: self.offset(),
                to: slot,
                to_offset: self.offset(),
                length: self.length(),
            },
            _ => Op::Close { slot },
        }
    }

    fn on_attributes(&mut self, model: &Model) -> Op {
        let at = self.entry(model);
        let key = self.of(&KEYS);
        match self.below(11) {
            0 => Op::Chmod { at, mode: self.mode() },
            1 => Op::Chown { at, uid: self.of(&[0, USER, 77]), gid: self.of(&[0, USER, 77]) },
            2 => {
                Op::Utimes { at, seconds: self.of(&[None, Some(-5), Some(1), Some(1_000_000_000)]) }
            }
            3..=5 => Op::SetXattr {
                at,
                key,
                value: self.of(&["", "one", "two"]),
                create: self.one_in(4),
                replace: self.one_in(4),
            },
            6 => Op::RemoveXattr { at, key },
            7..=8 => Op::SetAcl { at, default: self.one_in(2), acl: self.acl() },
            9 => Op::ChmodOpen { slot: self.slot(), mode: self.mode() },
            _ => Op::GetXattr { at, key: self.of(&[key, ACCESS, DEFAULT]) },
        }
    }

    fn mode(&mut self) -> u32 {
        self.of(&[0o644, 0o755, 0o777, 0o2777, 0o6777, 0o2666, 0o4755, 0o1777])
    }

    fn acl(&mut self) -> Option<Acl> {
        let mut bits = || self.of(&[0, 4, 6, 7, 7]);
        let (named, group, mask, other) = (bits(), bits(), bits(), bits());
        (!self.one_in(4)).then_some(Acl { user: 7, named, group, mask, other })
    }

    fn on_lists(&mut self, model: &Model) -> Op {
        let slot = self.list();
        match self.below(5) {
            0 => Op::List { at: self.folder(model), slot },
            1..=2 => Op::ListOn { slot, count: self.below(5) as usize },
            3 => Op::ListBack { slot, to: self.below(4) as usize, plus: self.one_in(2) },
            _ => Op::ListEnd { slot },
        }
    }
}
