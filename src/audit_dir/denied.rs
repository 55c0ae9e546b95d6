//! `denied.jsonl` as an index into the ledger. It keeps where stretches of lines begin, not each line, so that
//! millions of denials take little memory; a stretch is searched again when it is read.

use std::ops::Range;

use memchr::{memchr, memmem, memrchr};

use crate::error::{Errno, errno_of};
use crate::ledger::Reader;

/// In a JSON string the quotation marks would be escaped, so these bytes are the field.
const DENIED: &[u8] = br#""decision":"denied""#;

/// Bytes of the ledger that are searched in one step.
pub(super) const STEP: u64 = 1 << 20;

/// Bytes of the ledger that a stretch spans at most, as long as there are few: what one read searches. A gigabyte of a
/// ledger then takes 24 KiB.
const SPAN: u64 = 1 << 20;

/// Beyond this number, stretches become longer. As many take 1.5 MiB, and suffice for 32 GiB at the least.
const STRETCHES: usize = 1 << 16;

/// Longer than this they do not become: none goes beyond its segment.
const SPAN_MAX: u64 = 1 << 26;

/// A part of a segment that begins and ends with a denial. Lines that are none may lie in between.
struct Stretch {
    /// Offset in `denied.jsonl`. The next one begins where this one ends.
    start: u64,
    /// Offsets in the ledger.
    source: Range<u64>,
}

/// The denials as far as the ledger was searched.
pub(super) struct Denied {
    stretches: Vec<Stretch>,
    /// Offset in `denied.jsonl` after the last of them.
    end: u64,
    /// Offset in the ledger up to which it was searched.
    searched: u64,
    span: u64,
    stretches_max: usize,
}

impl Denied {
    /// Of a ledger that was not searched yet.
    pub fn new() -> Self {
        Self::bounded(SPAN, STRETCHES)
    }

    fn bounded(span: u64, stretches_max: usize) -> Self {
        Self { stretches: Vec::new(), end: 0, searched: 0, span, stretches_max }
    }

    /// Lets go of what is no longer there. To be called after each [`Reader::refresh`].
    pub fn follow(&mut self, lines: &Reader) {
        // A segment was taken back.
        while let Some(last) = self.stretches.pop_if(|last| last.source.end > lines.len()) {
            (self.end, self.searched) = (last.start, last.source.start);
        }
        self.searched = self.searched.min(lines.len());
        // Segments have left. None of their denials is in a stretch with one that stays.
        let first = lines.first();
        let gone = self.stretches.partition_point(|stretch| stretch.source.start < first);
        self.stretches.drain(..gone);
        self.searched = self.searched.max(first);
    }

    /// Offset of the first denial that is there.
    pub fn first(&self) -> u64 {
        self.stretches.first().map_or(self.end, |stretch| stretch.start)
    }

    /// Offset after the last denial that was found.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Searches the next [`STEP`] of the ledger; says whether there was anything to search.
    pub fn search(&mut self, lines: &Reader) -> Result<bool, Errno> {
        let from = self.searched;
        let mut bytes = read(lines, from..lines.len().min(from.saturating_add(STEP)))?;
        // A line that is longer than that can only be damage.
        let whole = memrchr(b'\n', &bytes).map_or(bytes.len(), |at| at.saturating_add(1));
        bytes.truncate(whole);
        for line in denials(&bytes) {
            let at = |offset: usize| from.saturating_add(offset as u64);
            self.add(at(line.start)..at(line.end), lines);
        }
        self.searched = from.saturating_add(whole as u64);
        Ok(whole > 0)
    }

    fn add(&mut self, line: Range<u64>, lines: &Reader) {
        let start = self.end;
        self.end = start.saturating_add(length(&line));
        let stretch = Stretch { start, source: line };
        if let Some(last) = self.stretches.last_mut()
            && may_be_one(last, &stretch, self.span, lines)
        {
            last.source.end = stretch.source.end;
            return;
        }
        if self.stretches.len() >= self.stretches_max {
            self.merge(lines);
        }
        self.stretches.push(stretch);
    }

    /// Makes longer stretches of those that there are, half as many at the most, unless each is in a segment
    /// of its own.
    fn merge(&mut self, lines: &Reader) {
        while self.stretches.len() > self.stretches_max / 2 && self.span < SPAN_MAX {
            self.span = self.span.saturating_mul(2);
            let span = self.span;
            self.stretches.dedup_by(|next, kept| {
                let is_one = may_be_one(kept, next, span, lines);
                if is_one {
                    kept.source.end = next.source.end;
                }
                is_one
            });
        }
        self.stretches_max = self.stretches_max.max(self.stretches.len().saturating_mul(2));
    }

