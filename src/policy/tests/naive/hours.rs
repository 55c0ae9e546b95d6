//! Windows the naive way: all whole minutes since 1970 as a clock on a wall of the zone would count them,
//! and the two stretches of them that could be open, of today and of yesterday.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The hours of one window.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    days: Vec<usize>,
    opens: i64,
    minutes: i64,
    zone: TimeZone,
}

impl Hours {
    /// Reads `[DAYS] [HH:MM-HH:MM] ZONE`.
    pub fn new(text: &str) -> Self {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let zone = TimeZone::get(words.pop().expect("a zone")).expect("a known zone");
        let mut hours = Self { days: (0..7).collect(), opens: 0, minutes: 1440, zone };
        for word in words {
            if word.contains(':') {
                let (opens, closes) = word.split_once('-').expect("an end");
                hours.opens = minute(opens);
                hours.minutes = (minute(closes) - minute(opens)).rem_euclid(1440);
                if hours.minutes == 0 {
                    hours.minutes = 1440;
                }
            } else {
                hours.days = word.split(',').flat_map(days).collect();
            }
        }
        hours
    }

    /// Whether it is open.
    pub fn open(&self, time: Timestamp) -> bool {
        let wall = time.as_second() + i64::from(self.zone.to_offset(time).seconds());
        let minute = wall.div_euclid(60);
        let today = minute.div_euclid(1440);
        [today - 1, today].into_iter().any(|day| {
            // The first day of 1970 was a Thursday.
            let weekday = (day + 3).rem_euclid(7) as usize;
            let opening = day * 1440 + self.opens;
            self.days.contains(&weekday) && (0..self.minutes).contains(&(minute - opening))
        })
    }
}

fn minute(text: &str) -> i64 {
    let (hour, minute) = text.split_once(':').expect("hours and minutes");
    hour.parse::<i64>().expect("hours") * 60 + minute.parse::<i64>().expect("minutes")
}

fn days(text: &str) -> Vec<usize> {
    let number = |name: &str| {
        NAMES.iter().position(|known| *known == name.to_lowercase()).expect("a day of the week")
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (mut day, last) = (number(first), number(last));
    let mut all = vec![day];
    while day != last {
        day = (day + 1) % 7;
        all.push(day);
    }
    all
}
