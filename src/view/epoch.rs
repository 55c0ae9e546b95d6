//! Since when classes of paths are kept: they hold for one policy and for the paths of one moment.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Counts what changes how rules know paths: a directory that gets another path, and another policy. Odd
/// while another policy is put in force.
static EPOCH: AtomicU64 = AtomicU64::new(2);
/// Held while the epoch is odd.
static CHANGING: Mutex<()> = Mutex::new(());

/// The epoch of a moment in which classes are neither kept nor taken from what is kept.
pub const UNSETTLED: u64 = 0;

/// What `load` gives, which is the policy in force, with the epoch by which classes of paths are kept that
/// were found by it. A class that one policy has found means something else to another: while one takes
/// the other's place nothing is kept, so that nobody decides by a mixture of both.
pub fn in_epoch<T>(load: impl FnOnce() -> T) -> (u64, T) {
    let epoch = EPOCH.load(Ordering::SeqCst);
    let loaded = load();
    let settled = epoch.is_multiple_of(2) && EPOCH.load(Ordering::SeqCst) == epoch;
    (if settled { epoch } else { UNSETTLED }, loaded)
}

/// Has every class of a path be found anew. To be called once the change is made.
pub(super) fn renew_classes() {
    EPOCH.fetch_add(2, Ordering::SeqCst);
}

/// Makes a change, such as another policy, by which every class of a path has to be found anew.
pub fn change_classes(change: impl FnOnce()) {
    let _changing = CHANGING.lock();
    EPOCH.fetch_add(1, Ordering::SeqCst);
    change();
    EPOCH.fetch_add(1, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::sync::Arc;

    use super::*;
    use crate::branch::FileKind;
    use crate::policy::PathClass;
    use crate::types::ViewPath;
    use crate::view::inode::Name;
    use crate::view::{Inode, Place};

    #[test]
    fn no_class_is_kept_while_another_policy_is_put_in_force() {
        let root = Arc::new(Inode::new(1, FileKind::Directory, None, Place::Virtual, None));
        let name = Name::new(Arc::clone(&root), OsStr::new("a"));
        let file = Inode::new(2, FileKind::File, None, Place::Virtual, Some(name));
        let class = |number| move |_: &ViewPath| PathClass::of_number(number);
        let (before, ()) = in_epoch(|| ());
        let first = file.classes(before, &class(1));
        assert_eq!(first, [PathClass::of_number(1)]);
        change_classes(|| {
            let (during, ()) = in_epoch(|| ());
            assert_eq!(during, UNSETTLED);
            assert_eq!(file.classes(during, &class(2)), [PathClass::of_number(2)]);
        });
        let (during, ()) = in_epoch(|| change_classes(|| ()));
        assert_eq!(during, UNSETTLED, "the policy that was loaded may be either");
        let (after, ()) = in_epoch(|| ());
        assert_eq!(file.classes(after, &class(3)), [PathClass::of_number(3)]);
    }
}