    /// What there is from an offset on, at most `length` bytes, and at most to the end of a stretch; nothing
    /// only at the end. ESTALE for what has left the ledger.
    pub fn read(&self, lines: &Reader, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        if offset < self.first() {
            return Err(Errno::STALE);
        }
        let next = self.stretches.partition_point(|stretch| stretch.start <= offset);
        let stretch = next.checked_sub(1).and_then(|at| self.stretches.get(at));
        let Some(stretch) = stretch.filter(|_| offset < self.end) else { return Ok(Vec::new()) };
        let end = self.stretches.get(next).map_or(self.end, |next| next.start);
        let within = |end: u64| usize::try_from(end.saturating_sub(stretch.start)).unwrap_or(0);
        let (skip, all) = (within(offset), within(end));
        let wanted = skip..skip.saturating_add(length).min(all);
        let bytes = read(lines, stretch.source.clone())?;
        let mut found: Vec<u8> = Vec::new();
        for line in denials(&bytes) {
            found.extend(bytes.get(line).unwrap_or_default());
            if found.len() >= wanted.end {
                break;
            }
        }
        // In the place of lines that were cut off after a failed sync, as in `log.jsonl`.
        found.resize(found.len().max(all), b'\n');
        Ok(found.get(wanted).unwrap_or_default().to_vec())
    }
}

fn length(line: &Range<u64>) -> u64 {
    line.end.saturating_sub(line.start)
}

fn may_be_one(first: &Stretch, next: &Stretch, span: u64, lines: &Reader) -> bool {
    length(&(first.source.start..next.source.end)) <= span
        && lines.segment_start(next.source.start) <= first.source.start
}

/// Less only where the ledger's file is shorter than it was.
fn read(lines: &Reader, source: Range<u64>) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; usize::try_from(length(&source)).unwrap_or(0)];
    let read = lines.read_at(source.start, &mut bytes).map_err(|error| errno_of(&error))?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Where the denials are in whole lines, with their newlines.
