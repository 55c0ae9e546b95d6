//! The house in order: layers, file lengths, unsafe code, forgotten words. A plain maximum each, no
//! exceptions.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;

/// Every Rust file below a folder of the repository, with its text, in order.
fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                found.push((path.strip_prefix(root).expect("below").to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 5, "no sources found");
    found
}

const EVERYWHERE: [&str; 4] = ["src", "tests", "benches", "examples"];

/// Fails with every line that a test finds wrong, by file and line.
#[track_caller]
fn no_line(folders: &[&str], wrong: impl Fn(&Path, &str) -> bool) {
    let mut all = Vec::new();
    for (path, text) in sources(folders) {
        for (number, line) in text.lines().enumerate() {
            if wrong(&path, line) {
                all.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The rows of the table in src/lib.rs: module to row.
fn layers() -> HashMap<String, u32> {
    let lib = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).expect("lib");
    let mut rows = HashMap::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! ")) {
        let Some((row, rest)) = line.split_once("  ") else { continue };
        let Ok(row) = row.parse::<u32>() else { continue };
        let names = rest
            .split_whitespace()
            .take_while(|word| lib.contains(&format!("pub mod {word};")) || *word == "main.rs");
        rows.extend(names.map(|name| (name.trim_end_matches(".rs").to_owned(), row)));
    }
    rows
}

/// `crate::NAME` in a line, and the first names of a `crate::{…}` list.
fn imports(line: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start().trim_start_matches("r#");
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(list) => {
                let mut depth = 0;
                let top = list.split(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                });
                found.extend(top.map(name));
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn modules_import_only_from_rows_below() {
    let rows = layers();
    assert!(rows.len() >= 18, "the table in src/lib.rs names too few: {rows:?}");
    let mut wrong = Vec::new();
    for (path, text) in sources(&["src"]) {
        let inner = path.strip_prefix("src").expect("below src");
        let module = inner.components().next().expect("a file").as_os_str().to_string_lossy();
        let module = module.trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let own = *rows.get(&module).unwrap_or_else(|| panic!("{module} is not in the table"));
        let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for import in production.lines().flat_map(|line| imports(code_of(line))) {
            let row = rows.get(&import).copied();
            if import != module && row.is_some_and(|row| row >= own) {
                // Row 0 is the words that all share: errors, types and what they need.
                if own == 0 && row == Some(0) {
                    continue;
                }
                wrong.push(format!("{}: imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<_> = sources(&EVERYWHERE)
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "longer than {LINES_MAX} lines: {long:?}");
}

#[test]
fn modules_say_what_they_are() {
    let silent: Vec<_> = sources(&EVERYWHERE)
        .into_iter()
        .filter(|(path, text)| !path.ends_with("tests.rs") && !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "no module comment: {silent:?}");
}

#[test]
fn unsafe_code_is_in_sys_and_says_why() {
    let word = concat!("un", "safe");
    no_line(&EVERYWHERE, |path, line| {
        let code = code_of(line);
        let used = code.contains(&format!("{word} {{")) || code.contains(&format!("{word} fn"));
        used && !line.contains('"') && !path.starts_with("src/sys")
    });
    let mut mute = Vec::new();
    for (path, text) in sources(&["src/sys"]) {
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let from = at.saturating_sub(6);
            let said = lines[from..=at].iter().any(|line| line.contains("SAFETY:"));
            if code_of(line).contains(&format!("{word} {{")) && !said {
                mute.push(format!("{}:{}", path.display(), at + 1));
            }
        }
    }
    assert!(mute.is_empty(), "no SAFETY comment: {mute:?}");
}

#[test]
fn only_the_transport_names_fuser() {
    let word = concat!("fuser", "::");
    no_line(&["src"], |path, line| code_of(line).contains(word) && !path.starts_with("src/fuse"));
}

#[test]
fn nothing_is_left_undone() {
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[", "ignore"),
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
    ];
    no_line(&EVERYWHERE, |_, line| words.iter().any(|word| line.contains(word)));
}

#[test]
fn no_path_of_a_developers_machine() {
    let words = [concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/.car", "go/")];
    no_line(&EVERYWHERE, |_, line| words.iter().any(|word| line.contains(word)));
}

#[test]
fn every_test_module_is_named_in_main() {
    let files = sources(&["tests/it"]);
    for (path, _) in &files {
        let mut name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut folder = path.parent().expect("a folder");
        if name == "main" {
            continue;
        }
        if name == "mod" {
            name = folder.file_name().expect("a name").to_string_lossy().into_owned();
            folder = folder.parent().expect("a folder");
        }
        // By main.rs, or by the mod.rs of its folder.
        let named = files.iter().any(|(path, text)| {
            let above = path.file_stem().is_some_and(|stem| stem == "main" || stem == "mod");
            above && path.parent() == Some(folder) && text.contains(&format!("mod {name};"))
        });
        assert!(named, "{name} is forgotten");
    }
}
