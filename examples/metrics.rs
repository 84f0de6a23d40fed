//! What a scrape by Prometheus shows of a session, before, in and after an outage.
//!
//! Runs against an embedded authority: `cargo run --example metrics --features metrics,testing`. A service would
//! give what the exporter renders as the answer to `GET /metrics`; dashboard.json and alerts.yaml beside this
//! are for Grafana and Prometheus.

use std::error::Error;
use std::time::Duration;

use ccg_session::testing::{Answer, Authority, Fault, Kind};
use ccg_session::{Session, SessionConfig};
use http::StatusCode;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let exporter = recorder.handle();
    metrics::set_global_recorder(recorder)?;

    // Tokens of three seconds, so that the outage outlives one.
    let authority = Authority::builder().ttl(Duration::from_secs(3)).start().await?;
    let mut config = SessionConfig::default();
    config.retry.cooling = Duration::from_secs(1);
    let session = Session::builder(authority.manager()?).name("box").config(config).spawn()?;

    session.get_token().await?;
    let before = exporter.render();
    println!("# A token\n{before}");
    assert!(before.contains(r#"ccg_session_phase{session="box",phase="fresh"} 1"#));

    let unavailable = Answer::new(StatusCode::SERVICE_UNAVAILABLE);
    authority.fail(Kind::Grant, Fault::from(unavailable));
    sleep(Duration::from_secs(3)).await;
    assert!(session.get_token().await.is_err());
    let outage = exporter.render();
    println!("# The outage has outlived it\n{outage}");
    assert!(outage.contains(r#"ccg_session_phase{session="box",phase="cooling"} 1"#));
    assert!(outage.contains(r#"kind="grant",outcome="server"} 3"#));

    authority.heal();
    while let Err(error) = session.get_token().await {
        sleep(error.retry_after().unwrap_or_default()).await;
    }
    let after = exporter.render();
    println!("# Over\n{after}");
    assert!(after.contains(r#"kind="grant",outcome="ok"} 2"#));
    Ok(())
}
