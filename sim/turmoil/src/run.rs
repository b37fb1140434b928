//! One run: the hosts, the network between them, and the faults of both.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use machine::router::{self, name};
use machine::rows::HotTable;
use machine::wire::CacheMode;
use machine::{MemoryRows, segment};
use object_store::ObjectStore;
use server::{Config, Server};
use sim::choices::Choices;
use sim::cold_tier::{self, Objects};
use sim::coverage::Nothing;
use sim::layer::{Layer, Source};
use sim::model::Mismatch;
use sim::oracles::Oracle;
use sim::run::{Options, Outcome};
use sim::settings::BEGINNING;
use tokio::sync::Notify;
use turmoil::Sim;
use turmoil::net::TcpListener;

use crate::client::{self, ClientContext, LIVENESS_MS, PORT};
use crate::cold::Bucket;
use crate::coverage::{Coverage, Fault, Situation};
use crate::judge::{Judge, pins_at_rest, stream};
use crate::platform::{Accepting, Simulated};
use crate::settings::Settings;
use crate::shared::{Phase, SERVER, Shared, client_host};
use crate::storage::{Disks, Logged, framed};

const TICK_MS: u64 = 10;
/// Clients that are not done by then have met too many faults.
const BUSY_MS_MAX: u64 = 60_000;
/// Streams that expire later than this after everything else are not waited for.
const EXPIRY_MS_MAX: u64 = 20_000;

/// The outer layer: the server and real HTTP clients on a simulated network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer;

impl Layer for Outer {
    const NAME: &'static str = "turmoil";
    const FLAG: &'static str = " --turmoil";
    const RUNS_FOR_ALL_SITUATIONS: u64 = 200;
    const EVENTS_SHOWN: usize = 60;
    const HUNTED_RUNS_MIN: u64 = 400;
    const SHRINK_TRIES_MAX: u64 = 5_000;
    const SHRINK_TIME_MAX: Duration = Duration::from_secs(20);

    type Situation = Situation;
    type Fault = Fault;
    type Watermark = Nothing;

    fn run(source: Source<'_>, options: Options) -> Outcome<Coverage> {
        run(
            match source {
                Source::Seed(seed) => Choices::from_seed(seed),
                Source::Tape(tape) => Choices::from_own_tape(tape.to_vec()),
            },
            options,
        )
    }
}

/// How a disturbance of the network ends.
#[derive(Clone, Debug)]
enum FaultEnd {
    Repair(u64),
    Release(u64),
    Calm,
    /// The storm of faults begins again.
    Strike,
}

struct World {
    sim: Sim<'static>,
    shared: Shared,
    context: ClientContext,
    /// When disturbances end.
    agenda: BTreeMap<(u64, u64), FaultEnd>,
    entries: u64,
    /// How many disturbances each client's link suffers. The end of the last one repairs it.
    broken: Vec<u64>,
    bounce_at: Option<u64>,
    healed_at: u64,
    waits_until: u64,
}

/// tokio keeps the tasks of a runtime in this many lists, by their numbers, and drops them list by
/// list when the runtime ends, as in a crash.
const TASK_LISTS: u64 = 4;

/// Makes the numbers of tasks begin alike in each run, as far as those lists are concerned. They
/// count through the whole process.
fn align_tasks() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without input and output can be made");
    let number = || runtime.spawn(async {}).id().to_string().parse::<u64>();
    while number().is_ok_and(|number| number % TASK_LISTS != 0) {}
}

/// Runs what the choices say. No other run may be under way in the same process.
fn run(choices: Choices<'static>, options: Options) -> Outcome<Coverage> {
    align_tasks();
    let mut choices = choices.logged();
    let settings = Settings::draw(&mut choices);
    let shown = if options.traced {
        format!("{settings:#?}")
    } else {
        String::new()
    };
    let shared = Shared::new(choices, settings, options.traced, options.until);
    let ended = catch_unwind(AssertUnwindSafe(|| World::new(&shared).run()));
    let mut inner = shared.lock();
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("a panic").to_owned();
        inner.fail(Oracle::Panic, "no panic".to_owned(), text);
    }
    Outcome {
        hash: inner.digest.value(),
        draws: inner.choices.count(),
        tape: inner.choices.tape(),
        log: inner.choices.log(),
        events: inner.events,
        operations: inner.operations,
        simulated_ms: inner.now - BEGINNING,
        coverage: std::mem::take(&mut inner.coverage),
        failure: inner.failure.take(),
        trace: inner.trace.take().unwrap_or_default(),
        settings: shown,
        state: Vec::new(),
        answers_read: 0,
    }
}

