//! Alternating rounds and their medians.
//!
//! Invariant: every contender runs once in each round, and the order turns from round to round.
//! Deliberately absent: statistics beyond least, median and greatest.

use std::hint::black_box;

use serde_json::{Value, json};

/// Rounds: odd, so that the median is a round that happened.
const ROUNDS: usize = 31;

/// Rounds before the first that counts, to fill caches.
const WARM_UP: usize = 3;

/// Something to measure: a name, and work that returns a value which depends on all of it.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    pub(crate) work: Box<dyn FnMut() -> u64 + 'a>,
}

/// Measures contenders that each go through `events` events; the last is the floor.
pub(crate) fn measure(
    bench: &str,
    unit: &str,
    events: u128,
    contenders: &mut [Contender<'_>],
) -> Vec<Value> {
    let mut rounds: Vec<Vec<u128>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..WARM_UP + ROUNDS {
        let count = contenders.len();
        for turn in 0..count {
            let index = (turn + round) % count;
            let (Some(contender), Some(times)) = (contenders.get_mut(index), rounds.get_mut(index))
            else {
                continue;
            };
            let elapsed = time(&mut contender.work);
            if round >= WARM_UP {
                times.push(elapsed);
            }
        }
    }
    for times in &mut rounds {
        times.sort_unstable();
    }
    let median = |times: &[u128]| times.get(times.len() / 2).copied().unwrap_or_default();
    let floor = rounds.last().map_or(0, |times| median(times));
    let results = contenders.iter().zip(&rounds).map(|(contender, times)| {
        json!({
            "bench": bench,
            "contender": contender.name,
            "unit": unit,
            "rounds": ROUNDS,
            "events_per_round": events.to_string(),
            "least": (times.first().copied().unwrap_or_default() / events).to_string(),
            "median": (median(times) / events).to_string(),
            "greatest": (times.last().copied().unwrap_or_default() / events).to_string(),
            "percent_of_floor": (median(times) * 100).checked_div(floor).map(|p| p.to_string()),
        })
    });
    results.collect()
}

/// Returns how many nanoseconds the work took.
#[expect(
    clippy::disallowed_types,
    reason = "a benchmark measures real time; nothing pauses it"
)]
fn time(work: &mut dyn FnMut() -> u64) -> u128 {
    let started = std::time::Instant::now();
    black_box(work());
    started.elapsed().as_nanos()
}
