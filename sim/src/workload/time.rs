//! Times as clients spell them.

/// Spells a time since 1970 as RFC 3339 with milliseconds.
#[must_use]
pub fn timestamp(at: u64) -> String {
    let (days, rest) = (at / 86_400_000, at % 86_400_000);
    // The civil calendar, in eras of 400 years that begin on a first of March.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = year_of_era + era * 400 + carry;
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    #[test]
    fn times_are_read_as_they_are_written() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_400_123), "2000-02-29T00:00:00.123Z");
        for at in (0..4_000_000_000_000).step_by(86_399_999_017) {
            assert_eq!(model::time(&timestamp(at)), Some(at));
        }
    }
}
