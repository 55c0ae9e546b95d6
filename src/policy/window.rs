//! `when`: the hours of a week in which a rule holds, by the clocks of a zone. In the hour that is skipped
//! in spring no window opens, and one that lies in the hour that comes twice in autumn opens twice: it is
//! the clock on the wall that counts.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// Hours on some days of the week, such as `Mon-Fri 08:00-18:00 Europe/Paris`.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    text: String,
    /// From Monday on.
    days: [bool; 7],
    /// Minutes of the day: the first one inside.
    from: u16,
    /// The first one outside, at most 1440. Below `from`, it is on the next day.
    to: u16,
    zone: TimeZone,
}

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowMistake {
    /// No zone at its end.
    #[error("it names no time zone")]
    NoZone,
    /// The system knows no zone of that name.
    #[error("no time zone is called `{0}`")]
    Zone(String),
    /// Neither days nor hours.
    #[error("`{0}` is neither days such as Mon-Fri nor hours such as 08:00-18:00")]
    Word(String),
    /// It begins at `24:00`, which is the end of a day.
    #[error("it begins at 24:00, which is the end of a day: 00:00 is the beginning")]
    BeginsAtEnd,
    /// It begins when it ends.
    #[error("it never opens: it ends when it begins")]
    Empty,
}

impl Window {
    /// Takes `[DAYS] [HH:MM-HH:MM] ZONE`. Days are `Mon`, `Mon-Fri` or several by commas, by default all;
    /// hours are by default the whole day, end at most at `24:00`, and belong to the day on which they
    /// begin. The zone is `UTC` or one of the IANA time zone database.
    pub fn parse(text: &str) -> Result<Self, WindowMistake> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (zone, words) = words.split_last().ok_or(WindowMistake::NoZone)?;
        let looks_like_more = zone.contains(':') || days(zone).is_some();
        if looks_like_more {
            return Err(WindowMistake::NoZone);
        }
        let unknown = |_| WindowMistake::Zone((*zone).to_owned());
        let zone = TimeZone::get(zone).map_err(unknown)?;
        let (on, rest) = match words.split_first() {
            Some((first, rest)) if !first.contains(':') => {
                (days(first).ok_or_else(|| WindowMistake::Word((*first).to_owned()))?, rest)
            }
            _ => ([true; 7], words),
        };
        let (from, to) = match rest {
            [] => (0, DAY_MINUTES),
            [one] => match hours(one) {
                Some((DAY_MINUTES, to)) if to != DAY_MINUTES => {
                    return Err(WindowMistake::BeginsAtEnd);
                }
                Some(hours) => hours,
                None => return Err(WindowMistake::Word((*one).to_owned())),
            },
            [_, more, ..] => return Err(WindowMistake::Word((*more).to_owned())),
        };
        if from == to {
            return Err(WindowMistake::Empty);
        }
        Ok(Self { text: text.to_owned(), days: on, from, to, zone })
    }

    /// Whether it is open at a time.
    pub fn contains(&self, time: Timestamp) -> bool {
        let there = self.zone.to_datetime(time);
        let minute = u16::from(there.hour().unsigned_abs())
            .saturating_mul(60)
            .saturating_add(u16::from(there.minute().unsigned_abs()));
        let day = usize::from(there.date().weekday().to_monday_zero_offset().unsigned_abs());
        let on = |day: usize| self.days.get(day % 7).copied().unwrap_or(false);
        if self.from < self.to {
            return on(day) && (self.from..self.to).contains(&minute);
        }
        let yesterday = day.saturating_add(6);
        (on(day) && minute >= self.from) || (on(yesterday) && minute < self.to)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn days(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|known| known.eq_ignore_ascii_case(name));
    let mut on = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let count = last.saturating_add(7).saturating_sub(first) % 7;
        for at in first..=first.saturating_add(count) {
            if let Some(on) = on.get_mut(at % 7) {
                *on = true;
            }
        }
    }
    Some(on)
}

