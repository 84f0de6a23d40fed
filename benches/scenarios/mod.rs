//! The scenarios, a file for each family. A scenario runs in a process of its own, which has one
//! subject and one endpoint; the hot path alone has all subjects in one process.

pub mod cold;
pub mod events;
pub mod exchange;
pub mod failing;
pub mod hot;
pub mod leave;
pub mod refresh;
pub mod sessions;

use crate::harness::results::Scenario;
use crate::harness::{Figures, Subject};

/// In the order of the report.
pub const ALL: &[&Scenario] = &[
    &hot::HOT,
    &cold::STAMPEDE,
    &cold::OVERLOAD,
    &leave::LEAVE,
    &failing::STORM,
    &failing::COOLING,
    &failing::RECOVERY,
    &failing::HANG,
    &refresh::PACED,
    &refresh::TIGHT,
    &exchange::EXCHANGE,
    &events::EVENTS,
    &events::CROWD,
    &sessions::SESSIONS,
    &sessions::IDLE,
];

/// One run of one case, in this process.
pub fn play<S: Subject>(scenario: &str, case: usize) -> Figures {
    match scenario {
        "stampede" => cold::stampede::<S>(case),
        "overload" => cold::overload(case),
        "leave" => leave::play::<S>(case),
        "storm" => failing::storm::<S>(case),
        "cooling" => failing::cooling(),
        "recovery" => failing::recovery::<S>(case),
        "hang" => failing::hang::<S>(case),
        "paced" => refresh::paced::<S>(),
        "tight" => refresh::tight::<S>(),
        "exchange" => exchange::play(case),
        "events" => events::play(case),
        "crowd" => events::crowd(case),
        "sessions" => sessions::play(case),
        "idle" => sessions::idle(case),
        _ => panic!("there is no scenario {scenario:?}"),
    }
}
