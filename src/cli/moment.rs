//! Times on the command line.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ZonedDateTime};

use super::failure::Failure;

/// A moment; a date is the beginning of its day here, a span lies before now.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text, &ZonedDateTime::now())
}

/// Refuses a span of time that ends before it begins; by its two options and what was given.
pub fn check_order(
    (from, begin): (&str, Option<Timestamp>),
    (to, end): (&str, Option<Timestamp>),
) -> Result<(), Failure> {
    match (begin, end) {
        (Some(begin), Some(end)) if begin > end => {
            Err(Failure::usage(format!("{from} is later than {to}: nothing lies between")))
        }
        _ => Ok(()),
    }
}

fn moment_at(text: &str, now: &ZonedDateTime) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let local = text.parse::<DateTime>().ok();
    let local = local.and_then(|local| TimeZone::system().to_timestamp(local).ok());
    let ago = || now.checked_sub(text.parse::<Span>().ok()?.abs()).ok().map(|ago| ago.timestamp());
    local.or_else(ago).ok_or_else(|| {
        "neither a date (2026-11-23), nor a date and time (2026-11-23T17:00), nor RFC 3339, nor how \
         long ago (90m, 2h, 7d)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let now: ZonedDateTime = "2026-11-23T12:00:00Z[UTC]".parse().expect("a time");
        let found = moment_at(text, &now).expect(text);
        assert_eq!(found, expected.parse().expect("a time"), "{text}");
    }

    #[test]
    fn a_span_does_not_end_before_it_begins() {
        let time = |text: &str| Some(text.parse::<Timestamp>().expect("a time"));
        let (early, late) = (time("2026-11-23T10:00:00Z"), time("2026-11-23T10:00:01Z"));
        let check = |begin, end| check_order(("--from", begin), ("--to", end));
        let wrong = check(late, early).expect_err("refused");
        assert_eq!(wrong.code, super::super::ExitCode::Usage);
        assert!(wrong.message.contains("--from is later than --to"), "{}", wrong.message);
        for (begin, end) in [(early, late), (early, early), (late, None), (None, early)] {
            assert_eq!(check(begin, end), Ok(()));
        }
    }

    #[test]
    fn times_are_dates_moments_and_spans() {
        check("2026-11-23T10:00:00.5Z", "2026-11-23T10:00:00.5Z");
        check("2026-11-23T10:00:00+02:00", "2026-11-23T08:00:00Z");
        check("2h", "2026-11-23T10:00:00Z");
        check("1d 90m", "2026-11-22T10:30:00Z");
        check("2 weeks", "2026-11-09T12:00:00Z");
        let midnight = "2026-11-23".parse::<DateTime>().expect("a date");
        let midnight = TimeZone::system().to_timestamp(midnight).expect("a time");
        check("2026-11-23", &midnight.to_string());
        for wrong in ["", "yesterday", "2", "2x", "h"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
