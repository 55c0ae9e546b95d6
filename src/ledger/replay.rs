//! Reads a ledger that is not in use, checks it, and says what a crash may have left to be repaired.
//!
//! A crash may leave the end of the ledger torn: lines that were written but not synced are there,
//! not there, or there in part and in any order. Such an end is cut off. Damage of a line that was
//! durable is never repaired. The two are told apart by `synced` ([`super::encode`]): when a later
//! line says that the damaged one had been synced, it is damage. Nothing is cut before all was read, and
//! compared with what vouches for it: what looks torn or void may be what somebody made it look.
//!
//! After a failed sync the lines that it should have written follow in a new segment, whose version
//! record has the `seq` of the first of them and says `after_failed_sync`. Whatever the old segment
//! holds from that `seq` on was never durable and is void, duplicates included: it is cut off.

use crate::error::Errno;
use crate::storage::Storage;

use super::decode::Decoded;
use super::record::{MountEvent, Record, VersionRecord};
use super::start::Line;
use super::{Entry, LedgerError, segment};

mod batch;
mod lines;

use batch::ReadLine;
use lines::SegmentLines;

/// The largest `seq`: readers of JSON keep integers exactly up to here.
const SEQ_MAX: u64 = 1 << 53;
const NO_VERSION: &str = "the segment does not begin with a version record";

/// Where writing goes on.
#[derive(Debug, Default)]
pub struct Replayed {
    /// The last segment; 0 when there is none.
    pub segment: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The next record's position.
    pub next_seq: u64,
    /// Bytes that were cut off.
    pub torn_bytes: u64,
    /// The last record is neither `mounted` nor `unmounted`, and no damage was accepted before it.
    pub unclean: bool,
    /// What is to be done before writing goes on.
    pub repairs: Vec<Repair>,
    /// Damage that is accepted, in words: the segments end before it.
    pub damage: Vec<String>,
    /// All segments that are there.
    numbers: Vec<u64>,
}

impl Replayed {
    /// Damage is an error, or accepted.
    fn meet(&mut self, error: LedgerError, accept: bool) -> Result<(), LedgerError> {
        let what = match &error {
            LedgerError::Damaged { segment, line: 0, why } => format!("{segment}: {why}"),
            LedgerError::Damaged { segment, line, why } => {
                format!("{segment} is damaged at line {line}: {why}")
            }
            LedgerError::Unreadable { segment, errno } if is_damage(*errno) => {
                format!("{segment} cannot be read to its end: {errno}")
            }
            _ => return Err(error),
        };
        if !accept {
            return Err(error);
        }
        self.damage.push(what);
        Ok(())
    }

    /// Nothing that was read counts: all segments leave.
    pub fn start_over(&mut self) {
        let remove = |segment: &u64| Repair::Remove { segment: *segment };
        let repairs = self.numbers.iter().map(remove).collect();
        let (damage, numbers) =
            (std::mem::take(&mut self.damage), std::mem::take(&mut self.numbers));
        *self = Self { repairs, damage, numbers, ..Self::default() };
    }
}

/// What a ledger must be like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// A checkpoint vouches for so many lines: of these none can be torn.
    pub least: u64,
    /// Damage is accepted.
    pub accept: bool,
    /// From this `seq` on the lines are not those that were signed: that is damage.
    pub foreign_from: Option<u64>,
}

/// Which lines of a segment count.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    /// The `seq` of the first.
    expected: Option<u64>,
    /// From this one on they are void.
    void_from: Option<u64>,
    /// See [`Terms`].
    foreign_from: Option<u64>,
}

/// Whether a file that cannot be read for this reason cannot be read at any other time either.
fn is_damage(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::IO
            | Errno::INVAL
            | Errno::ISDIR
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::NODATA
            | Errno::BADMSG
            | Errno::UCLEAN
    )
}

/// What a crash has left to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// A segment's torn or void end goes, from this length on.
    Cut {
        /// Which.
        segment: u64,
        /// What stays, in bytes.
        length: u64,
    },
    /// A segment without any durable record goes.
    Remove {
        /// Which.
        segment: u64,
    },
}

impl Repair {
    /// Of which segment.
    pub fn segment(self) -> u64 {
        match self {
            Self::Cut { segment, .. } | Self::Remove { segment } => segment,
        }
    }
}

