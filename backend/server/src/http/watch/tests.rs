//! A list and the watch from its revision are the state, whatever is selected and whenever one begins.
use crate::testing::Api;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const COLOURS: [&str; 3] = ["red", "green", "blue"];

/// Name, colour and count, with the revision.
type State = BTreeMap<String, (u64, Option<String>, String)>;

fn take(state: &mut State, object: &Value) {
    state.insert(text(&object["metadata"]["name"]), shown(object));
}

fn shown(object: &Value) -> (u64, Option<String>, String) {
    let colour = object["metadata"]["labels"]["colour"].as_str().map(str::to_owned);
    (revision(object), colour, text(&object["data"]["count"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn revision(object: &Value) -> u64 {
    text(&object["metadata"]["resourceVersion"]).parse().unwrap()
}

/// What is selected, whether an object of this name and colour is, and a colour that is.
type Selection = (&'static str, fn(&str, Option<&str>) -> bool, Option<&'static str>);

const SELECTIONS: [Selection; 6] = [
    ("", |_, _| true, None),
    ("&labelSelector=colour=red", |_, colour| colour == Some("red"), Some("red")),
    ("&labelSelector=colour!=red", |_, colour| colour != Some("red"), Some("blue")),
    ("&labelSelector=colour+in+(red,blue)", |_, colour| matches!(colour, Some("red" | "blue")), Some("red")),
    ("&labelSelector=!colour", |_, colour| colour.is_none(), None),
    (
        "&labelSelector=colour&fieldSelector=metadata.name!=m1",
        |name, colour| name != "m1" && colour.is_some(),
        Some("red"),
    ),
];

fn selected(state: &State, (_, selects, _): Selection) -> State {
    let chosen = state.iter().filter(|(name, (_, colour, _))| selects(name, colour.as_deref()));
    chosen.map(|(name, shown)| (name.clone(), shown.clone())).collect()
}

/// Something happens to one of few objects. False: nothing could.
async fn happens(api: &Api, random: &mut StdRng, state: &mut State, count: u32) -> bool {
    let name = format!("m{}", random.random_range(0..4));
    let path = format!("{MAPS}/{name}");
    let colour = COLOURS.get(random.random_range(0..4)).copied();
    let (exists, what) = (state.contains_key(&name), random.random_range(0..4));
    let answer = match (exists, what) {
        (false, _) => {
            let labels = colour.map_or(json!({}), |colour| json!({"colour": colour}));
            let map =
                json!({"metadata": {"name": name, "labels": labels}, "data": {"count": count.to_string()}});
            api.call("POST", MAPS, map).await
        }
        (true, 0) => {
            assert!(api.call("DELETE", &path, Value::Null).await.code.is_success());
            state.remove(&name);
            return true;
        }
        (true, 1) => api.call("PATCH", &path, json!({"metadata": {"labels": {"colour": colour}}})).await,
        (true, _) => api.call("PATCH", &path, json!({"data": {"count": count.to_string()}})).await,
    };
    assert!(answer.code.is_success(), "{}", answer.body);
    let known = state.get(&name).map(|(revision, ..)| *revision);
    take(state, &answer.body);
    known != Some(revision(&answer.body))
}

/// Follows a watch until `last` comes; every event must fit what the client knows.
async fn followed(api: &Api, from: u64, selection: Selection, mut state: State, last: &str) -> State {
    let mut watch = api.watch(&format!("{MAPS}?watch=true&resourceVersion={from}{}", selection.0)).await;
    let mut reached = from;
    loop {
        let event = watch.next().await;
        let object = &event["object"];
        let name = text(&object["metadata"]["name"]);
        assert!(revision(object) > reached, "{event} after {reached}");
        reached = revision(object);
        let is_known = state.contains_key(&name);
        match event["type"].as_str().unwrap() {
            "ADDED" => assert!(!is_known, "{event}"),
            "MODIFIED" | "DELETED" => assert!(is_known, "{event}"),
            other => panic!("{other}: {event}"),
        }
        match event["type"] == "DELETED" {
            true => {
                let (_, colour, count) = state.remove(&name).unwrap();
                let (_, last_colour, last_count) = shown(object);
                assert_eq!((colour, count), (last_colour, last_count), "the last state the watcher knew");
            }
            false => take(&mut state, object),
        }
        if name == last {
            state.remove(last);
            return state;
        }
    }
}

#[tokio::test]
async fn a_list_and_the_watch_from_its_revision_are_the_state_whatever_is_selected() {
    let api = Api::start().await;
    // What a cluster makes by itself is not of this story.
    api.call("DELETE", MAPS, Value::Null).await;
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut state = State::new();
        let mut history = Vec::new();
        for count in 0..40 {
            if happens(&api, &mut random, &mut state, count).await {
                history.push((api.state.store.revision(), state.clone()));
            }
        }
        for (number, selection) in SELECTIONS.into_iter().enumerate() {
            let (from, begin) = history[random.random_range(0..history.len())].clone();
            let begin = selected(&begin, selection);
            let exact = format!("{MAPS}?resourceVersion={from}&resourceVersionMatch=Exact{}", selection.0);
            let list = api.call("GET", &exact, Value::Null).await.body;
            let mut listed = State::new();
            list["items"].as_array().unwrap().iter().for_each(|object| take(&mut listed, object));
            assert_eq!(listed, begin, "seed {seed}: the list at {from}{}", selection.0);
            // An object that the selection sees is the end of the story.
            let last = format!("last-{number}");
            let labels = selection.2.map_or(json!({}), |colour| json!({"colour": colour}));
            api.make(MAPS, json!({"metadata": {"name": last, "labels": labels}})).await;
            let end = followed(&api, from, selection, begin, &last).await;
            assert_eq!(end, selected(&state, selection), "seed {seed}: from {from}{}", selection.0);
            api.call("DELETE", &format!("{MAPS}/{last}"), Value::Null).await;
        }
        api.call("DELETE", MAPS, Value::Null).await;
    }
}
