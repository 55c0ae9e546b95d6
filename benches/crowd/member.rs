//! One of many that work in one folder at once and know what each of their files contains.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A step more removes one first.
const FILES_MAX: usize = 11;
const SIZE_MAX: u64 = 20_000;
const SHARED: u64 = 8;
/// The folder of the files that all replace and read.
pub const SHARED_FOLDER: &str = "work/shared";

/// Nanoseconds of all calls, by their kind.
pub type Times = BTreeMap<String, Vec<u64>>;

/// What is not as it should be.
pub fn wrong(what: String) -> io::Error {
    io::Error::other(what)
}

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    /// The time to the next of events that happen so often a second, independent of each other.
    fn pause(&mut self, rate: f64) -> Duration {
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - share).ln() / rate)
    }
}

/// What a file contains: so many bytes that follow from the seed.
#[derive(Clone, Copy)]
struct Content {
    seed: u64,
    size: usize,
}

impl Content {
    fn roll(dice: &mut Dice) -> Self {
        Self { seed: dice.next(), size: 1 + dice.below(SIZE_MAX - 1) as usize }
    }

    fn bytes(self) -> Vec<u8> {
        let mut dice = Dice(self.seed);
        let mut bytes = Vec::with_capacity(self.size + 8);
        while bytes.len() < self.size {
            bytes.extend_from_slice(&dice.next().to_le_bytes());
        }
        bytes.truncate(self.size);
        bytes
    }
}

/// One with files of its own in `work` and `store`, between which rename(2) must lead.
pub struct Member {
    number: u64,
    dice: Dice,
    places: [PathBuf; 2],
    shared: Option<PathBuf>,
    files: Vec<(PathBuf, Content)>,
    named: u64,
    times: Times,
}

impl Member {
    /// Makes its folders and first files; `apart`, it leaves those alone that all replace and read.
    pub fn new(top: &Path, number: u64, apart: bool) -> io::Result<Self> {
        let places = ["work", "store"].map(|name| top.join(name).join(format!("member-{number}")));
        for place in &places {
            std::fs::create_dir_all(place.join("folder"))?;
        }
        let shared = (!apart).then(|| top.join(SHARED_FOLDER));
        let (dice, files, times) = (Dice(number), Vec::new(), Times::new());
        let mut member = Self { number, dice, places, shared, files, named: 0, times };
        for _ in 0..5 {
            member.create()?;
        }
        Ok(member)
    }

    fn timed<T>(&mut self, kind: &str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let started = Instant::now();
        let result = call();
        let spent = started.elapsed().as_nanos() as u64;
        self.times.entry(kind.to_owned()).or_default().push(spent);
        result.map_err(|error| io::Error::new(error.kind(), format!("{kind}: {error}")))
    }

    fn fresh(&mut self, place: usize) -> PathBuf {
        self.named += 1;
        let folder = if self.dice.below(2) == 0 { "" } else { "folder" };
        self.places[place].join(folder).join(format!("file-{}", self.named))
    }

    /// The index of one of the files.
    fn any(&mut self) -> Option<usize> {
        let count = self.files.len() as u64;
        (count > 0).then(|| self.dice.below(count) as usize)
    }

    /// Works for so long, in so many steps a second. What is lost, torn, at both places or listed wrongly is an error.
    pub fn work(&mut self, seconds: f64, rate: f64) -> io::Result<()> {
        self.times.clear();
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        loop {
            std::thread::sleep(self.dice.pause(rate));
            if Instant::now() > until {
                return Ok(());
            }
            self.step()?;
        }
    }

    fn step(&mut self) -> io::Result<()> {
        match self.dice.below(20) {
            0..6 => self.stat(),
            6..11 => self.read(),
            11..13 => self.create(),
            13..15 => self.remove(),
            15..17 => self.rename(),
            17 => self.list(),
            18 => self.replace_shared(),
            _ => self.cross(),
        }
    }