/// What is in a segment up to the first line that does not check or does not count.
#[derive(Default)]
struct Scanned {
    /// Lines that check.
    lines: u64,
    /// The position after the last of them.
    next_seq: u64,
    /// Bytes of the lines that check.
    good: u64,
    length: u64,
    /// Line number and reason of the first bad line.
    bad: Option<(u64, String)>,
    /// Largest `synced` of a whole line after the first bad one.
    synced_after: u64,
    /// A line follows that the next segment has anew.
    void: bool,
    /// It could not be read on.
    failed: Option<LedgerError>,
}

/// Checks all segments and hands each line to `replay` in order. Changes nothing: what a crash tore is
/// for [`repair`]. Damage that is accepted ends the ledger: what comes after is for repair too, and must be
/// kept.
pub fn replay<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    Terms { least, accept, foreign_from }: Terms,
    replay: &mut dyn FnMut(&Line<'_>),
) -> Result<Replayed, LedgerError> {
    let list = |errno| LedgerError::Io { attempted: "list", segment: "directory".into(), errno };
    let mut numbers = segment::list(storage, dir).map_err(list)?;
    let mut result = Replayed { numbers: numbers.clone(), ..Replayed::default() };
    let unborn = take_unborn(storage, dir, &mut numbers)?;
    let mut next: Option<u64> = None;
    let mut serving = false;
    let mut take = |line: &Line<'_>| {
        serving = is_serving(&line.entry.record, serving);
        replay(line);
    };
    let bounds = |expected, void_from| Bounds { expected, void_from, foreign_from };
    let mut rest = numbers.as_slice();
    while let Some((number, after)) = rest.split_first() {
        let number = *number;
        rest = after;
        let mut is_last = false;
        let mut end = None;
        match after.first().map(|next| follower(storage, dir, number, *next)).transpose() {
            Ok(found) => end = found,
            Err(error) => {
                result.meet(error, accept)?;
                is_last = true;
            }
        }
        let void_from = end.filter(|(_, failed)| *failed).map(|(seq, _)| seq);
        let mut scanned = scan(storage, dir, number, bounds(next, void_from), &mut take);
        let failed = scanned.failed.take();
        let mut judged = failed.map_or(Ok(()), Err);
        let mut is_cut = judged.is_err();
        if judged.is_ok() {
            judged = judge_end(number, &mut scanned, end, least);
        }
        if let Err(error) = judged {
            result.meet(error, accept)?;
            is_last = true;
            // Not this segment is wrong, but the next, which says that all of this is void.
            if scanned.lines == 0 && scanned.void {
                scanned = scan(storage, dir, number, bounds(next, None), &mut take);
                is_cut = scanned.failed.is_some();
            }
        }
        let torn_bytes = scanned.length.saturating_sub(scanned.good);
        is_cut |= torn_bytes > 0;
        result.torn_bytes = result.torn_bytes.saturating_add(torn_bytes);
        if scanned.lines > 0 {
            next = Some(scanned.next_seq);
            (result.segment, result.length) = (number, scanned.good);
            if is_cut {
                result.repairs.push(Repair::Cut { segment: number, length: scanned.good });
            }
        } else {
            result.repairs.push(Repair::Remove { segment: number });
        }
        if is_last {
            break;
        }
    }
    result.repairs.extend(rest.iter().map(|segment| Repair::Remove { segment: *segment }));
    result.next_seq = next.unwrap_or(0);
    if let Some(Unborn { number, length, why, damage }) = unborn {
        if let Some(error) = damage {
            result.meet(error, accept)?;
        } else if result.next_seq < least {
            result.meet(damaged(number, 1, vouched(&why, least)), accept)?;
        }
        result.repairs.push(Repair::Remove { segment: number });
        result.torn_bytes = result.torn_bytes.saturating_add(length);
    }
    // What damage takes out may have had the end of the last run, and its loss is recorded.
    result.unclean = result.damage.is_empty() && (serving || result.torn_bytes > 0);
    Ok(result)
}

/// Whether a daemon serves after a record, if it did before.
fn is_serving(record: &Record, before: bool) -> bool {
    match record {
        Record::Mount(mount) => mount.event == MountEvent::Mounted,
        Record::Operation(_) | Record::Crossing(_) | Record::Purge(_) | Record::Check(_) => true,
        // What was before is accounted for.
        Record::Loss(_) => false,
        _ => before,
    }
}

/// A last segment without a version record.
struct Unborn {
    number: u64,
    length: u64,
    why: String,
    /// It had one: a later line in it says that it was durable.
    damage: Option<LedgerError>,
}

