//! Watches runs, because a run cannot notice by itself that it never ends.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Layer, clock};

/// The time limit of a run: more than a hundred times what any run takes, even on a busy machine.
const RUN_MAX: Duration = Duration::from_secs(60);
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The run that is under way, and its beginning.
#[derive(Default)]
pub(super) struct Watch {
    run: Mutex<Option<(String, Instant)>>,
}

impl Watch {
    /// Watches until the process ends. When a run takes too long, calls `report` and ends the
    /// process.
    #[expect(clippy::disallowed_methods, reason = "the watch is not part of a run")]
    pub(super) fn new(report: fn(&str)) -> Arc<Self> {
        let watch = Arc::new(Self::default());
        let watcher = Arc::clone(&watch);
        std::thread::spawn(move || {
            loop {
                std::thread::park_timeout(CHECK_EVERY);
                if let Some(subject) = watcher.endless(clock()) {
                    report(&subject);
                    std::process::exit(1);
                }
            }
        });
        watch
    }

    pub(super) fn begins(&self, subject: &str) {
        self.set(Some((subject.to_owned(), clock())));
    }

    pub(super) fn ends(&self) {
        self.set(None);
    }

    fn set(&self, run: Option<(String, Instant)>) {
        *self.run.lock().expect("nothing panics under this lock") = run;
    }

    /// Returns the run that has exceeded its time limit.
    fn endless(&self, now: Instant) -> Option<String> {
        let run = self.run.lock().expect("nothing panics under this lock");
        let (subject, begun) = run.as_ref()?;
        (now.duration_since(*begun) > RUN_MAX).then(|| subject.clone())
    }
}

/// Prints that a run does not end.
pub(super) fn show_hang<L: Layer>(subject: &str) {
    let (seconds, flag) = (RUN_MAX.as_secs(), L::FLAG);
    println!("\noracle    hang");
    println!("expected  an end");
    println!("actual    {subject} has run for more than {seconds} s");
    println!("\nto see how it begins: cargo sim replay {subject}{flag} --trace --until 1000");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_does_not_end_is_named() {
        let watch = Watch::default();
        watch.begins("7");
        watch.ends();
        watch.begins("8");
        let now = clock();
        assert_eq!(watch.endless(now), None);
        assert_eq!(watch.endless(now + RUN_MAX * 2).as_deref(), Some("8"));
        watch.ends();
        assert_eq!(watch.endless(now + RUN_MAX * 2), None);
    }
}
