//! The user database (`getpwnam_r(3)` and its kin), as NSS serves it: names to ids, ids to names,
//! and a user's groups. May block for as long as a directory service does; callers that cannot wait
//! ask from a thread of their own.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

use crate::error::Errno;

/// First size of the buffer for an entry's texts, in bytes; doubled while ERANGE asks for more.
const BUFFER_BYTES: usize = 4096;
/// A group of very many members may need much; beyond this something is wrong.
const BUFFER_BYTES_MAX: usize = 16 << 20;
/// First number of groups asked for; Linux allows a process 65,536 (`NGROUPS_MAX`).
const GROUPS: usize = 64;
const GROUPS_MAX: usize = 1 << 20;

/// The id of a user by name; `None` if there is none of that name.
pub fn uid_of(name: &str) -> Result<Option<u32>, Errno> {
    // A name with a NUL byte cannot exist.
    let Ok(name) = CString::new(name) else { return Ok(None) };
    entry(|record: *mut libc::passwd, buffer, length, found| {
        // SAFETY: `entry` hands out a writable record, a buffer of `length` bytes and a place for
        // the result; the name is NUL-terminated.
        unsafe { libc::getpwnam_r(name.as_ptr(), record, buffer, length, found) }
    })
    .map(|user| user.map(|user| user.record.pw_uid))
}

/// The id of a group by name; `None` if there is none of that name.
pub fn gid_of(name: &str) -> Result<Option<u32>, Errno> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    entry(|record: *mut libc::group, buffer, length, found| {
        // SAFETY: as in `uid_of`.
        unsafe { libc::getgrnam_r(name.as_ptr(), record, buffer, length, found) }
    })
    .map(|group| group.map(|group| group.record.gr_gid))
}

/// The name of a user, lossily where it is not UTF-8; `None` for a uid without an entry.
pub fn name_of(uid: u32) -> Result<Option<String>, Errno> {
    Ok(user(uid)?.map(|(name, _)| name.to_string_lossy().into_owned()))
}

/// All groups of a user by the user database, the primary one included. A uid without an entry has
/// none.
pub fn groups_of(uid: u32) -> Result<Vec<u32>, Errno> {
    let Some((name, gid)) = user(uid)? else { return Ok(Vec::new()) };
    let mut groups: Vec<libc::gid_t> = vec![gid; GROUPS];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: the name is NUL-terminated; `groups` has room for `count` ids.
        let fits =
            unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        let count = usize::try_from(count).map_err(|_| Errno::IO)?;
        if fits >= 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        // Too few places: the count says how many, but need not (BUGS in getgrouplist(3)).
        let larger = count.max(groups.len().saturating_mul(2));
        if larger > GROUPS_MAX {
            return Err(Errno::OVERFLOW);
        }
        groups.resize(larger, gid);
    }
}

/// Name and primary group.
fn user(uid: u32) -> Result<Option<(CString, u32)>, Errno> {
    let found = entry(|record: *mut libc::passwd, buffer, length, found| {
        // SAFETY: as in `uid_of`; the uid is a plain number.
        unsafe { libc::getpwuid_r(uid, record, buffer, length, found) }
    })?;
    let Some(found) = found else { return Ok(None) };
    if found.record.pw_name.is_null() {
        return Err(Errno::IO);
    }
    // SAFETY: not null, and getpwuid_r(3) points it at a NUL-terminated text in the buffer, which
    // `found` still owns.
    let name = unsafe { CStr::from_ptr(found.record.pw_name) }.to_owned();
    Ok(Some((name, found.record.pw_gid)))
}

/// An entry, together with the buffer that its pointers lead into.
struct Entry<T> {
    record: T,
    _buffer: Vec<libc::c_char>,
}

/// Runs one of the reentrant look-ups with a buffer that grows until the entry fits.
fn entry<T>(
    look_up: impl Fn(*mut T, *mut libc::c_char, libc::size_t, *mut *mut T) -> libc::c_int,
) -> Result<Option<Entry<T>>, Errno> {
    let mut buffer: Vec<libc::c_char> = vec![0; BUFFER_BYTES];
    loop {
        let mut record = MaybeUninit::<T>::uninit();
        let mut found: *mut T = std::ptr::null_mut();
        match look_up(record.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) {
            0 if found.is_null() => return Ok(None),
            0 => {
                // SAFETY: a result that is not null means that the record was filled in.
                let record = unsafe { record.assume_init() };
                return Ok(Some(Entry { record, _buffer: buffer }));
            }
            libc::EINTR => {}
            libc::ERANGE if buffer.len() < BUFFER_BYTES_MAX => {
                let larger = buffer.len().saturating_mul(2);
                buffer.resize(larger, 0);
            }
            // ERRORS in getpwnam(3): some systems say "not found" with these.
            libc::ENOENT | libc::ESRCH => return Ok(None),
            number => return Err(Errno::from_raw_os_error(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_number() {
        assert_eq!(uid_of("root"), Ok(Some(0)));
        assert_eq!(gid_of("root"), Ok(Some(0)));
        assert_eq!(name_of(0), Ok(Some("root".to_owned())));
        assert!(groups_of(0).unwrap().contains(&0));
    }

    #[test]
    fn what_does_not_exist_is_not_an_error() {
        assert_eq!(uid_of("no-such-user-of-octroi"), Ok(None));
        assert_eq!(gid_of("no-such-group-of-octroi"), Ok(None));
        assert_eq!(uid_of("nul\0byte"), Ok(None));
        assert_eq!(name_of(4_000_000_123), Ok(None));
        assert_eq!(groups_of(4_000_000_123), Ok(Vec::new()));
    }

    #[test]
    fn an_entry_larger_than_the_buffer_is_asked_for_again() {
        let asked = std::cell::Cell::new(0);
        let found = entry(|record: *mut u32, _, length, found| {
            asked.set(asked.get() + 1);
            if length < BUFFER_BYTES * 4 {
                return libc::ERANGE;
            }
            // SAFETY: both places are `entry`'s own and writable.
            unsafe {
                record.write(7);
                found.write(record);
            }
            0
        });
        assert_eq!(found.unwrap().map(|entry| entry.record), Some(7));
        assert_eq!(asked.get(), 3);
        assert_eq!(entry(|_: *mut u32, _, _, _| libc::ERANGE).err(), Some(Errno::RANGE));
        assert_eq!(entry(|_: *mut u32, _, _, _| libc::EIO).err(), Some(Errno::IO));
    }
}
