//! A watch over runs: one that never ends is told with the command that repeats it, for nothing
//! within it can.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::clock;

/// No run takes a hundredth of this, be the machine ever so busy.
const RUN_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What each job is at, and since when.
pub(crate) struct Watch {
    jobs: Mutex<Vec<Option<(String, Instant)>>>,
}

impl Watch {
    fn new(jobs: usize) -> Self {
        Self {
            jobs: Mutex::new(vec![None; jobs]),
        }
    }

    /// Looks on for as long as the process lives, and ends it when a run never will.
    #[expect(
        clippy::disallowed_methods,
        reason = "who watches a run is no part of it"
    )]
    pub(crate) fn over(jobs: usize) -> Arc<Self> {
        let watch = Arc::new(Self::new(jobs));
        let watcher = Arc::clone(&watch);
        std::thread::spawn(move || {
            loop {
                std::thread::park_timeout(LOOK_EVERY);
                if let Some(subject) = watcher.endless(clock()) {
                    println!("\noracle    hang");
                    println!("expected  an end");
                    println!(
                        "actual    {subject} has run for more than {} s",
                        RUN_MAX.as_secs()
                    );
                    println!(
                        "\nto see how it begins: cargo sim replay {subject} --trace --until 1000"
                    );
                    std::process::exit(1);
                }
            }
        });
        watch
    }

    /// A job begins with a run.
    pub(crate) fn begins(&self, job: usize, subject: &str) {
        if let Ok(mut jobs) = self.jobs.lock() {
            jobs[job] = Some((subject.to_owned(), clock()));
        }
    }

    /// A job has come to the end of its run.
    pub(crate) fn ends(&self, job: usize) {
        if let Ok(mut jobs) = self.jobs.lock() {
            jobs[job] = None;
        }
    }

    /// A run that should have ended long ago.
    fn endless(&self, now: Instant) -> Option<String> {
        let jobs = self.jobs.lock().ok()?;
        let endless = |job: &&(String, Instant)| now.duration_since(job.1) > RUN_MAX;
        jobs.iter()
            .flatten()
            .find(endless)
            .map(|(subject, _)| subject.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_does_not_end_is_named() {
        let watch = Watch::new(2);
        watch.begins(0, "7");
        watch.begins(1, "8");
        watch.ends(0);
        let now = clock();
        assert_eq!(watch.endless(now), None);
        assert_eq!(watch.endless(now + RUN_MAX * 2).as_deref(), Some("8"));
    }
}
