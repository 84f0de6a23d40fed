//! The events that the middleware tells, whose names are part of the interface, and what is not in them.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;

use super::recording::record;
use super::upstream::{Upstream, ok, refuses_the_first};
use super::{Client, aged, attach};

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() != "ccg_session::middleware" {
            return;
        }
        assert_eq!(*metadata.level(), Level::DEBUG);
        let mut line = metadata.name().to_owned();
        event.record(&mut Fields(&mut line));
        self.0.lock().unwrap().push(line);
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "message" {
            write!(self.0, " {field}={value:?}").unwrap();
        }
    }
}

#[tokio::test]
async fn they_say_where_no_token_went_and_which_was_refused() {
    for client in Client::SIDES {
        let events = Events::default();
        let _recorder = record(Registry::default().with(events.clone()));
        let (listed, other) =
            (Upstream::start(refuses_the_first).await, Upstream::start(|_| ok()).await);
        let session = aged().await;
        let client = client(&attach(&session, &[&listed.base]));
        assert_eq!(client.status(&other.url("/a?secret")).await, 200);
        assert_eq!(client.status(&listed.url("/a?secret")).await, 200);
        let host = other.base.strip_prefix("http://").unwrap();
        let expected = [
            format!("token.withheld scheme=\"http\" host=\"{host}\""),
            "token.refused generation=1 again=true".to_owned(),
        ];
        assert_eq!(*events.0.lock().unwrap(), expected);
    }
}