/// Runs the server on its host.
async fn serve(shared: Shared) -> turmoil::Result {
    let (boot, end, config, is_cold) = {
        let mut inner = shared.lock();
        inner.boot += 1;
        inner.dead = false;
        inner.ending = false;
        inner.log.push(Logged::Booted);
        inner.end = Arc::new(Notify::new());
        let mut settings = router::Settings::read(&|_| None)?;
        settings.limits = Arc::clone(&inner.settings.workload.limits);
        // In private mode, the answer to a plain read has everything up to the tail.
        if !inner.settings.workload.whole_reads {
            settings.cache_mode = CacheMode::Shared;
        }
        let config = Config {
            data: PathBuf::new(),
            settings,
            bounds: inner.settings.bounds.clone(),
            date: false,
        };
        let boot = inner.boot;
        inner.note("server", || format!("begins for the {boot}. time"));
        if inner.choices.fourth().upto(3) == 3 {
            inner.note("server", || "finds rows of an earlier release".to_owned());
            inner.age();
        }
        (
            boot,
            Arc::clone(&inner.end),
            config,
            inner.settings.workload.limits.cold,
        )
    };
    let storage = Disks {
        shared: shared.clone(),
        boot,
    };
    let platform = Simulated::new(shared.clone());
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let bucket = Bucket {
        shared: shared.clone(),
        boot,
    };
    let cold = is_cold.then(|| Arc::new(bucket) as Arc<dyn ObjectStore>);
    let server = Server::over(config, Arc::new(platform), Arc::new(storage), cold);
    server
        .serve(Accepting(listener), async move { end.notified().await })
        .await;
    shared.lock().note("server", || "has ended".to_owned());
    Ok(())
}

impl World {
    fn new(shared: &Shared) -> Self {
        let settings = shared.settings();
        let mut sim = turmoil::Builder::new()
            .rng_seed(settings.network_seed)
            .epoch(UNIX_EPOCH + Duration::from_millis(BEGINNING))
            .tick_duration(Duration::from_millis(TICK_MS))
            .simulation_duration(Duration::from_secs(86_400))
            .min_message_latency(Duration::from_millis(settings.latency_ms_min))
            .max_message_latency(Duration::from_millis(settings.latency_ms_max))
            .tcp_capacity(usize::try_from(settings.tcp_capacity).unwrap_or(64))
            .build();
        let names = usize::try_from(settings.names()).unwrap_or(0);
        let context = ClientContext {
            shared: shared.clone(),
            judge: Rc::new(RefCell::new(Judge::new(&settings))),
            follows: Rc::default(),
            forks: Rc::new(RefCell::new(vec![None; names])),
        };
        let it = shared.clone();
        sim.host(SERVER, move || serve(it.clone()));
        for client in 0..settings.workload.clients {
            let context = context.clone();
            sim.client(client_host(client), async move {
                client::run(context, client).await;
                Ok(())
            });
        }
        Self {
            sim,
            shared: shared.clone(),
            context,
            agenda: BTreeMap::new(),
            entries: 0,
            broken: vec![0; usize::try_from(settings.workload.clients).unwrap_or(0)],
            bounce_at: None,
            healed_at: 0,
            waits_until: 0,
        }
    }

