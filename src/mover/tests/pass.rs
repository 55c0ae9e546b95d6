//! The pass over a content, small and large: whole, in any state of the disk, or with an error.

#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges, here with one")]

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::*;
use crate::check::ContentType;
use crate::ledger::record::Step;
use crate::ledger::tests::step;
use crate::mover::pass::{CopyTo, Hashed, pass};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Two devices, a file `f` on the first, and its copy on the second.
struct Bench {
    disk: Disk,
    dirs: [SimulatedDir; 2],
    content: Vec<u8>,
}

/// A file with data in these ranges, and holes between them and up to `size`.
fn bench(size: u64, data: &[Range<u64>], options: DeviceOptions) -> Bench {
    let disk = Disk::new(Names::Journal);
    let dirs = [DeviceOptions { direct: false, ..options }, options];
    let dirs = dirs.map(|options| disk.add_device(options));
    let file = disk.create_file(&dirs[0], OsStr::new("f")).unwrap();
    let mut content = vec![0; size as usize];
    disk.set_len(&file, size).unwrap();
    for range in data {
        let bytes = &mut content[range.start as usize..range.end as usize];
        for (at, byte) in bytes.iter_mut().enumerate() {
            // Printable, and no two blocks alike.
            *byte = b'!' + ((at / 7 + at / 4099 * 31) % 90) as u8;
        }
        disk.write_at(&file, bytes, range.start).unwrap();
    }
    Bench { disk, dirs, content }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn new_progress() -> Progress {
    let record = step(TxId(ulid::Ulid(1)), Step::Prepare);
    Progress::new(&record, "stage", &Arc::default())
}

impl Bench {
    fn pass(
        &self,
        size: u64,
        verify: Verify,
        progress: &Progress,
    ) -> Result<Hashed, CrossingError> {
        let source = self.disk.open_read(&self.dirs[0], OsStr::new("f")).unwrap();
        let _ = self.disk.unlink(&self.dirs[1], OsStr::new("f"));
        let file = self.disk.create_file(&self.dirs[1], OsStr::new("f")).unwrap();
        self.disk.set_len(&file, size).unwrap();
        let copy = CopyTo { file: &file, branch: "b", verify };
        pass(&self.disk, &source, Some(copy), size, progress)
    }

    fn data(&self, dir: usize) -> Vec<Range<u64>> {
        let file = self.disk.open_read(&self.dirs[dir], OsStr::new("f")).unwrap();
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(range) = self.disk.next_data(&file, at).unwrap() {
            at = range.end;
            found.push(range);
        }
        found
    }
}

#[track_caller]
fn check(size: u64, data: &[Range<u64>], options: DeviceOptions) {
    let bench = bench(size, data, options);
    let wanted_hash = sha256(&bench.content);
    for verify in [Verify::Readback, Verify::Stream] {
        let progress = new_progress();
        bench.disk.set_options(1, options);
        let hashed = bench.pass(size, verify, &progress).unwrap();
        assert_eq!(hashed.sha256, wanted_hash, "{size}");
        let is_text = !bench.content.contains(&0);
        let wanted = if is_text { ContentType::Known("text/plain") } else { ContentType::Unknown };
        assert_eq!(hashed.content_type, wanted, "{size}");
        let compared = verify == Verify::Readback && options.direct && size >= 2 * MIB;
        assert_eq!(hashed.compared, compared, "{size}");
        bench.disk.set_options(1, DeviceOptions { read_max: usize::MAX, ..options });
        let copied = content(&bench.disk, &bench.dirs[1], OsStr::new("f")).unwrap();
        assert!(copied == bench.content, "{size}: the copy differs");
        assert_eq!(bench.data(1), bench.data(0), "{size}: other holes");
        assert_eq!(progress.bytes.into_inner(), size);
    }
}

#[test]
fn files_of_any_size_are_copied_whole() {
    let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 256 << 10, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1];
    for size in sizes.into_iter().chain([3 * MIB - 5, 19 * MIB + BLOCK + 7]) {
        check(size, &[0..size], DeviceOptions::default());
    }
}

#[test]
fn short_reads_and_disks_behind_a_cache_make_no_difference() {
    let usual = DeviceOptions::default();
    for size in [BLOCK + 1, 300 << 10, 2 * MIB + 77] {
        let all = &[0..size];
        check(size, all, DeviceOptions { direct: false, ..usual });
        for read_max in [4096, 12_288, 999_424] {
            check(size, all, DeviceOptions { read_max, ..usual });
        }
        for read_max in [1000, 5000, 300_001] {
            check(size, all, DeviceOptions { read_max, direct: false, ..usual });
        }
    }
}

