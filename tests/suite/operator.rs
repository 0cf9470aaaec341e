//! An operator as people write them with kube: a kind of its own, reconciled over TLS from outside the server.
//!
//! A Poem has lines; the operator keeps a ConfigMap with them, says so in the poem's status and in an event, and before
//! a poem goes it writes an obituary. It is kube's own `Controller`, with its watches, cache, finalizer and recorder.

use futures::StreamExt;
use k8s_openapi::{
    api::{core::v1::ConfigMap, events::v1::Event as EventObject},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ApiResource, DeleteParams, GroupVersionKind, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::object::Object,
    runtime::{
        Controller,
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
        finalizer, watcher,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tests::{
    Options, TestCluster,
    wait::{ensure, wait_for},
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

/// For what happens at once; long, because the machine may be busy and a watch may wait before it comes back.
const SOON: Duration = Duration::from_secs(120);
/// How soon the operator tries again what failed.
const AGAIN: Duration = Duration::from_millis(200);
const FINALIZER: &str = "poems.example.com/obituary";
const MANAGER: &str = "poet";

fn definition() -> CustomResourceDefinition {
    let lines = json!({"type": "array", "minItems": 1, "items": {"type": "string"}});
    let status =
        json!({"lines": {"type": "integer"}, "observedGeneration": {"type": "integer", "format": "int64"}});
    let schema = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["lines"], "properties": {"lines": lines}},
        "status": {"type": "object", "properties": status},
    }});
    let version = json!({
        "name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema},
    });
    let made = serde_json::from_value(json!({
        "metadata": {"name": "poems.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "versions": [version],
            "names": {"plural": "poems", "singular": "poem", "kind": "Poem"},
        },
    }));
    made.expect("it is one")
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct PoemSpec {
    lines: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PoemStatus {
    lines: usize,
    observed_generation: i64,
}

type Poem = Object<PoemSpec, PoemStatus>;

fn kind() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.com", "v1", "Poem"), "poems")
}

fn poem(name: &str, lines: &[&str]) -> Poem {
    Poem::new(name, &kind(), PoemSpec { lines: lines.iter().map(|&l| l.to_owned()).collect() })
        .within("default")
}

async fn connect(kubeconfig: std::path::PathBuf) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).expect("the server's kubeconfig can be read");
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("it says all that is needed")).expect("a client can be made of it")
}

/// What the reconciler has at hand.
struct Context {
    client: Client,
    recorder: Recorder,
}

async fn reconcile(poem: Arc<Poem>, context: Arc<Context>) -> Result<Action, finalizer::Error<kube::Error>> {
    let namespace = poem.namespace().unwrap_or_default();
    let poems: Api<Poem> = Api::namespaced_with(context.client.clone(), &namespace, &kind());
    finalizer(&poems, FINALIZER, poem, |event| async {
        let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &namespace);
        match event {
            finalizer::Event::Apply(poem) => write(&poem, &poems, &maps, &context).await,
            finalizer::Event::Cleanup(poem) => bury(&poem, &maps).await,
        }
    })
    .await
}

/// The ConfigMap with the poem's lines, then its status.
async fn write(
    poem: &Poem,
    poems: &Api<Poem>,
    maps: &Api<ConfigMap>,
    context: &Context,
) -> kube::Result<Action> {
    let name = poem.name_any();
    let ours = PatchParams::apply(MANAGER).force();
    let owner = kube::Resource::controller_owner_ref(poem, &kind());
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "data": {"text": poem.spec.lines.join("\n")},
    });
    maps.patch(&name, &ours, &Patch::Apply(&map)).await?;
    let status = PoemStatus {
        lines: poem.spec.lines.len(),
        observed_generation: poem.metadata.generation.unwrap_or_default(),
    };
    if poem.status.as_ref() != Some(&status) {
        let event = Event {
            type_: EventType::Normal,
            reason: "Written".into(),
            note: Some(format!("{} lines", status.lines)),
            action: "Write".into(),
            secondary: None,
        };
        context.recorder.publish(&event, &kube::Resource::object_ref(poem, &kind())).await?;
        let status = json!({"apiVersion": "example.com/v1", "kind": "Poem", "status": status});
        poems.patch_status(&name, &ours, &Patch::Apply(&status)).await?;
    }
    Ok(Action::await_change())
}

/// The obituary, which nobody owns.
async fn bury(poem: &Poem, maps: &Api<ConfigMap>) -> kube::Result<Action> {
    let name = format!("{}-obituary", poem.name_any());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"uid": poem.uid()}});
    maps.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map)).await?;
    Ok(Action::await_change())
}

/// The operator at work, until it is stopped.
struct Operator {
    stop: oneshot::Sender<()>,
    end: JoinHandle<()>,
}

fn start(client: &Client, config: watcher::Config) -> Operator {
    let (stop, stopped) = oneshot::channel();
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some("poet-0".to_owned()) };
    let context =
        Arc::new(Context { client: client.clone(), recorder: Recorder::new(client.clone(), reporter) });
    let run = Controller::new_with(Api::all_with(client.clone(), &kind()), config.clone(), kind())
        .owns(Api::<ConfigMap>::all(client.clone()), config)
        .graceful_shutdown_on(async {
            let _ = stopped.await;
        })
        .run(reconcile, |_, _, _| Action::requeue(AGAIN), context)
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                println!("the operator: {error}");
            }
        });
    Operator { stop, end: tokio::spawn(run) }
}

