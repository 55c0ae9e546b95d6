//! Many processes that work in one folder at once and know what each of their files contains, for
//! `scripts/prove.d/crowd`. An interpreter takes more of the processors than the file system it is to
//! measure, and all of them wait for each other then.
//!
//! `crowd FOLDER PROCESSES SECONDS STEPS` takes STEPS a second in all, in the folders `work` and `store` of
//! FOLDER, between which rename(2) must lead, and `work/shared`. It prints a line of JSON: the nanoseconds
//! of all calls by their kind. What is lost, torn, at both places or listed wrongly ends it with 1.
//! A fifth word, `apart`, leaves out the files that all replace and read.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout
)]

use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

#[path = "crowd/member.rs"]
mod member;

use member::{Member, SHARED_FOLDER, Times, wrong};

const MEMBER: &str = "member";
const APART: &str = "apart";

/// Says that it is ready, waits for a line, works, and prints its times.
fn be_member(top: &Path, number: u64, seconds: f64, rate: f64, apart: bool) -> io::Result<()> {
    let mut member = Member::new(top, number, apart)?;
    println!();
    io::stdin().lock().read_line(&mut String::new())?;
    member.work(seconds, rate)?;
    println!("{}", serde_json::to_string(&member.finish()?).map_err(io::Error::other)?);
    Ok(())
}

/// A member's process, and the lines that it prints.
struct Started {
    child: Child,
    lines: io::Lines<BufReader<ChildStdout>>,
}

impl Started {
    fn new(words: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or_else(|| wrong("no output".to_owned()))?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    fn line(&mut self) -> io::Result<String> {
        self.lines.next().unwrap_or_else(|| Err(wrong("a process ended".to_owned())))
    }
}

fn crowd(
    top: &str,
    processes: u64,
    seconds: &str,
    steps: f64,
    apart: &[&str],
) -> io::Result<Times> {
    let shared = Path::new(top).join(SHARED_FOLDER);
    std::fs::create_dir(&shared)?;
    let rate = (steps / processes as f64).to_string();
    let mut members = (0..processes)
        .map(|number| {
            Started::new(&[&[MEMBER, top, &number.to_string(), seconds, &rate], apart].concat())
        })
        .collect::<io::Result<Vec<_>>>()?;
    for member in &mut members {
        member.line()?;
    }
    // The end of their input lets them go.
    members.iter_mut().for_each(|member| drop(member.child.stdin.take()));
    let mut times = Times::new();
    for member in &mut members {
        let done: Times = serde_json::from_str(&member.line()?).map_err(io::Error::other)?;
        for (kind, spent) in done {
            times.entry(kind).or_default().extend(spent);
        }
        member.child.wait()?;
    }
    std::fs::remove_dir_all(shared)?;
    Ok(times)
}

fn run() -> io::Result<()> {
    // Cargo adds --bench when it runs this itself.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().map_err(io::Error::other);
    let real = |word: &str| word.parse::<f64>().map_err(io::Error::other);
    match words.as_slice() {
        [MEMBER, top, of, seconds, rate, apart @ ..] => {
            let apart = !apart.is_empty();
            be_member(Path::new(top), number(of)?, real(seconds)?, real(rate)?, apart)
        }
        [top, processes, seconds, steps, apart @ ..] if matches!(apart, [] | [APART]) => {
            let times = crowd(top, number(processes)?, seconds, real(steps)?, apart)?;
            println!("{}", serde_json::to_string(&times).map_err(io::Error::other)?);
            Ok(())
        }
        _ => Err(wrong("usage: crowd FOLDER PROCESSES SECONDS STEPS [apart]".to_owned())),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crowd: {error}");
            ExitCode::FAILURE
        }
    }
}