fn denials(lines: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let finder = memmem::Finder::new(DENIED);
    let mut next = 0_usize;
    std::iter::from_fn(move || {
        let rest = lines.get(next..)?;
        let hit = finder.find(rest)?;
        let (before, after) = rest.split_at_checked(hit)?;
        let start = memrchr(b'\n', before).map_or(0, |at| at.saturating_add(1));
        let end = memchr(b'\n', after).map_or(after.len(), |at| at.saturating_add(1));
        let line = next.saturating_add(start)..next.saturating_add(hit).saturating_add(end);
        next = line.end;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// A line that is a denial or none, with so much in it.
    fn line(is_denied: bool, filler: usize) -> String {
        let decision = if is_denied { "denied" } else { "allowed" };
        let path = "\\\"decision\\\":\\\"denied\\\"";
        format!("{{\"decision\":\"{decision}\",\"path\":\"{path}{}\"}}\n", "x".repeat(filler))
    }

    /// Segments, and what of them is known.
    struct Ledger {
        folder: tempfile::TempDir,
        lines: Reader,
        denied: Denied,
    }

    impl Ledger {
        fn new(denied: Denied) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let lines = Reader::open(folder.path()).unwrap();
            Self { folder, lines, denied }
        }

        fn segment(&self, number: u64) -> PathBuf {
            self.folder.path().join(format!("{number:08}.jsonl"))
        }

        fn write(&self, number: u64, text: &str) {
            std::fs::write(self.segment(number), text).unwrap();
        }

        fn look(&mut self) {
            self.lines.refresh().unwrap();
            self.denied.follow(&self.lines);
            while self.denied.search(&self.lines).unwrap() {}
        }

        fn read(&self, mut offset: u64, length: usize) -> String {
            let mut bytes = Vec::new();
            while bytes.len() < length {
                let left = length - bytes.len();
                let more = self.denied.read(&self.lines, offset, left).unwrap();
                if more.is_empty() {
                    break;
                }
                offset += more.len() as u64;
                bytes.extend(more);
            }
            String::from_utf8(bytes).unwrap()
        }
    }

    fn denials_in(text: &str) -> String {
        let lines = text.split_inclusive('\n');
        lines.filter(|line| line.starts_with("{\"decision\":\"denied\"")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_read_is_what_a_look_at_each_line_finds(
            segments in prop::collection::vec(
                prop::collection::vec((any::<bool>(), 0..600_usize), 1..30),
                1..4,
            ),
            asked in prop::collection::vec((0..20_000_u64, 0..3_000_usize), 20),
            gone in 0..4_usize,
            span in 100..2_000_u64,
            stretches_max in 1..9_usize,
        ) {
            let mut ledger = Ledger::new(Denied::bounded(span, stretches_max));
            let mut texts: Vec<String> = Vec::new();
            for (at, segment) in segments.iter().enumerate() {
                texts.push(String::new());
                for (is_denied, filler) in segment {
                    texts[at].push_str(&line(*is_denied, *filler));
                    ledger.write(at as u64 + 1, &texts[at]);
                    // As much at a time as happens to be there.
                    if filler % 3 == 0 {
                        ledger.look();
                    }
                }
                ledger.look();
            }
            let all: String = texts.iter().map(|text| denials_in(text)).collect();
            let gone = gone.min(texts.len() - 1);
            for number in 0..gone {
                std::fs::remove_file(ledger.segment(number as u64 + 1)).unwrap();
            }
            ledger.look();
            let first: usize = texts[..gone].iter().map(|text| denials_in(text).len()).sum();
            prop_assert_eq!(ledger.denied.first(), first as u64);
            prop_assert_eq!(ledger.denied.end(), all.len() as u64);
            for (offset, length) in asked {
                if offset < first as u64 {
                    let read = ledger.denied.read(&ledger.lines, offset, length);
                    prop_assert_eq!(read, Err(Errno::STALE));
                    continue;
                }
                let start = (offset as usize).min(all.len());
                let end = (start + length).min(all.len());
                prop_assert_eq!(ledger.read(offset, length), &all[start..end]);
            }
        }
    }

    #[test]
    fn what_is_kept_does_not_grow_with_the_denials() {
        const LINES: usize = 20_000;
        let dense = line(true, 40).repeat(LINES);
        let sparse = (line(true, 40) + &line(false, 200).repeat(10)).repeat(LINES);
        for text in [dense, sparse] {
            let denials = denials_in(&text);
            let enough = 2 * text.len() / SPAN as usize + 1;
            for (denied, most) in [(Denied::new(), enough), (Denied::bounded(1 << 10, 64), 64)] {
                let mut ledger = Ledger::new(denied);
                ledger.write(1, &text);
                ledger.look();
                let kept = ledger.denied.stretches.len();
                assert!((2..=most).contains(&kept), "{kept} kept of {LINES}, not {most}");
                assert_eq!(ledger.denied.end(), denials.len() as u64);
                let start = denials.len() / 2 + 7;
                assert_eq!(ledger.read(start as u64, 1_000), &denials[start..start + 1_000]);
            }
        }
        assert!(STRETCHES * size_of::<Stretch>() <= 6 << 20);
    }

    #[test]
    fn one_step_searches_no_more_than_it_says() {
        let mut ledger = Ledger::new(Denied::new());
        ledger.write(1, &line(true, 40).repeat(50_000));
        ledger.lines.refresh().unwrap();
        ledger.denied.follow(&ledger.lines);
        assert_eq!(ledger.denied.end(), 0);
        assert!(ledger.denied.search(&ledger.lines).unwrap());
        assert!((1..=STEP).contains(&ledger.denied.end()));
    }

    #[test]
    fn lines_that_were_cut_off_leave_empty_ones() {
        let mut ledger = Ledger::new(Denied::new());
        let (one, two) = (line(true, 1), line(true, 2));
        ledger.write(1, &[&one, &two, &two].map(String::as_str).concat());
        ledger.look();
        // They were never durable: the next segment has them again.
        ledger.write(1, &one);
        ledger.write(2, &[&two, &two].map(String::as_str).concat());
        ledger.look();
        let empty = "\n".repeat(2 * two.len());
        let all = [&one, &empty, &two, &two].map(String::as_str).concat();
        assert_eq!(ledger.read(0, 10_000), all);
        assert_eq!(ledger.denied.end(), all.len() as u64);
        assert_eq!(ledger.read(one.len() as u64 + 1, 3), "\n\n\n");
    }

    #[test]
    fn a_segment_that_is_taken_back_takes_its_denials_along() {
        let mut ledger = Ledger::new(Denied::new());
        let [one, two, three] = [1, 2, 3].map(|filler| line(true, filler));
        ledger.write(1, &one);
        ledger.write(2, &two.repeat(2));
        ledger.look();
        std::fs::remove_file(ledger.segment(2)).unwrap();
        ledger.look();
        assert_eq!(ledger.read(0, 10_000), one);
        ledger.write(2, &three);
        ledger.look();
        assert_eq!(ledger.read(0, 10_000), one.clone() + &three);
        ledger.write(3, &line(false, 1_000));
        ledger.look();
        std::fs::remove_file(ledger.segment(3)).unwrap();
        ledger.look();
        ledger.write(3, &two);
        ledger.look();
        assert_eq!(ledger.read(0, 10_000), one + &three + &two);
    }

    #[test]
    fn what_left_before_it_was_searched_is_never_there() {
        let mut ledger = Ledger::new(Denied::new());
        let (one, two) = (line(true, 1), line(true, 2));
        ledger.write(1, &one);
        ledger.write(2, &two);
        ledger.lines.refresh().unwrap();
        ledger.denied.follow(&ledger.lines);
        std::fs::remove_file(ledger.segment(1)).unwrap();
        ledger.look();
        assert_eq!(ledger.denied.first(), 0);
        assert_eq!(ledger.read(0, 10_000), two);
    }
}
