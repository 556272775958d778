//! Events and log lines by long polling: answers at once if there are some, else when one comes.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use crate::observe::log::{EVENT_KINDS, describe, kind_name};
use crate::observe::{Component, Event, Level, LogRecord};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout_at};

/// `GET /v3/events?after=&wait_ms=&filter=`.
pub(super) async fn events(context: &Context, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&["after", "wait_ms", "filter"], &[])?;
    let filter = request.query("filter").map(|text| Filter::parse(context, text)).transpose()?;
    let mut after = request.query_number("after")?;
    let deadline = Instant::now() + request.wait()?;
    let mut news = context.events.clone();
    loop {
        news.mark_unchanged();
        let mut found = Vec::new();
        for event in context.node.events(after) {
            after = event.sequence;
            if filter.as_ref().is_none_or(|filter| filter.accepts(&event)) {
                found.push(event_json(&event));
            }
            if found.len() == MAX_PAGE {
                break;
            }
        }
        if !found.is_empty() || !changed_before(&mut news, deadline).await {
            return Ok(Reply::Json(json!({ "events": found, "last": after })));
        }
    }
}

/// The event, with what follows from its kind.
fn event_json(event: &Event) -> Value {
    let mut value = json!(event);
    value["component"] = event.kind.component().name().into();
    value["level"] = event.kind.level().name().into();
    value["message"] = describe(&event.kind).into();
    value
}

/// `GET /v3/logs?after=&wait_ms=&component=&level=`.
pub(super) async fn logs(context: &Context, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&["after", "wait_ms", "component", "level"], &[])?;
    let component = request.query("component").map(parse_component).transpose()?;
    let level = request.query("level").map(parse_level).transpose()?.unwrap_or(Level::Debug);
    let wanted = |record: &LogRecord| {
        record.level >= level && component.is_none_or(|component| record.component == component)
    };
    let after = request.query_number("after")?;
    let deadline = Instant::now() + request.wait()?;
    let mut news = context.records.subscribe();
    loop {
        news.mark_unchanged();
        let last = context.telemetry.last_record();
        let mut records = context.telemetry.records(after, wanted);
        records.retain(|record| record.sequence <= last);
        if !records.is_empty() || !changed_before(&mut news, deadline).await {
            return Ok(Reply::Json(json!({ "records": records, "last": last.max(after) })));
        }
    }
}

/// The component of this name.
pub(super) fn parse_component(name: &str) -> Result<Component, ApiError> {
    let names = Component::ALL.map(Component::name).join(", ");
    let found = Component::ALL.into_iter().find(|component| component.name() == name);
    found.ok_or_else(|| {
        let built = super::status::not_built(name)
            .map_or("unknown component", |_| "component not built yet:");
        ApiError::argument(format!("{built} {name:?}; known here: {names}"))
    })
}

fn parse_level(name: &str) -> Result<Level, ApiError> {
    let found = Level::ALL.into_iter().find(|level| level.name() == name);
    found.ok_or_else(|| {
        let names = Level::ALL.map(Level::name).join(", ");
        ApiError::argument(format!("unknown level {name:?}; known here: {names}"))
    })
}

/// Whether something new came before the deadline.
async fn changed_before<T>(news: &mut Receiver<T>, deadline: Instant) -> bool {
    match timeout_at(deadline, news.changed()).await {
        Ok(Ok(())) => true,
        Err(_) => false,
        Ok(Err(_)) => {
            // The node has stopped: nothing will come, and the client is not to spin.
            tokio::time::sleep_until(deadline.min(Instant::now() + STOPPED_PAUSE)).await;
            false
        }
    }
}

/// Which events are wanted.
enum Filter {
    Kind(&'static str),
    Component(Component),
    Guest(String),
}

impl Filter {
    fn parse(context: &Context, text: &str) -> Result<Self, ApiError> {
        if let Some(guest) = text.strip_prefix("guest:") {
            return Ok(Self::Guest(guest.to_owned()));
        }
        if let Some(kind) = EVENT_KINDS.into_iter().find(|kind| *kind == text) {
            return Ok(Self::Kind(kind));
        }
        if let Some(component) = Component::ALL.into_iter().find(|known| known.name() == text) {
            return Ok(Self::Component(component));
        }
        let guests = known_guests(context);
        if guests.contains(text) {
            return Ok(Self::Guest(text.to_owned()));
        }
        Err(ApiError::argument(format!(
            "unknown filter {text:?}; event kinds: {}; components: {}; guests: {}",
            EVENT_KINDS.join(", "),
            Component::ALL.map(Component::name).join(", "),
            if guests.is_empty() { "none".to_owned() } else { Vec::from_iter(guests).join(", ") },
        )))
    }

    fn accepts(&self, event: &Event) -> bool {
        match self {
            Filter::Kind(kind) => kind_name(&event.kind) == *kind,
            Filter::Component(component) => event.kind.component() == *component,
            Filter::Guest(guest) => event.guest.as_ref() == Some(guest),
        }
    }
}

fn known_guests(context: &Context) -> BTreeSet<String> {
    let registered = context.node.guests().into_iter().map(|guest| guest.name);
    let remembered = context.node.events(0).into_iter().filter_map(|event| event.guest);
    registered.chain(remembered).collect()
}

const MAX_PAGE: usize = 1000;
const STOPPED_PAUSE: Duration = Duration::from_secs(1);
