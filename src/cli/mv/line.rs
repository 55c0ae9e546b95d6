//! One line of progress, made to fit a terminal: the words say most, then the percentage, a part of the name,
//! and the bar, which gets what is left.

use console::measure_text_width as width;

use super::show::Words;

/// Columns of a bar.
const BAR: usize = 20;
const BAR_MIN: usize = 6;
/// Columns of a name before words are left out for it.
const NAME_MIN: usize = 12;

/// `which` source it is, its name, what is done, bytes done and in all, columns of the terminal.
pub(super) fn fit(
    which: &str,
    name: &str,
    words: &Words,
    done: (u64, u64),
    columns: usize,
) -> String {
    let percent = match words.counted {
        true => format!(" {:>3}%", percent_of(done)),
        false => String::new(),
    };
    // `: ` after the name.
    let fixed = width(which).saturating_add(width(&percent)).saturating_add(2);
    let room_for = |text: &String| columns.saturating_sub(fixed.saturating_add(width(text)));
    let wanted = width(name).min(NAME_MIN);
    let fits = words.texts.iter().find(|text| room_for(text) >= wanted);
    let Some(text) = fits.or(words.texts.last()) else { return String::new() };
    let room = room_for(text);
    let name = shortened(name, room);
    // ` [` and `]`.
    let left = room.saturating_sub(width(&name)).saturating_sub(3);
    let bar = match left.min(BAR) {
        columns if words.counted && columns >= BAR_MIN => format!(" [{}]", bar(done, columns)),
        _ => String::new(),
    };
    let name = if name.is_empty() { name } else { format!("{name}: ") };
    format!("{which}{name}{text}{bar}{percent}")
}

/// Nothing to be done counts as nothing done.
fn percent_of((done, all): (u64, u64)) -> u64 {
    done.saturating_mul(100).checked_div(all).unwrap_or(0).min(100)
}

fn bar((done, all): (u64, u64), columns: usize) -> String {
    let full = u128::from(done).saturating_mul(columns as u128).checked_div(all.into());
    let full = usize::try_from(full.unwrap_or(0)).unwrap_or(columns).min(columns);
    let head = if full < columns { ">" } else { "" };
    format!("{:<columns$}", format!("{}{head}", "=".repeat(full)))
}

/// The end of a path, which says more than its beginning.
fn shortened(path: &str, columns: usize) -> String {
    if width(path) <= columns {
        return path.to_owned();
    }
    let mut end = String::new();
    for character in path.chars().rev() {
        let longer = format!("{character}{end}");
        if width(&longer).saturating_add(1) > columns {
            break;
        }
        end = longer;
    }
    if end.is_empty() { end } else { format!("…{end}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copying() -> Words {
        let texts = [
            "copying 660.8 MiB of 2.4 GiB, 329.8 MiB/s, 5 s left",
            "copying, 329.8 MiB/s, 5 s left",
            "copying, 5 s left",
            "copying",
        ];
        Words { texts: texts.map(str::to_owned).into(), counted: true }
    }

    #[track_caller]
    fn check(which: &str, name: &str, columns: usize, expected: &str) {
        let line = fit(which, name, &copying(), (27, 100), columns);
        assert_eq!(line, expected);
        assert!(width(&line) <= columns, "{} columns", width(&line));
    }

    #[test]
    fn what_matters_is_seen_at_any_width() {
        let full = "copying 660.8 MiB of 2.4 GiB, 329.8 MiB/s, 5 s left";
        let name = "bigm/in/a.bin";
        check("", name, 120, &format!("{name}: {full} [=====>              ]  27%"));
        check("", name, 80, &format!("{name}: {full} [=>    ]  27%"));
        check("2 of 3: ", name, 80, &format!("2 of 3: {name}: {full}  27%"));
        let long = "/srv/mnt/inbox/2026/11/instrument-7/a.bin";
        check("", long, 80, &format!("…11/instrument-7/a.bin: {full}  27%"));
        check("", name, 40, "bigm/in/a.bin: copying, 5 s left  27%");
        check("", long, 40, "…trument-7/a.bin: copying, 5 s left  27%");
        check("", long, 12, "copying  27%");
    }

    #[test]
    fn names_are_as_wide_as_they_look() {
        assert_eq!(shortened("/日本/語.csv", 8), "…/語.csv");
        assert_eq!(shortened("/日本/語.csv", 7), "…語.csv");
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "…cd");
        assert_eq!(shortened("abcd", 1), "");
    }

    #[test]
    fn a_check_that_runs_has_no_bar() {
        let texts = vec!["check scan running for 9 s".to_owned(), "check".to_owned()];
        let words = Words { texts, counted: false };
        assert_eq!(fit("", "a.bin", &words, (9, 9), 80), "a.bin: check scan running for 9 s");
    }

    #[test]
    fn a_bar_is_full_at_the_end_alone() {
        for (done, expected) in
            [((0, 9), ">     "), ((8, 9), "=====>"), ((9, 9), "======"), ((0, 0), ">     ")]
        {
            assert_eq!(bar(done, 6), expected);
        }
        assert_eq!(percent_of((u64::MAX, 1)), 100);
    }
}