fn hours(text: &str) -> Option<(u16, u16)> {
    let minute = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let number = |text: &str, max: u16| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse::<u16>().ok()?;
            (digits && number <= max).then_some(number)
        };
        let minute = number(hour, 24)?.checked_mul(60)?.checked_add(number(minute, 59)?)?;
        (minute <= DAY_MINUTES).then_some(minute)
    };
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    if from == to {
        return Some((from, to));
    }
    // Midnight is the end of a day as an end.
    Some((from, if to == 0 { DAY_MINUTES } else { to }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(window: &str, times: &[(&str, bool)]) {
        let parsed = Window::parse(window).unwrap();
        for (time, open) in times {
            let time: Timestamp = time.parse().unwrap();
            assert_eq!(parsed.contains(time), *open, "{window} at {time}");
        }
    }

    #[test]
    fn hours_and_days_are_those_of_the_zone() {
        check(
            "Mon-Fri 08:00-18:00 Europe/Paris",
            &[
                // Monday 2026-01-05, UTC+1.
                ("2026-01-05T06:59:59Z", false),
                ("2026-01-05T07:00:00Z", true),
                ("2026-01-05T16:59:59Z", true),
                ("2026-01-05T17:00:00Z", false),
                ("2026-01-10T10:00:00Z", false),
                // Summer, UTC+2.
                ("2026-07-06T06:00:00Z", true),
                ("2026-07-06T16:00:00Z", false),
            ],
        );
        check("Sat,Sun UTC", &[("2026-01-10T00:00:00Z", true), ("2026-01-12T00:00:00Z", false)]);
        check("Sat-Mon UTC", &[("2026-01-12T23:59:59Z", true), ("2026-01-13T00:00:00Z", false)]);
        check(
            "20:00-24:00 UTC",
            &[("2026-01-05T23:59:00Z", true), ("2026-01-05T00:00:00Z", false)],
        );
        check(
            "20:00-00:00 UTC",
            &[("2026-01-05T23:59:00Z", true), ("2026-01-05T00:00:00Z", false)],
        );
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        check(
            "Fri 22:00-06:00 UTC",
            &[
                ("2026-01-09T21:59:00Z", false),
                ("2026-01-09T22:00:00Z", true),
                ("2026-01-10T05:59:00Z", true),
                ("2026-01-10T06:00:00Z", false),
                ("2026-01-10T23:00:00Z", false),
                ("2026-01-09T05:00:00Z", false),
            ],
        );
    }

    #[test]
    fn the_clock_on_the_wall_counts_when_clocks_change() {
        // 2026-03-29 in Paris: 02:00 becomes 03:00 at 01:00 UTC.
        check(
            "02:00-03:00 Europe/Paris",
            &[("2026-03-29T00:59:59Z", false), ("2026-03-29T01:00:00Z", false)],
        );
        check(
            "01:00-04:00 Europe/Paris",
            &[
                ("2026-03-29T00:59:59Z", true),
                ("2026-03-29T01:59:59Z", true),
                ("2026-03-29T02:00:00Z", false),
            ],
        );
        // 2026-10-25: 03:00 becomes 02:00 at 01:00 UTC, so that 02:30 comes twice.
        check(
            "02:00-03:00 Europe/Paris",
            &[
                ("2026-10-25T00:30:00Z", true),
                ("2026-10-25T01:30:00Z", true),
                ("2026-10-25T02:00:00Z", false),
            ],
        );
    }

    #[test]
    fn mistakes_are_named() {
        let mistake = |text: &str| Window::parse(text).unwrap_err();
        assert_eq!(mistake(""), WindowMistake::NoZone);
        assert_eq!(mistake("Mon-Fri 08:00-18:00"), WindowMistake::NoZone);
        assert_eq!(mistake("Mon-Fri"), WindowMistake::NoZone);
        for hours in ["08:00-08:00", "00:00-00:00", "24:00-24:00"] {
            assert_eq!(mistake(&format!("{hours} UTC")), WindowMistake::Empty);
        }
        assert_eq!(mistake("Mon Europe/Pariss"), WindowMistake::Zone("Europe/Pariss".into()));
        for word in ["Mo", "8:00-18:00", "08:00-25:00", "08:00-24:30", "08:00"] {
            assert_eq!(mistake(&format!("{word} UTC")), WindowMistake::Word(word.into()));
        }
        assert_eq!(mistake("Mon 24:00-07:00 UTC"), WindowMistake::BeginsAtEnd);
        assert_eq!(mistake("Mon 08:00-09:00 x UTC"), WindowMistake::Word("x".into()));
    }
}