    fn now(&self) -> u64 {
        BEGINNING + u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn plan(&mut self, after: u64, what: FaultEnd) {
        self.entries += 1;
        self.agenda.insert((self.now() + after, self.entries), what);
    }

    fn run(&mut self) {
        self.plan_strike();
        loop {
            let now = self.now();
            self.shared.lock().now = now;
            while let Some(entry) = self
                .agenda
                .first_entry()
                .filter(|entry| entry.key().0 <= now)
            {
                let what = entry.remove();
                self.relieve(&what);
            }
            let stepped = self.sim.step();
            {
                let now = self.now();
                let mut shared = self.shared.lock();
                shared.now = now;
                shared.settle_tier(now);
            }
            let finished = match stepped {
                Ok(finished) => finished,
                Err(error) => {
                    let mut shared = self.shared.lock();
                    return shared.fail(
                        Oracle::Run,
                        "hosts that run".to_owned(),
                        error.to_string(),
                    );
                }
            };
            self.context.absorb();
            self.look_after_server();
            if !self.shared.lock().goes_on() {
                return;
            }
            if self.advance(finished) {
                return;
            }
        }
    }

    /// Starts a server that has died or ended again.
    fn look_after_server(&mut self) {
        let now = self.now();
        if self.shared.lock().dead && self.bounce_at.is_none() {
            self.crash();
        }
        let runs = self.sim.is_host_running(SERVER);
        if !runs && self.bounce_at.is_none() {
            let mut shared = self.shared.lock();
            if shared.ending {
                shared.changed(Fault::End);
            }
            drop(shared);
            self.plan_bounce();
        }
        if self.bounce_at.is_some_and(|at| at <= now) {
            self.bounce();
        }
    }

    fn plan_bounce(&mut self) {
        let after = self.shared.lock().choices.magnitude(3_000);
        self.bounce_at = Some(self.now() + after);
    }

    fn bounce(&mut self) {
        self.bounce_at = None;
        for client in 0..self.broken.len() {
            if self.broken[client] == 0 {
                self.sim.release(SERVER, client_host(client as u64));
            }
        }
        self.sim.bounce(SERVER);
    }

    /// Lets the server die. After that nothing leaves it, not even the closing of its connections.
    fn crash(&mut self) {
        for client in 0..self.broken.len() {
            self.sim.partition(SERVER, client_host(client as u64));
        }
        self.sim.crash(SERVER);
        let mut shared = self.shared.lock();
        shared.crashed_at = shared.now;
        shared.disturbances += 1;
        shared.note("world", || "the server has crashed".to_owned());
        drop(shared);
        self.plan_bounce();
    }

    fn plan_strike(&mut self) {
        let pause = {
            let mut shared = self.shared.lock();
            let most = shared.settings.nemesis_ms_max;
            shared.choices.between(50, most)
        };
        self.plan(pause, FaultEnd::Strike);
    }

    fn relieve(&mut self, what: &FaultEnd) {
        match what {
            FaultEnd::Strike => {
                if self.shared.lock().phase == Phase::Busy {
                    self.inject_fault();
                    self.plan_strike();
                }
            }
            FaultEnd::Repair(client) | FaultEnd::Release(client) => {
                let at = usize::try_from(*client).unwrap_or(0);
                self.broken[at] = self.broken[at].saturating_sub(1);
                self.shared.lock().disturbed -= 1;
                if self.broken[at] == 0 && self.bounce_at.is_none() {
                    self.sim.release(SERVER, client_host(*client));
                    self.shared
                        .lock()
                        .note("world", || format!("the link of client {client} is whole"));
                }
            }
            FaultEnd::Calm => {
                let most = {
                    let mut shared = self.shared.lock();
                    shared.disturbed -= 1;
                    shared.settings.latency_ms_max
                };
                self.sim
                    .set_max_message_latency(Duration::from_millis(most));
            }
        }
    }

    /// Draws a disturbance of the server or the network, and begins it.
    fn inject_fault(&mut self) {
        const STRIKES: [Fault; 7] = [
            Fault::Crash,
            Fault::Bounce,
            Fault::End,
            Fault::Partition,
            Fault::OneWay,
            Fault::Hold,
            Fault::Latency,
        ];
        let (fault, client, lasts, reached) = {
            let mut shared = self.shared.lock();
            let weights = STRIKES.map(|fault| shared.settings.chance(fault));
            if weights.iter().all(|weight| *weight == 0) {
                return;
            }
            let fault = STRIKES[shared.choices.weighted(&weights)];
            shared.coverage.fired(fault);
            let client = shared.choices.upto(self.broken.len() as u64 - 1);
            let lasts = 50 + shared.choices.magnitude(6_000);
            (fault, client, lasts, shared.under_way > 0)
        };
        if self.bounce_at.is_some() && !matches!(fault, Fault::Latency) {
            return;
        }
        let host = client_host(client);
        let at = usize::try_from(client).unwrap_or(0);
        let free = self.broken[at] == 0;
        self.shared.lock().note("world", || {
            format!("{} (client {client}, {lasts} ms)", fault.text())
        });
        match fault {
            Fault::Crash => self.crash(),
            Fault::Bounce => {
                {
                    let mut shared = self.shared.lock();
                    shared.disturbances += 1;
                    shared.crashed_at = shared.now;
                }
                self.sim.bounce(SERVER);
            }
            Fault::End => {
                let mut shared = self.shared.lock();
                shared.ending = true;
                shared.disturbances += 1;
                shared.end.notify_one();
                return;
            }
            Fault::Partition if free => {
                self.sim.partition(SERVER, host);
                self.break_link(at, FaultEnd::Repair(client), lasts);
            }
            Fault::OneWay if free => {
                let away = self.shared.lock().choices.upto(1) == 1;
                if away {
                    self.sim.partition_oneway(SERVER, host);
                } else {
                    self.sim.partition_oneway(host, SERVER);
                }
                self.break_link(at, FaultEnd::Repair(client), lasts);
            }
            Fault::Hold if free => {
                self.sim.hold(SERVER, host);
                self.break_link(at, FaultEnd::Release(client), lasts);
            }
            Fault::Latency => {
                let most = self.shared.lock().settings.latency_ms_max + lasts / 4;
                self.sim
                    .set_max_message_latency(Duration::from_millis(most));
                let mut shared = self.shared.lock();
                shared.disturbed += 1;
                shared.disturbances += 1;
                drop(shared);
                self.plan(lasts, FaultEnd::Calm);
            }
            // The link is broken already.
            Fault::Partition | Fault::OneWay | Fault::Hold => return,
            // These happen where they are drawn.
            Fault::CrashAtCommit
            | Fault::CutRequest
            | Fault::CutResponse
            | Fault::Leave
            | Fault::SlowReader
            | Fault::SlowBody
            | Fault::Twice
            | Fault::WorkDelayed
            | Fault::CommitFails
            | Fault::StorageFails
            | Fault::AlarmFails
            | Fault::Put
            | Fault::Get
            | Fault::Collect
            | Fault::Throttle
            | Fault::Trickle
            | Fault::RowFlips => return,
        }
        if reached {
            self.shared.lock().changed(fault);
        }
    }

    fn break_link(&mut self, at: usize, fault_end: FaultEnd, lasts: u64) {
        self.broken[at] += 1;
        let mut shared = self.shared.lock();
        shared.disturbed += 1;
        shared.disturbances += 1;
        drop(shared);
        self.plan(lasts, fault_end);
    }

    /// Begins the next phase. Returns whether the run is over.
    fn advance(&mut self, finished: bool) -> bool {
        let now = self.now();
        let (phase, idle, clients) = {
            let shared = self.shared.lock();
            (shared.phase, shared.idle, shared.settings.workload.clients)
        };
        match phase {
            Phase::Busy if idle == clients || now > BEGINNING + BUSY_MS_MAX => self.heal(),
            Phase::Healing => match self.pending(idle, clients) {
                None => {
                    let mut shared = self.shared.lock();
                    shared.phase = Phase::Reading;
                    shared.note("world", || "reads everything once more".to_owned());
                }
                Some(reason) if now > self.healed_at + LIVENESS_MS => {
                    let mut shared = self.shared.lock();
                    shared.fail(
                        Oracle::Liveness,
                        "nothing left to be done".to_owned(),
                        reason,
                    );
                }
                Some(_) => {}
            },
            Phase::Waiting if self.waits_until == 0 => {
                let last = {
                    let judge = self.context.judge.borrow();
                    (0..judge.names())
                        .filter_map(|name| judge.latest_end(name))
                        .filter(|end| *end < now + EXPIRY_MS_MAX)
                        .max()
                };
                let slack = self.expiry_slack();
                self.waits_until = last.map_or(now, |last| last.max(now) + slack);
            }
            Phase::Waiting if now >= self.waits_until && finished => {
                if let Some(reason) = self.undone() {
                    let grace = self.shared.settings().workload.limits.collect_grace_ms;
                    if now > self.waits_until + grace + LIVENESS_MS {
                        let expected = "nothing left to be done".to_owned();
                        self.shared.lock().fail(Oracle::Liveness, expected, reason);
                        return true;
                    }
                    return false;
                }
                self.judge_rest();
                return true;
            }
            Phase::Busy | Phase::Reading | Phase::Waiting => {}
        }
        false
    }

    /// Returns how long readers may stay connected and alarms may be late after an expiry.
    fn expiry_slack(&self) -> u64 {
        let settings = self.shared.settings();
        let (limits, bounds) = (&settings.workload.limits, &settings.bounds);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let readers =
            limits.sse_max_age_ms.max(limits.long_poll_timeout_ms) + limits.reconnect_base_ms * 4;
        readers
            + millis(bounds.write_timeout) * 2
            + millis(bounds.head_timeout)
            + millis(bounds.alarm_retry_max) * 3
            + millis(bounds.reopen_pause_max)
            + limits.alarm_grace_ms
            + limits.alarm_delay_ms_min * 2
            + EXPIRY_MS_MAX
    }

    fn heal(&mut self) {
        self.healed_at = self.now();
        self.agenda.clear();
        let settings = self.shared.settings();
        self.sim
            .set_max_message_latency(Duration::from_millis(settings.latency_ms_max));
        self.broken.fill(0);
        {
            let mut shared = self.shared.lock();
            shared.phase = Phase::Healing;
            if shared.disturbed > 0 || self.bounce_at.is_some() {
                shared.disturbances += 1;
            }
            shared.disturbed = 0;
            shared.note("world", || "heals".to_owned());
        }
        for client in 0..self.broken.len() {
            self.sim.release(SERVER, client_host(client as u64));
        }
        if self.bounce_at.is_some() {
            self.bounce();
        }
    }

    /// Returns why the run is not quiescent, or `None`.
    fn pending(&self, idle: u64, clients: u64) -> Option<String> {
        if idle < clients {
            return Some(format!("{} clients wait for answers", clients - idle));
        }
        let judge = self.context.judge.borrow();
        let follows = self.context.follows.borrow();
        follows.iter().find_map(|follow| {
            if *follow.over.borrow() {
                return None;
            }
            let readings = follow.readings.borrow();
            if readings.is_empty() {
                return Some(format!("reader {} has no answer", follow.number));
            }
            let lacks = judge.lacks(follow.name, &readings)?;
            Some(format!("reader {} {lacks}", follow.number))
        })
    }

    /// Returns the work that a stream or the cold tier has left.
    fn undone(&self) -> Option<String> {
        let now = self.now();
        let shared = self.shared.lock();
        let limits = &shared.settings.workload.limits;
        let of_streams = shared.disks.iter().find_map(|(name, disk)| {
            if let Some(task) = disk.tasks().next() {
                return Some(format!("{name}: {task:?}"));
            }
            // A creation is announced by the stream's row, not by a row of the outbox.
            let unannounced = disk.head().map(|head| head.unannounced);
            if let Some(unannounced) = unannounced.filter(|of| of.registry || of.index) {
                return Some(format!("{name}: {unannounced:?}"));
            }
            if let Some(segment) = disk.segments().find(|segment| segment.stored.is_none()) {
                return Some(format!("{name}: {segment:?}"));
            }
            let head = disk.head();
            let is_hidden = head.is_some_and(|head| head.lineage.deleted_at.is_some());
            let aged = disk.rows().next().filter(|row| {
                limits.cold
                    && !is_hidden
                    && row.at.0.saturating_add(limits.segment_age_ms_max) <= now
            });
            aged.map(|_| format!("{name}: an old open segment"))
        });
        of_streams
            .or_else(|| (!shared.tier.is_still()).then(|| "something is on its way".to_owned()))
    }

    /// Judges that nothing of an ended stream is left.
    fn judge_rest(&mut self) {
        let now = self.now();
        let slack = self.expiry_slack();
        let judge = self.context.judge.borrow();
        let mut shared = self.shared.lock();
        for name in 0..judge.names() {
            if let Some(end) = judge
                .latest_end(name)
                .filter(|end| end.saturating_add(slack) <= now)
            {
                let actual = format!("{} has ended at {end}, and it is {now}", stream(name));
                shared.fail(
                    Oracle::Expiry,
                    "the storage of an expired stream to be free".to_owned(),
                    actual,
                );
            }
            let disk = shared.disks.get(&stream(name)).map(|disk| disk.is_empty());
            match (judge.incarnation(name), disk) {
                (None, Some(false)) if !judge.is_kept(name) => {
                    let expected = "nothing of a stream that is no more".to_owned();
                    shared.fail(Oracle::StorageFreed, expected, stream(name));
                }
                (Some(_), None | Some(true)) => {
                    shared.fail(
                        Oracle::Storage,
                        "the rows of a stream".to_owned(),
                        stream(name),
                    );
                }
                _ => {}
            }
            let alarm = shared.alarms.get(&stream(name)).copied();
            let overdue =
                u64::try_from(shared.settings.bounds.alarm_retry_max.as_millis()).unwrap_or(0) * 3
                    + 5_000;
            if let Some(alarm) = alarm.filter(|at| at + overdue < now) {
                let actual = format!("the one of {} at {alarm}, and it is {now}", stream(name));
                shared.fail(
                    Oracle::Alarms,
                    "no alarm that does not come".to_owned(),
                    actual,
                );
            }
        }
        let pins = pins_at_rest(&shared.disks);
        shared.check(Oracle::Pins, pins);
        let rest = judge_tiers(&judge, &shared.disks, &shared.tier.objects);
        if let Err((oracle, Mismatch { expected, actual })) = rest {
            shared.fail(oracle, expected, actual);
        }
        let shards = shared
            .disks
            .iter()
            .filter(|(name, _)| name::is_registry(name));
        let registry = shards.map(|(_, disk)| disk.segments().count()).max();
        let cold = !shared.tier.objects.is_empty();
        let situations = [
            (registry.is_some(), Situation::RegistryTold),
            (
                registry.is_some_and(|segments| segments > 0),
                Situation::RegistryCold,
            ),
            (cold, Situation::SettledCold),
            (true, Situation::Settled),
        ];
        let holding = situations.into_iter().filter(|(holds, _)| *holds);
        holding.for_each(|(_, situation)| shared.cover(situation));
    }
}

/// Judges that everything is stored once and where it belongs, that nothing else is stored, and
/// that the registry has all events.
fn judge_tiers(
    judge: &Judge,
    disks: &BTreeMap<String, Arc<MemoryRows>>,
    objects: &Objects,
) -> Result<(), (Oracle, Mismatch)> {
    let referenced: BTreeSet<_> = disks
        .values()
        .flat_map(|disk| cold_tier::referenced(disk))
        .collect();
    let there: BTreeSet<_> = objects.keys().cloned().collect();
    if let Some(key) = there.symmetric_difference(&referenced).next() {
        let mismatch = Mismatch {
            expected: format!("the objects {referenced:?}"),
            actual: format!("{key} there: {}", there.contains(key)),
        };
        return Err((Oracle::Orphans, mismatch));
    }
    let shards = disks.iter().filter(|(name, _)| name::is_registry(name));
    let sent: Vec<_> = shards
        .map(|(_, disk)| records(disk, objects))
        .collect::<Result<_, _>>()
        .map_err(|mismatch| (Oracle::Registry, mismatch))?;
    for name in 0..judge.names() {
        if let (Some(incarnation), Some(disk)) = (judge.incarnation(name), disks.get(&stream(name)))
        {
            let mut verdict = cold_tier::tiles(disk, incarnation);
            for segment in disk.segments() {
                let held = || {
                    disk.head().map_or(Ok(()), |head| {
                        cold_tier::holds(objects, head, incarnation, segment)
                    })
                };
                verdict = verdict.and_then(|()| held());
            }
            verdict.map_err(|mismatch| (Oracle::Segments, mismatch))?;
        }
        let expected = cold_tier::registered(&stream(name), judge.state(name));
        cold_tier::one_was_sent(&stream(name), sent.iter().map(Vec::as_slice), &expected)
            .map_err(|mismatch| (Oracle::Registry, mismatch))?;
    }
    Ok(())
}

/// Returns all records of a stream from both tiers.
fn records(rows: &MemoryRows, objects: &Objects) -> Result<Vec<Vec<u8>>, Mismatch> {
    let Some(head) = rows.head() else {
        return Ok(Vec::new());
    };
    let mut records = Vec::new();
    let prefix = segment::key_prefix(&head.name, head.incarnation);
    for sealed in rows.segments() {
        let Some(stored) = &sealed.stored else {
            let rows = rows
                .table(HotTable::of(sealed.number))
                .into_iter()
                .flatten();
            records.extend(framed(
                &rows.flat_map(|row| row.frames.make()).collect::<Vec<_>>(),
            ));
            continue;
        };
        let key = segment::key(&prefix, sealed.number, stored.attempt);
        let decoded = segment::decode(objects.get(&key).map_or(&[], |bytes| &bytes[..]));
        let decoded = decoded.map_err(|damaged| Mismatch {
            expected: format!("an object at {key}"),
            actual: damaged.to_string(),
        })?;
        records.extend(decoded.records);
    }
    records.extend(framed(
        &rows
            .rows()
            .flat_map(|row| row.frames.make())
            .collect::<Vec<_>>(),
    ));
    Ok(records)
}