#[test]
fn holes_stay_holes() {
    let usual = DeviceOptions::default();
    let blocks = |range: Range<u64>| range.start * BLOCK..range.end * BLOCK;
    let at_ends = [blocks(0..1), blocks(700..701)];
    let in_middle = [blocks(3..4), blocks(5..300), blocks(301..302)];
    for size in [5 * BLOCK, 500 * BLOCK, 701 * BLOCK, 3 * MIB + 1] {
        check(size, &[], usual);
        for data in [&at_ends[..], &in_middle] {
            let within: Vec<_> = data.iter().filter(|range| range.end <= size).cloned().collect();
            check(size, &within, usual);
        }
    }
    check(2 * MIB + 5, &[2 * MIB..2 * MIB + 5], usual);
    check(18 * MIB, &[blocks(0..2), 17 * MIB..18 * MIB], usual);
}

#[test]
fn an_error_at_any_step_is_the_result() {
    for (size, verify) in [(30 * BLOCK, Verify::Stream), (2 * MIB + 9, Verify::Readback)] {
        let bench = bench(size, &[0..9 * BLOCK, 20 * BLOCK..size], DeviceOptions::default());
        let before = bench.disk.steps();
        bench.pass(size, verify, &new_progress()).unwrap();
        // The bench itself opens, unlinks, creates and sets the length.
        let steps = bench.disk.steps() - before;
        assert!(steps > 4 + 4, "{steps} steps");
        for step in 4..steps {
            for (fault, errno) in
                [(Fault::Errno(Errno::NOSPC), Errno::NOSPC), (Fault::Crash, Errno::IO)]
            {
                let disk = bench.disk.crash(0);
                let bench = Bench { disk, content: Vec::new(), dirs: bench.dirs.clone() };
                bench.disk.fail_at(step, fault);
                let failed = bench.pass(size, verify, &new_progress()).err().unwrap();
                assert_eq!(failed.errno(), errno, "step {step}: {failed}");
            }
        }
    }
}

#[test]
fn a_copy_that_the_disk_gives_back_wrong_is_found() {
    for size in [2 * MIB, 9 * MIB + 1] {
        let rots = DeviceOptions { rots: true, ..DeviceOptions::default() };
        for data in [vec![], vec![0..size]] {
            let bench = bench(size, &data, rots);
            let failed = bench.pass(size, Verify::Readback, &new_progress()).err();
            assert_eq!(failed, Some(CrossingError::Verification { branch: "b".to_owned() }));
            assert!(bench.pass(size, Verify::Stream, &new_progress()).is_ok());
        }
    }
}

#[test]
fn a_source_that_ends_early_has_changed() {
    for size in [BLOCK + 100, 3 * MIB + 100] {
        let bench = bench(size, &[0..size], DeviceOptions::default());
        let longer = bench.pass(size + 50, Verify::Readback, &new_progress());
        assert_eq!(longer.err(), Some(CrossingError::SourceChanged));
        let (direct, _) = bench.disk.open_readback(&bench.dirs[0], OsStr::new("f")).unwrap();
        let longer = pass(&bench.disk, &direct, None, size + 50, &new_progress());
        assert_eq!(longer.err(), Some(CrossingError::SourceChanged));
        let hashed = pass(&bench.disk, &direct, None, size, &new_progress()).unwrap();
        assert_eq!(hashed.sha256, sha256(&bench.content));
    }
}

#[test]
fn what_a_source_gained_is_left() {
    for size in [BLOCK + 100, 3 * MIB + 100] {
        let bench = bench(size, &[0..size], DeviceOptions::default());
        let less = size - 150;
        let hashed = bench.pass(less, Verify::Readback, &new_progress()).unwrap();
        assert_eq!(hashed.sha256, sha256(&bench.content[..less as usize]));
        let copied = content(&bench.disk, &bench.dirs[1], OsStr::new("f")).unwrap();
        assert!(copied == bench.content[..less as usize]);
    }
}

#[test]
fn a_cancelled_pass_writes_nothing_more() {
    for size in [BLOCK, 9 * MIB] {
        let bench = bench(size, &[0..size], DeviceOptions::default());
        let progress = new_progress();
        progress.cancel(Stop::ClientLeft);
        let result = bench.pass(size, Verify::Readback, &progress);
        assert_eq!(result.err(), Some(CrossingError::Cancelled(Stop::ClientLeft)));
        assert_eq!(bench.data(1), []);
    }
}

#[test]
fn no_more_holes_are_hashed_than_may_be() {
    for size in [3 * BLOCK, 9 * MIB] {
        let data = [BLOCK..2 * BLOCK];
        let bench = bench(size, &data, DeviceOptions::default());
        let holes = size - BLOCK;
        for (max, expected) in
            [(holes - 1, Some(CrossingError::TooManyHoles)), (holes, None), (u64::MAX, None)]
        {
            let progress = new_progress();
            progress.limit_holes(max);
            let result = bench.pass(size, Verify::Readback, &progress);
            assert_eq!(result.err(), expected, "{size} {max}");
        }
    }
}