    fn stat(&mut self) -> io::Result<()> {
        let Some(index) = self.any() else { return Ok(()) };
        let (path, content) = self.files[index].clone();
        let found = self.timed("stat", || std::fs::metadata(&path))?.len();
        if found != content.size as u64 {
            return Err(wrong(format!("{}: {found} bytes of {}", path.display(), content.size)));
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(index) = self.any() else { return Ok(()) };
        let (path, content) = self.files[index].clone();
        let mut file = self.timed("open", || File::open(&path))?;
        let mut found = vec![0; 100_000];
        let size = self.timed("read", || file.read(&mut found))?;
        if found[..size] != content.bytes() {
            return Err(wrong(format!("{}: other content", path.display())));
        }
        Ok(())
    }

    fn create(&mut self) -> io::Result<()> {
        if self.files.len() >= FILES_MAX {
            self.remove()?;
        }
        let place = self.dice.below(2) as usize;
        let (path, content) = (self.fresh(place), Content::roll(&mut self.dice));
        let data = content.bytes();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let mut file = self.timed("create", || options.open(&path))?;
        let written = self.timed("write", || file.write(&data))?;
        if written != data.len() {
            return Err(wrong(format!("{}: {written} bytes written", path.display())));
        }
        self.files.push((path, content));
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        let Some(index) = self.any() else { return Ok(()) };
        let (path, _) = self.files.swap_remove(index);
        self.timed("unlink", || std::fs::remove_file(&path))
    }

    /// To the same folder: the kernel has one lock for all renames that change the folder.
    fn rename(&mut self) -> io::Result<()> {
        let Some(index) = self.any() else { return Ok(()) };
        let path = self.files[index].0.clone();
        self.named += 1;
        let target = path.with_file_name(format!("renamed-{}", self.named));
        self.timed("rename", || std::fs::rename(&path, &target))?;
        self.files[index].0 = target;
        Ok(())
    }

    fn list(&mut self) -> io::Result<()> {
        let place = self.places[self.dice.below(2) as usize].clone();
        let found = self.timed("list", || {
            let entries = std::fs::read_dir(&place)?;
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<BTreeSet<OsString>>>()
        })?;
        let here = self.files.iter().filter(|(path, _)| path.parent() == Some(&place));
        let mut known: BTreeSet<OsString> =
            here.filter_map(|(path, _)| path.file_name().map(OsString::from)).collect();
        known.insert("folder".into());
        if found != known {
            let place = place.display();
            return Err(wrong(format!("{place}: listed {found:?}, there is {known:?}")));
        }
        Ok(())
    }

    /// All replace and read the same few files: each must be one of what was written.
    fn replace_shared(&mut self) -> io::Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let path = shared.join(format!("file-{}", self.dice.below(SHARED)));
        let own = path.with_extension(self.number.to_string());
        let mut data = Content::roll(&mut self.dice).bytes();
        data.extend_from_slice(&crc32c::crc32c(&data).to_be_bytes());
        std::fs::write(&own, &data)?;
        std::fs::rename(&own, &path)?;
        let found = std::fs::read(&path)?;
        match found.split_last_chunk() {
            Some((data, crc)) if crc32c::crc32c(data).to_be_bytes() == *crc => Ok(()),
            _ => Err(wrong(format!("{}: torn, {} bytes", path.display(), found.len()))),
        }
    }

    /// Not timed: it does more than a rename. It may be refused as busy; then the file is where it was.
    fn cross(&mut self) -> io::Result<()> {
        let Some(index) = self.any() else { return Ok(()) };
        let (source, content) = self.files[index].clone();
        let elsewhere = usize::from(source.starts_with(&self.places[0]));
        let target = self.fresh(elsewhere);
        match std::fs::rename(&source, &target) {
            Err(error) if error.kind() != io::ErrorKind::ResourceBusy => return Err(error),
            _ => {}
        }
        let at = match (source.symlink_metadata().is_ok(), target.symlink_metadata().is_ok()) {
            (true, false) => source,
            (false, true) => target,
            (there, _) => {
                let both = if there { "both" } else { "neither" };
                let (source, target) = (source.display(), target.display());
                return Err(wrong(format!("{source} to {target}: at {both}")));
            }
        };
        if std::fs::read(&at)? != content.bytes() {
            return Err(wrong(format!("{}: other content", at.display())));
        }
        self.files[index].0 = at;
        Ok(())
    }

    /// Looks at all that is left and removes it.
    pub fn finish(mut self) -> io::Result<Times> {
        for (path, content) in std::mem::take(&mut self.files) {
            if std::fs::read(&path)? != content.bytes() {
                return Err(wrong(format!("{}: other content", path.display())));
            }
            std::fs::remove_file(&path)?;
        }
        for place in &self.places {
            std::fs::remove_dir(place.join("folder"))?;
            std::fs::remove_dir(place)?;
        }
        Ok(self.times)
    }
}