/// What a poem's life needs, from the test's side.
struct Reader {
    runtime: Runtime,
    poems: Api<Poem>,
    maps: Api<ConfigMap>,
    events: Api<EventObject>,
}

impl Reader {
    /// Waits until the ConfigMap and the status tell these lines; returns the poem.
    #[track_caller]
    fn written(&self, name: &str, lines: &[&str]) -> Poem {
        wait_for(&format!("the poem {name} to be written"), SOON, || {
            let (poem, map) = self
                .runtime
                .block_on(async { tokio::join!(self.poems.get_opt(name), self.maps.get_opt(name)) });
            let (Ok(Some(poem)), Ok(Some(map))) = (&poem, &map) else {
                return Err(format!("{poem:?}\n{map:?}"));
            };
            let text = map.data.as_ref().and_then(|d| d.get("text"));
            let status = PoemStatus {
                lines: lines.len(),
                observed_generation: poem.metadata.generation.unwrap_or_default(),
            };
            let done = text == Some(&lines.join("\n")) && poem.status.as_ref() == Some(&status);
            if done { Ok(poem.clone()) } else { Err(format!("{poem:?}\n{map:?}")) }
        })
    }

    fn revise(&self, name: &str, lines: &[&str]) {
        let patch = Patch::Merge(json!({"spec": {"lines": lines}}));
        self.runtime.block_on(self.poems.patch(name, &PatchParams::default(), &patch)).unwrap();
    }

    fn map(&self, name: &str) -> Option<ConfigMap> {
        self.runtime.block_on(self.maps.get_opt(name)).unwrap()
    }
}

fn life(config: watcher::Config) {
    let mut c = TestCluster::with(Options::without_pods());
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    let client = runtime.block_on(connect(c.kubeconfig()));
    runtime.block_on(async {
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        definitions.create(&PostParams::default(), &definition()).await.unwrap();
        let established = kube::runtime::conditions::is_crd_established();
        let wait = kube::runtime::wait::await_condition(definitions, "poems.example.com", established);
        tokio::time::timeout(SOON, wait).await.expect("the definition is established in time").unwrap();
    });
    let operator = start(&client, config.clone());
    let r = Reader {
        poems: Api::namespaced_with(client.clone(), "default", &kind()),
        maps: Api::default_namespaced(client.clone()),
        events: Api::default_namespaced(client.clone()),
        runtime,
    };

    let made =
        r.runtime.block_on(r.poems.create(&PostParams::default(), &poem("ode", &["one", "two"]))).unwrap();
    let seen = r.written("ode", &["one", "two"]);
    assert_eq!(seen.finalizers(), [FINALIZER]);
    assert_eq!(
        (made.metadata.generation, seen.metadata.generation),
        (Some(1), Some(1)),
        "status is not spec"
    );
    let owners = r.map("ode").unwrap().metadata.owner_references.unwrap();
    assert_eq!((owners[0].kind.as_str(), owners[0].controller), ("Poem", Some(true)));
    let events =
        r.runtime.block_on(r.events.list(&ListParams::default().fields("regarding.name=ode"))).unwrap();
    let told: Vec<_> = events.iter().map(|e| (e.reason.as_deref(), e.note.as_deref())).collect();
    assert_eq!(told, [(Some("Written"), Some("2 lines"))]);

    // What it is asked for and what it owns are both watched.
    r.revise("ode", &["one", "two", "three"]);
    r.written("ode", &["one", "two", "three"]);
    r.runtime.block_on(r.maps.delete("ode", &DeleteParams::default())).unwrap();
    r.written("ode", &["one", "two", "three"]);
    let spoil = Patch::Merge(json!({"data": {"text": "prose"}}));
    r.runtime.block_on(r.maps.patch("ode", &PatchParams::default(), &spoil)).unwrap();
    r.written("ode", &["one", "two", "three"]);

    // A server that died and came back is the same one, also for watches that were open.
    c.kill();
    c.launch();
    r.revise("ode", &["four"]);
    r.written("ode", &["four"]);

    // An operator that was away finds what happened meanwhile.
    operator.stop.send(()).unwrap();
    r.runtime.block_on(tokio::time::timeout(SOON, operator.end)).expect("the operator ends").unwrap();
    r.revise("ode", &["five", "six"]);
    r.runtime.block_on(r.poems.create(&PostParams::default(), &poem("elegy", &["seven"]))).unwrap();
    let deleted = r.runtime.block_on(r.poems.delete("ode", &DeleteParams::default())).unwrap();
    let going = deleted.left().expect("a finalizer holds it");
    assert!(going.metadata.deletion_timestamp.is_some());
    let operator = start(&client, config);
    r.written("elegy", &["seven"]);
    wait_for("the poem and what it owned to be gone", SOON, || {
        let poem = r.runtime.block_on(r.poems.get_opt("ode")).unwrap();
        let map = r.map("ode");
        ensure(poem.is_none() && map.is_none(), format!("{poem:?}\n{map:?}"))
    });
    let obituary = r.map("ode-obituary").expect("the finalizer ran before it went");
    assert_eq!(obituary.data.unwrap()["uid"], made.metadata.uid.unwrap());
    assert!(r.map("elegy").is_some());
    operator.stop.send(()).unwrap();
    r.runtime.block_on(tokio::time::timeout(SOON, operator.end)).expect("the operator ends").unwrap();
}

#[test]
fn keeps_what_it_owns_with_lists_and_watches() {
    life(watcher::Config::default().page_size(1));
}

#[test]
fn keeps_what_it_owns_with_streamed_lists() {
    life(watcher::Config::default().streaming_lists());
}