/// Takes away a last segment in which nothing was ever synced: its version record is synced before
/// anything follows, so without one it holds no record that anybody was promised.
fn take_unborn<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    numbers: &mut Vec<u64>,
) -> Result<Option<Unborn>, LedgerError> {
    let Some(number) = numbers.last().copied() else { return Ok(None) };
    let why = match first_line(storage, dir, number) {
        Ok(Ok(_)) => return Ok(None),
        Ok(Err(why)) => why,
        // Told when it is read.
        Err(_) => return Ok(None),
    };
    let scanned = scan(storage, dir, number, Bounds::default(), &mut |_| {});
    let synced = scanned.bad.filter(|_| scanned.synced_after > 0);
    let damage = scanned.failed.or(synced.map(|(line, why)| damaged(number, line, why)));
    numbers.pop();
    Ok(Some(Unborn { number, length: scanned.length, why, damage }))
}

/// After a kill the last lines may be in the page cache only; replay reads what is on the disk. A last segment that
/// cannot be opened is damaged: if that is to be accepted, it is when it is read.
pub fn sync_last<S: Storage>(storage: &S, dir: &S::Dir, accept: bool) -> Result<(), LedgerError> {
    let list = |errno| LedgerError::Io { attempted: "list", segment: "directory".into(), errno };
    let Some(number) = segment::list(storage, dir).map_err(list)?.pop() else { return Ok(()) };
    let file = match storage.open_write(dir, &segment::file_name(number)) {
        Err(errno) if is_damage(errno) => {
            return if accept { Ok(()) } else { Err(lines::unreadable(number, errno)) };
        }
        opened => opened,
    };
    file.and_then(|file| storage.sync_file(&file))
        .and_then(|()| storage.sync_dir(dir))
        .map_err(|errno| io("sync", number, errno))
}

/// Cuts off and removes what a crash has left.
pub fn repair<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    repairs: &[Repair],
) -> Result<(), LedgerError> {
    for repair in repairs {
        match *repair {
            Repair::Cut { segment, length } => cut(storage, dir, segment, length)?,
            Repair::Remove { segment } => remove(storage, dir, segment)?,
        }
    }
    Ok(())
}

fn remove<S: Storage>(storage: &S, dir: &S::Dir, number: u64) -> Result<(), LedgerError> {
    let removed = storage.unlink(dir, &segment::file_name(number));
    removed.and_then(|()| storage.sync_dir(dir)).map_err(|errno| io("remove", number, errno))
}

fn cut<S: Storage>(storage: &S, dir: &S::Dir, number: u64, length: u64) -> Result<(), LedgerError> {
    let cut = storage.open_write(dir, &segment::file_name(number)).and_then(|file| {
        storage.set_len(&file, length)?;
        storage.sync_file(&file)
    });
    cut.map_err(|errno| io("cut the torn end of", number, errno))
}

fn vouched(why: &str, least: u64) -> String {
    format!("{why}, and a checkpoint vouches for {least} lines")
}

/// Decides what the end of a segment is: whole, torn or void (then it is to be cut off), or damaged.
/// `end` is the position at which the following segment takes over, and whether a sync had failed.
fn judge_end(
    number: u64,
    scanned: &mut Scanned,
    end: Option<(u64, bool)>,
    least: u64,
) -> Result<(), LedgerError> {
    let reached = scanned.next_seq;
    match end {
        // Its version record was durable before anything followed, so that it is void in no case.
        Some((seq, true)) if scanned.lines == 0 && scanned.void => {
            let why = format!("the next segment begins with seq {seq}, which is before it");
            return Err(damaged(number, 1, why));
        }
        Some((seq, true)) if reached == seq && scanned.lines > 0 => {}
        Some((seq, _)) => {
            if let Some((line, why)) = scanned.bad.take() {
                return Err(damaged(number, line, why));
            }
            if reached != seq {
                let why = format!("the segment ends before seq {seq}, which the next begins with");
                return Err(damaged(number, scanned.lines, why));
            }
        }
        None => {
            if let Some((line, why)) = scanned.bad.take_if(|_| scanned.synced_after > reached) {
                return Err(damaged(number, line, why));
            }
            if let Some((line, why)) = scanned.bad.take_if(|_| reached < least) {
                return Err(damaged(number, line, vouched(&why, least)));
            }
        }
    }
    Ok(())
}

