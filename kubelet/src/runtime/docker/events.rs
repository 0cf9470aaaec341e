//! The Engine's event stream, kept alive: it reconnects by itself, says so, and replays what happened in between.

use crate::runtime::{Action, Event, label};
use bollard::{models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use std::{collections::HashMap, time::Duration};

/// Waits between attempts to reach an Engine that is away: quick at first, since a restart takes under a second.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(5);
/// Events are asked for from a little before the connection was made: better twice than never.
const OVERLAP: SignedDuration = SignedDuration::from_secs(2);

type Messages = BoxStream<'static, Result<EventMessage, bollard::errors::Error>>;

enum Link {
    Down { wait: Duration },
    Up(Messages),
}

pub(super) fn stream(docker: bollard::Docker, labels: Vec<String>) -> BoxStream<'static, Event> {
    stream::unfold(
        (docker, labels, Link::Down { wait: Duration::ZERO }),
        |(docker, labels, link)| async move {
            let (event, link) = next(&docker, &labels, link).await;
            Some((event, (docker, labels, link)))
        },
    )
    .boxed()
}

async fn next(docker: &bollard::Docker, labels: &[String], mut link: Link) -> (Event, Link) {
    loop {
        match link {
            Link::Down { wait } => {
                tokio::time::sleep(wait).await;
                let ping = tokio::time::timeout(PING, docker.ping()).await;
                if matches!(ping, Ok(Ok(_))) {
                    return (Event::Connected, Link::Up(open(docker, labels).boxed()));
                }
                let why = match ping {
                    Ok(Err(error)) => super::chain(&error),
                    _ => "no answer".to_owned(),
                };
                let next_wait = (wait * 2).clamp(FIRST_RETRY, LAST_RETRY);
                return (Event::Disconnected(why), Link::Down { wait: next_wait });
            }
            Link::Up(mut messages) => match messages.next().await {
                Some(Ok(message)) => {
                    link = Link::Up(messages);
                    if let Some(event) = translate(message) {
                        return (event, link);
                    }
                }
                Some(Err(error)) => {
                    return (Event::Disconnected(super::chain(&error)), Link::Down { wait: FIRST_RETRY });
                }
                None => {
                    let why = "the event stream ended".to_owned();
                    return (Event::Disconnected(why), Link::Down { wait: FIRST_RETRY });
                }
            },
        }
    }
}

fn open(
    docker: &bollard::Docker,
    labels: &[String],
) -> impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + use<> {
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("event", ["start", "die", "destroy"].map(str::to_owned).to_vec()),
        ("label", labels.to_vec()),
    ]);
    let since = Timestamp::now().checked_sub(OVERLAP).unwrap_or_default().as_second().to_string();
    docker.events(Some(EventsOptionsBuilder::new().since(&since).filters(&filters).build()))
}

fn translate(message: EventMessage) -> Option<Event> {
    let action = match message.action.as_deref()? {
        "start" => Action::Started,
        "die" => Action::Died,
        "destroy" => Action::Removed,
        _ => return None,
    };
    let actor = message.actor?;
    let uid = actor.attributes?.remove(label::POD_UID)?;
    Some(Event::Pod { uid, container_id: actor.id?, action })
}
