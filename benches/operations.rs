//! Times one kind of file operation in a folder, for `scripts/bench`: a process a file or an
//! interpreter's loop would cost more than the operations measured.
//!
//! `operations FOLDER ROW COUNT` prints the seconds that COUNT operations took. Rows build on each other:
//! `create`, then `stat`, `read`, `rename`, then `unlink`.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a benchmark prints")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Bytes in each file.
const SIZE: usize = 1024;

fn name(folder: &Path, index: usize, renamed: bool) -> PathBuf {
    folder.join(format!("{}{index:06}", if renamed { "renamed-" } else { "file-" }))
}

fn operation(row: &str, folder: &Path, index: usize) -> io::Result<()> {
    match row {
        "create" => File::create(name(folder, index, false))?.write_all(&[b'x'; SIZE]),
        "stat" => std::fs::metadata(name(folder, index, false)).map(drop),
        "read" => {
            let mut buffer = [0; SIZE];
            File::open(name(folder, index, false))?.read_exact(&mut buffer)
        }
        "rename" => std::fs::rename(name(folder, index, false), name(folder, index, true)),
        "unlink" => std::fs::remove_file(name(folder, index, true)),
        other => Err(io::Error::other(format!("unknown row {other}"))),
    }
}

fn run() -> io::Result<()> {
    // Cargo adds --bench when it runs this itself.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [folder, row, count] = arguments.as_slice() else {
        return Err(io::Error::other("usage: operations FOLDER ROW COUNT (see scripts/bench)"));
    };
    let count: usize = count.parse().map_err(io::Error::other)?;
    let folder = Path::new(folder);
    let started = Instant::now();
    for index in 0..count {
        operation(row, folder, index)?;
    }
    println!("{:.6}", started.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operations: {error}");
            ExitCode::FAILURE
        }
    }
}
