//! The outbox: many receivers, many tasks, and bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use machine::{Limits, Millis};

use crate::shell::{Message, Shell};

const JSON: &str = "application/json";

fn limits(queues: u64, tasks: u64, shards: u64) -> Limits {
    Limits {
        registry: true,
        registry_shards: shards,
        outbox_queues_max: queues,
        outbox_tasks_max: tasks,
        ..Limits::DEFAULT
    }
}

/// Creates and deletes a stream, once for each number of registry shards, while nothing is
/// answered. Returns how many tasks there are for each receiver.
fn unanswered(shell: &mut Shell, queues: u64, tasks: u64, numbers: u64) -> BTreeMap<String, usize> {
    for shards in 1..=numbers {
        shell.limits = limits(queues, tasks, shards);
        shell.sleep();
        shell.messages.clear();
        assert_eq!(shell.put(JSON, &[]).status(), 201);
        assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
    }
    let mut stored = BTreeMap::new();
    for task in shell.rows.tasks() {
        *stored.entry(task.what.queue().to_string()).or_insert(0) += 1;
    }
    stored
}

fn operation(body: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(body).expect("an event is JSON");
    event["headers"]["operation"]
        .as_str()
        .expect("a text")
        .to_owned()
}

/// A registry shard is created when it is missing, even if its queue has no lasting place in
/// memory.
#[test]
fn a_missing_receiver_is_created_before_another_queue_takes_its_place() {
    let mut shell = Shell::new(limits(1, 1, 1));
    let stored = unanswered(&mut shell, 1, 1, 8);
    let mut created = BTreeSet::new();
    for _ in 0..1_000 {
        if shell.messages.is_empty() && shell.alarm.is_none() {
            break;
        }
        if shell.messages.is_empty() {
            shell.fire();
            continue;
        }
        let (effect, message) = shell.messages.remove(0);
        let Message::Call(to, request) = &message else {
            panic!("there is no index");
        };
        let is_creation = request.method == "PUT";
        if is_creation {
            created.insert(to.clone());
        }
        let status = if is_creation || created.contains(to) {
            200
        } else {
            404
        };
        // Longer than queues stay in memory.
        shell.now = Millis(shell.now.0 + 5_000);
        shell.answer(effect, &message, status);
    }
    assert_eq!(created.len(), stored.len());
    assert!(shell.rows.is_empty());
}

/// Answers everything until nothing remains. Returns what each receiver received. When one receiver
/// is `failing`, it answers 500 to each of its calls, until the others have received that many.
fn received(
    shell: &mut Shell,
    failing: Option<(&str, usize)>,
    in_flight_max: usize,
) -> BTreeMap<String, Vec<String>> {
    let mut received: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..10_000 {
        assert!(
            shell.messages.len() <= in_flight_max,
            "{:?}",
            shell.messages
        );
        if shell.messages.is_empty() {
            if shell.alarm.is_none() {
                return received;
            }
            shell.fire();
            continue;
        }
        let (effect, message) = shell.messages.remove(0);
        let Message::Call(to, request) = &message else {
            panic!("there is no index");
        };
        if let Some((failing, others)) = failing
            && failing == to
        {
            shell.answer(effect, &message, 500);
            if received.values().map(Vec::len).sum::<usize>() == others {
                return received;
            }
            continue;
        }
        let queue = format!("call/{to}");
        received
            .entry(queue)
            .or_default()
            .push(operation(&request.body));
        shell.answer(effect, &message, 200);
    }
    panic!("something remains to be done: {:?}", shell.rows);
}

#[test]
fn every_task_is_done_once_and_in_order_with_any_bound_of_memory() {
    for (queues, tasks) in [(1, 1), (1, 3), (2, 1), (4, 2), (1_000, 1_000)] {
        for sleeps in [false, true] {
            let mut shell = Shell::new(limits(queues, tasks, 1));
            let stored = unanswered(&mut shell, queues, tasks, 40);
            assert!(stored.len() > 10, "{stored:?}");
            if sleeps {
                shell.sleep();
                shell.messages.clear();
            }
            let in_flight_max = usize::try_from(queues).expect("a small number");
            let received = received(&mut shell, None, in_flight_max);
            for (queue, count) in &stored {
                let pairs = ["insert", "delete"].iter().cycle().take(*count);
                let pairs: Vec<_> = pairs.map(|text| (*text).to_owned()).collect();
                assert_eq!(received.get(queue), Some(&pairs), "{queue}");
            }
            assert_eq!(received.len(), stored.len());
            assert!(shell.rows.is_empty());
        }
    }
}

#[test]
fn a_receiver_that_always_fails_delays_no_other() {
    for queues in [1, 2, 8] {
        let in_flight_max = usize::try_from(queues).expect("a small number");
        let mut last = 0;
        for number in 0.. {
            let mut shell = Shell::new(limits(queues, 2, 1));
            let stored = unanswered(&mut shell, queues, 2, 8);
            let Some(failing) = stored.keys().nth(number) else {
                break;
            };
            let failing = failing.strip_prefix("call/").expect("a call");
            let own = stored[&format!("call/{failing}")];
            let others = stored.values().sum::<usize>() - own;
            let received = received(&mut shell, Some((failing, others)), in_flight_max);
            assert_eq!(received.len(), stored.len() - 1);
            last = number;
        }
        assert!(last >= 2, "there are several receivers");
    }
}

/// The index hears of the creation while the stream is closed and deleted.
#[test]
fn an_announcement_that_is_under_way_outlives_a_closed_stream() {
    let mut shell = Shell::new(Limits {
        index: true,
        ..Limits::DEFAULT
    });
    assert_eq!(shell.put(JSON, &[]).status(), 201);
    let (effect, message) = shell.messages.remove(0);
    let closed = shell.request("POST", "", &[("Stream-Closed", "true")], b"");
    assert_eq!(closed.status(), 204);
    assert_eq!(shell.request("DELETE", "", &[], b"").status(), 204);
    assert_eq!(shell.rows.tasks().count(), 3, "{:?}", shell.rows);
    shell.answer(effect, &message, 200);
    while !shell.messages.is_empty() || shell.alarm.is_some() {
        if shell.messages.is_empty() {
            shell.fire();
        }
        while let Some((effect, message)) = shell.messages.pop() {
            shell.answer(effect, &message, 200);
        }
    }
    assert!(shell.rows.is_empty(), "{:?}", shell.rows);
}
