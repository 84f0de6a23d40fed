//! The same figures for OpenTelemetry: observable instruments that look at `status()` when they are collected,
//! with whatever version of the SDK a program has.
//!
//! Runs against an embedded authority: `cargo run --example opentelemetry --features testing`.

use std::error::Error;

use ccg_session::testing::Authority;
use ccg_session::{Session, SessionHandle};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

/// Each holds a handle, and so the session lives as long as the provider.
fn observe(meter: &Meter, session: &SessionHandle, name: &'static str) {
    let is = [KeyValue::new("session", name)];
    let seen = session.clone();
    let labels = is.clone();
    meter
        .u64_observable_counter("ccg_session.attempts")
        .with_callback(move |observer| {
            let counters = seen.status().counters();
            let failed = counters.grants_failed;
            for (outcome, attempts) in
                [("ok", counters.grants_started - failed), ("failed", failed)]
            {
                let outcome = KeyValue::new("outcome", outcome);
                observer.observe(attempts, &[&labels[..], &[outcome]].concat());
            }
        })
        .build();
    let seen = session.clone();
    let labels = is.clone();
    meter
        .u64_observable_gauge("ccg_session.held_callers")
        .with_callback(move |observer| observer.observe(seen.status().held() as u64, &labels))
        .build();
    let seen = session.clone();
    meter
        .f64_observable_gauge("ccg_session.token_remaining")
        .with_unit("s")
        .with_callback(move |observer| {
            if let Some(remaining) = seen.status().remaining() {
                observer.observe(remaining.as_secs_f64(), &is);
            }
        })
        .build();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();

    let authority = Authority::start().await?;
    let session = Session::builder(authority.manager()?).spawn()?;
    observe(&provider.meter("my-service"), &session, "box");
    session.get_token().await?;

    provider.force_flush()?;
    let collected = exporter.get_finished_metrics()?;
    let mut names = Vec::new();
    for metric in collected.iter().flat_map(ResourceMetrics::scope_metrics) {
        names.extend(metric.metrics().map(|metric| metric.name().to_owned()));
    }
    names.sort();
    println!("collected: {}", names.join(", "));
    let expected =
        ["ccg_session.attempts", "ccg_session.held_callers", "ccg_session.token_remaining"];
    assert_eq!(names, expected);
    Ok(())
}