/// What follows a segment, which must be the next.
fn follower<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    number: u64,
    next: u64,
) -> Result<(u64, bool), LedgerError> {
    match number.checked_add(1) {
        Some(wanted) if wanted == next => opening(storage, dir, next),
        wanted => Err(damaged(wanted.unwrap_or(number), 0, "the segment is missing".into())),
    }
}

/// The `seq` of a segment's version record, and whether it was begun after a failed sync.
fn opening<S: Storage>(storage: &S, dir: &S::Dir, number: u64) -> Result<(u64, bool), LedgerError> {
    match first_line(storage, dir, number)? {
        Ok(Entry { seq, record: Record::Version(version), .. }) => {
            Ok((seq, version.after_failed_sync))
        }
        Ok(_) => Err(damaged(number, 1, NO_VERSION.into())),
        Err(why) => Err(damaged(number, 1, why)),
    }
}

/// A segment's first line, or why it does not check.
fn first_line<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    number: u64,
) -> Result<Result<Entry, String>, LedgerError> {
    let mut lines = SegmentLines::open(storage, dir, number)?;
    let line = lines.next()?.unwrap_or_default();
    Ok(batch::decode_line(line).and_then(|decoded| admit(decoded, 0, None)))
}

/// Reads a segment and hands on each line that checks and counts.
fn scan<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    number: u64,
    Bounds { mut expected, void_from, foreign_from }: Bounds,
    each: &mut dyn FnMut(&Line<'_>),
) -> Scanned {
    let mut scanned = Scanned::default();
    let mut lines = match SegmentLines::open(storage, dir, number) {
        Ok(lines) => lines,
        Err(error) => return Scanned { failed: Some(error), ..scanned },
    };
    loop {
        let (batch, failed) = batch::take(&mut lines);
        let is_last = batch.is_empty() || failed.is_some();
        for (line, ReadLine { decoded, leaf }) in batch.iter().zip(batch::read(&batch)) {
            scanned.length = scanned.length.saturating_add(line.len() as u64);
            if scanned.void {
                continue;
            }
            if scanned.bad.is_some() {
                let synced = decoded.ok().and_then(|decoded| decoded.synced);
                scanned.synced_after = scanned.synced_after.max(synced.unwrap_or(0));
                continue;
            }
            match decoded.and_then(|decoded| admit(decoded, scanned.lines, expected)) {
                Ok(entry) if void_from.is_some_and(|seq| entry.seq >= seq) => scanned.void = true,
                Ok(entry) if foreign_from.is_some_and(|seq| entry.seq >= seq) => {
                    let why = format!("seq {} is not the line that was signed", entry.seq);
                    scanned.bad = Some((scanned.lines.saturating_add(1), why));
                }
                Ok(entry) => {
                    scanned.next_seq = entry.seq.saturating_add(1);
                    expected = Some(scanned.next_seq);
                    scanned.lines = scanned.lines.saturating_add(1);
                    scanned.good = scanned.length;
                    each(&Line { entry: &entry, length: line.len() as u64, leaf, segment: number });
                }
                Err(why) => scanned.bad = Some((scanned.lines.saturating_add(1), why)),
            }
        }
        if is_last {
            return Scanned { failed, ..scanned };
        }
    }
}

/// Checks a line's place: versions open segments, and positions have no gaps.
fn admit(decoded: Decoded, at: u64, expected: Option<u64>) -> Result<Entry, String> {
    let entry = decoded.entry;
    match &entry.record {
        Record::Version(VersionRecord { format: 1, .. }) if at == 0 => {}
        Record::Version(version) if at == 0 => {
            return Err(format!("format {} is not known to this program", version.format));
        }
        _ if at == 0 => return Err(NO_VERSION.into()),
        Record::Version(_) => return Err("a version record inside a segment".into()),
        _ => {}
    }
    if entry.seq > SEQ_MAX {
        return Err(format!("seq is {}, which no ledger reaches", entry.seq));
    }
    match expected {
        // The version record after a failed sync takes the position of the first void line.
        Some(seq) if entry.seq != seq => Err(format!("seq is {} where {seq} must be", entry.seq)),
        _ => Ok(entry),
    }
}

fn damaged(number: u64, line: u64, why: String) -> LedgerError {
    let segment = segment::file_name(number).to_string_lossy().into_owned();
    LedgerError::Damaged { segment, line, why }
}

pub(super) fn io(attempted: &'static str, number: u64, errno: Errno) -> LedgerError {
    let segment = segment::file_name(number).to_string_lossy().into_owned();
    LedgerError::Io { attempted, segment, errno }
}
